"""Addresses as operators write them, listeners as clients meet them, and what TCP knows."""

from __future__ import annotations

import contextlib
import os
import select
import socket

import pytest

from ktlsgate.kernel.sockets import (
    bind_listeners,
    bytes_acked,
    format_address,
    has_only_sent_end,
    is_hung_up,
    parse_address,
    unmap_address,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:443", ("127.0.0.1", 443)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("*:443", ("", 443)),
        (":443", ("", 443)),
    ],
)
def test_address_is_a_host_and_a_port(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "localhost", "localhost:", "a:65536", "a:-1", "a:\xb2", "a:b"]
)
def test_address_without_a_good_port_is_refused(text):
    with pytest.raises(ValueError, match=r"^expected HOST:PORT with a port from 0 to 65535, got "):
        parse_address(text)


@pytest.mark.parametrize(
    ("address", "text"),
    [(("192.0.2.1", 443), "192.0.2.1:443"), (("2001:db8::1", 1), "[2001:db8::1]:1")],
)
def test_address_is_written_as_it_is_read(address, text):
    assert format_address(address) == text
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("address", "cut"),
    [
        (("::ffff:192.0.2.1", 5, 0, 0), ("192.0.2.1", 5)),
        (("2001:db8::1", 5, 0, 0), ("2001:db8::1", 5)),
        (("192.0.2.1", 5), ("192.0.2.1", 5)),
    ],
)
def test_mapped_address_is_the_clients_own(address, cut):
    assert unmap_address(address) == cut


@contextlib.contextmanager
def bound(address, backlog=16):
    sockets = bind_listeners(address, backlog)
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def test_listener_is_ready_for_clients_and_passes_its_options_on():
    with bound("127.0.0.1:0") as (listener,):
        assert not listener.getblocking()
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_every_address_shares_one_port_ipv4_first():
    with bound("*:0") as sockets:
        assert sockets[0].family == socket.AF_INET
        assert {sock.getsockname()[1] for sock in sockets} == {sockets[0].getsockname()[1]}
        assert [sock.family for sock in sockets[1:]] in ([], [socket.AF_INET6])


def test_address_in_use_is_an_error_and_leaves_nothing_open():
    with bound("127.0.0.1:0") as (listener,):
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="Address already in use"):
            bind_listeners(format_address(listener.getsockname()), 16)
        assert len(os.listdir("/proc/self/fd")) == before


@contextlib.contextmanager
def tcp_pair():
    with (
        bound("127.0.0.1:0") as (listener,),
        socket.create_connection(listener.getsockname()) as one,
    ):
        select.select([listener], [], [], 5)
        other, _ = listener.accept()
        with other:
            yield one, other


def test_tcp_says_how_much_was_acknowledged():
    with tcp_pair() as (one, other):
        before = bytes_acked(one)
        one.sendall(b"12345")
        other.settimeout(5)
        assert other.recv(5, socket.MSG_WAITALL) == b"12345"
        other.sendall(b"!")  # carries the acknowledgement
        one.settimeout(5)
        assert one.recv(1) == b"!"
        assert bytes_acked(one) - before == 5


def test_own_end_without_the_peers_is_told_apart():
    with tcp_pair() as (one, other):
        assert not has_only_sent_end(one)
        one.shutdown(socket.SHUT_WR)
        assert has_only_sent_end(one)
        other.close()
        select.select([one], [], [], 5)
        assert not has_only_sent_end(one)


def test_unix_peer_is_hung_up_when_both_its_directions_are_closed():
    one, other = socket.socketpair()
    with one, other:
        assert not is_hung_up(one)
        other.shutdown(socket.SHUT_WR)
        assert not is_hung_up(one)
        other.close()
        assert is_hung_up(one)
