"""What a connection costs a server in its whole life, by how long that is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .loads import LOADS
from .peers import NGINX
from .results import Results

__all__ = ["LIVES", "Life", "first_cheaper_request", "life_cost"]

_MICRO = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """So many requests, one of them a download."""

    title: str
    requests: int
    gigabytes: float = 0.0


LIVES = (
    Life(title="1 request", requests=1),
    Life(title="4 requests", requests=4),
    Life(title="20 requests", requests=20),
    Life(title="100 requests", requests=100),
    Life(title="1 MB", requests=1, gigabytes=0.001),
    Life(title="1 GB", requests=1, gigabytes=1.0),
)


def _median(results: Results, load: str, server: str) -> float | None:
    cost = results.cost(LOADS[load], server)
    return cost.median if cost else None


def life_cost(results: Results, server: str, life: Life) -> float | None:
    """Return CPU microseconds: the connection with its first request, the others, the bytes."""
    connection, request = (_median(results, name, server) for name in ("conn", "keep"))
    download = _median(results, "down", server) if life.gigabytes else 0.0
    if connection is None or request is None or download is None:
        return None
    return connection + (life.requests - 1) * request + life.gigabytes * download * _MICRO


def first_cheaper_request(results: Results, server: str, reference: str = NGINX) -> int | None:
    """Return from which request on a connection's life is cheaper; None if never, or unknown."""
    ours, theirs = ((_median(results, "conn", name), _median(results, "keep", name))
                    for name in (server, reference))  # fmt: skip
    if None in (*ours, *theirs):
        return None
    (connection, request), (their_connection, their_request) = ours, theirs
    if connection is None or request is None or their_connection is None or their_request is None:
        return None
    if connection < their_connection:
        return 1
    if request >= their_request:
        return None
    return 2 + math.floor((connection - their_connection) / (their_request - request))
