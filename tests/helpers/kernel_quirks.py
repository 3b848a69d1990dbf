"""In what the kernels differ after the handoff: one table, so that a change is noticed.

    if has_quirk(Quirk.PARTIAL_RECORD_SPINS): ...

What the probe's own table knows (`ktlsgate.kernel.known_bugs`) stands there; here is
the rest. All of it by version number, since a measurement would agree with the test that
asks for it whatever the kernel did.

============================  ====  ==================  ===
quirk                         6.1   6.12                7.2
============================  ====  ==================  ===
SIGNAL_BREAKS_BLOCKING_SEND   yes   yes before .105     no
PARTIAL_RECORD_SPINS          yes   no                  no
KEY_UPDATE_ENDS_READING       yes   yes                 no
IGNORES_SPLICE_MORE           yes   no                  no
REFUSES_MSG_EOR               yes   no                  no
============================  ====  ==================  ===
"""

from __future__ import annotations

import enum
import os

import pytest

from ktlsgate.kernel.known_bugs import KNOWN_BUGS, KernelVersion, KnownBug, Suspicion, parse_version


def _since(series: tuple[int, int], effect: str) -> KnownBug:
    """Describe what 6.1.176 did and 6.12.101 no longer does."""
    return KnownBug(effect=effect, remedy="", source="observed", last_bad=(6, 1), first_good=series)


_SIGNAL, _POLL, _REKEY = KNOWN_BUGS


class Quirk(enum.Enum):
    """What some kernels do and others do not."""

    SIGNAL_BREAKS_BLOCKING_SEND = _SIGNAL
    PARTIAL_RECORD_SPINS = _POLL
    KEY_UPDATE_ENDS_READING = _REKEY
    IGNORES_SPLICE_MORE = _since((6, 12), "splice with SPLICE_F_MORE is sent at once")
    REFUSES_MSG_EOR = _since((6, 12), "send with MSG_EOR is refused")


def this_kernel() -> KernelVersion:
    """Read the version of the kernel that runs."""
    version = parse_version(os.uname().release, os.uname().version)
    assert version is not None, os.uname()
    return version


def has_quirk(quirk: Quirk) -> bool:
    """Say what is expected of this kernel; skips the test where nothing is known of it."""
    suspicion = quirk.value.suspect(this_kernel())
    if suspicion is Suspicion.PERHAPS:
        pytest.skip(f"nothing is known of Linux {this_kernel()}: {quirk.value.effect}")
    return suspicion is Suspicion.YES
