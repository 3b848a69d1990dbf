"""What routes say together: one hides another, one lets requests slip past another.

Theory: a host pattern stands for a set of names, and two such sets either lie one
inside the other or have nothing in common (`ktlsgate.wire.host_patterns`). The same
holds for path prefixes. So no combination of narrower routes can hide a wider one, and
whatever could hide a route has one of the few host patterns and prefixes that its own
text begins or ends with: those are looked up, instead of asking every route.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .. import config
from ..wire.host_patterns import HostRivals, wider_patterns
from .config_values import quote

__all__ = ["check_routes"]


def check_routes(routes: Sequence[config.Route]) -> Iterator[tuple[int, str, str]]:
    """Find routes that cannot mean what the operator wants.

    Args:
        routes: in the order of the file; the first that matches wins.

    Yields:
        Index of the route (from 0), the key to blame, and the complaint.
    """
    takers, rivals = _Takers(routes), HostRivals(routes)
    for index, route in enumerate(routes):
        hiding = takers.hiding(route, index)
        if hiding:
            numbers = " and ".join(str(number + 1) for number in hiding)
            what = "expected a route that some request can reach"
            why = "the first route that matches wins"
            yield index, "", f"{what}, got one whose requests all go to route {numbers}: {why}"
        if route.keepalive is config.Keepalive.OWN and (why := _not_whole(routes, index, rivals)):
            so = "so a later request on the same connection would slip past the routes"
            yield index, "keepalive", f'expected "auto" or "single", got "own": {why}, {so}'
        if route.share_secrets and route.backend.dialect is config.Dialect.NGINX:
            name = quote(route.backend.name)
            why = f'the dialect "nginx" of backend {name} has no fields for secrets'
            yield index, "share_secrets", f"expected false, got true: {why}"


class _Takers:
    """For every host pattern, the first route with each path."""

    __slots__ = ("_first",)

    def __init__(self, routes: Sequence[config.Route]) -> None:
        self._first: dict[str, dict[str, int]] = {}
        for index, route in enumerate(routes):
            for host in route.hosts:
                self._first.setdefault(host, {}).setdefault(route.path, index)

    def hiding(self, route: config.Route, index: int) -> list[int]:
        """Return the indexes of the earlier routes that together take all of it, or none."""
        paths = list(_wider_paths(route.path))
        takers = {self._taker(host, paths) for host in route.hosts}
        return [] if index in takers else sorted(takers)

    def _taker(self, host: str, paths: Sequence[str]) -> int:
        """Find the first route that takes all of a host and path; at the latest its own."""
        found = [self._first[text] for text in wider_patterns(host) if text in self._first]
        return min(first[path] for first in found for path in paths if path in first)


def _wider_paths(path: str) -> Iterator[str]:
    """Whatever prefix could hold all paths below one, itself among them."""
    yield "/"
    for segment in re.finditer("/", path[1:]):
        yield path[: segment.end()]
    yield path


def _not_whole(routes: Sequence[config.Route], index: int, rivals: HostRivals) -> str:
    """Say why a route does not cover its whole host; empty if it does."""
    route = routes[index]
    if route.path != "/":
        return f"this route is only a part of its host (path {quote(route.path)})"
    first = rivals.first(route)
    if first is None:
        return ""
    name = quote(routes[first].backend.name)
    return f"route {first + 1} gives some of the same hosts to {name}"
