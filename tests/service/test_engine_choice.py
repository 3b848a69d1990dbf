"""The engine of a listener: as configured, or what gives most; said with its reason."""

import dataclasses

import pytest

from ktlsgate import config
from ktlsgate.config import EngineChoice, KtlsPolicy, Listener, Offload
from ktlsgate.errors import ConfigError
from ktlsgate.kernel.engines import Engine, EngineTrial
from ktlsgate.kernel.openssl_probe import Libraries, OpenSslReport
from ktlsgate.kernel.trials import DONE, Outcome
from ktlsgate.service import engine_choice
from ktlsgate.service.engine_choice import asks_for_keys, choose_engine
from ktlsgate.wire.ciphers import Version

NO = Outcome(ok=False, reason="the kernel said no")
APP = config.Backend(name="app", addresses=("/run/app.sock",))
BOTH, TX, NONE = Offload.BOTH, Offload.TX, Offload.NONE


def trial(engine, version, offload):
    tx = DONE if offload is not NONE else NO
    rx = DONE if offload is BOTH else NO
    return EngineTrial(engine=engine, version=version, handshake=DONE, tx=tx, rx=rx, data=tx)


def report(direct=(BOTH, BOTH), openssl=(BOTH, BOTH), **changes):
    """What each engine gives for TLS 1.2 and 1.3."""
    trials = tuple(
        trial(engine, version, offload)
        for engine, row in ((Engine.DIRECT, direct), (Engine.OPENSSL, openssl))
        for version, offload in zip(Version, row, strict=True)
    )
    libraries = Libraries(openssl="OpenSSL 3.0.20 7 Apr 2026", pyopenssl="23.0.0")
    known = {"has_ktls": any(offload is not NONE for offload in openssl)}
    return OpenSslReport(libraries=libraries, trials=trials, **{**known, **changes})


def make_config(tls=None, **route):
    return config.Config(
        listeners=(), routes=(config.Route(backend=APP, **route),), tls=config.Tls(**(tls or {}))
    )


def choose(found, *, tls=None, route=None, **listener):
    return choose_engine(
        Listener(address=":1", **listener), make_config(tls, **(route or {})), found
    )


AUTO = {
    "the same": (
        report(),
        Engine.DIRECT,
        "direct: TLSv1.2 tx+rx, TLSv1.3 tx+rx; openssl would give no more",
    ),
    "openssl 3.0": (
        report(openssl=(BOTH, TX)),
        Engine.DIRECT,
        "direct: TLSv1.2 tx+rx, TLSv1.3 tx+rx; openssl would give TLSv1.2 tx+rx, TLSv1.3 tx",
    ),
    "wheel": (
        report(openssl=(NONE, NONE)),
        Engine.DIRECT,
        "direct: TLSv1.2 tx+rx, TLSv1.3 tx+rx; openssl would give TLSv1.2 nothing, TLSv1.3 nothing",
    ),
    "direct broken": (
        report(direct=(BOTH, NONE)),
        Engine.OPENSSL,
        "openssl: TLSv1.2 tx+rx, TLSv1.3 tx+rx; direct would give TLSv1.2 tx+rx, TLSv1.3 nothing",
    ),
}


@pytest.mark.parametrize("case", AUTO)
def test_auto_takes_what_gives_most_and_says_why(case):
    found, engine, words = AUTO[case]
    assert choose(found) == (engine, f"listen :1: engine {words}")


def test_only_the_enabled_versions_count():
    found = report(direct=(BOTH, NONE), openssl=(BOTH, BOTH))
    assert choose(found, tls={"max_version": "TLSv1.2"}) == (
        Engine.DIRECT,
        "listen :1: engine direct: TLSv1.2 tx+rx; openssl would give no more",
    )


ONLY_DIRECT = {
    'offload = "tx"': ({"offload": TX}, {}),
    "a route's offload": ({}, {"offload": NONE}),
    "a route's share_secrets": ({}, {"share_secrets": True}),
}


@pytest.mark.parametrize("why", ONLY_DIRECT)
def test_auto_takes_direct_where_only_it_can_do_what_is_asked(why):
    listener, route = ONLY_DIRECT[why]
    found = report(direct=(NONE, NONE))
    engine, line = choose(found, route=route, **listener)
    assert engine is Engine.DIRECT
    assert line == (f"listen :1: engine direct, because of {why}: TLSv1.2 nothing, TLSv1.3 nothing")


@pytest.mark.parametrize("engine", [EngineChoice.DIRECT, EngineChoice.OPENSSL])
def test_what_the_operator_asks_for_is_taken(engine):
    chosen, line = choose(report(openssl=(BOTH, TX)), engine=engine)
    assert chosen.value == engine.value
    gives = "TLSv1.2 tx+rx, TLSv1.3 " + ("tx" if chosen is Engine.OPENSSL else "tx+rx")
    assert line == f"listen :1: engine {chosen.value}, as configured: {gives}"


def refusal(found, **listener):
    with pytest.raises(ConfigError) as caught:
        choose(found, engine=EngineChoice.OPENSSL, **listener)
    return str(caught.value)


def test_openssl_without_ktls_is_refused_with_both_ways_out():
    assert refusal(report(openssl=(NONE, NONE))) == (
        "listen :1: engine: expected an OpenSSL with kTLS, got OpenSSL 3.0.20 of pyOpenSSL 23.0.0"
        ' without it: say engine = "direct", which needs none, or run on a pyOpenSSL whose OpenSSL'
        " was built with enable-ktls, such as Debian's python3-openssl"
    )


def test_openssl_whose_handshake_fails_is_refused_with_the_reason():
    assert refusal(report(openssl=(NONE, NONE), has_ktls=None)) == (
        "listen :1: engine: expected openssl to work, got OpenSSL 3.0.20 of pyOpenSSL 23.0.0:"
        " the kernel said no"
    )


def test_a_pyopenssl_that_cannot_leave_a_socket_is_refused(monkeypatch):
    monkeypatch.setattr(engine_choice, "can_rebind_to_memory", lambda: False)
    assert refusal(report()) == (
        "listen :1: engine: expected a pyOpenSSL that can leave a socket, got 23.0.0:"
        ' say engine = "direct"'
    )


def test_require_is_refused_where_a_version_would_always_be_answered_503():
    assert refusal(report(openssl=(BOTH, TX)), ktls=KtlsPolicy.REQUIRE) == (
        'listen :1: ktls = "require": expected an engine that can do offload = "both", got'
        ' openssl with TLSv1.3 tx in OpenSSL 3.0.20: say engine = "direct"'
    )
    engine, _ = choose(report(), engine=EngineChoice.OPENSSL, ktls=KtlsPolicy.REQUIRE)
    assert engine is Engine.OPENSSL


@pytest.mark.parametrize(
    ("changes", "asks"),
    [
        ({}, True),
        ({"offload": TX}, True),
        ({"ktls": KtlsPolicy.REQUIRE}, True),
        ({"tls": False}, False),
        ({"offload": NONE}, False),
        ({"ktls": KtlsPolicy.OFF}, False),
    ],
)
def test_a_listener_asks_for_keys_unless_told_not_to(changes, asks):
    assert asks_for_keys(dataclasses.replace(Listener(address=":1"), **changes)) is asks
