"""Host patterns as sets of names: which hold which, and which routes share names.

Theory: ``*`` holds every name, ``*.x`` those below ``x`` at any depth, anything else
itself. So two patterns lie one inside the other or have no name in common, and those
that hold a pattern are few and can be written down from its text: `wider_patterns`.
Everything else that is asked about hosts follows from these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..config import Backend, Route

__all__ = ["HostRivals", "wider_patterns"]


def wider_patterns(text: str) -> Iterator[str]:
    """Whatever pattern could hold a name, or all names of a pattern; the narrowest first."""
    yield text
    dot = text.find(".", 2 if text.startswith("*.") else 1)
    while dot > 0:
        yield "*" + text[dot:]
        dot = text.find(".", dot + 1)
    if text != "*":
        yield "*"


class HostRivals:
    """Which routes give some of a route's host names to another backend.

    Of all routes that meet at a pattern, the first is kept and the first whose backend is
    not that one's: among these two is the first rival of any backend.
    """

    __slots__ = ("_at", "_within")

    def __init__(self, routes: Sequence[Route]) -> None:
        """Compile the routes, in time that grows with their number."""
        self._at: dict[str, list[tuple[Backend, int]]] = {}  # routes that name the pattern
        self._within: dict[str, list[tuple[Backend, int]]] = {}  # that or one inside it
        for index, route in enumerate(routes):
            for host in route.hosts:
                _note(self._at.setdefault(host, []), route.backend, index)
                for text in wider_patterns(host):
                    _note(self._within.setdefault(text, []), route.backend, index)

    def first(self, route: Route) -> int | None:
        """Return the index of the first of the routes that is one, None for none."""
        return min(
            (
                index
                for host in route.hosts
                for found in (
                    self._within.get(host, ()),
                    *(self._at.get(text, ()) for text in wider_patterns(host)),
                )
                for backend, index in found
                if backend != route.backend
            ),
            default=None,
        )

    def leave_alone(self, route: Route) -> bool:
        """Whether every request that can come on a route's hosts goes to its backend."""
        return route.path == "/" and self.first(route) is None


def _note(found: list[tuple[Backend, int]], backend: Backend, index: int) -> None:
    if not found or (len(found) == 1 and found[0][0] != backend):
        found.append((backend, index))
