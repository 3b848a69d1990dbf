"""``--require``: what a user must have here, by name, and what of it is missing.

Names are those of one table (`_names`): directions, versions, ciphers, features and
engines, in any order and case, with ``-`` or ``_``. How they combine:

    directions, versions, ciphers   every named direction must work for every named
                                    version with every named cipher
    a direction is not named        both are meant
    a version is not named          both are meant
    a cipher is not named           any one that works will do
    features, engines               each must work; an engine in the named versions and
                                    directions, by a real handshake

A feature or an engine alone asks for no cipher. The whole is all or nothing: one line
for each thing that is missing, with the reason that the trial gave.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..kernel.engines import Engine, EngineTrial
from ..kernel.features import FeatureName
from ..kernel.probe import Cell
from ..kernel.trials import Outcome
from ..wire.ciphers import KernelCipher, Version
from .probe_findings import EXIT_BOTH, EXIT_ONE, Findings

__all__ = [
    "Missing",
    "Requirements",
    "UnknownRequirement",
    "exit_code_for",
    "missing_from",
    "parse_requirements",
]

_DIRECTIONS = ("tx", "rx")

# Beside the names that the report prints: what users know the same things by.
_OTHER_NAMES: Mapping[str, tuple[object, ...]] = {
    "tls1.2": (Version.TLS12,),
    "tls1.3": (Version.TLS13,),
    "aes_128_gcm": (KernelCipher.AES_GCM_128,),
    "aes_256_gcm": (KernelCipher.AES_GCM_256,),
    "aes_128_ccm": (KernelCipher.AES_CCM_128,),
    "splice": (FeatureName.SPLICE_TO_SOCKET, FeatureName.SPLICE_FROM_SOCKET),
    "no_partial_poll": (FeatureName.POLL_HIDES_PARTIAL_RECORDS,),
}


def _names() -> dict[str, tuple[object, ...]]:
    """Every name, and what it stands for."""
    return {
        **{direction: (direction,) for direction in _DIRECTIONS},
        **{version.label.removeprefix("TLSv"): (version,) for version in Version},
        **{version.label.lower(): (version,) for version in Version},
        **{cipher.name.lower(): (cipher,) for cipher in KernelCipher},
        **{feature.value: (feature,) for feature in FeatureName},
        **{engine.value: (engine,) for engine in Engine},
        **_OTHER_NAMES,
    }


class UnknownRequirement(ValueError):
    """A name that stands for nothing; its text is the usage error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What must be there.

    Attributes:
        names: as the user wrote them.
        directions, versions, ciphers, features, engines: what they stand for, each in
            the order of its table; empty where none was named.
    """

    names: tuple[str, ...]
    directions: tuple[str, ...] = ()
    versions: tuple[Version, ...] = ()
    ciphers: tuple[KernelCipher, ...] = ()
    features: tuple[FeatureName, ...] = ()
    engines: tuple[Engine, ...] = ()

    @property
    def asks_for_ciphers(self) -> bool:
        """Whether any name is about what the kernel seals and opens."""
        return bool(self.directions or self.versions or self.ciphers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """One thing that is not there, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        """The line for people."""
        return f"{self.name}: {self.reason}"


def parse_requirements(text: str) -> Requirements:
    """Read a comma list.

    Raises:
        UnknownRequirement: with the nearest name; also for an empty list.
    """
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise UnknownRequirement("expected names separated by commas, got none")
    wanted = {thing for name in names for thing in _look_up(name)}
    return Requirements(
        names=names,
        directions=tuple(each for each in _DIRECTIONS if each in wanted),
        versions=tuple(each for each in reversed(Version) if each in wanted),
        ciphers=tuple(each for each in KernelCipher if each in wanted),
        features=tuple(each for each in FeatureName if each in wanted),
        engines=tuple(each for each in Engine if each in wanted),
    )


def _look_up(name: str) -> tuple[object, ...]:
    table = _names()
    plain = name.lower().replace("-", "_")
    if plain in table:
        return table[plain]
    (nearest,) = difflib.get_close_matches(plain, table, n=1, cutoff=0.5) or [""]
    hint = f"the nearest is {nearest!r}" if nearest else f"known are {', '.join(table)}"
    raise UnknownRequirement(f"unknown name {name!r}: {hint}")


def missing_from(findings: Findings, wanted: Requirements) -> tuple[Missing, ...]:
    """Say what is not there; nothing when all is."""
    return (
        *_missing_ciphers(findings, wanted),
        *_missing_features(findings, wanted),
        *_missing_engines(findings, wanted),
    )


def _missing_ciphers(findings: Findings, wanted: Requirements) -> Iterator[Missing]:
    for version in wanted.versions or tuple(reversed(Version)) if wanted.asks_for_ciphers else ():
        refused = _refusals(version, findings, wanted)
        if wanted.ciphers:
            yield from (each for each in refused if each.reason)
        elif all(each.reason for each in refused):
            directions = "+".join(wanted.directions or _DIRECTIONS)
            yield Missing(name=f"{directions} {version.label}", reason=refused[0].reason)


def _refusals(version: Version, findings: Findings, wanted: Requirements) -> list[Missing]:
    """Every cipher of a version that would do, with its refusal; empty for one that works."""
    cells = {(c.version, c.cipher): c for c in findings.capabilities.offload.cells}
    directions = "+".join(wanted.directions or _DIRECTIONS)
    return [
        Missing(
            name=f"{directions} {version.label} {cipher.name}",
            reason=_refusal_of(cells.get((version, cipher)), findings, wanted),
        )
        for cipher in wanted.ciphers or KernelCipher
    ]


def _refusal_of(cell: Cell | None, findings: Findings, wanted: Requirements) -> str:
    """Why the named directions do not work in this cell; empty when they do."""
    if cell is None:
        return findings.capabilities.ulp_reason or "not tried"
    outcomes = {"tx": cell.tx, "rx": cell.rx}
    needed = [(name, outcomes[name]) for name in wanted.directions or _DIRECTIONS]
    # Data is what proves either direction, so it counts for both.
    return _first_refusal([*needed, ("data", cell.data)])


def _first_refusal(steps: list[tuple[str, Outcome]]) -> str:
    return next((f"{name}: {step.reason}" for name, step in steps if not step.ok), "")


def _missing_features(findings: Findings, wanted: Requirements) -> Iterator[Missing]:
    capabilities = findings.capabilities
    for feature in wanted.features:
        outcome = capabilities.feature(feature)
        if not outcome.ok:
            reason = outcome.reason
            if not capabilities.features:
                reason = capabilities.ulp_reason or "no cipher works both ways"
            yield Missing(name=feature.value, reason=reason)


def _missing_engines(findings: Findings, wanted: Requirements) -> Iterator[Missing]:
    report = findings.openssl
    for engine in wanted.engines:
        if report.problem:
            yield Missing(name=f"engine {engine.value}", reason=report.problem)
            continue
        for version in wanted.versions or tuple(reversed(Version)):
            reason = _refusal_by(report.trial(engine, version), wanted)
            if reason:
                name = f"engine {engine.value} {version.label}"
                yield Missing(name=name, reason=findings.capabilities.ulp_reason or reason)


def _refusal_by(trial: EngineTrial, wanted: Requirements) -> str:
    outcomes = {"tx": trial.tx, "rx": trial.rx}
    needed = [(name, outcomes[name]) for name in wanted.directions or _DIRECTIONS]
    return _first_refusal([("handshake", trial.handshake), *needed, ("data", trial.data)])


def exit_code_for(findings: Findings, wanted: Requirements | None) -> int:
    """What the process ends with: by the versions handed off, or by what was required."""
    if wanted is None or findings.failure:
        return findings.exit_code
    return EXIT_ONE if missing_from(findings, wanted) else EXIT_BOTH
