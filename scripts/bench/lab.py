"""The bench with kTLS for real: in a guest of ``scripts/lab.py``, the gate beside nginx.

    make bench-lab                                    Linux 6.12, OpenSSL 3.5
    make bench-lab SUITE=forky ARGS='--only calls'    another suite, other options

The load generator is compiled here; nginx is the suite's package, unpacked into the guest's own
folder. A guest has one CPU, and a system call costs fifty microseconds there: its figures say how
system calls compare, not what a machine would do. The report is printed; its JSON is not kept.
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

__all__ = ["download_command", "guest_command", "main"]

_SCRIPTS = Path(__file__).resolve().parents[1]
_TIMEOUT = 1200
_USUAL = "--servers nginx,nginx-ktls,gate --only conn,resumed,keep,calls --rounds 5 --seconds 1"


def download_command(root: Path, cache: Path) -> list[str]:
    """Return how the suite's nginx is had without writing into its root."""
    options = {
        "Dir": root,
        "Dir::Cache": cache,
        "Dir::State::status": root / "var/lib/dpkg/status",
        "APT::Sandbox::User": "root",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return ["apt-get", "--quiet", "--quiet", *words, "download", "nginx"]


def guest_command(suite: str, folder: Path, arguments: Sequence[str]) -> list[str]:
    """Return what runs the bench in a guest of the suite."""
    checkout = _SCRIPTS.parent
    copies = [checkout / "ktlsgate", checkout / "scripts", folder / "bin"]
    bench = ["python3", "-m", "bench", "--programs", "bin", "--record", "/tmp/bench.json"]  # noqa: S108 - the guest's own
    script = f'PATH="$PWD/bin:$PATH" PYTHONPATH=.:scripts {shlex.join([*bench, *arguments])}'
    return [
        *(sys.executable, str(_SCRIPTS / "lab.py"), "run", suite),
        *("--python", "system", "--timeout", str(_TIMEOUT)),
        *(word for path in copies for word in ("--copy", str(path))),
        *("--", "sh", "-c", script),
    ]


def _fetch_nginx(root: Path, folder: Path) -> None:
    """Put the suite's nginx into the folder's ``bin``.

    Raises:
        BenchError: it cannot be had.
    """
    cache = folder / "cache"
    (cache / "archives" / "partial").mkdir(parents=True)
    done = subprocess.run(
        download_command(root, cache), cwd=folder, capture_output=True, text=True, check=False
    )
    packages = sorted(folder.glob("nginx_*.deb"))
    if done.returncode or not packages:
        raise BenchError(f"nginx cannot be had: {done.stderr.strip()[-300:]}")
    subprocess.run(["dpkg", "-x", str(packages[0]), str(folder / "unpacked")], check=True)
    (folder / "unpacked/usr/sbin/nginx").rename(folder / "bin/nginx")


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
            _fetch_nginx(root_of(given.suite).folder, folder)
            command = guest_command(given.suite, folder, options or shlex.split(_USUAL))
            return subprocess.run(command, check=False).returncode
    except (BenchError, OSError) as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
