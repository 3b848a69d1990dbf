"""Fixes of net/tls in stable kernels: which of them a version lacks.

Rule: one row a fix, with the release that brought it in each series whose changelog was
read, and the name under which it can be looked up. A series that a row leaves out never
had the fault, as far as its changelog tells; `NOT_LISTED` is a series whose changelog
does not name the fix although the code is of an age to need it. The changelogs read are
those of Debian's linux 6.1.176-1 and 6.12.107-1, except for CVE-2024-0646, whose release
and whose number are from memory, as are the numbers up to CVE-2025-39946 except those of
2024-265xx, 2024-26800 and 2025-38616. Of other series nothing is known.

The signal that breaks a blocking send is not here but in `ktlsgate.kernel.known_bugs`,
for it was observed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .known_bugs import KernelVersion

__all__ = ["KNOWN_FIXES", "NOT_LISTED", "KnownFix", "advise_fixes", "lacks", "unlisted"]

NOT_LISTED = 1 << 16  # no release has this number
_OLD, _NEW = (6, 1), (6, 12)
# Not that later series are known good: of them nothing is known at all, and a warning
# that every kernel gets warns nobody.
_FIRST_SILENT = (6, 13)
_SOURCE = "changelogs of Debian's linux 6.1.176-1 and 6.12.107-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFix:
    """One fix.

    Attributes:
        fault: what it repaired, in the changelog's words.
        source: CVE, or the changelog where there is no number.
        releases: series → its release that brought the fix, or `NOT_LISTED`.
    """

    fault: str
    source: str
    releases: Mapping[tuple[int, int], int]


def _fix(fault: str, source: str, *, old: int = 0, new: int = 0) -> KnownFix:
    releases = {_OLD: old, _NEW: new}
    return KnownFix(
        fault=fault, source=source, releases={key: n for key, n in releases.items() if n}
    )


KNOWN_FIXES = (
    _fix("getsockopt race", "CVE-2023-28466", old=20),
    _fix("data discarded on record close", "changelog of 6.1.52", old=52),
    _fix("splice writes past its buffer", "CVE-2024-0646", old=69),
    _fix("partial read with asynchronous use after free", "CVE-2024-26582", old=82),
    _fix("race between async notify and close", "CVE-2024-26583", old=82),
    _fix("crypto backlog taken for an error", "CVE-2024-26584", old=82),
    _fix("race between tx work and close", "CVE-2024-26585", old=82),
    _fix("use after free of backlogged decryption", "CVE-2024-26800", old=85),
    _fix("missing barrier in the layer's start", "CVE-2024-36489", old=94),
    _fix("disconnect under the layer", "CVE-2025-37756", old=135, new=25),
    _fix("queue not refreshed when reading", "CVE-2025-38471", old=147, new=41),
    _fix("data disappearing under the layer", "CVE-2025-38616", old=NOT_LISTED, new=43),
    _fix("zero-length records on the receive list", "CVE-2025-39682", old=153, new=48),
    _fix("bogus record headers", "CVE-2025-39946", old=158, new=57),
    _fix("memory held after an async decryption", "CVE-2026-23414", old=170, new=85),
    _fix("race in cancelling tx work", "CVE-2026-23240", old=NOT_LISTED, new=85),
    _fix("scatter list off by one", "changelogs of 6.1.176 and 6.12.94", old=176, new=94),
    _fix("read_sock eats empty records", "changelog of 6.12.100", new=100),
)


def lacks(version: KernelVersion) -> tuple[KnownFix, ...]:
    """The fixes that came to the version's series after it; none where that cannot be known."""
    if version.patch is None:
        return ()
    patch = version.patch
    return tuple(
        fix
        for fix in KNOWN_FIXES
        if patch < fix.releases.get(version.series, 0) and not _is_unlisted(fix, version)
    )


def unlisted(version: KernelVersion) -> tuple[KnownFix, ...]:
    """The fixes that the version's series perhaps never got."""
    return tuple(fix for fix in KNOWN_FIXES if _is_unlisted(fix, version))


def _is_unlisted(fix: KnownFix, version: KernelVersion) -> bool:
    return fix.releases.get(version.series) == NOT_LISTED


def _names(fixes: tuple[KnownFix, ...]) -> str:
    return "; ".join(f"{fix.fault} ({fix.source})" for fix in fixes)


_REMEDY = (
    "A hostile client can use some of them: update, or switch offload off for listeners that"
    f" face strangers. Source: {_SOURCE}."
)


def advise_fixes(version: KernelVersion) -> str:
    """The line for a version that lacks any; empty when none is known to be missing."""
    if version.series >= _FIRST_SILENT:
        return ""
    if version.series not in {_OLD, _NEW} or version.patch is None:
        return (
            f"Nothing certain is known of the fixes of net/tls in Linux {version}: the"
            f" distribution may have brought them, or not. {_REMEDY}"
        )
    parts = []
    if missing := lacks(version):
        parts.append(
            f"By its number ({version}), this kernel lacks fixes of net/tls, unless the"
            f" distribution brought them back: {_names(missing)}."
        )
    if never := unlisted(version):
        series = ".".join(map(str, version.series))
        parts.append(f"No release of Linux {series} is known to have: {_names(never)}.")
    return " ".join([*parts, _REMEDY]) if parts else ""
