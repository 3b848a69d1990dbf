"""What the probe might have found, made by hand: good machines, and each kind of bad one."""

from __future__ import annotations

import dataclasses
import errno

from ktlsgate.kernel.engines import Engine, EngineTrial
from ktlsgate.kernel.features import Feature, FeatureName
from ktlsgate.kernel.openssl_probe import Libraries, OpenSslReport
from ktlsgate.kernel.probe import Capabilities, OffloadTable
from ktlsgate.kernel.system import SystemFacts
from ktlsgate.kernel.tls_stat import UNCOUNTED, CounterChange, CounterCheck
from ktlsgate.kernel.trials import DONE, NOT_TRIED, Outcome
from ktlsgate.service.probe_findings import Findings
from ktlsgate.wire.ciphers import Version

ENOENT = Outcome(ok=False, errno=errno.ENOENT, reason="nobody loaded it (ENOENT)")
EINVAL = Outcome(ok=False, errno=errno.EINVAL, reason="unknown (EINVAL)")
BUSY = Outcome(ok=False, errno=errno.EBUSY, reason="cannot rekey (EBUSY)")
BROKEN = Outcome(ok=False, reason="no loopback", is_broken=True)
NO_RX = Outcome(ok=False, reason="OpenSSL did not give the receiving key to the kernel")
NO_TX = Outcome(ok=False, reason="OpenSSL did not give the sending key to the kernel")
SYSTEM = SystemFacts(
    kernel="7.2.7",
    build="#1 Fri Sep 25",
    machine="x86_64",
    uid=1000,
    capabilities=0,
    is_first_user_namespace=True,
    seccomp=0,
    available_ulps=("tls",),
    is_module_loaded=True,
    has_tls_stat=True,
    is_container=False,
)
FEATURES = tuple(Feature(name=name, outcome=DONE) for name in FeatureName)
COUNTED = CounterCheck(
    moved=(CounterChange(name="TlsTxSw", by=28), CounterChange(name="TlsRxSw", by=16)), proof=DONE
)
LIBRARIES = Libraries(
    openssl="OpenSSL 3.6.5", pyopenssl="26.4.0", cryptography="50.0.2", trio="0.35.0"
)


def trials(engine: Engine, **changes: Outcome) -> tuple[EngineTrial, ...]:
    outcomes = {"handshake": DONE, "tx": DONE, "rx": DONE, "data": DONE} | changes
    return tuple(
        EngineTrial(engine=engine, version=version, suite="SUITE", **outcomes)
        for version in reversed(Version)
    )


def findings(
    *,
    table: OffloadTable | None = None,
    features: tuple[Feature, ...] = FEATURES,
    counters: CounterCheck = COUNTED,
    openssl: OpenSslReport | None = None,
    **system: object,
) -> Findings:
    report = openssl or OpenSslReport(
        libraries=LIBRARIES,
        trials=trials(Engine.DIRECT) + trials(Engine.OPENSSL),
        has_ktls=True,
    )
    capabilities = Capabilities(
        system=dataclasses.replace(SYSTEM, **system),
        offload=table or OffloadTable.all(),
        features=features,
        counters=counters,
    )
    return Findings(capabilities=capabilities, openssl=report)


def without(outcome: Outcome, **system: object) -> Findings:
    """A kernel whose ULP answers so."""
    report = OpenSslReport(
        libraries=LIBRARIES, trials=trials(Engine.DIRECT, tx=outcome, rx=outcome, data=NOT_TRIED)
    )
    table = OffloadTable(ulp=outcome)
    return findings(table=table, features=(), counters=UNCOUNTED, openssl=report, **system)


BARE = OpenSslReport(libraries=Libraries(), problem="pyOpenSSL is not installed: engines not tried")
ONLY_13 = OpenSslReport(
    libraries=LIBRARIES, trials=trials(Engine.DIRECT)[:1] + trials(Engine.DIRECT, tx=EINVAL)[1:]
)


def only(version: Version) -> OffloadTable:
    cells = (
        dataclasses.replace(c, tx=DONE if c.version is version else EINVAL)
        for c in OffloadTable.all().cells
    )
    return OffloadTable(ulp=DONE, cells=tuple(cells))


NOT_LOADED = (
    "Load the module as root and keep it loaded: `modprobe tls`, and"
    " `echo tls > /etc/modules-load.d/tls.conf`."
)
