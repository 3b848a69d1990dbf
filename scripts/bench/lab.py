"""The bench with kTLS for real: in a guest of ``scripts/lab.py``, the gate beside nginx.

    make bench-lab                                    Linux 6.12, OpenSSL 3.5
    make bench-lab SUITE=forky ARGS='--only calls'    another suite, other options

The gate runs twice, once with each engine. Load generator and floor are compiled here; nginx is the
suite's package, unpacked into the guest's own folder. A guest has one CPU, and a system call costs
fifty microseconds there: its figures say how system calls compare, not what a machine would do. Its
kernel charges CPU time in ticks of ten milliseconds to whoever runs as one passes, which may never
be the server: a rate, to which all contribute on one CPU, says more. The report is printed; its
JSON is not kept.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lab_roots import SUITES, root_of

from .machine import BenchError, build_programs
from .packages import unpack_packages

__all__ = ["guest_command", "main"]

_SCRIPTS = Path(__file__).resolve().parents[1]
_TIMEOUT = 1200
_SERVERS = "nginx,nginx-ktls,gate,gate-openssl,floor"
_USUAL = f"--servers {_SERVERS} --only conn,resumed,keep,calls --rounds 5 --seconds 2"


def guest_command(suite: str, folder: Path, arguments: Sequence[str]) -> list[str]:
    """Return what runs the bench in a guest of the suite."""
    checkout = _SCRIPTS.parent
    copies = [checkout / "ktlsgate", checkout / "scripts", folder / "bin"]
    bench = ["python3", "-m", "bench", "--programs", "bin", "--no-newest"]
    bench += ["--json", "/tmp/bench.json"]  # noqa: S108 - the guest's own
    script = f'PATH="$PWD/bin:$PATH" PYTHONPATH=.:scripts {shlex.join([*bench, *arguments])}'
    return [
        *(sys.executable, str(_SCRIPTS / "lab.py"), "run", suite),
        *("--python", "system", "--timeout", str(_TIMEOUT)),
        *(word for path in copies for word in ("--copy", str(path))),
        *("--", "sh", "-c", script),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program."""
    parser = argparse.ArgumentParser(prog="bench.lab", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("suite", nargs="?", default="trixie", choices=list(SUITES))
    given, options = parser.parse_known_args(arguments)
    built = [sys.executable, str(_SCRIPTS / "lab.py"), "build", given.suite]
    if status := subprocess.run(built, check=False).returncode:
        return status
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            (folder / "bin").mkdir()
            build_programs(folder / "bin")
            unpacked = unpack_packages(root_of(given.suite).folder, folder, ["nginx"])
            (unpacked / "usr/sbin/nginx").rename(folder / "bin/nginx")
            command = guest_command(given.suite, folder, options or shlex.split(_USUAL))
            return subprocess.run(command, check=False).returncode
    except (BenchError, OSError) as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
