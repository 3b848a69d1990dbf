"""Which open connection a server speaks of."""

import gc

import pytest
from helpers.flavours import received
from helpers.handoffs import our_head, tcp_pair

from ktlsgate.backend.client_socket import ClientSocket
from ktlsgate.backend.known_clients import KnownClients

REMOTE, LOCAL, OTHER = ("192.0.2.7", 40000), ("192.0.2.1", 443), ("192.0.2.1", 8443)


@pytest.fixture
def make():
    made = []

    def make(**changes):
        client, server = tcp_pair()
        made.extend((client, ClientSocket(received(our_head(**changes), server))))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def known():
    return KnownClients()


def test_connection_is_found_by_what_servers_tell(known, make):
    sock = make()
    known.add(sock)
    assert known.find(REMOTE, LOCAL) is sock.environ
    assert known.find(REMOTE) is sock.environ
    assert known.find_number(sock.fileno()) is sock


def test_what_nobody_added_is_not_found(known, make):
    known.add(make())
    assert known.find(("192.0.2.7", 40001)) is None
    assert known.find(REMOTE, OTHER) is None
    assert known.find_number(0) is None


def test_same_client_address_at_two_ports_of_the_gate_is_told_apart_or_not_at_all(known, make):
    """Two clients behind one router can have the same port, towards different ports."""
    first, second = make(), make(SERVER_PORT="8443", REQUEST_URI="/second")
    known.add(first)
    known.add(second)
    assert known.find(REMOTE, OTHER) is second.environ
    assert known.find(REMOTE, LOCAL) is first.environ
    assert known.find(REMOTE) is None


def test_closed_connection_is_nobodys(known, make):
    sock = make()
    number = sock.fileno()
    known.add(sock)
    sock.close()
    assert known.find(REMOTE, LOCAL) is None
    assert known.find_number(number) is None


def test_knowing_a_connection_does_not_keep_it():
    known = KnownClients()
    client, server = tcp_pair()
    with client:
        sock = ClientSocket(received(our_head(), server))
        known.add(sock)
        sock.close()
        del sock
        gc.collect()
        assert len(known._by_addresses) == len(known._by_number) == 0
