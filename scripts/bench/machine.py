"""The machine: which CPUs, which compiler, which peers are installed, and its facts."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .peers import SYSTEM_PATH, Peer, in_newest

__all__ = [
    "BenchError",
    "Cpus",
    "build_programs",
    "choose_cpus",
    "describe_machine",
    "find_programs",
    "find_version",
    "install_peers",
    "no_daemons",
    "pinned",
]

SOURCES = Path(__file__).parent
PROGRAMS = {  # what each is made of
    "tlsload": ("tlsload.c", "client.c", "-lssl", "-lcrypto"),
    "backend": ("backend.c",),
    "floor": ("gate.c", "-lssl", "-lcrypto"),
}
_BUILD_SECONDS = 120
_APT_SECONDS = 300


class BenchError(Exception):
    """Nothing can be measured; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpus:
    """Where things run: servers on one CPU, load generator and backend on another."""

    server: int
    client: int

    @property
    def are_shared(self) -> bool:
        """Whether there is only one."""
        return self.server == self.client


def choose_cpus(available: Collection[int]) -> Cpus:
    """Take the first and the last: neighbours are often two halves of one core."""
    return Cpus(server=min(available), client=max(available))


@contextlib.contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """Let what is started meanwhile run on one CPU only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def build_programs(folder: Path) -> None:
    """Compile load generator, backend and floor into a folder.

    Raises:
        BenchError: there is no compiler, or it refused.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise BenchError("no C compiler cc (Debian: apt-get install gcc libc6-dev libssl-dev)")
    for name, parts in PROGRAMS.items():
        done = subprocess.run(
            [compiler, "-std=gnu11", "-O2", "-o", str(folder / name), *parts],
            cwd=SOURCES,
            capture_output=True,
            text=True,
            timeout=_BUILD_SECONDS,
            check=False,
        )
        if done.returncode:
            hint = " (Debian: apt-get install libssl-dev)" if "openssl/" in done.stderr else ""
            raise BenchError(f"cc cannot build {name}{hint}:\n{done.stderr.rstrip()}")


def find_programs(folder: Path) -> None:
    """Check that compiled programs are where somebody says.

    Raises:
        BenchError: one is not.
    """
    for name in PROGRAMS:
        if not os.access(folder / name, os.X_OK):
            raise BenchError(f"expected a program {folder / name}, got none")


_POLICY = Path("/usr/sbin/policy-rc.d")  # asked before a package starts its daemon; 101: no


@contextlib.contextmanager
def no_daemons(policy: Path = _POLICY) -> Iterator[None]:
    """Keep packages that are installed meanwhile from starting what they bring."""
    try:
        with policy.open("x", encoding="ascii") as file:
            file.write("#!/bin/sh\nexit 101\n")
    except FileExistsError:  # somebody has a policy already
        yield
        return
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def install_peers(packages: Sequence[str]) -> None:
    """Install the distribution's packages, if this is root on Debian and they are to be had."""
    if not packages or os.geteuid() != 0 or not Path("/etc/debian_version").exists():
        return
    print(f"bench: installing {' '.join(packages)}", flush=True)
    command = ["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", *packages]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with contextlib.suppress(OSError, subprocess.TimeoutExpired), no_daemons():
        subprocess.run(
            command, capture_output=True, timeout=_APT_SECONDS, check=False, env=environment
        )


def _cpu_model(text: str) -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


_VERSIONS = {  # by package: what prints its version, and where in that it is
    "nginx": ("nginx -V", r"nginx/(\S+)"),
    "haproxy": ("haproxy -v", r"version (\d[\d.]*)"),
    "hitch": ("hitch --version", r"hitch (\S+)"),
    "stunnel4": ("stunnel4 -version", r"stunnel (\d\S*)"),
}
_OPENSSL = "from OpenSSL import SSL; print(SSL.SSLeay_version(0).decode())"


def _output(command: Sequence[str]) -> str:
    """Return all that a program says, or nothing."""
    path = {"PATH": f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=False, env=os.environ | path
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def find_version(package: str, text: str) -> str:
    """Return a peer and its version, with its OpenSSL if it says that."""
    found = re.search(_VERSIONS[package][1], text)
    openssl = re.search(r"OpenSSL (\d\S*)", text)
    words = [package, found[1] if found else "", f"(OpenSSL {openssl[1]})" if openssl else ""]
    return " ".join(filter(None, words))


def _version(package: str, newest: Path | None = None) -> str:
    program, option = _VERSIONS[package][0].split()
    return find_version(package, _output([*in_newest(newest, program), option]))


def describe_machine(
    peers: Collection[Peer], python: str, newest: Path | None = None
) -> dict[str, str]:
    """Return what a reader of the figures must know of this machine and of what ran."""
    model = _cpu_model(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    system = ""
    with contextlib.suppress(OSError):
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    packages = sorted({peer.package for peer in peers if peer.package})
    newer = [_version(name, newest) for name in ("nginx", "haproxy")] if newest else []
    own = f"{_output([python, '--version'])} {_output([python, '-c', _OPENSSL])}".split()
    return {
        "machine": f"{model}, {os.cpu_count() or 1} CPUs, Linux {platform.release()}, {system}",
        "gate": " ".join(["ktlsgate on", *own[:4]]),
        "peers": ", ".join(map(_version, packages)),
        "newest": ", ".join(f"newest {version}" for version in newer),
    }
