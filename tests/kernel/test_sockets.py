"""Listening sockets, addresses, and what TCP says of a connection."""

import contextlib
import errno
import select
import socket

import pytest
from helpers.sessions import tcp_pair

from ktlsgate.kernel import sockets
from ktlsgate.kernel.sockets import (
    bind_listeners,
    bytes_acked,
    bytes_taken,
    format_address,
    has_only_sent_end,
    is_established,
    is_hung_up,
    parse_address,
    unmap_address,
)


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")

ADDRESSES = {
    "127.0.0.1:80": ("127.0.0.1", 80),
    "localhost:443": ("localhost", 443),
    "[::1]:443": ("::1", 443),
    "*:8443": ("", 8443),
    ":8443": ("", 8443),
    "[::]:0": ("::", 0),
    "x:65535": ("x", 65535),
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_is_host_and_port(text):
    assert parse_address(text) == ADDRESSES[text]


@pytest.mark.parametrize(
    "text", ["", "localhost", "80", "x:", "x:-1", "x:65536", "x:http", "x:٣", "x:+1"]
)
def test_an_address_without_a_port_is_refused(text):
    with pytest.raises(ValueError) as caught:
        parse_address(text)
    assert str(caught.value) == f"expected HOST:PORT with a port from 0 to 65535, got {text!r}"


def test_an_address_is_shown_as_it_is_written():
    assert format_address(("192.0.2.1", 443)) == "192.0.2.1:443"
    assert format_address(("2001:db8::1", 443)) == "[2001:db8::1]:443"


def test_an_ipv4_client_of_an_ipv6_socket_is_ipv4():
    assert unmap_address(("::ffff:192.0.2.1", 1, 0, 0)) == ("192.0.2.1", 1)
    assert unmap_address(("2001:db8::1", 1, 0, 0)) == ("2001:db8::1", 1)
    assert unmap_address(("192.0.2.1", 1)) == ("192.0.2.1", 1)


def close_all(socks):
    for sock in socks:
        sock.close()


@needs_ipv6
def test_no_host_is_every_address_of_both_families_on_one_port():
    socks = bind_listeners("*:0", 10)
    try:
        assert [sock.family for sock in socks] == [socket.AF_INET, socket.AF_INET6]
        (port,) = {sock.getsockname()[1] for sock in socks}
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port)).close()
        assert socks[1].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    finally:
        close_all(socks)


@needs_ipv6
@pytest.mark.parametrize("busy", [1, 7])
def test_a_chosen_port_is_free_in_both_families(busy, monkeypatch):
    """The kernel asks nobody else when it chooses one for IPv4."""
    bind, refused = sockets._bind_listener, []

    def bind_or_refuse(family, where, backlog):
        if family == socket.AF_INET6 and len(refused) < busy:
            refused.append(where[1])
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return bind(family, where, backlog)

    monkeypatch.setattr(sockets, "_bind_listener", bind_or_refuse)
    socks = bind_listeners("*:0", 10)
    assert [sock.family for sock in socks] == [socket.AF_INET, socket.AF_INET6]
    assert socks[0].getsockname()[1] == socks[1].getsockname()[1]
    assert len(refused) == busy
    close_all(socks)


@needs_ipv6
def test_an_ipv6_address_is_bound():
    socks = bind_listeners("[::1]:0", 10)
    assert [sock.getsockname()[0] for sock in socks] == ["::1"]
    close_all(socks)


def test_accepted_sockets_inherit_nodelay_and_do_not_block():
    (listener,) = bind_listeners("127.0.0.1:0", 10)
    with listener, socket.create_connection(listener.getsockname()):
        assert not listener.getblocking()
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_in_use_is_an_error():
    (listener,) = bind_listeners("127.0.0.1:0", 10)
    with listener, pytest.raises(OSError) as caught:
        bind_listeners(f"127.0.0.1:{listener.getsockname()[1]}", 10)
    assert caught.value.errno == errno.EADDRINUSE


def hold_ipv4_port() -> socket.socket:
    """A port that the kernel gives to nobody else, and that may still be listened on."""
    sock = socket.socket(socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("", 0))
    return sock


@needs_ipv6
def test_an_ipv6_port_in_use_does_not_keep_the_ipv4_one():
    """Where the wildcard's second half cannot be had, the first serves alone."""
    with hold_ipv4_port() as held, socket.socket(socket.AF_INET6) as other:
        port = held.getsockname()[1]
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        with contextlib.suppress(OSError):  # in use already: as good
            other.bind(("::", port))
            other.listen()
        socks = bind_listeners(f"*:{port}", 10)
    assert [sock.family for sock in socks] == [socket.AF_INET]
    close_all(socks)


def test_an_unknown_host_is_an_error():
    with pytest.raises(OSError):
        bind_listeners("no-such-host.invalid:0", 10)


def test_bytes_acked_grows_with_what_the_peer_has():
    client, server = tcp_pair()
    with client, server:
        before = bytes_acked(server)
        server.send(b"x" * 10_000)
        client.setblocking(True)
        client.recv(10_000, socket.MSG_WAITALL)
        client.send(b"ack")  # carries the acknowledgement, however lazy the kernel is
        server.setblocking(True)
        server.recv(3)
        assert bytes_acked(server) == before + 10_000


class OldKernel:
    """A kernel whose struct tcp_info ends before the field."""

    def getsockopt(self, level, name, size):
        return bytes(104)


def test_bytes_acked_is_nothing_where_the_kernel_does_not_say():
    assert bytes_acked(OldKernel()) == 0


def test_bytes_taken_are_those_that_were_read():
    client, server = tcp_pair()
    with client, server:
        server.setblocking(True)
        client.send(b"x" * 10_000)
        server.recv(10_000, socket.MSG_WAITALL | socket.MSG_PEEK)
        assert bytes_taken(server) == 0
        server.recv(4_000, socket.MSG_WAITALL)
        assert bytes_taken(server) == 4_000


def test_bytes_taken_are_nothing_where_the_kernel_does_not_say():
    assert bytes_taken(OldKernel()) == 0


@pytest.mark.parametrize("end", ["half close", "close", "reset"])
def test_a_connection_is_established_until_somebody_ends_it(end):
    client, server = tcp_pair()
    with client, server:
        assert is_established(server)
        if end == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if end == "half close":
            client.shutdown(socket.SHUT_WR)
        else:
            client.close()
        select.select([server], [], [], 5)
        assert not is_established(server)


def test_a_unix_socket_is_hung_up_when_both_directions_are():
    one, other = socket.socketpair()
    with one:
        assert not is_hung_up(one)
        one.send(b"unread")
        other.shutdown(socket.SHUT_WR)
        assert not is_hung_up(one)
        other.close()
        assert is_hung_up(one)


def test_only_our_own_end_is_told_from_the_peers():
    client, server = tcp_pair()
    with client, server:
        assert not has_only_sent_end(server)
        server.shutdown(socket.SHUT_RDWR)
        assert has_only_sent_end(server)
        client.setblocking(True)
        assert client.recv(1) == b""
    client, server = tcp_pair()
    with client, server:
        client.shutdown(socket.SHUT_WR)
        server.setblocking(True)
        assert server.recv(1) == b""
        assert not has_only_sent_end(server)
