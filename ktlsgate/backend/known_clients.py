"""Finds the connection that a server speaks of, by what the server knows of it.

Servers do not give their sockets to applications, but nearly all of them tell the
client's address and port, and most the address that the client connected to. Only
open connections are known: who is gone is forgotten with its socket.
"""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakValueDictionary

from .client_socket import ClientSocket

__all__ = ["KnownClients"]

_Pair = tuple[str, int]


class KnownClients:
    """The open connections of one listener."""

    def __init__(self) -> None:
        self._by_number: WeakValueDictionary[int, ClientSocket] = WeakValueDictionary()
        self._by_addresses: WeakValueDictionary[tuple[_Pair, _Pair], ClientSocket] = (
            WeakValueDictionary()
        )
        self._locals: set[_Pair] = set()  # as many as the gate has addresses

    def add(self, client: ClientSocket) -> None:
        """Know a connection from now on."""
        remote, local = client.getpeername()[:2], client.getsockname()[:2]
        self._by_number[client.fileno()] = client
        self._by_addresses[remote, local] = client
        self._locals.add(local)

    def find_number(self, number: int) -> ClientSocket | None:
        """The connection with this descriptor."""
        client = self._by_number.get(number)
        return client if client is not None and client.fileno() == number else None

    def find(self, remote: _Pair, local: _Pair | None = None) -> Mapping[str, str] | None:
        """What the gate said about a connection, by its addresses.

        Args:
            remote: the client's.
            local: the one that it connected to, None for any.

        Returns:
            The names and values; None when no open connection has these addresses, or,
            without ``local``, when several have.
        """
        places = self._locals if local is None else [local]
        found = [
            client
            for place in places
            if (client := self._by_addresses.get((remote, place))) and client.fileno() != -1
        ]
        return found[0].environ if len(found) == 1 else None
