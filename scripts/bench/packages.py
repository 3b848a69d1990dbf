"""Programs of another Debian release, without installing anything anywhere.

apt reads the lists and the status of a root of ``scripts/lab.py`` and downloads what a package
needs beside what is in there; nothing is written to the root. On a kernel of this machine they run
by the root's own dynamic loader and libraries, of which the few that are needed are copied.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lab_roots import root_of

from .machine import BenchError
from .peers import in_newest

__all__ = ["NEWEST", "download_command", "list_libraries", "make_newest", "unpack_packages"]

NEWEST = "forky"
_SCRIPTS = Path(__file__).resolve().parents[1]
_LOADER = "lib64/ld-linux-x86-64.so.2"
_SECONDS = 300


def download_command(root: Path, cache: Path, packages: Sequence[str]) -> list[str]:
    """Return how a suite's packages are had without writing into its root."""
    options = {
        "Dir": root,
        "Dir::Cache": cache,
        "Dir::State::status": root / "var/lib/dpkg/status",
        "Dir::Log": cache,
        "APT::Sandbox::User": "root",
        "Debug::NoLocking": "1",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    what = ("install", "--download-only", "--no-install-recommends", "--yes", *packages)
    return ["apt-get", "--quiet", "--quiet", *words, *what]


def unpack_packages(root: Path, folder: Path, packages: Sequence[str]) -> Path:
    """Download packages of a root's suite and unpack them into a folder; where they are then.

    Raises:
        BenchError: they cannot be had.
    """
    cache, unpacked = folder / "cache", folder / "unpacked"
    (cache / "archives" / "partial").mkdir(parents=True)
    try:
        done = subprocess.run(
            download_command(root, cache, packages),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        files = sorted((cache / "archives").glob("*.deb"))
        if done.returncode or not files:
            raise BenchError(f"{', '.join(packages)} cannot be had: {done.stderr.strip()[-300:]}")
        for file in files:
            subprocess.run(["dpkg", "-x", file, unpacked], check=True, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError) as exc:
        raise BenchError(f"{', '.join(packages)} cannot be had: {exc}") from exc
    return unpacked


def _find_root(suite: str) -> Path:
    """Return the folder of the suite's root, which root builds if need be."""
    root = root_of(suite)
    if not root.packages_ready():
        if os.geteuid() != 0:
            raise BenchError(f"the lab has no {suite}, and only root can build it")
        built = [sys.executable, str(_SCRIPTS / "lab.py"), "build", suite]
        if subprocess.run(built, check=False).returncode:
            raise BenchError(f"the lab's {suite} cannot be built")
    return root.folder


def list_libraries(text: str) -> list[Path]:
    """Return the files in what the dynamic loader lists.

    Raises:
        BenchError: one is missing.
    """
    if missing := re.findall(r"^\s*(\S+) => not found", text, re.MULTILINE):
        raise BenchError(f"no library {', '.join(missing)}")
    return [Path(name) for name in re.findall(r"=> (/\S+)", text)]


def make_newest(folder: Path, ours: Sequence[Path], suite: str = NEWEST) -> Path:
    """Make a folder of the newest suite's nginx and haproxy, with all libraries they need.

    Args:
        folder: that can be filled.
        ours: programs that are to find their libraries there, too.
        suite: of the lab.

    Raises:
        BenchError: it cannot be had; the text says why.
    """
    root = _find_root(suite)
    loader = root / _LOADER
    if not loader.exists():
        raise BenchError(f"the lab's {suite} is not for x86-64")
    unpacked = unpack_packages(root, folder, ["nginx", "haproxy"])
    for name in ("bin", "lib"):
        (folder / name).mkdir()
    shutil.copy(loader, folder / "ld.so")
    places = [top / "usr/lib/x86_64-linux-gnu" for top in (unpacked, root)]
    path = ":".join(str(place) for place in places)
    for program in (*(unpacked / "usr/sbin" / name for name in ("nginx", "haproxy")), *ours):
        listed = subprocess.run(
            [loader, "--library-path", path, "--list", program],
            capture_output=True,
            text=True,
            check=False,
        )
        if listed.returncode:
            raise BenchError(f"{program.name} does not run: {listed.stderr.strip()[-200:]}")
        for file in list_libraries(listed.stdout):
            shutil.copy(file, folder / "lib" / file.name)
        shutil.copy(program, folder / "bin" / program.name)
    _try_it(folder)
    return folder


def _try_it(folder: Path) -> None:
    """Find out whether this kernel runs such programs at all."""
    done = subprocess.run(
        [*in_newest(folder, "nginx"), "-v"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchError(f"the newest nginx does not run: {done.stderr.strip()[-200:]}")
