"""The script runs from a bare copy of the repository with nothing but Python."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ktlsgate

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPT = CHECKOUT / "scripts" / "ktls_probe.py"


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The two things that must be copied to a machine: the package and the script."""
    root = tmp_path_factory.mktemp("copy")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(ktlsgate.__file__).parent, root / "ktlsgate", ignore=ignore)
    (root / "scripts").mkdir()
    shutil.copy(SCRIPT, root / "scripts")
    return root / "scripts" / "ktls_probe.py"


def run(script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # -S: no site-packages; -I: no PYTHONPATH and no current folder, so also no environment.
    return subprocess.run(
        [sys.executable, "-B", "-S", *(() if environment else ("-I",)), str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
        env=environment or None,
        check=False,
    )


def test_without_site_packages_it_says_that_engines_were_not_tried(copy) -> None:
    done = run(copy)
    assert done.stderr == ""
    assert done.returncode in {0, 1, 3}
    assert "  pyOpenSSL is not installed: engines not tried\n" in done.stdout


def test_json_agrees_with_the_exit_status(copy) -> None:
    done = run(copy, "--json")
    report = json.loads(done.stdout)
    assert report["schema"] == 1
    assert report["exit_code"] == done.returncode
    assert report["openssl"]["problem"] == "pyOpenSSL is not installed: engines not tried"
    assert report["engines"] == []


def test_a_terminal_without_unicode_gets_ascii(copy) -> None:
    done = run(copy, PYTHONIOENCODING="ascii", LANG="C")
    assert done.stderr == ""
    assert done.stdout.isascii()


def test_output_that_is_no_terminal_has_no_colours(copy) -> None:
    assert "\x1b" not in run(copy).stdout


def test_an_unknown_argument_is_a_usage_error(copy) -> None:
    done = run(copy, "--what")
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ktls_probe.py")


@pytest.mark.parametrize("sink", ["| true", "> /dev/full"])
def test_output_that_cannot_be_written_ends_without_a_traceback(copy, sink) -> None:
    """Python's own answers, 1 and 120, would be taken for ours."""
    command = f"{{ {sys.executable} -B -I -S {copy} --json; echo $? >&2; }} {sink}"
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False
    )
    *message, status = done.stderr.splitlines()
    if sink == "| true":
        assert (message, status) in [([], code) for code in "013"]
    else:
        assert message == [
            "ktls_probe.py: the probe itself failed: OSError: [Errno 28] No space left on device"
        ]
        assert status == "4"
