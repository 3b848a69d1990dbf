"""Run the whole suite against the wheel: here, and on real kernels with kTLS.

    python3 scripts/run_tests.py [PYTEST ARGS]

What it does, with nothing but Python and a package registry:

1. makes a virtual environment (.venv-test) with the test group of pyproject.toml;
2. builds the wheel and installs it there: tests never run against the checkout;
3. runs pytest here. On a kernel with kTLS that is all;
4. else runs it again in the lab (scripts/lab.py), on each kernel with the
   distribution's Python and OpenSSL, and what depends on OpenSSL with the
   registry's, too. Where the lab may not be built it says in one line what was
   not run, and why.

KTLSGATE_LAB_SUITES chooses kernels ("bookworm,trixie,forky"; the default is all
three), KTLSGATE_LAB=off none.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv-test"
WHEELS = ROOT / "build" / "wheel"
SUITES = "bookworm,trixie,forky"
# What meets both OpenSSL and the kernel. The rest ran with the registry's packages here,
# and with the kernels under the distribution's.
OF_OPENSSL = (
    "tests/e2e",
    "tests/gate",
    *(f"tests/kernel/test_{name}.py" for name in ("advice", "engines", "openssl_probe")),
)
_NOT_RUN = 77  # scripts/lab.py: nothing failed, but something could not be run here


def _requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]["demo"]
    groups = project["dependency-groups"]["test"]
    return sorted({*project["project"]["dependencies"], *extras, *groups})


def _run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True, cwd=ROOT)


def make_venv() -> Path:
    """Make or refresh the environment; its Python."""
    python = VENV / "bin" / "python"
    wanted = _requirements()
    stamp = VENV / f"ready-{hashlib.sha256(repr(wanted).encode()).hexdigest()[:16]}"
    if stamp.exists() and python.exists():
        return python
    shutil.rmtree(VENV, ignore_errors=True)
    done = subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=False)
    if done.returncode:
        sys.exit(
            f"run_tests: {sys.executable} cannot make virtual environments"
            " (Debian: apt-get install python3-venv)"
        )
    _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted)
    stamp.touch()
    return python


def build_wheel(python: Path) -> Path:
    """Build the wheel and install it in the environment; its path."""
    shutil.rmtree(WHEELS, ignore_errors=True)
    pip = (python, "-m", "pip", "--disable-pip-version-check", "--quiet")
    _run(*pip, "wheel", "--no-deps", "--wheel-dir", WHEELS, ROOT)
    (wheel,) = WHEELS.glob("ktlsgate-*.whl")
    _run(*pip, "install", "--no-deps", "--force-reinstall", wheel)
    return wheel


def test_here(python: Path, arguments: list[str]) -> int:
    """Run pytest on this machine; its status."""
    # -P: the checkout's own ktlsgate/ must not be found first.
    command = [str(python), "-P", "-m", "pytest", *arguments]
    environment = {**os.environ, "KTLSGATE_EXPECT_WHEEL": "1"}
    return subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode


def has_ktls(python: Path) -> bool:
    """Whether this machine's own kernel has kTLS."""
    code = (
        "import sys; from ktlsgate.kernel.probe import probe_offload;"
        "table = probe_offload(); print(table.summary(), flush=True);"
        "sys.exit(1 if table.ulp_reason else 0)"
    )
    return subprocess.run([str(python), "-P", "-c", code], check=False).returncode == 0


def test_in_lab(wheel: Path, arguments: list[str]) -> int:
    """Run pytest on the lab's kernels; 0 also where there can be no lab."""
    suites = os.environ.get("KTLSGATE_LAB_SUITES", SUITES)
    lab = [sys.executable, str(ROOT / "scripts" / "lab.py"), "test", "--suites", suites]
    has_paths = any(Path(argument.partition("::")[0]).exists() for argument in arguments)
    of_openssl = () if has_paths else OF_OPENSSL
    statuses = []
    for python, paths in (("system", ()), ("wheel", of_openssl)):
        command = [*lab, "--python", python, str(wheel), "--", *arguments, *paths]
        statuses.append(subprocess.run(command, check=False).returncode)
    return next((status for status in statuses if status not in {0, _NOT_RUN}), 0)


def main() -> int:
    """Run as a program."""
    arguments = sys.argv[1:]
    python = make_venv()
    wheel = build_wheel(python)
    here = test_here(python, arguments)
    if has_ktls(python):
        print(f"kTLS tests ran here, on Linux {os.uname().release}")
        return here
    lab = test_in_lab(wheel, arguments)
    return here or lab


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as exc:
        sys.exit(f"run_tests: {' '.join(exc.cmd)}: exit status {exc.returncode}")
