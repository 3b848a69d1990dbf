"""The few functions that pyOpenSSL lacks: right where they are, harmless where they are not."""

from __future__ import annotations

import contextlib
import socket

import pytest
from helpers.identities import Authority
from helpers.memory_tls import Client, client_context, server_context, shake_hands
from OpenSSL import SSL

from ktlsgate.wire import openssl_extra
from ktlsgate.wire.handshake import Handshake
from ktlsgate.wire.openssl_extra import (
    can_rebind_to_memory,
    is_session_reused,
    rebind_to_memory,
    set_ciphersuites,
)


class OldLibrary:
    """Bindings without any of the functions."""


def suites_of(context):
    names = SSL.Connection(context, None).get_cipher_list()
    return [name for name in names if name.startswith("TLS_")]


def test_ciphersuites_are_set_in_the_order_given():
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    wanted = ["TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_CCM_SHA256"]
    assert set_ciphersuites(context, ":".join(wanted))
    assert suites_of(context) == wanted


@pytest.mark.parametrize("names", ["nonsense", "TLS_AES_128_GCM_SHA256:nonsense:"])
def test_unknown_ciphersuite_leaves_no_error_behind(names):
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    taken = set_ciphersuites(context, names)
    # OpenSSL 3 passes over unknown names, if any is known.
    assert taken == (names != "nonsense")
    assert openssl_extra._lib.ERR_peek_error() == 0


def test_ciphersuites_are_refused_where_no_way_leads_to_the_function(monkeypatch):
    class OldContext:
        _context = None

    monkeypatch.setattr(openssl_extra, "_lib", OldLibrary())
    assert set_ciphersuites(OldContext(), "TLS_AES_128_GCM_SHA256") is False


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_session_is_reused_when_it_is(version):
    server, context = server_context(Authority().issue("localhost")), client_context(version)
    first, again = Handshake(server), Handshake(server)
    client = Client(context)
    shake_hands(first, client)
    assert is_session_reused(first._connection) is False
    shake_hands(again, Client(context, session=client.leave()))
    assert is_session_reused(again._connection) is True


def test_session_counts_as_new_where_the_function_is_absent(monkeypatch):
    monkeypatch.setattr(openssl_extra, "_lib", OldLibrary())
    assert is_session_reused(object()) is False


def test_a_bound_connection_goes_on_over_memory():
    """OpenSSL frees its BIO of the socket, and leaves the socket to us."""
    assert can_rebind_to_memory()
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        server = SSL.Connection(server_context(Authority().issue("localhost")), near)
        server.set_accept_state()
        client = Client(client_context("TLSv1.3"))
        for _ in range(4):
            client.step(_waiting(far))
            far.sendall(client.take_all())
            with contextlib.suppress(SSL.WantReadError):
                server.do_handshake()
        client.send(b"data")
        data = client.take_all()
        rebind_to_memory(server)
        server.bio_write(data)
        assert server.recv(100) == b"data"
        server.sendall(b"answer")
        client.step(_waiting(far) + server.bio_read(1000))
        assert client.received == b"answer"
        assert near.send(b"still open") == 10
        del server
        assert near.send(b"still open") == 10


def _waiting(sock):
    try:
        return sock.recv(100_000)
    except BlockingIOError:
        return b""


@pytest.fixture
def unasked():
    """Nobody has asked yet, and nobody will take this test's answer for his own."""
    can_rebind_to_memory.cache_clear()
    yield
    can_rebind_to_memory.cache_clear()


@pytest.mark.usefixtures("unasked")
def test_an_old_library_says_that_it_cannot(monkeypatch):
    monkeypatch.setattr(openssl_extra, "_lib", OldLibrary())
    assert not can_rebind_to_memory()


@pytest.mark.usefixtures("unasked")
def test_the_library_is_asked_once_what_it_can(monkeypatch):
    class Asked:
        """Bindings with every function; notes which were looked for."""

        def __init__(self):
            self.names = []

        def __getattr__(self, name):
            self.names.append(name)

    library = Asked()
    monkeypatch.setattr(openssl_extra, "_lib", library)
    assert can_rebind_to_memory()
    assert can_rebind_to_memory()
    assert library.names == ["BIO_new", "BIO_s_mem", "SSL_set_bio"]
