"""Asking the kernel about real sockets, our own and those of nobody."""

from __future__ import annotations

import os
import socket

import pytest
from helpers.descriptors import no_descriptor_left, open_descriptors
from helpers.ktls import ktls_pair, require_ktls

from ktlsgate.config import Offload
from ktlsgate.kernel.socket_diag import find_socket
from ktlsgate.kernel.trials import loopback_pair
from ktlsgate.wire.inet_diag import Keys, SocketAnswer


def ends(sock: socket.socket):
    return sock.getsockname()[:2], sock.getpeername()[:2]


def test_a_connection_is_found_by_its_ends() -> None:
    before = open_descriptors()
    with loopback_pair() as (near, far):
        port = far.getsockname()[1]
        assert find_socket(*ends(near)) == SocketAnswer(peer_port=port, is_established=True)
    assert open_descriptors() == before


def test_the_listener_is_not_taken_for_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert find_socket(listener.getsockname(), ("127.0.0.1", 1)) is None


def test_a_connection_of_nobody_is_none() -> None:
    assert find_socket(("127.0.0.1", 1), ("127.0.0.1", 2)) is None


def test_one_that_is_closing_is_none() -> None:
    with loopback_pair() as (near, far):
        where = ends(near)
        far.shutdown(socket.SHUT_WR)
        assert near.recv(1) == b""
        assert find_socket(*where) is None


def test_ipv6_is_found_too() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this kernel has no IPv6")
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as listener,
        socket.create_connection(listener.getsockname()[:2]),
    ):
        near, _ = listener.accept()
        with near:
            assert find_socket(*ends(near)) is not None


def test_without_a_descriptor_it_is_an_oserror() -> None:
    with no_descriptor_left(), pytest.raises(OSError, match="Too many open files"):
        find_socket(("127.0.0.1", 1), ("127.0.0.1", 2))


@pytest.mark.ktls
@pytest.mark.parametrize(
    ("offload", "tx", "rx"),
    [
        (Offload.NONE, Keys.NONE, Keys.NONE),
        (Offload.TX, Keys.SOFTWARE, Keys.NONE),
        (Offload.BOTH, Keys.SOFTWARE, Keys.SOFTWARE),
    ],
)
def test_the_kernel_says_who_has_the_keys(offload, tx, rx) -> None:
    require_ktls()
    if os.geteuid() != 0:
        pytest.skip("before Linux 6.15 only CAP_NET_ADMIN is told")
    with ktls_pair(offload=offload) as (sock, _):
        found = find_socket(*ends(sock))
    assert found is not None
    assert (found.ulp, found.tx, found.rx) == ("tls", tx, rx)
