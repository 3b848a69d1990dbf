"""Who is measured: the gate in some ways, its floor, and the peers."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .configs import (
    Site,
    gate_config,
    gate_each_config,
    haproxy_config,
    haproxy_tcp_config,
    hitch_config,
    nginx_config,
    nginx_ktls_config,
    no_config,
    openssl_gate_config,
    relay_config,
    stunnel_config,
)

__all__ = [
    "NGINX",
    "NGINXES",
    "PEERS",
    "SYSTEM_PATH",
    "Peer",
    "absent_packages",
    "in_newest",
    "is_installed",
]

NGINX = "nginx"  # what all others are compared with, wherever it is able
NGINXES = (NGINX, "nginx-new")  # the second where the first is not able


def in_newest(newest: Path | None, program: str) -> list[str]:
    """Return how a program runs on the libraries of a newer distribution.

    Args:
        newest: the folder that `packages.make_newest` made; without one nothing changes.
        program: its name or path here; that folder has a copy of the same name.
    """
    if newest is None:
        return [str(program)]
    loader = [str(newest / "ld.so"), "--library-path", str(newest / "lib")]
    return [*loader, str(newest / "bin" / Path(program).name)]


_Command = Callable[[Site, Path], list[str]]


def _newest(command: _Command) -> _Command:
    """Return how the same is started on the libraries of a newer distribution."""

    def start(site: Site, file: Path) -> list[str]:
        program, *words = command(site, file)
        return [*in_newest(site.newest, program), *words]

    return start


def _nginx(site: Site, file: Path) -> list[str]:
    return ["nginx", "-p", str(site.folder), "-c", str(file), "-e", f"{site.folder}/nginx.err"]


def _gate(site: Site, file: Path) -> list[str]:
    if site.is_keyless:
        return [site.python, "-m", "bench.keyless_gate", str(file)]
    return _relay(site, file)


def _relay(site: Site, file: Path) -> list[str]:
    return [site.python, "-m", "ktlsgate", "run", "-c", str(file)]


def _haproxy(_: Site, file: Path) -> list[str]:
    return ["haproxy", "-db", "-f", str(file)]


def _hitch(_: Site, file: Path) -> list[str]:
    return ["hitch", f"--config={file}"]


def _stunnel(_: Site, file: Path) -> list[str]:
    return ["stunnel4", str(file)]


def _floor(site: Site, _: Path) -> list[str]:
    words = (site.programs / "floor", site.port, site.certificate, site.key, site.handoff)
    return [str(word) for word in words]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A kind of server.

    Attributes:
        name: what it is called in options and results.
        title: what it is called in tables.
        package: Debian's; empty for our own, and for newer ones, which are not installed.
        program: what must be there to start it; empty for the same ones.
        configure: writes its configuration.
        command: starts it, in the foreground.
        hands_over: whether the client's socket leaves it.
        is_clear: whether it leaves clear text on that socket, whatever the kernel can do.
        descriptors: that it needs for each connection held.
        needs_ktls: whether it is left out on a kernel without kTLS: there it would be the same as
            another one, or hand nothing over.
        is_newest: whether it runs on the libraries of a newer distribution.
    """

    name: str
    title: str
    configure: Callable[[Site], str]
    command: _Command
    package: str = ""
    program: str = ""
    hands_over: bool = False
    is_clear: bool = False
    descriptors: int = 2
    needs_ktls: bool = False
    is_newest: bool = False


def _newer(peer: Peer) -> Peer:
    """Return the same peer from the newest distribution; our own on that one's libraries."""
    return dataclasses.replace(
        peer,
        name=f"{peer.name}-new",
        title=f"{peer.title}, newest",
        command=_newest(peer.command),
        package="",
        program="",
        is_newest=True,
    )


def _package(
    name: str, title: str, configure: Callable[[Site], str], *, needs_ktls: bool = False
) -> Peer:
    """Return a peer that the distribution has."""
    package, program, command = _PACKAGES[name.partition("-")[0]]
    return Peer(
        name=name,
        title=title,
        configure=configure,
        command=command,
        package=package,
        program=program,
        needs_ktls=needs_ktls,
    )


def _gate_peer(
    name: str, title: str, configure: Callable[[Site], str], *, needs_ktls: bool = False
) -> Peer:
    return Peer(
        name=name,
        title=title,
        configure=configure,
        command=_gate,
        hands_over=True,
        descriptors=0,
        needs_ktls=needs_ktls,
    )


_PACKAGES = {
    "nginx": ("nginx", "nginx", _nginx),
    "haproxy": ("haproxy", "haproxy", _haproxy),
    "hitch": ("hitch", "hitch", _hitch),
    "stunnel": ("stunnel4", "stunnel4", _stunnel),
}

_NGINX = _package(NGINX, "nginx", nginx_config)
_HAPROXY = _package("haproxy", "haproxy http", haproxy_config)
_FLOOR = Peer(
    name="floor",
    title="the same path in C",
    configure=no_config,
    command=_floor,
    hands_over=True,
    is_clear=True,
    descriptors=0,
)

PEERS = {
    peer.name: peer
    for peer in (
        _NGINX,
        _newer(_NGINX),
        _package("nginx-ktls", "nginx with kTLS", nginx_ktls_config, needs_ktls=True),
        _gate_peer("gate", "ktlsgate, handing over", gate_config),
        _gate_peer("gate-each", "ktlsgate, a Unix connection a handoff", gate_each_config),
        _gate_peer(
            "gate-openssl",
            "ktlsgate, handing over, engine openssl",
            openssl_gate_config,
            needs_ktls=True,
        ),
        _FLOOR,
        _newer(_FLOOR),
        Peer(
            name="relay",
            title="ktlsgate, relaying",
            configure=relay_config,
            command=_relay,
            descriptors=3,
        ),
        _HAPROXY,
        _newer(_HAPROXY),
        _package("haproxy-tcp", "haproxy tcp", haproxy_tcp_config),
        _package("hitch", "hitch", hitch_config),
        _package("stunnel", "stunnel", stunnel_config),
    )
}


SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


def is_installed(peer: Peer) -> bool:
    """Whether its program is there; what is not installed from a package always is."""
    path = f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"  # users' own have no sbin
    return not peer.program or shutil.which(peer.program, path=path) is not None


def absent_packages(peers: Sequence[Peer]) -> list[str]:
    """Return the packages of those that are not there."""
    return sorted({peer.package for peer in peers if not is_installed(peer)})
