"""What applications are told of TLS, in the words of their interface."""

import ssl

import pytest
from helpers.flavours import read_head
from helpers.handoffs import our_head

from ktlsgate.backend.request_facts import _CIPHER_SUITES, tell_asgi, tell_wsgi
from ktlsgate.wire.ciphers import SUITES

TLS = {"HTTPS": "on", "SSL_PROTOCOL": "TLSv1.3", "SSL_CIPHER": "TLS_AES_256_GCM_SHA384"}
CERTIFIED = TLS | {
    "SSL_CLIENT_VERIFY": "SUCCESS",
    "SSL_CLIENT_S_DN": "CN=me",
    "SSL_CLIENT_CERT": "PEM",
}


def facts(**names):
    return read_head(our_head(**names)).environ


@pytest.mark.parametrize(
    ("before", "after"), [("http", "https"), ("ws", "wss"), ("https", "https")]
)
def test_scheme_is_the_secure_one_under_tls(before, after):
    assert tell_asgi({"scheme": before}, facts(**TLS))["scheme"] == after
    assert tell_asgi({"scheme": before}, facts())["scheme"] == before


def test_scope_without_a_scheme_is_http():
    assert tell_asgi({"type": "http"}, facts(**TLS))["scheme"] == "https"


def test_extension_says_version_suite_and_no_certificate():
    told = tell_asgi({"extensions": {"other": {}}}, facts(**TLS, SSL_CLIENT_VERIFY="NONE"))
    assert told["extensions"] == {
        "other": {},
        "tls": {
            "server_cert": None,
            "client_cert_chain": [],
            "client_cert_name": None,
            "client_cert_error": None,
            "tls_version": 0x0304,
            "cipher_suite": 0x1302,
        },
    }


def test_extension_says_whose_certificate():
    tls = tell_asgi({}, facts(**CERTIFIED))["extensions"]["tls"]
    assert (tls["client_cert_name"], tls["client_cert_chain"]) == ("CN=me", ["PEM"])
    assert tls["client_cert_error"] is None


def test_extension_says_what_was_wrong_with_a_certificate():
    tls = tell_asgi({}, facts(**TLS, SSL_CLIENT_VERIFY="FAILED:expired"))["extensions"]["tls"]
    assert tls["client_cert_error"] == "FAILED:expired"


def test_what_nobody_said_is_none():
    """nginx's dialect tells neither version nor suite."""
    tls = tell_asgi({}, facts(HTTPS="on"))["extensions"]["tls"]
    assert tls["tls_version"] is tls["cipher_suite"] is None


def test_plain_connection_has_no_extension_and_keeps_its_scope():
    scope = {"type": "http", "scheme": "http", "client": None}
    told = tell_asgi(scope, facts())
    assert told == {"type": "http", "scheme": "http", "client": ("192.0.2.7", 40000)}
    assert scope["client"] is None


def test_every_suite_that_the_kernel_takes_has_its_number():
    assert set(SUITES) - set(_CIPHER_SUITES) == {"ECDHE-RSA-AES128-CCM", "CHACHA20-POLY1305"}


def test_numbers_are_openssls():
    context = ssl.create_default_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    known = {entry["name"]: entry["id"] & 0xFFFF for entry in context.get_ciphers()}
    shared = known.keys() & _CIPHER_SUITES.keys()
    assert len(shared) > 8
    assert {name: known[name] for name in shared} == {name: _CIPHER_SUITES[name] for name in shared}


def test_wsgi_is_told_by_mod_ssls_names():
    told = tell_wsgi({"wsgi.url_scheme": "http", "PATH_INFO": "/"}, facts(**CERTIFIED))
    assert told == CERTIFIED | {
        "PATH_INFO": "/",
        "wsgi.url_scheme": "https",
        "REMOTE_ADDR": "192.0.2.7",
        "REMOTE_PORT": "40000",
    }


def test_nobody_else_can_say_that_there_is_tls():
    lies = {"HTTPS": "on", "SSL_CLIENT_S_DN": "CN=admin", "wsgi.url_scheme": "https"}
    told = tell_wsgi(lies, facts())
    assert told == {
        "wsgi.url_scheme": "http",
        "REMOTE_ADDR": "192.0.2.7",
        "REMOTE_PORT": "40000",
    }
    assert lies["HTTPS"] == "on"
