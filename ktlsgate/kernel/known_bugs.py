"""Kernel versions with known kTLS defects: version → advice.

Rule: a version number is a guess about a kernel, a trial is a fact. Where a
feature of `ktlsgate.kernel.features` measures the same thing, the measurement
speaks and the table is silent; what takes longer than a moment (signals during
blocking sends) is known by number unless somebody asks for the trial. Distributions
carry fixes back without changing the number, so every line by number says so.

What is known of single fixes is in `ktlsgate.kernel.known_fixes`. Observed on 6.1.176,
6.12.101 and 7.2.7; between those series nothing is known.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .features import FeatureName

__all__ = ["KNOWN_BUGS", "KernelVersion", "KnownBug", "Suspicion", "parse_version"]

# Debian's own number stands in `uname -v`, since its `uname -r` (6.1.0-41-amd64) keeps the
# third part at 0 for a whole release.
_DEBIAN_BUILD = re.compile(r"Debian (\d+)\.(\d+)\.(\d+)-")
_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelVersion:
    """A version as upstream counts.

    Attributes:
        series: first two parts, as (6, 12).
        patch: the stable release in that series; ``None`` when the name does not tell.
    """

    series: tuple[int, int]
    patch: int | None

    def __str__(self) -> str:
        """As people write it."""
        text = f"{self.series[0]}.{self.series[1]}"
        return text if self.patch is None else f"{text}.{self.patch}"


def parse_version(release: str, build: str = "") -> KernelVersion | None:
    """Find upstream's version in ``uname -r`` and ``uname -v``; ``None`` if there is none."""
    if match := _DEBIAN_BUILD.search(build):
        return KernelVersion(series=(int(match[1]), int(match[2])), patch=int(match[3]))
    if not (match := _RELEASE.match(release)):
        return None
    major, minor, number = match.groups()
    # "x.y.0-90-generic" is a distribution's way to say that it counts on its own.
    own_count = number is None or (number == "0" and release[match.end() :].startswith("-"))
    return KernelVersion(series=(int(major), int(minor)), patch=None if own_count else int(number))


class Suspicion(enum.Enum):
    """What a version number says about a defect."""

    NO = "no"
    PERHAPS = "perhaps"
    YES = "yes"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBug:
    """One defect.

    Attributes:
        effect: what happens, as a clause that follows "on this kernel".
        remedy: what to do, as a sentence without its full stop.
        source: how it is known.
        last_bad: the newest series in which it was seen.
        first_good: the oldest series from which on it is gone.
        fixed_in: series → the stable release that brought the fix.
        feature: the trial that measures it, if one does.
    """

    effect: str
    remedy: str
    source: str
    last_bad: tuple[int, int]
    first_good: tuple[int, int]
    fixed_in: Mapping[tuple[int, int], int] = field(default_factory=dict)
    feature: FeatureName | None = None

    def suspect(self, version: KernelVersion) -> Suspicion:
        """Judge a version."""
        if version.series >= self.first_good:
            return Suspicion.NO
        fixed = self.fixed_in.get(version.series)
        if fixed is not None:
            if version.patch is None:
                return Suspicion.PERHAPS
            return Suspicion.NO if version.patch >= fixed else Suspicion.YES
        return Suspicion.YES if version.series <= self.last_bad else Suspicion.PERHAPS

    def advice(self, version: KernelVersion) -> str:
        """The line for a version that is suspect by number; empty when it is not."""
        return _BY_NUMBER[self.suspect(version)].format(
            version=version, effect=self.effect, remedy=self.remedy, source=self.source
        )

    @property
    def measured_advice(self) -> str:
        """The line for a kernel on which a trial showed it."""
        return f"On this kernel {self.effect} (measured). {self.remedy}. Source: {self.source}."


_BY_NUMBER = {
    Suspicion.NO: "",
    Suspicion.PERHAPS: "Perhaps on this kernel {effect}: nothing certain is known of Linux"
    " {version}, and the distribution may have brought a fix back. {remedy}. Source: {source}.",
    Suspicion.YES: "By its number ({version}), on this kernel {effect}; the distribution may"
    " have brought a fix back. {remedy}. Source: {source}.",
}

KNOWN_BUGS = (
    KnownBug(
        effect="a signal during a blocking send() breaks the connection and loses data",
        remedy="Keep descriptors non-blocking (the gate hands them over so), or run Linux"
        " 6.12.105 or later in that series, or 7.2",
        source="observed on 6.1.176 and 6.12.101, not on 7.2.7; changelog of Debian's linux"
        " 6.12.107-1",
        last_bad=(6, 12),
        first_good=(7, 2),
        fixed_in={(6, 12): 105},
        feature=FeatureName.SEND_SURVIVES_SIGNALS,
    ),
    KnownBug(
        effect="a client that sends part of a record makes a poll loop in the backend spin",
        remedy="Run Linux 6.12 or later, or use edge-triggered epoll in backends",
        source="observed on 6.1.176, not on 6.12.101",
        last_bad=(6, 1),
        first_good=(6, 12),
        feature=FeatureName.POLL_HIDES_PARTIAL_RECORDS,
    ),
    KnownBug(
        effect="a TLS 1.3 connection cannot be read any more after the client's KeyUpdate",
        remedy="Run Linux 6.14 or later, with share_secrets, if clients upload more than a"
        " hundred gigabytes on one connection; others do not send KeyUpdate",
        source="observed on 6.12.101, not on 7.2.7; 6.14 according to s2n-tls and GnuTLS"
        " (1cf5e7d57)",
        last_bad=(6, 13),
        first_good=(6, 14),
        feature=FeatureName.REKEY,
    ),
)
