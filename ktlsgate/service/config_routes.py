"""What routes say together: one hides another, one lets requests slip past another.

Theory: a host pattern stands for a set of names, and two such sets either lie
one inside the other or have nothing in common (``*`` holds all, ``*.x`` all names
below ``x``, anything else itself). The same holds for path prefixes. So "covers"
and "overlaps" are comparisons of text, and no combination of narrower routes
can hide a wider one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .. import config
from ..wire.host_patterns import HostRivals
from .config_values import quote

__all__ = ["check_routes", "covers_host", "covers_path"]


def covers_host(wide: str, narrow: str) -> bool:
    """Say whether every name of the pattern ``narrow`` belongs to ``wide`` too."""
    return wide in ("*", narrow) or (wide.startswith("*.") and narrow.endswith(wide[1:]))


def covers_path(wide: str, narrow: str) -> bool:
    """Say whether every path below the prefix ``narrow`` is below ``wide`` too."""
    return wide in ("/", narrow) or narrow.startswith(wide + "/")


def check_routes(routes: Sequence[config.Route]) -> Iterator[tuple[int, str, str]]:
    """Find routes that cannot mean what the operator wants.

    Args:
        routes: in the order of the file; the first that matches wins.

    Yields:
        Index of the route (from 0), the key to blame, and the complaint.
    """
    rivals = HostRivals(routes)
    for index, route in enumerate(routes):
        hiding = _hiding(routes[:index], route)
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


def _hiding(earlier: Sequence[config.Route], route: config.Route) -> list[int]:
    """Return the indexes of the routes that together take all of ``route``, or none."""
    found = []
    for host in route.hosts:
        taker = next((i for i, other in enumerate(earlier) if _takes(other, host, route)), None)
        if taker is None:
            return []
        found.append(taker)
    return sorted(set(found))


def _takes(other: config.Route, host: str, route: config.Route) -> bool:
    covers = any(covers_host(wide, host) for wide in other.hosts)
    return covers and covers_path(other.path, route.path)


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
