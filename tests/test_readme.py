"""The README is the documentation, so what it says is checked against the code."""

import ast
import dataclasses
import errno
import importlib
import pathlib
import re
import shutil
import subprocess
import tomllib

import pytest
from helpers.after_handoff import ROWS
from helpers.matrix_report import expected_facts
from helpers.scripts import load_script
from helpers.unmodified import SERVERS, table

from ktlsgate import config
from ktlsgate.gate.states import TRANSITIONS, State
from ktlsgate.service.config_file import parse_config
from ktlsgate.service.probe_require import parse_requirements
from ktlsgate.wire.handoff import Mode

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_first_sentence_says_what_it_is_for():
    assert README.splitlines()[2].startswith("The TLS front end that gets out of the way")


def test_the_example_configuration_is_read_without_complaint(tmp_path):
    (text,) = blocks("toml")
    text = text.replace('"chat"                   # only', '"root"  # only')
    assert tomllib.loads(text)
    parsed = parse_config(text, name="ktlsgate.toml", folder=tmp_path)
    assert [route.backend.name for route in parsed.routes] == ["chat", "site"]


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(config.Limits)])
def test_every_limit_is_documented(field):
    assert f"`{field}`" in README


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(config.Tls)])
def test_every_tls_setting_is_documented(field):
    assert f"`{field}`" in README


@pytest.mark.parametrize(
    "default", ["10000", "`10s`, `10s`, `5s`", "`10m`", "32768, 100", "131072"]
)
def test_the_documented_limits_are_the_defaults(default):
    limits = config.Limits()
    spelled = {
        "10000": limits.max_connections == 10_000,
        "`10s`, `10s`, `5s`": (
            limits.handshake_timeout, limits.header_timeout, limits.handoff_timeout,
        ) == (10, 10, 5),
        "`10m`": limits.relay_idle_timeout == 600,
        "32768, 100": (limits.max_header_bytes, limits.max_header_count) == (32_768, 100),
        "131072": limits.max_handshake_bytes == 131_072,
    }  # fmt: skip
    assert default in README
    assert spelled[default]


@pytest.mark.parametrize("mode", [mode.value for mode in Mode])
def test_every_mode_has_its_row(mode):
    assert f"| `{mode}` |" in README


# The contract for plain descriptors: the first two columns of each row, and what tests it.
CONTRACT = {
    ("`read`", "0"): "read_write_and_close_give_what_the_row_says",
    ("`read`", "**EIO**, for ever"): "a_control_record_is_taken_by_recvmsg_and_reading_goes_on",
    ("`read`", "EBADMSG, EMSGSIZE, EINVAL"): "read_write_and_close_give_what_the_row_says",
    ("`read`", "EKEYEXPIRED"): "behind_a_key_update_that_was_taken_reading_has_ended",
    ("`read`", "ECONNRESET, EPIPE"): "read_write_and_close_give_what_the_row_says",
    ("`read`", "EAGAIN"): "read_write_and_close_give_what_the_row_says",
    ("`write`", "EAGAIN"): "with_a_full_send_buffer_writes_and_close_notify_are_eagain",
    ("`write`", "EBADMSG, EMSGSIZE, EINVAL, ECONNRESET"): (
        "a_refused_record_is_an_error_of_poll_until_it_was_told"
    ),
    ("`write`", "a count, for ever"): (
        "once_a_reset_was_read_writes_go_nowhere_and_poll_alone_says_so"
    ),
    ("`poll`", "POLLIN, then EAGAIN"): "half_a_record_is_readable_or_not",
    ("`poll`", "nothing"): (
        "poll_hides_a_key_update_that_was_decrypted_where_keys_can_be_replaced"
    ),
    ("`sendfile`", "a count, or as `write`"): "sendfile_sends_what_the_file_has",
    ("`splice` to it", "a count, or as `write`"): (
        "splice_with_more_and_then_a_close_loses_the_data_or_not"
    ),
    ("`splice` from it", "EINVAL"): "splice_to_a_pipe_stops_at_a_control_record_with_einval",
    ("`shutdown`, `close`", "0"): "an_end_over_a_full_send_buffer_can_cut_the_last_record",
    ("`close`", "0"): "closing_over_an_unread_record_resets",
}


def contract():
    (_, rest) = README.split("| call | gives | meaning | what to do |\n")
    lines = rest[: rest.index("\n\n")].splitlines()[1:]
    return [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in lines]


def test_every_row_of_the_contract_has_its_test():
    assert contract() == list(CONTRACT)
    source = (ROOT / "tests/kernel/test_bare_descriptor.py").read_text()
    for name in CONTRACT.values():
        assert f"\ndef test_{name}(" in source


def test_the_contract_names_every_errno_that_a_client_can_cause():
    gives = " ".join(result for call, result in contract() if call == "`read`")
    seen = {code for row in ROWS for code in row.reads if isinstance(code, int)}
    assert {errno.errorcode[code] for code in seen} == set(re.findall(r"E[A-Z]+", gives)) - {
        "EKEYEXPIRED"
    }


@pytest.mark.parametrize("state", list(State))
def test_every_state_stands_in_the_drawing(state):
    assert state.name in README
    assert state in TRANSITIONS


@pytest.mark.parametrize("number", [0, 1], ids=["backend", "listener"])
def test_the_examples_are_python_and_import_what_exists(number):
    texts = blocks("python")
    assert len(texts) == 2
    ours = [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(texts[number]))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("ktlsgate")
        for alias in node.names
    ]
    assert ours != []
    for module, name in ours:
        assert hasattr(importlib.import_module(module), name)


def test_the_two_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("run", "test"):
        assert f"make {target}\n" in README
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_probes_json_is_described_where_the_readme_says():
    for path in ("ktlsgate/service/probe_json.py", "ktlsgate/service/listen_check_report.py"):
        assert f"`{path}`" in README
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        assert '``"schema": 1``' in module.__doc__


def test_the_names_that_can_be_required_are_names():
    (list_,) = re.findall(r"^`--require` takes (.*?)\. Every", README, re.DOTALL | re.MULTILINE)
    names = re.findall(r"`([^`]+)`", list_)
    assert parse_requirements(",".join(names)).names == tuple(names)
    (example,) = re.findall(r"probe --require (\S+)", README)
    assert parse_requirements(example)


def test_the_probes_file_is_a_target_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    assert "make probe-file" in README
    assert re.search(r"^probe-file:", makefile, re.MULTILINE)


def test_the_matrix_is_the_one_that_the_tests_expect():
    """Written by `make matrix` from what it saw: never by hand, and never out of date."""
    load_script("run_tests")
    matrix = load_script("matrix")
    block = README.partition(matrix.BEGIN)[2].partition(matrix.END)[0]
    seen = re.search(
        r"^[0-9]+ cells, on Linux (.*)\nwith Debian's OpenSSL (.*) and the wheel's (.*)\.$",
        block,
        re.MULTILINE,
    )
    kernels, debian, wheels = (versions.split(", ") for versions in seen.groups())
    libraries = [(version, False) for version in debian] + [(version, True) for version in wheels]
    guests = [
        matrix.Guest(**expected_facts(kernel, openssl, wheel=wheel))
        for kernel in kernels
        for openssl, wheel in libraries
    ]
    assert len(guests) == matrix.GUESTS
    assert block == matrix.render(guests)


def test_the_command_that_writes_the_matrix_is_a_target_of_the_makefile():
    assert "`make matrix`" in README
    assert re.search(r"^matrix:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_command_that_measures_another_interpreter_makes_it_an_environment():
    (command,) = re.findall(r"^make (bench VENV=\S+ PYTHON=\S+)$", README, re.MULTILINE)
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    _, venv, python = command.split()
    folder, program = venv.partition("=")[2], python.partition("=")[2]
    run = subprocess.run(
        [make, "--dry-run", "--always-make", *command.split()],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"{program} -m venv {folder} " in run.stdout
    assert f"{folder}/bin/python -m bench" in run.stdout


def test_where_a_server_stops_for_want_of_open_files_is_explained():
    (files,) = re.findall(
        r"^_OPEN_FILES = ([0-9_]+)$",
        (ROOT / "scripts/bench/servers.py").read_text(),
        re.MULTILINE,
    )
    assert f"each process\nmay have {int(files):,}." in README


def test_the_table_of_unmodified_servers_is_the_one_that_the_tests_do():
    assert table() in README


def test_every_server_of_the_table_has_its_program():
    source = (ROOT / "tests/helpers/server_programs.py").read_text()
    for server in SERVERS:
        assert f"def run_{server.name.replace('-', '_')}(path):" in source
