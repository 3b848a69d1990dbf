"""What routes say together, found the plain and slow way: every route against every other."""

from __future__ import annotations

from helpers.properties import st

from ktlsgate.config import Backend, Keepalive, Offload, Route

__all__ = [
    "BACKENDS",
    "NAMES",
    "PATTERNS",
    "ROUTES",
    "covers_host",
    "covers_its_host",
    "covers_path",
    "first_rival",
    "hiding",
    "hosts_overlap",
    "word",
]

BACKENDS = A, B, C = tuple(Backend(name=name, addresses=(f"/{name}",)) for name in "abc")


def covers_host(wide, narrow):
    """Whether every name of the pattern ``narrow`` belongs to ``wide`` too."""
    return wide in ("*", narrow) or (wide.startswith("*.") and narrow.endswith(wide[1:]))


def hosts_overlap(one, other):
    """Whether some host name is matched by both lists of patterns."""
    return any(covers_host(a, b) or covers_host(b, a) for a in one for b in other)


def first_rival(route, routes):
    """The index of the first route that gives some of a route's names to another backend."""
    return next(
        (
            index
            for index, other in enumerate(routes)
            if other.backend != route.backend and hosts_overlap(other.hosts, route.hosts)
        ),
        None,
    )


def covers_its_host(route, routes):
    """Whether every request that can come on this route's hosts goes to its backend."""
    return route.path == "/" and first_rival(route, routes) is None


def covers_path(wide, narrow):
    """Whether every path below the prefix ``narrow`` is below ``wide`` too."""
    return wide in ("/", narrow) or narrow.startswith(wide + "/")


def hiding(route, earlier):
    """The indexes of the first routes that take each of a route's hosts; none if one is free."""
    takers = [
        next(
            (
                index
                for index, other in enumerate(earlier)
                if any(covers_host(wide, host) for wide in other.hosts)
                and covers_path(other.path, route.path)
            ),
            None,
        )
        for host in route.hosts
    ]
    return [] if None in takers else sorted(set(takers))


def word(*letters, most=3):
    """A strategy for short lists of few words."""
    return st.lists(st.sampled_from(letters), min_size=1, max_size=most)


# Few labels and segments, so that patterns nest, meet and miss each other often.
NAMES = word("a", "b", most=4).map(".".join)
PATTERNS = st.just("*") | NAMES | NAMES.map("*.{}".format)
PREFIXES = st.just("/") | word("x", "y", "xy").map("/".join).map("/{}".format)
ROUTES = st.lists(
    st.builds(
        Route,
        hosts=st.just(("*",)) | st.lists(PATTERNS, max_size=3).map(tuple),
        path=PREFIXES,
        backend=st.sampled_from((A, A, A, B, C)),
        offload=st.sampled_from(Offload),
        keepalive=st.sampled_from((Keepalive.AUTO, Keepalive.AUTO, *Keepalive)),
    ),
    max_size=8,
).map(tuple)
