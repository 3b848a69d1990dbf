"""Which engine a listener gets: what the operator asked for, or what gives most here.

Rule: decided once, at start, from real handshakes of both engines
(`ktlsgate.kernel.openssl_probe`), and said in one line with its reason.
"""

from __future__ import annotations

from ..config import Config, EngineChoice, KtlsPolicy, Listener, Offload, Tls
from ..errors import ConfigError
from ..kernel.engines import Engine
from ..kernel.openssl_probe import OpenSslReport
from ..wire.ciphers import Version
from ..wire.openssl_extra import can_rebind_to_memory

__all__ = ["asks_for_keys", "choose_engine"]

_WORTH = {Offload.NONE: 0, Offload.TX: 1, Offload.BOTH: 2}
_WORDS = {Offload.NONE: "nothing", Offload.TX: "tx", Offload.BOTH: "tx+rx"}

_REQUIRE = 'ktls = "require": expected an engine that can do offload = "both"'
_WAYS_OUT = (
    'say engine = "direct", which needs none, or run on a pyOpenSSL whose OpenSSL was built'
    " with enable-ktls, such as Debian's python3-openssl"
)


def asks_for_keys(listener: Listener) -> bool:
    """Whether any key of this listener may go to the kernel, as far as the operator goes."""
    is_off = listener.ktls is KtlsPolicy.OFF or listener.offload is Offload.NONE
    return listener.tls and not is_off


def choose_engine(listener: Listener, config: Config, report: OpenSslReport) -> tuple[Engine, str]:
    """Choose for a listener on a kernel with kTLS.

    Args:
        listener: one that `asks_for_keys`.
        config: what surrounds it.
        report: the trials of both engines.

    Returns:
        The engine, and the line that says so and why.

    Raises:
        ConfigError: the engine asked for does not work here.
    """
    versions = _enabled(config.tls)
    begin = f"listen {listener.address}: engine"
    gives = {engine: _describe(report, engine, versions) for engine in Engine}
    if listener.engine is EngineChoice.OPENSSL:
        _require_openssl(listener, report, versions)
        return Engine.OPENSSL, f"{begin} openssl, as configured: {gives[Engine.OPENSSL]}"
    direct = f"{begin} direct{{}}: {gives[Engine.DIRECT]}"
    if listener.engine is EngineChoice.DIRECT:
        return Engine.DIRECT, direct.format(", as configured")
    if why := _only_direct(listener, config):
        return Engine.DIRECT, direct.format(f", because of {why}")
    worth = {engine: _worth(report, engine, versions) for engine in Engine}
    if worth[Engine.OPENSSL] > worth[Engine.DIRECT] and can_rebind_to_memory():
        than = f"direct would give {gives[Engine.DIRECT]}"
        return Engine.OPENSSL, f"{begin} openssl: {gives[Engine.OPENSSL]}; {than}"
    than = f"openssl would give {gives[Engine.OPENSSL]}"
    if worth[Engine.OPENSSL] == worth[Engine.DIRECT]:
        than = "openssl would give no more"
    return Engine.DIRECT, f"{direct.format('')}; {than}"


def _enabled(tls: Tls) -> list[Version]:
    labels = [version.label for version in Version]
    first, last = labels.index(tls.min_version), labels.index(tls.max_version)
    return list(Version)[first : last + 1]


def _describe(report: OpenSslReport, engine: Engine, versions: list[Version]) -> str:
    rows = ((version, report.trial(engine, version).offload) for version in versions)
    return ", ".join(f"{version.label} {_WORDS[offload]}" for version, offload in rows)


def _worth(report: OpenSslReport, engine: Engine, versions: list[Version]) -> int:
    return sum(_WORTH[report.trial(engine, version).offload] for version in versions)


def _only_direct(listener: Listener, config: Config) -> str:
    """What OpenSSL's own kTLS cannot do; empty if nothing of it is asked for."""
    if listener.offload is Offload.TX:
        return 'offload = "tx"'
    if any(route.offload is not Offload.BOTH for route in config.routes):
        return "a route's offload"
    if any(route.share_secrets for route in config.routes):
        return "a route's share_secrets"
    return ""


def _require_openssl(listener: Listener, report: OpenSslReport, versions: list[Version]) -> None:
    trials = [report.trial(Engine.OPENSSL, version) for version in versions]
    openssl = " ".join(report.libraries.openssl.split()[:2])  # its date says nothing here
    pyopenssl = report.libraries.pyopenssl
    library = f"{openssl} of pyOpenSSL {pyopenssl}"
    lesser = [trial for trial in trials if trial.offload is not Offload.BOTH]
    gets = ", ".join(f"{t.version.label} {_WORDS[t.offload]}" for t in lesser)
    why = report.problem or trials[0].reason
    direct = 'say engine = "direct"'
    refusals = (
        (
            report.has_ktls is False,
            f"engine: expected an OpenSSL with kTLS, got {library} without it: {_WAYS_OUT}",
        ),
        (
            all(trial.offload is Offload.NONE for trial in trials),
            f"engine: expected openssl to work, got {library}: {why}",
        ),
        (
            not can_rebind_to_memory(),
            f"engine: expected a pyOpenSSL that can leave a socket, got {pyopenssl}: {direct}",
        ),
        (
            bool(lesser) and listener.ktls is KtlsPolicy.REQUIRE,
            f"{_REQUIRE}, got openssl with {gets} in {openssl}: {direct}",
        ),
    )
    for is_refused, complaint in refusals:
        if is_refused:
            raise ConfigError(f"listen {listener.address}: {complaint}")
