"""Sockets that are connected, as fixtures."""

import pytest
from helpers.fibers import open_pairs
from helpers.sessions import tcp_pair


@pytest.fixture
def pair():
    """A client's and the server's end of a TCP connection; neither blocks."""
    client, server = tcp_pair()
    with client, server:
        yield client, server


@pytest.fixture
def pairs():
    """Makes pairs of Unix sockets that do not block."""
    with open_pairs() as make:
        yield make
