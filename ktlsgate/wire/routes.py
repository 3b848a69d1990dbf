"""Which route a request head belongs to: pure matching, first match wins.

Rule: the answer depends on the head alone. The path is compared as it was sent,
after cutting the query; a path that a backend could read differently from us
(an encoded slash or dot in a segment, ``//``, ``/../``) matches no route with a
prefix, only ``/``: a prefix is no access rule that an encoding may slip past.

Theory of operation
-------------------
Two host patterns lie one inside the other or have no name in common (see
`ktlsgate.wire.host_patterns`). So the narrowest pattern that holds a name tells which
others hold it too, and `RouteTable` keeps for every pattern, from the start, what is true
of the names that it is the narrowest for: the first route that takes every path, and the
prefixes that come before it.

A match finds that pattern (the name itself, else ``*`` before each of its dots, the
longest first, else ``*``) and walks its prefixes as trees of path segments; the lowest
number on the way wins. Neither depends on how many routes there are. What a client
sends is looked up and never kept; of its name, no more suffixes are tried than are as
short as some pattern, and its path is cut no finer than the deepest prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ..config import Keepalive, Offload, Route
from .host_patterns import HostRivals, wider_patterns
from .http_head import RequestHead

__all__ = ["RouteMatch", "RouteTable"]

# "%2f", "%2e", "%5c", "%00"; empty, "." and ".." segments, also with the parameters that
# servlet containers cut off before they resolve dots ("/..;/"); backslashes.
_AMBIGUOUS = re.compile(rb"%(?:2[fFeE]|5[cC]|00)|//|/\.{1,2}(?:[/;]|\Z)|\\")

_NOWHERE = 1 << 32  # the number of no route; behind all others


class RouteMatch(NamedTuple):
    """A route, and what follows from its place among the others.

    Attributes:
        route: the route.
        is_single: whether a connection handed over on it must end after one response.
    """

    route: Route
    is_single: bool


class RouteTable:
    """All routes of a listener, compiled once for any number of requests.

    Attributes:
        rows: in the order of the routes.
    """

    __slots__ = ("_depth", "_longest", "_offload", "_others", "_views", "rows")

    def __init__(self, routes: tuple[Route, ...], most: Offload = Offload.BOTH) -> None:
        """Compile the routes.

        Args:
            routes: the first that matches wins.
            most: bounds the offload of all of them.
        """
        patterns = _group(routes, most)
        chains = {text: _holding(text, patterns) for text in patterns}
        rivals = HostRivals(routes)
        self.rows = tuple(RouteMatch(route, _is_single(route, rivals)) for route in routes)
        self._views = {text: _View(chain, most) for text, chain in chains.items()}
        self._others = self._views.get("*") or _View([], most)
        self._offload = _agreed({most.at_most(route.offload) for route in routes}, most)
        # Bounds on what is done for a name or a path, whatever its length.
        self._longest = max(
            (len(text) - 1 for text in patterns if text.startswith("*.")), default=0
        )
        self._depth = max((len(_segments(route.path)) for route in routes), default=0)

    def match(self, head: RequestHead) -> RouteMatch | None:
        """Find the first route for a head, None when there is none."""
        # "a.example." is the same name, fully qualified
        view = self._view_of(head.host.removesuffix("."))
        first = view.everything
        if view.trees:
            segments = head.path.split(b"/", self._depth)
            prefixed = _first_of(view.trees, segments)
            if prefixed < first and _AMBIGUOUS.search(head.path) is None:
                first = prefixed
        return None if first == _NOWHERE else self.rows[first]

    def offload_of(self, sni: str) -> Offload | None:
        """The bound of whatever route a client can mean by a name; None if it depends.

        Without a name, or where all routes agree, it is about all of them. A request that
        none matches is not handed over at all, so the listener alone bounds its name.
        """
        if self._offload:
            return self._offload
        name = sni.removesuffix(".")
        return self._view_of(name).offload if name else None

    def _view_of(self, name: str) -> _View:
        view = self._views.get(name)
        if view:
            return view
        dot = name.find(".", max(1, len(name) - self._longest))
        while dot > 0:
            view = self._views.get("*" + name[dot:])
            if view:
                return view
            dot = name.find(".", dot + 1)
        return self._others


class _Tree:
    """A segment of path prefixes, and those that go on behind it."""

    __slots__ = ("below", "first")

    def __init__(self) -> None:
        self.below: dict[bytes, _Tree] = {}
        self.first = _NOWHERE  # the number of the first route whose prefix ends here

    def add(self, segments: Iterable[bytes], number: int) -> None:
        """Put in a prefix."""
        tree = self
        for segment in segments:
            tree = tree.below.setdefault(segment, _Tree())
        tree.first = min(tree.first, number)


_LEAF = _Tree()  # what lies behind all prefixes: nothing


class _Pattern:
    """The routes that name one host pattern."""

    __slots__ = ("below", "everything", "offloads", "prefixed")

    def __init__(self) -> None:
        self.everything = _NOWHERE  # the first route that takes every path
        self.prefixed = _NOWHERE  # the first that does not
        self.below = _Tree()
        self.offloads: dict[Offload, int] = {}  # the first route with each bound

    def add(self, route: Route, number: int, offload: Offload) -> None:
        """Put in the next route."""
        self.offloads.setdefault(offload, number)
        if route.path == "/":
            self.everything = min(self.everything, number)
        else:
            self.prefixed = min(self.prefixed, number)
            self.below.add(_segments(route.path), number)


class _View:
    """What is true of the names for which one pattern is the narrowest."""

    __slots__ = ("everything", "offload", "trees")

    def __init__(self, chain: list[_Pattern], most: Offload) -> None:
        last = min((pattern.everything for pattern in chain), default=_NOWHERE)
        self.everything = last  # no request gets past it
        self.trees = tuple(pattern.below for pattern in chain if pattern.prefixed < last)
        self.offload = _agreed(
            {
                offload
                for pattern in chain
                for offload, number in pattern.offloads.items()
                if number <= last
            },
            most,
        )


def _group(routes: tuple[Route, ...], most: Offload) -> dict[str, _Pattern]:
    """Sort routes by their host patterns."""
    patterns: dict[str, _Pattern] = {}
    for number, route in enumerate(routes):
        offload = most.at_most(route.offload)
        for text in route.hosts:
            patterns.setdefault(text, _Pattern()).add(route, number, offload)
    return patterns


def _holding(name: str, patterns: dict[str, _Pattern]) -> list[_Pattern]:
    """Find the patterns that hold a name or all names of a pattern, the narrowest first."""
    return [patterns[text] for text in wider_patterns(name) if text in patterns]


def _segments(prefix: str) -> list[bytes]:
    return prefix.rstrip("/").encode().split(b"/")


def _first_of(trees: tuple[_Tree, ...], segments: list[bytes]) -> int:
    """Find the first route with a prefix that the segments begin with."""
    first = _NOWHERE
    for tree in trees:
        step = tree
        for segment in segments:
            step = step.below.get(segment, _LEAF)
            if step is _LEAF:
                break
            if step.first < first:  # noqa: PLR1730 - min() costs more than the look-up
                first = step.first
    return first


def _agreed(offloads: set[Offload], most: Offload) -> Offload | None:
    """What they have in common, ``most`` where there are none; None if they differ."""
    found = offloads or {most}
    return next(iter(found)) if len(found) == 1 else None


def _is_single(route: Route, rivals: HostRivals) -> bool:
    if route.keepalive is Keepalive.AUTO:
        return not rivals.leave_alone(route)
    return route.keepalive is Keepalive.SINGLE
