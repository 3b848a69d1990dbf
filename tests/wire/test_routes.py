"""Routes: first match wins, hosts, prefixes at segment borders, and paths read in two ways."""

from __future__ import annotations

import pytest

from ktlsgate.config import Backend, Keepalive, Route
from ktlsgate.wire.http_head import HeadLimits, scan_head
from ktlsgate.wire.routes import (
    covers_its_host,
    hosts_overlap,
    is_single,
    match_route,
    routes_of_host,
)

A = Backend(name="a", address="/a")
B = Backend(name="b", address="/b")


def head(target="/", host="h.example", version="HTTP/1.1"):
    lines = [f"GET {target} {version}", *([f"Host: {host}"] if host else []), "", ""]
    found = scan_head("\r\n".join(lines).encode(), limits=HeadLimits())
    assert found is not None
    return found[0]


def route(path="/", *hosts, backend=A, keepalive=Keepalive.AUTO):
    return Route(hosts=hosts or ("*",), path=path, backend=backend, keepalive=keepalive)


def matches(one, **request):
    return match_route((one,), head(**request)) is one


# Order


def test_first_match_wins():
    general, special = route("/"), route("/app")
    assert match_route((general, special), head("/app")) is general
    assert match_route((special, general), head("/app")) is special
    assert match_route((special, general), head("/other")) is general


def test_no_match_is_none():
    assert match_route((route("/app"), route("/", "other.example")), head("/")) is None
    assert match_route((), head("/")) is None


# Hosts


@pytest.mark.parametrize(
    ("pattern", "host", "expected"),
    [
        ("*", "h.example", True),
        ("h.example", "h.example", True),
        ("h.example", "H.Example", True),
        ("h.example", "h.example:8443", True),
        ("h.example", "h.example.", True),
        ("*.example", "h.example.:443", True),
        ("h.example", "x.h.example", False),
        ("h.example", "xh.example", False),
        ("*.example", "h.example", True),
        ("*.example", "deep.h.example", True),
        ("*.example", "example", False),
        ("*.example", "notexample", False),
        ("*.example", "x.notexample", False),
        ("[::1]", "[::1]:443", True),
        ("127.0.0.1", "127.0.0.1", True),
    ],
)
def test_host_patterns(pattern, host, expected):
    assert matches(route("/", pattern), host=host) is expected


def test_any_pattern_of_a_route_will_do():
    one = route("/", "a.example", "*.b.example")
    assert matches(one, host="a.example")
    assert matches(one, host="x.b.example")
    assert not matches(one, host="b.example")


@pytest.mark.parametrize(("pattern", "expected"), [("*", True), ("*.example", False)])
def test_head_without_host_matches_only_the_star(pattern, expected):
    assert matches(route("/", pattern), host="", version="HTTP/1.0") is expected


def test_absolute_form_decides_over_the_host_header():
    """RFC 9112 section 3.2.2."""
    one = route("/x", "a.example")
    assert matches(one, target="https://a.example/x", host="a.example")


# Paths


@pytest.mark.parametrize(
    ("prefix", "target", "expected"),
    [
        ("/app", "/app", True),
        ("/app", "/app/", True),
        ("/app", "/app/x", True),
        ("/app", "/app?x=1", True),
        ("/app", "/apple", False),
        ("/app", "/ap", False),
        ("/app", "/App", False),
        ("/app", "/x/app", False),
        ("/app", "/", False),
        ("/app/", "/app", True),
        ("/app/", "/app/x", True),
        ("/app/", "/apple", False),
        ("/a/b", "/a/b/c", True),
        ("/a/b", "/a", False),
        ("/", "/anything", True),
        ("/app", "/%61pp", False),
        ("/app", "/app%20x", False),
        ("/app", "/app;v=1", False),
        ("/app", "/app/x;v=1/y", True),
        ("/app", "/app/...", True),
        ("/app", "/app/.well-known", True),
        ("/app", "/app/a..b", True),
        ("/app", "/app/100%25", True),
        ("/app", "/app?next=/../%2f//", True),
    ],
)
def test_prefix_ends_at_a_segment_border(prefix, target, expected):
    assert matches(route(prefix), target=target) is expected


@pytest.mark.parametrize(
    "path",
    [
        "/app/%2e%2e/x",
        "/app/%2E/x",
        "/app/a%2fb",
        "/app/a%2Fb",
        "/app/a%5cb",
        "/app/a%5Cb",
        "/app/%00",
        "/app//x",
        "//app",
        "/app/../x",
        "/app/..",
        "/app/./x",
        "/app/.",
        "/app/..;/x",
        "/app/.;a=1/x",
        "/app/..;",
    ],
)
def test_path_that_can_be_read_in_two_ways_matches_no_prefix(path):
    prefixed, everything = route("/app"), route("/", backend=B)
    assert match_route((prefixed, everything), head(path)) is everything
    assert match_route((prefixed,), head(path)) is None


def test_asterisk_of_options_matches_only_everything():
    found = scan_head(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", limits=HeadLimits())
    assert found is not None
    prefixed, everything = route("/app"), route("/")
    assert match_route((prefixed, everything), found[0]) is everything


# Which routes may keep a connection


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
def test_host_lists_overlap_when_some_name_matches_both(one, other, expected):
    assert hosts_overlap(one, other) is expected
    assert hosts_overlap(other, one) is expected


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
def test_route_covers_its_host_when_no_other_backend_can_be_meant(one, others, expected):
    for routes in ((one, *others), (*others, one)):
        assert covers_its_host(one, routes) is expected
        assert is_single(one, routes) is not expected


@pytest.mark.parametrize("path", ["/", "/app"])
def test_operators_word_decides_over_the_shape_of_the_routes(path):
    own = route(path, keepalive=Keepalive.OWN)
    single = route(path, keepalive=Keepalive.SINGLE)
    assert not is_single(own, (own, route("/", backend=B)))
    assert is_single(single, (single,))


def test_routes_of_a_host_end_where_nothing_gets_past():
    routes = (
        route("/ws", "a.example"),
        route("/", "b.example"),
        route("/", "*.example"),
        route("/x"),
        route("/"),
        route("/never"),
    )
    assert routes_of_host(routes, "a.example") == (routes[0], routes[2])
    assert routes_of_host(routes, "b.example.") == (routes[1],)
    assert routes_of_host(routes, "other") == (routes[3], routes[4])
    assert routes_of_host(routes, "") == routes
    assert routes_of_host(routes[:2], "other") == ()
