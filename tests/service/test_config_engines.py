"""What cannot be asked of the engine `openssl` is said with its line."""

import pytest
from helpers.config_text import errors_of, parse

from ktlsgate.config import EngineChoice, Offload

TEXT = """\
backend.app.address = "unix:/run/app.sock"
cert = [{{ file = "a.pem" }}]
[[listen]]
address = ":1"
engine = "{engine}"
{listen}
[[route]]
host = "a.example"
backend = "app"
{route}
[[route]]
backend = "app"
"""


def text(engine, listen="", route=""):
    return TEXT.format(engine=engine, listen=listen, route=route)


REFUSED = {
    ('offload = "tx"', ""): 'offload = "tx", got "openssl": OpenSSL keeps no direction back',
    ("", 'offload = "tx"'): (
        'route 1 with offload = "tx", got "openssl":'
        " OpenSSL moves the keys before the request is known"
    ),
    ("", 'offload = "none"'): (
        'route 1 with offload = "none", got "openssl":'
        " OpenSSL moves the keys before the request is known"
    ),
    ("", "share_secrets = true"): (
        'route 1 with share_secrets = true, got "openssl": OpenSSL tells nobody its secrets'
    ),
}


@pytest.mark.parametrize("extra", REFUSED, ids=str)
def test_openssl_cannot_do_what_needs_the_request_or_the_secrets(extra):
    listen, route = extra
    begin = 'k.toml:5: listen.engine: expected "auto" or "direct" beside '
    (error,) = errors_of(text("openssl", listen, route))
    assert error.replace("listen[1].engine", "listen.engine") == begin + REFUSED[extra]


@pytest.mark.parametrize("engine", ["auto", "direct"])
@pytest.mark.parametrize("extra", REFUSED, ids=str)
def test_the_other_engines_can(engine, extra):
    listener = parse(text(engine, *extra)).listeners[0]
    assert listener.engine is EngineChoice(engine)


def test_openssl_may_be_told_to_move_nothing():
    """`offload = "none"` and `ktls = "off"` are switches, whatever the engine."""
    for switch in ('offload = "none"', 'ktls = "off"'):
        listener = parse(text("openssl", switch)).listeners[0]
        assert listener.engine is EngineChoice.OPENSSL
    assert listener.offload is Offload.BOTH


def test_a_listener_without_tls_has_no_engine_to_complain_of():
    parse(text("openssl", "tls = false", 'offload = "tx"'))


def test_an_unknown_engine_is_named():
    (error,) = errors_of(text("ssl"))
    assert error.startswith("k.toml:5: listen")
    assert 'expected "auto", "direct" or "openssl", got "ssl"' in error
