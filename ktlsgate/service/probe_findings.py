"""What the probe found, and what it means for connections: the value behind every report.

Rule: this module asks and concludes; it prints nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from ..config import Offload
from ..kernel.engines import Engine, EngineTrial
from ..kernel.features import FeatureName
from ..kernel.openssl_probe import OpenSslReport, probe_openssl
from ..kernel.probe import Capabilities, probe_kernel
from ..wire.ciphers import Version

__all__ = ["Comparison", "Findings", "Mode", "collect_findings"]

EXIT_BOTH, EXIT_ONE, EXIT_NONE, EXIT_BROKEN = 0, 1, 3, 4  # 2 is argparse's, for usage
_MORE = {Offload.NONE: 0, Offload.TX: 1, Offload.BOTH: 2}
_FIRST_WITH_RX13 = (3, 2)  # OpenSSL's release that gives TLS 1.3's receiving key too
_EXIT_CODES = {2: EXIT_BOTH, 1: EXIT_ONE, 0: EXIT_NONE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """What a connection of one TLS version will get.

    Attributes:
        version: its version.
        offload: BOTH means handoff; anything less is relayed.
        engine: who installs the keys; None when relayed, or when no engine was tried.
        reason: why it is relayed; empty for a handoff.
    """

    version: Version
    offload: Offload
    engine: Engine | None = None
    reason: str = ""

    @property
    def is_handoff(self) -> bool:
        """Whether the backend gets the client's own socket."""
        return self.offload is Offload.BOTH

    @property
    def name(self) -> str:
        """``handoff`` or ``relay``."""
        return "handoff" if self.is_handoff else "relay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Which engine gives connections of one version more.

    Attributes:
        version: theirs.
        better: the engine that gives more; None when both give the same.
        reason: what keeps the other one back; empty when both give the same.
    """

    version: Version
    better: Engine | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything, for text and for JSON."""

    capabilities: Capabilities
    openssl: OpenSslReport

    @property
    def modes(self) -> tuple[Mode, ...]:
        """One for each version, the newer first."""
        return tuple(self._mode(version) for version in reversed(Version))

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """One for each version, the newer first; none where no engine was tried."""
        return tuple(self._compare(version) for version in reversed(Version) if self.openssl.trials)

    @property
    def summary(self) -> str:
        """The first line of the report: as a gate logs it, and as exact as this process can be."""
        return self.capabilities.offload.summary(self.capabilities.ulp_reason)

    def reason_of(self, trial: EngineTrial) -> str:
        """Why an engine did not give both directions, in words; empty when it did.

        Where the kernel has nothing to give, that is why, whatever OpenSSL did.
        """
        return trial.reason and (self.capabilities.ulp_reason or trial.reason)

    @property
    def failure(self) -> str:
        """What broke in the probe itself; empty when its answers can be trusted."""
        return self.capabilities.offload.failure

    @property
    def exit_code(self) -> int:
        """0 both versions are handed off, 1 only one, 3 none, 4 the probe itself failed."""
        if self.failure:
            return EXIT_BROKEN
        return _EXIT_CODES[sum(mode.is_handoff for mode in self.modes)]

    def _mode(self, version: Version) -> Mode:
        if self.openssl.problem:
            return self._mode_of_kernel(version)
        trials = [self.openssl.trial(engine, version) for engine in Engine]
        for trial in trials:
            if trial.offload is Offload.BOTH:
                return Mode(version=version, offload=Offload.BOTH, engine=trial.engine)
        # The gate's own engine is the first; the other one's complaints explain less.
        reason = self.reason_of(trials[0])
        return Mode(version=version, offload=trials[0].offload, reason=reason)

    def _compare(self, version: Version) -> Comparison:
        trials = [self.openssl.trial(engine, version) for engine in Engine]
        most = max(trials, key=lambda trial: _MORE[trial.offload])
        least = min(trials, key=lambda trial: _MORE[trial.offload])
        if most.offload is least.offload:
            return Comparison(version=version)
        return Comparison(version=version, better=most.engine, reason=self._lack_of(least))

    def _lack_of(self, trial: EngineTrial) -> str:
        """What keeps an engine back that another one shows to be possible."""
        if trial.engine is Engine.OPENSSL and self.openssl.has_ktls is False:
            return "this OpenSSL was built without kTLS"
        if trial.engine is Engine.OPENSSL and trial.tx.ok and self.is_openssl_old:
            return "this OpenSSL is older than 3.2"
        return trial.reason

    @property
    def is_openssl_old(self) -> bool:
        """Whether OpenSSL is of an age to give the kernel half of TLS 1.3 only."""
        match = re.match(r"OpenSSL (\d+)\.(\d+)", self.openssl.libraries.openssl)
        return match is not None and (int(match[1]), int(match[2])) < _FIRST_WITH_RX13

    def _mode_of_kernel(self, version: Version) -> Mode:
        """Without OpenSSL the kernel alone answers: what a gate could do here."""
        cells = [c for c in self.capabilities.offload.cells if c.version is version]
        if any(cell.offload is Offload.BOTH for cell in cells):
            return Mode(version=version, offload=Offload.BOTH)
        offload = Offload.TX if any(c.offload is Offload.TX for c in cells) else Offload.NONE
        reasons = (cell.reason for cell in cells)
        reason = self.capabilities.ulp_reason or next(reasons, "no cipher was tried")
        return Mode(version=version, offload=offload, reason=reason)


def collect_findings(asked: Collection[FeatureName] = ()) -> Findings:
    """Run the probe, kernel first; never raises.

    Args:
        asked: which of `ktlsgate.kernel.features.ON_REQUEST` to try too.
    """
    capabilities = probe_kernel(asked)
    return Findings(capabilities=capabilities, openssl=probe_openssl(capabilities.offload))
