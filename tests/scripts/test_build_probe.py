"""The probe as one file: the same bytes each time, and it runs where there is only Python."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import ktlsgate

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "build_probe.py"
ROOT = Path(ktlsgate.__file__).parent.parent


def load():
    spec = importlib.util.spec_from_file_location("build_probe", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build_probe = load().build_probe


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A copy in a folder of its own, under another name."""
    built = tmp_path_factory.mktemp("built") / "ktls_probe.pyz"
    build_probe(built, ROOT)
    return Path(shutil.copy(built, tmp_path_factory.mktemp("elsewhere") / "copied"))


def run(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", str(file), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
        check=False,
    )


def test_it_runs_with_nothing_but_python(file) -> None:
    done = run(file)
    assert done.stderr == ""
    assert done.returncode in {0, 1, 3}
    assert "  pyOpenSSL is not installed: engines not tried\n" in done.stdout


def test_it_has_every_option(file) -> None:
    done = run(file, "--json", "--require", "tx")
    report = json.loads(done.stdout)
    assert report["exit_code"] == done.returncode in {0, 1}
    assert report["required"]["names"] == ["tx"]
    refused = run(file, "--listen-check", "127.0.0.1:1", "--json")
    assert (json.loads(refused.stdout)["verdict"], refused.returncode) == ("failed", 4)
    assert refused.stderr == ""


def test_it_is_a_program_and_says_its_name(file) -> None:
    done = run(file, "--what")
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ktls_probe ")
    assert file.stat().st_mode & 0o111 == 0o111
    assert file.read_bytes().startswith(b"#!/usr/bin/env python3\n")


def test_its_bytes_depend_on_the_sources_alone(tmp_path) -> None:
    sources = tmp_path / "sources"
    shutil.copytree(ROOT / "ktlsgate", sources / "ktlsgate")  # other times, another folder
    count = build_probe(tmp_path / "a", ROOT)
    assert build_probe(tmp_path / "b" / "made", sources) == count
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b" / "made").read_bytes()


def test_it_holds_what_the_probe_may_import_and_not_the_gate(file) -> None:
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
    names = [info.filename for info in infos]
    assert names[0] == "__main__.py"
    assert names[1:] == sorted(names[1:])
    assert {"ktlsgate/service/probe_report.py", "ktlsgate/wire/handshake.py"} <= set(names)
    assert not [name for name in names if "/gate/" in name or "/backend/" in name]
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}


@pytest.mark.skipif(
    importlib.util.find_spec("OpenSSL") is None, reason="pyOpenSSL is not installed"
)
def test_where_pyopenssl_is_it_tries_the_engines(file) -> None:
    done = subprocess.run(
        [sys.executable, str(file), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
        check=False,
    )
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report["openssl"]["problem"] == ""
    assert len(report["engines"]) == 4
    assert all(trial["handshake"]["ok"] for trial in report["engines"])


def test_an_old_python_gets_a_sentence(file) -> None:
    """The entry is plain enough for any Python 3; here only the version is made up."""
    with zipfile.ZipFile(file) as archive:
        main = archive.read("__main__.py").decode()
    code = f"import sys; sys.version_info = (3, 9); exec({main!r})"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (4, "ktls_probe: needs Python 3.11 or newer\n")
