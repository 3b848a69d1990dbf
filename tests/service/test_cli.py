"""The command line: what it prints, and what it ends with."""

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

import ktlsgate
from ktlsgate import config
from ktlsgate.service.cli import DEFAULT_FILE, main
from ktlsgate.service.config_file import parse_config

PACKAGE_FOLDER = str(Path(ktlsgate.__file__).parent.parent)


@pytest.fixture(autouse=True)
def _no_file_in_the_environment(monkeypatch):
    monkeypatch.delenv("KTLSGATE_CONFIG", raising=False)


@pytest.fixture(scope="session")
def pem():
    """Certificate and key of one server, as PEM."""
    return trustme.CA().issue_cert("a.example").private_key_and_cert_chain_pem.bytes()


@pytest.fixture
def folder(tmp_path, pem):
    """A folder with k.toml and the certificate it names."""
    (tmp_path / "a.pem").write_bytes(pem)
    (tmp_path / "a.pem").chmod(0o600)
    (tmp_path / "k.toml").write_text(
        'cert = [{ file = "a.pem" }]\n'
        'listen = [{ address = ":8443" }]\n'
        'route = [{ backend = "app" }]\n'
        'backend.app.address = "unix:app.sock"\n'
    )
    return tmp_path


def run(capsys, *arguments):
    """Exit code, lines on stdout, lines on stderr."""
    code = main([str(argument) for argument in arguments])
    written = capsys.readouterr()
    return code, written.out.splitlines(), written.err.splitlines()


# --- help, usage, versions


def test_no_verb_prints_help_and_is_wrong_usage(capsys):
    """A unit file that forgot the verb must not look like a clean end."""
    code, out, err = run(capsys)
    assert (code, out) == (2, [])
    assert err[0] == "usage: ktlsgate [-h] [--version] VERB ..."


def test_help_is_a_clean_end(capsys):
    code, out, err = run(capsys, "--help")
    assert (code, err) == (0, [])
    assert out[0] == "usage: ktlsgate [-h] [--version] VERB ..."


@pytest.mark.parametrize("arguments", [["walk"], ["run", "--nope"], ["check", "-c"]])
def test_wrong_usage_ends_with_2(capsys, arguments):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, [])
    assert err[-1].startswith("ktlsgate")


def test_version_lists_what_a_bug_report_needs(capsys):
    code, out, _ = run(capsys, "--version")
    assert code == 0
    rows = dict(line.split(" ", 1) for line in out)
    assert list(rows) == ["ktlsgate", "python", "trio", "pyOpenSSL", "OpenSSL", "kernel"]
    assert rows["ktlsgate"] == ktlsgate.__version__
    assert rows["python"] == platform.python_version()
    assert rows["kernel"].startswith(f"Linux {platform.release()}")
    assert re.match(r"\d+\.\d+\.\d+ ", rows["OpenSSL"])


@pytest.mark.parametrize("arguments", [["--help"], ["check", "-c", "/nonexistent"]])
def test_help_and_mistakes_import_nothing_heavy(arguments):
    program = (
        "import sys; from ktlsgate.service.cli import main;"
        f"main({arguments!r}); assert not {{'trio', 'OpenSSL'}} & set(sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": PACKAGE_FOLDER},
    )
    assert (ended.returncode, "Error" in ended.stderr) == (0, False)


# --- check


def test_check_says_that_all_is_well(capsys, folder):
    assert run(capsys, "check", "-c", folder / "k.toml") == (0, ["configuration looks ok"], [])


def test_check_prints_every_mistake_on_its_own_line(capsys, folder):
    file = folder / "k.toml"
    file.write_text(file.read_text() + "x = 1\nktls = 'on'\n")
    assert run(capsys, "check", "-c", file) == (
        1,
        [],
        [
            (
                f'ktlsgate: {file}:5: x: expected a key of the top of the file, got "x"; known are'
                " ktls, drain_timeout, log_level, log_format, log_file, limits, tls, cert, listen,"
                " route, backend"
            ),
            f'ktlsgate: {file}:6: ktls: expected "require", "prefer" or "off", got "on"',
        ],
    )


def test_check_reads_certificates_and_authorities(capsys, folder):
    (folder / "a.pem").unlink()
    file = folder / "k.toml"
    file.write_text(file.read_text() + "[tls]\nclient_verify = 'required'\nclient_ca = 'ca'\n")
    assert run(capsys, "check", "-c", file) == (
        1,
        [],
        [
            f"ktlsgate: {folder}/{name}: expected a readable PEM file, got: No such file or directory"
            for name in ("a.pem", "ca")
        ],
    )


def test_check_asks_openssl_about_cipher_names(capsys, folder):
    file = folder / "k.toml"
    file.write_text(file.read_text() + "[tls]\nciphers = 'NO-SUCH'\n")
    code, _, err = run(capsys, "check", "-c", file)
    assert code == 1
    assert len(err) == 1
    assert err[0].startswith("ktlsgate: tls.ciphers: expected TLS 1.2 suites")


def test_check_prints_warnings_and_is_still_content(capsys, folder):
    (folder / "a.pem").chmod(0o644)
    assert run(capsys, "check", "-c", folder / "k.toml") == (
        0,
        ["configuration looks ok"],
        [
            (
                f"ktlsgate: warning: {folder}/a.pem: expected a private key that only its owner can"
                " read, got mode 0644 (everybody can)"
            )
        ],
    )


@pytest.mark.parametrize("flag", ["-v", "--dump"])
def test_check_dumps_the_configuration_in_force(capsys, folder, flag):
    code, out, _ = run(capsys, "check", flag, "-c", folder / "k.toml", "--ktls", "off")
    assert (code, out.pop()) == (0, "configuration looks ok")
    parsed = parse_config("\n".join(out), name="dump", folder="/")
    assert parsed.listeners == (config.Listener(address=":8443", ktls=config.KtlsPolicy.OFF),)
    assert parsed.certificate == config.Certificate(file=f"{folder}/a.pem")


def test_check_without_tls_needs_no_certificate(capsys, tmp_path):
    (tmp_path / "k.toml").write_text(
        'listen = [{ address = ":80", tls = false }]\n'
        'route = [{ backend = "app" }]\nbackend.app.address = "unix:@a"\n'
    )
    assert run(capsys, "check", "-c", tmp_path / "k.toml")[0] == 0


# --- where the configuration comes from


def test_flags_need_no_file(capsys, folder, monkeypatch):
    monkeypatch.chdir(folder)
    arguments = ["--listen", ":1", "--listen", ":2", "--cert", "a.pem", "--backend", "unix:s"]
    code, out, err = run(capsys, "check", "--dump", *arguments, "--log-format", "text")
    assert (code, err) == (0, [])
    out.pop()
    parsed = parse_config("\n".join(out), name="dump", folder="/")
    assert [listener.address for listener in parsed.listeners] == [":1", ":2"]
    assert parsed.routes[0].backend.address == f"{folder}/s"
    assert parsed.logging.format is config.LogFormat.TEXT


def test_mistake_in_a_flag_names_the_flag(capsys):
    assert run(capsys, "check", "--listen", "x", "--cert", "c", "--backend", "unix:/s") == (
        1,
        [],
        ['ktlsgate: --listen: expected "HOST:PORT", "[V6]:PORT", "*:PORT" or ":PORT", got "x"'],
    )


def test_environment_names_the_file(capsys, folder, monkeypatch):
    monkeypatch.setenv("KTLSGATE_CONFIG", str(folder / "k.toml"))
    assert run(capsys, "check")[0] == 0


def test_c_is_stronger_than_the_environment(capsys, folder, monkeypatch):
    monkeypatch.setenv("KTLSGATE_CONFIG", "/nonexistent")
    assert run(capsys, "check", "-c", folder / "k.toml")[0] == 0


@pytest.mark.skipif(Path(DEFAULT_FILE).exists(), reason="this machine has the default file")
@pytest.mark.parametrize("arguments", [[], ["--ktls", "off"]])
def test_default_file_is_read_unless_flags_say_what_to_serve(capsys, arguments):
    assert run(capsys, "check", *arguments) == (
        1,
        [],
        [f"ktlsgate: {DEFAULT_FILE}: expected a readable file, got: No such file or directory"],
    )


def test_run_with_a_broken_file_ends_before_anything_starts(capsys, folder):
    (folder / "k.toml").write_text("[")
    code, out, err = run(capsys, "run", "-c", folder / "k.toml")
    assert (code, out) == (1, [])
    assert len(err) == 1
    assert err[0].startswith(f"ktlsgate: {folder}/k.toml:1: expected TOML, got: ")


# --- probe, python -m


def test_probe_gets_the_rest_of_the_arguments(capsys):
    code, _, err = run(capsys, "probe", "--no-such-option")
    assert code == 2
    assert any("--no-such-option" in line for line in err)


def test_module_is_the_command():
    ended = subprocess.run(
        [sys.executable, "-m", "ktlsgate", "--help"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": PACKAGE_FOLDER},
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("usage: ktlsgate ")
