"""Which route a request head belongs to: pure matching, first match wins.

Rule: the answer depends on the head alone. The path is compared as it was sent,
after cutting the query; a path that a backend could read differently from us
(an encoded slash or dot in a segment, ``//``, ``/../``) matches no route with a
prefix, only ``/``: a prefix is no access rule that an encoding may slip past.
"""

from __future__ import annotations

import re

from ..config import Keepalive, Route
from .http_head import RequestHead

__all__ = ["covers_its_host", "hosts_overlap", "is_single", "match_route", "routes_of_host"]

# "%2f", "%2e", "%5c", "%00"; empty, "." and ".." segments, also with the parameters that
# servlet containers cut off before they resolve dots ("/..;/"); backslashes.
_AMBIGUOUS = re.compile(rb"%(?:2[fFeE]|5[cC]|00)|//|/\.{1,2}(?:[/;]|\Z)|\\")


def match_route(routes: tuple[Route, ...], head: RequestHead) -> Route | None:
    """Find the first route for a head, None when there is none."""
    host = head.host.removesuffix(".")  # "a.example." is the same name, fully qualified
    for route in routes:
        if _matches_host(route.hosts, host) and _matches_path(route.path, head.path):
            return route
    return None


def _matches_host(patterns: tuple[str, ...], host: str) -> bool:
    for pattern in patterns:
        if pattern in ("*", host):
            return True
        # "*.example.com" stands for every name below it, at any depth.
        if pattern.startswith("*.") and host.endswith(pattern[1:]) and host != pattern[1:]:
            return True
    return False


def _matches_path(prefix: str, path: bytes) -> bool:
    if prefix == "/":
        return True
    encoded = prefix.rstrip("/").encode()
    is_below = path == encoded or path.startswith(encoded + b"/")
    return is_below and _AMBIGUOUS.search(path) is None


def routes_of_host(routes: tuple[Route, ...], host: str) -> tuple[Route, ...]:
    """Find every route that a request for a host can match; all where there is no name."""
    name = host.removesuffix(".")
    if not name:
        return routes
    found = []
    for route in routes:
        if _matches_host(route.hosts, name):
            found.append(route)
            if route.path == "/":  # no request gets past it
                break
    return tuple(found)


def hosts_overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether some host name is matched by both lists of patterns."""
    return any(_pattern_overlaps(a, b) for a in one for b in other)


def _pattern_overlaps(a: str, b: str) -> bool:
    if "*" in (a, b) or a == b:
        return True
    if a.startswith("*.") and b.startswith("*."):
        return a.endswith(b[1:]) or b.endswith(a[1:])
    return _matches_host((a,), b) or _matches_host((b,), a)


def covers_its_host(route: Route, routes: tuple[Route, ...]) -> bool:
    """Whether every request that can come on this route's hosts goes to its backend."""
    return route.path == "/" and all(
        other.backend == route.backend or not hosts_overlap(other.hosts, route.hosts)
        for other in routes
    )


def is_single(route: Route, routes: tuple[Route, ...]) -> bool:
    """Whether a connection handed over on this route must end after one response."""
    if route.keepalive is Keepalive.AUTO:
        return not covers_its_host(route, routes)
    return route.keepalive is Keepalive.SINGLE
