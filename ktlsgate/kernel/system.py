"""Facts about the machine that bear on kTLS: what ``/proc`` and ``uname`` say.

Rule: hints for people, never grounds for a decision; what works is found by
`ktlsgate.kernel.probe`'s trials. ``/proc`` may be absent, masked or made up (a
sandbox), so each fact that cannot be read is ``None``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .module_rules import ModuleRule, has_module_file, read_module_rules

__all__ = ["SystemFacts", "read_system_facts"]

_CAP_NET_ADMIN = 12  # linux/capability.h
_WHOLE_UID_MAP = ["0", "0", "4294967295"]  # user_namespaces(7): only the first namespace has it
_CONTAINER_MARKS = ("/run/.containerenv", "/.dockerenv")  # podman's and docker's


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemFacts:
    """What the system says of itself.

    Attributes:
        kernel: ``uname -r``.
        build: ``uname -v``; Debian puts its package's version there.
        machine: ``uname -m``.
        uid: effective user.
        capabilities: the effective ones, as a bit mask.
        is_first_user_namespace: capabilities here are those of the whole machine.
        seccomp: 0 off, 1 strict, 2 filter.
        available_ulps: upper layer protocols that TCP knows now, such as ``tls``.
        is_module_loaded: ``tls`` is among the loaded modules (a built-in one is not).
        has_tls_stat: ``/proc/net/tls_stat`` is there, so the tls code is in.
        is_container: docker or podman left its mark.
        module_rules: lines that keep modprobe from loading what kTLS needs.
        has_module_file: modprobe could find a tls module for this kernel.
    """

    kernel: str
    build: str
    machine: str
    uid: int
    capabilities: int | None
    is_first_user_namespace: bool | None
    seccomp: int | None
    available_ulps: tuple[str, ...] | None
    is_module_loaded: bool | None
    has_tls_stat: bool
    is_container: bool
    module_rules: tuple[ModuleRule, ...] = ()
    has_module_file: bool | None = None

    @property
    def has_net_admin(self) -> bool | None:
        """CAP_NET_ADMIN is effective, in whatever user namespace this is."""
        return None if self.capabilities is None else bool(self.capabilities >> _CAP_NET_ADMIN & 1)

    @property
    def may_load_modules(self) -> bool:
        """Whether attaching the ULP loads the module: the kernel asks for CAP_NET_ADMIN.

        It asks for it in the first user namespace (``tcp_ulp.c``, ``capable``), so
        root in a container is not enough. Without ``/proc`` the uid has to do.
        """
        if self.has_net_admin is None:
            return self.uid == 0
        return self.has_net_admin and self.is_first_user_namespace is not False


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None


def _status_number(status: str | None, name: str, base: int) -> int | None:
    for line in (status or "").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            try:
                return int(value.strip(), base)
            except ValueError:
                return None
    return None


def read_system_facts(root: Path = Path("/")) -> SystemFacts:
    """Collect them; nothing raises.

    Args:
        root: the folder that holds ``proc``; tests give their own.
    """
    proc = root / "proc"
    uname = os.uname()
    status = _read(proc / "self/status")
    uid_map = _read(proc / "self/uid_map")
    ulps = _read(proc / "sys/net/ipv4/tcp_available_ulp")
    modules = _read(proc / "modules")
    return SystemFacts(
        kernel=uname.release,
        build=uname.version,
        machine=uname.machine,
        uid=os.geteuid(),
        capabilities=_status_number(status, "CapEff", 16),
        is_first_user_namespace=None if uid_map is None else uid_map.split() == _WHOLE_UID_MAP,
        seccomp=_status_number(status, "Seccomp", 10),
        available_ulps=None if ulps is None else tuple(ulps.split()),
        is_module_loaded=None
        if modules is None
        else any(line.startswith("tls ") for line in modules.splitlines()),
        has_tls_stat=(proc / "net/tls_stat").exists(),
        is_container=any((root / mark.lstrip("/")).exists() for mark in _CONTAINER_MARKS),
        module_rules=read_module_rules(root),
        has_module_file=has_module_file(uname.release, root),
    )
