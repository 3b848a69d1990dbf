"""The probe: ask the kernel what works by doing it, and keep the answer.

Two sizes of the same question. `probe_offload` is for a gate that starts: is there
an upper layer protocol, and for which version and cipher do keys go in and data
come out. `probe_kernel` is for people: also the machine and every feature.
Measured in user-mode Linux: 7 to 19 ms and 13 to 138 ms. The first probe after a
boot loads the kernel's crypto modules on the way, which took up to 1.3 s there.

Rules: nothing raises, nothing waits longer than `ktlsgate.kernel.trials.TIMEOUT` a
step, no socket stays open. A cipher counts as working only when 20 kB went through
it; others' probes that looked at one setsockopt were told yes and got no data
(rustls/ktls). This module and what it imports need nothing but Python.
"""

from __future__ import annotations

import errno
import functools
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from ..config import Offload
from ..wire.ciphers import SUITES, CipherSuite, KernelCipher, Version
from ..wire.crypto_info import RxCryptoInfo, TxCryptoInfo
from ..wire.records import HEADER_SIZE, ContentType
from .features import Feature, FeatureName, probe_features, random_key, try_feature
from .ktls import KEY_REASONS, ULP_REASONS, attach_ulp, install_rx, install_tx
from .system import SystemFacts, read_system_facts
from .tls_stat import UNCOUNTED, CounterCheck, check_counters, read_tls_stat
from .trials import DONE, NOT_TRIED, Outcome, attempt, on_pair, recv_exactly

__all__ = ["Capabilities", "Cell", "OffloadTable", "probe_kernel", "probe_offload"]

# One suite for each version and cipher: the key exchange does not matter to the kernel.
_SUITES = {(suite.version, suite.cipher): suite for suite in SUITES.values()}
_DATA = bytes(range(256)) * 80  # 20,480 bytes: a full record and a part of one


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One version and cipher: setting the keys each way, and moving data.

    ``data`` went from a kernel that sends to one that receives; where the receiving
    key was refused it only had to leave as a record that does not show it.
    """

    version: Version
    cipher: KernelCipher
    tx: Outcome
    rx: Outcome
    data: Outcome

    @property
    def offload(self) -> Offload:
        """Which directions the kernel can take over."""
        if not (self.tx.ok and self.data.ok):
            return Offload.NONE
        return Offload.BOTH if self.rx.ok else Offload.TX

    @property
    def reason(self) -> str:
        """Why not both, in words; empty when both work."""
        return next((o.reason for o in (self.tx, self.rx, self.data) if not o.ok), "")

    @property
    def label(self) -> str:
        """The cell's name in lines for people: ``TLSv1.3 AES_GCM_256``."""
        return f"{self.version.label} {self.cipher.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadTable:
    """What this kernel can take over: the answer that a gate keeps while it runs.

    It holds for fresh connections; a single one can still be refused (ENOTCONN
    when the client is gone, ENOMEM), so errors of ``install_*`` remain to be handled.

    Attributes:
        ulp: how attaching the upper layer protocol ended.
        cells: every version and cipher; empty when there is no ULP.
        rekey: how following a KeyUpdate ended; `NOT_TRIED` where TLS 1.3 does not work
            both ways.
    """

    ulp: Outcome
    cells: tuple[Cell, ...] = ()
    rekey: Outcome = NOT_TRIED
    # Asked for every connection, by the names of suites: hashing two enums takes longer.
    _offloads: dict[str, Offload] = field(init=False, repr=False, compare=False)
    _ulp_reason: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Work out once what a gate asks again and again."""
        found = {(cell.version, cell.cipher): cell.offload for cell in self.cells}
        offloads = {
            name: found.get((suite.version, suite.cipher), Offload.NONE)
            for name, suite in SUITES.items()
        }
        object.__setattr__(self, "_offloads", offloads)
        object.__setattr__(self, "_ulp_reason", self._why_nothing())

    @classmethod
    def none(cls, reason: str) -> OffloadTable:
        """Make the table of a kernel without kTLS, or of an operator who wants none."""
        return cls(ulp=Outcome(ok=False, reason=reason))

    @classmethod
    def all(cls) -> OffloadTable:
        """Make the table of a kernel that can do it all."""
        cells = (
            Cell(version=version, cipher=cipher, tx=DONE, rx=DONE, data=DONE)
            for version, cipher in _SUITES
        )
        return cls(ulp=DONE, cells=tuple(cells), rekey=DONE)

    def supports(self, suite: CipherSuite) -> Offload:
        """Say which directions work for the suite's version and cipher."""
        return self._offloads[suite.name]

    @property
    def can_rekey(self) -> bool:
        """Whether TLS 1.3 keys can be replaced, as KeyUpdates want (Linux 6.14 and later)."""
        return self.rekey.ok

    @property
    def best(self) -> Offload:
        """The most that works for any suite."""
        found = {cell.offload for cell in self.cells}
        return next((o for o in (Offload.BOTH, Offload.TX) if o in found), Offload.NONE)

    @property
    def ulp_reason(self) -> str:
        """Why nothing works, in words; empty when anything does."""
        return self._ulp_reason

    def _why_nothing(self) -> str:
        if self.best is not Offload.NONE:
            return ""
        if not self.ulp.ok:
            return self.ulp.reason
        reasons = (cell.reason for cell in self.cells)
        return f"no cipher works: {next(reasons, 'none was tried')}"

    def summary(self, ulp_reason: str = "") -> str:
        """One line for the log of a gate that starts.

        Args:
            ulp_reason: why there is no ULP, for a caller who knows better.
        """
        best = self.best
        if best is Offload.NONE:
            return f"no kTLS here: relaying, because {ulp_reason or self.ulp_reason}"
        line = "kTLS: tx+rx" if best is Offload.BOTH else "kTLS: tx only"
        lesser = [cell.label for cell in self.cells if cell.offload is not best]
        return f"{line}, but not for {', '.join(lesser)}" if lesser else line

    @property
    def failure(self) -> str:
        """What broke in the probe itself, so that the table says nothing; else empty."""
        outcomes = [self.ulp, *(o for cell in self.cells for o in (cell.tx, cell.rx, cell.data))]
        return next((o.reason for o in outcomes if o.is_broken), "")


def _send_and_receive(sender: socket.socket, receiver: socket.socket) -> str | None:
    sender.sendall(_DATA)
    if recv_exactly(receiver, len(_DATA)) != _DATA:
        return "data did not come out as it was sent"
    return None


def _send_sealed(sender: socket.socket, receiver: socket.socket) -> str | None:
    # Without a receiving key the far end still reads the record as it is on the wire.
    sender.sendall(_DATA)
    seen = recv_exactly(receiver, HEADER_SIZE + 64)
    if seen[0] != ContentType.APPLICATION_DATA or _DATA[:32] in seen:
        return "data left without being sealed"
    return None


def _fill_cell(suite: CipherSuite, sender: socket.socket, receiver: socket.socket) -> Cell:
    key = random_key(suite)

    def install(sock: socket.socket, call: Callable[[socket.socket], None]) -> Outcome:
        attached = attempt(lambda: attach_ulp(sock), ULP_REASONS)
        return attempt(lambda: call(sock), KEY_REASONS) if attached.ok else attached

    tx_info = TxCryptoInfo(suite=suite, key=key, rec_seq=0)
    rx_info = RxCryptoInfo(suite=suite, key=key, rec_seq=0)
    tx = install(sender, lambda sock: install_tx(sock, tx_info))
    rx = install(receiver, lambda sock: install_rx(sock, rx_info))
    move = _send_and_receive if rx.ok else _send_sealed
    data = attempt(functools.partial(move, sender, receiver)) if tx.ok else NOT_TRIED
    return Cell(version=suite.version, cipher=suite.cipher, tx=tx, rx=rx, data=data)


def _try_suite(suite: CipherSuite) -> Cell:
    def broken(outcome: Outcome) -> Cell:
        return Cell(
            version=suite.version, cipher=suite.cipher, tx=outcome, rx=outcome, data=outcome
        )

    return on_pair(functools.partial(_fill_cell, suite), broken)


def _try_ulp() -> Outcome:
    return on_pair(
        lambda sock, _: attempt(lambda: attach_ulp(sock), ULP_REASONS), lambda outcome: outcome
    )


def probe_offload() -> OffloadTable:
    """Find out what this kernel can take over; never raises."""
    ulp = _try_ulp()
    if not ulp.ok:
        return OffloadTable(ulp=ulp)
    cells = tuple(map(_try_suite, _SUITES.values()))
    return OffloadTable(ulp=ulp, cells=cells, rekey=_try_rekey(cells))


def _try_rekey(cells: tuple[Cell, ...]) -> Outcome:
    # The kernel's rekeying knows the version, not the cipher: one is enough.
    for cell in cells:
        if cell.version is Version.TLS13 and cell.offload is Offload.BOTH:
            return try_feature(FeatureName.REKEY, _SUITES[cell.version, cell.cipher])
    return NOT_TRIED


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """All that the probe found out about the kernel.

    Attributes:
        system: what the machine says of itself.
        offload: the ULP, and every version and cipher.
        features: every feature's trial; empty when no cipher works both ways.
        counters: what ``/proc/net/tls_stat`` says of these trials.
    """

    system: SystemFacts
    offload: OffloadTable
    features: tuple[Feature, ...]
    counters: CounterCheck = UNCOUNTED

    def feature(self, name: FeatureName) -> Outcome:
        """The outcome of one feature's trial; `NOT_TRIED` when there was none."""
        return next((f.outcome for f in self.features if f.name is name), NOT_TRIED)

    @property
    def ulp_reason(self) -> str:
        """Why the ULP could not be attached, as far as this process can know; else empty.

        ENOENT means two things: to a process that may load modules, that there is
        none to load; to any other, that nobody has loaded it yet. The module's file and
        modprobe's rules say more, but not in a container: they are not the host's.
        """
        ulp, system = self.offload.ulp, self.system
        if ulp.errno != errno.ENOENT or ulp.is_broken:
            return ulp.reason
        if system.has_module_file is False and not system.is_container:
            return _NO_FILE
        if any(rule.module == "tls" for rule in system.module_rules) and not system.is_container:
            return _FORBIDDEN
        return _NO_MODULE if self.system.may_load_modules else _NOT_LOADED


_NO_MODULE = "the kernel has no tls module, or modprobe is told not to load it (ENOENT)"
_NO_FILE = "there is no tls module for this kernel (ENOENT)"
_FORBIDDEN = "the tls module is not loaded, and modprobe is told not to load it (ENOENT)"
_NOT_LOADED = (
    "the tls module is not loaded, and this process may not load it: that takes"
    " CAP_NET_ADMIN in the first user namespace (ENOENT)"
)


def probe_kernel(asked: Collection[FeatureName] = ()) -> Capabilities:
    """Find out everything; never raises.

    Args:
        asked: which of `ktlsgate.kernel.features.ON_REQUEST` to try too.
    """
    before = read_tls_stat()
    offload = probe_offload()
    features = _features_of(offload, asked)
    counters = check_counters(
        before,
        read_tls_stat(),
        tx_keys=sum(cell.tx.ok for cell in offload.cells),
        rx_keys=sum(cell.rx.ok for cell in offload.cells),
    )
    # Read last: attaching the ULP may have loaded the module that they tell of.
    system = read_system_facts()
    return Capabilities(system=system, offload=offload, features=features, counters=counters)


def _features_of(offload: OffloadTable, asked: Collection[FeatureName]) -> tuple[Feature, ...]:
    # TLS 1.3 first: it has features that 1.2 has not.
    order = sorted(_SUITES.values(), key=lambda suite: -suite.version)
    suite = next((s for s in order if offload.supports(s) is Offload.BOTH), None)
    return probe_features(suite, asked) if suite else ()
