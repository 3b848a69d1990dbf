"""``/proc/net/tls_stat``: the kernel's own count of what its TLS code did.

Theory: a trial that moved data says that something sealed it; that the kernel did, its
counters say. Each key that the kernel takes over counts once in ``TlsTxSw`` or
``TlsRxSw``. They belong to the network namespace, so other processes move them too: a
counter that rose proves nothing alone, one that did not rise disproves. The file exists
from the moment the tls code is in; that it is absent is an answer, not an error.
Source: Documentation/networking/tls.rst, "Statistics".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .trials import DONE, NOT_TRIED, Outcome

__all__ = [
    "RX_KEYS",
    "TX_KEYS",
    "UNCOUNTED",
    "CounterChange",
    "CounterCheck",
    "TlsStat",
    "changes_between",
    "check_counters",
    "parse_tls_stat",
    "read_tls_stat",
    "rise_of",
]

TX_KEYS = "TlsTxSw"
RX_KEYS = "TlsRxSw"
# How many there are now, not how many there were: it also falls, some time after a close.
_GAUGES = "TlsCurr"


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterChange:
    """One counter that moved, and by how much."""

    name: str
    by: int

    def __str__(self) -> str:
        """As people write it: ``TlsTxSw +1``."""
        return f"{self.name} {self.by:+d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsStat:
    """The counters at one moment, in the kernel's order."""

    counters: tuple[tuple[str, int], ...] = ()


def parse_tls_stat(text: str) -> TlsStat:
    """Read lines of ``NAME NUMBER``; anything else is left out."""
    rows = (line.split() for line in text.splitlines())
    fits = (row for row in rows if len(row) == 2 and row[1].isascii() and row[1].isdigit())
    return TlsStat(counters=tuple((name, int(number)) for name, number in fits))


def read_tls_stat(root: Path = Path("/")) -> TlsStat | None:
    """Read them now; ``None`` where the file is absent or cannot be read.

    Args:
        root: the folder that holds ``proc``; tests give their own.
    """
    try:
        text = (root / "proc/net/tls_stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return parse_tls_stat(text)


def changes_between(
    before: TlsStat | None, after: TlsStat | None
) -> tuple[CounterChange, ...] | None:
    """Say which counters moved; ``None`` where there are none.

    A file that was not there before counts from zero: the module has just come.
    """
    if after is None:
        return None
    old = dict(before.counters) if before else {}
    rows = ((name, number - old.get(name, 0)) for name, number in after.counters)
    return tuple(
        CounterChange(name=name, by=by) for name, by in rows if by and not name.startswith(_GAUGES)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterCheck:
    """What the counters say of the probe's own connections.

    Attributes:
        moved: which rose while the probe ran; ``None`` where the file is absent.
        proof: they rose at least as often as keys were installed; `NOT_TRIED` where the
            file is absent or no key was taken.
    """

    moved: tuple[CounterChange, ...] | None = None
    proof: Outcome = NOT_TRIED

    def rise_of(self, name: str) -> int:
        """By how much one counter rose."""
        return rise_of(self.moved or (), name)


UNCOUNTED = CounterCheck()


def rise_of(moved: Iterable[CounterChange], name: str) -> int:
    """By how much one counter rose."""
    return sum(change.by for change in moved if change.name == name)


def check_counters(
    before: TlsStat | None, after: TlsStat | None, *, tx_keys: int, rx_keys: int
) -> CounterCheck:
    """Compare the counters with what was done between two readings.

    Args:
        before: read before the first key.
        after: read behind the last one.
        tx_keys: how many sending keys the kernel took at least.
        rx_keys: the same of receiving keys.
    """
    moved = changes_between(before, after)
    if moved is None or not (tx_keys or rx_keys):
        return CounterCheck(moved=moved)
    for name, keys, what in ((TX_KEYS, tx_keys, "sending"), (RX_KEYS, rx_keys, "receiving")):
        rise = rise_of(moved, name)
        if rise < keys:
            reason = f"{name} rose by {rise}, but {keys} {what} keys were taken"
            return CounterCheck(moved=moved, proof=Outcome(ok=False, reason=reason))
    return CounterCheck(moved=moved, proof=DONE)
