"""Host patterns: what holds what, and which routes share names; against the plain rule."""

from __future__ import annotations

import pytest
from helpers.plain_routes import (
    BACKENDS,
    PATTERNS,
    ROUTES,
    covers_host,
    covers_its_host,
    first_rival,
)
from helpers.properties import given, st

from ktlsgate.config import Route
from ktlsgate.wire.host_patterns import HostRivals, wider_patterns
from ktlsgate.wire.routes import RouteTable

A, B, C = BACKENDS


def route(path="/", *hosts, backend=A):
    return Route(hosts=hosts or ("*",), path=path, backend=backend)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*", ["*"]),
        ("a", ["a", "*"]),
        ("*.a", ["*.a", "*"]),
        ("x.y.a", ["x.y.a", "*.y.a", "*.a", "*"]),
        ("*.y.a", ["*.y.a", "*.a", "*"]),
        (".a", [".a", "*"]),
        ("[::1]", ["[::1]", "*"]),
    ],
)
def test_whatever_could_hold_a_pattern_follows_from_its_text(text, expected):
    assert list(wider_patterns(text)) == expected


@given(PATTERNS, st.lists(PATTERNS, max_size=8))
def test_a_pattern_that_holds_another_is_among_its_wider_ones(narrow, others):
    wider = list(wider_patterns(narrow))
    assert {one for one in others if one in wider} == {
        one for one in others if covers_host(one, narrow)
    }
    assert len(set(wider)) == len(wider)
    assert all(map(covers_host, wider[1:], wider))  # the narrowest first


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (("*",), ("a",), True),
        (("a",), ("a",), True),
        (("a",), ("b",), False),
        (("*.a",), ("x.a",), True),
        (("x.a",), ("*.a",), True),
        (("*.a",), ("a",), False),
        (("*.a",), ("*.x.a",), True),
        (("*.x.a",), ("*.a",), True),
        (("*.a",), ("*.b",), False),
        (("*.a",), ("*.ba",), False),
        (("p", "q"), ("r", "q"), True),
        ((), ("*",), False),
    ],
)
def test_routes_are_rivals_when_some_name_is_of_both(one, other, expected):
    routes = Route(hosts=one, backend=A), Route(hosts=other, backend=B)
    rivals = HostRivals(routes)
    assert [rivals.first(each) for each in routes] == ([1, 0] if expected else [None, None])


def test_a_route_to_the_same_backend_is_no_rival():
    routes = (route("/", "a"), route("/x", "a"), route("/", "*.a", backend=B))
    assert HostRivals(routes).first(routes[0]) is None


def test_the_first_of_several_rivals_is_told():
    routes = (
        route("/", "x.a"),
        route("/", "*.a", backend=B),
        route("/", "y.a", backend=C),
        route(backend=C),
    )
    rivals = HostRivals(routes)
    assert [rivals.first(each) for each in routes] == [1, 0, 1, 0]


COVERING = [
    ("alone", route("/"), (), True),
    ("prefix", route("/app"), (), False),
    ("same backend elsewhere", route("/"), (route("/app"),), True),
    ("other backend on the same host", route("/"), (route("/app", backend=B),), False),
    ("other backend on another host", route("/", "a"), (route("/", "b", backend=B),), True),
    ("other backend on every host", route("/", "a"), (route("/", backend=B),), False),
    ("other backend below", route("/", "*.a"), (route("/", "x.a", backend=B),), False),
    ("other backend above", route("/", "*.a"), (route("/", "a", backend=B),), True),
]


@pytest.mark.parametrize(
    ("one", "others", "expected"), [row[1:] for row in COVERING], ids=[row[0] for row in COVERING]
)
def test_route_is_left_alone_when_no_other_backend_can_be_meant(one, others, expected):
    for routes in ((one, *others), (*others, one)):
        assert HostRivals(routes).leave_alone(one) is expected
        assert RouteTable(routes).rows[routes.index(one)] == (one, not expected)


@given(ROUTES, examples=500)
def test_rivals_are_those_of_every_route_against_every_other(routes):
    rivals = HostRivals(routes)
    for one in routes:
        assert rivals.first(one) == first_rival(one, routes)
        assert rivals.leave_alone(one) == covers_its_host(one, routes)
