"""Routes: first match wins, hosts, prefixes at segment borders, and paths read in two ways."""

from __future__ import annotations

import itertools
import re
import sys

import pytest
from helpers.plain_routes import BACKENDS, NAMES, ROUTES, covers_its_host, word
from helpers.properties import given, st

from ktlsgate.config import Keepalive, Offload, Route
from ktlsgate.wire.http_head import HeadLimits, scan_head
from ktlsgate.wire.routes import RouteTable

A, B, _ = BACKENDS


def head(target="/", host="h.example", version="HTTP/1.1"):
    lines = [f"GET {target} {version}", *([f"Host: {host}"] if host else []), "", ""]
    found = scan_head("\r\n".join(lines).encode(), limits=HeadLimits())
    assert found is not None
    return found[0]


def route(path="/", *hosts, backend=A, keepalive=Keepalive.AUTO, offload=Offload.BOTH):
    return Route(
        hosts=hosts or ("*",), path=path, backend=backend, keepalive=keepalive, offload=offload
    )


def find(routes, request):
    """The route that wins; None when there is none."""
    found = RouteTable(routes).match(request)
    return found and found.route


def matches(one, **request):
    return find((one,), head(**request)) is one


# Order


def test_first_match_wins():
    general, special = route("/"), route("/app")
    assert find((general, special), head("/app")) is general
    assert find((special, general), head("/app")) is special
    assert find((special, general), head("/other")) is general


def test_first_match_wins_among_nested_and_repeated_prefixes():
    wide, deep, again = route("/a"), route("/a/b/c"), route("/a/b/c", backend=B)
    assert find((wide, deep), head("/a/b/c")) is wide
    assert find((deep, wide), head("/a/b/c")) is deep
    assert find((deep, wide), head("/a/b")) is wide
    assert find((deep, again), head("/a/b/c")) is deep


def test_first_match_wins_among_hosts_that_hold_each_other():
    name, below = route("/x", "a.example"), route("/x", "*.example")
    everything, rest = route("/x"), route("/")
    for routes in ((name, below, everything), (everything, name, below), (below, everything, name)):
        assert find((*routes, rest), head("/x", "a.example")) is routes[0]
        assert find((*routes, rest), head("/y", "a.example")) is rest
        assert find((rest, *routes), head("/x", "a.example")) is rest


def test_no_match_is_none():
    assert find((route("/app"), route("/", "other.example")), head("/")) is None
    assert find((), head("/")) is None


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
    assert find((prefixed, everything), head(path)) is everything
    assert find((prefixed,), head(path)) is None


def test_asterisk_of_options_matches_only_everything():
    found = scan_head(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", limits=HeadLimits())
    assert found is not None
    prefixed, everything = route("/app"), route("/")
    assert find((prefixed, everything), found[0]) is everything


# Which routes may keep a connection


@pytest.mark.parametrize("path", ["/", "/app"])
def test_operators_word_decides_over_the_shape_of_the_routes(path):
    own = route(path, keepalive=Keepalive.OWN)
    single = route(path, keepalive=Keepalive.SINGLE)
    assert RouteTable((own, route("/", backend=B))).rows[0] == (own, False)
    assert RouteTable((single,)).rows == ((single, True),)


def test_match_tells_what_becomes_of_its_connection():
    routes = (route("/app"), route("/", backend=B))
    assert RouteTable(routes).match(head("/app")) == (routes[0], True)
    assert RouteTable(routes[1:]).match(head("/app")) == (routes[1], False)


# How far keys may move before the route is known


BOTH, TX, NONE = Offload.BOTH, Offload.TX, Offload.NONE


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("a.example", TX),
        ("b.example", NONE),
        ("b.example.", NONE),
        ("other", BOTH),
        ("", None),
        (".", None),
    ],
)
def test_routes_of_a_name_end_where_nothing_gets_past(name, bound):
    table = RouteTable((
        route("/ws", "a.example", offload=TX),
        route("/", "b.example", offload=NONE),
        route("/", "*.example", offload=TX),
        route("/x", offload=BOTH),
        route("/", offload=BOTH),
        route("/never", offload=NONE),
        route("/never", "a.example", "b.example", offload=BOTH),
    ))  # fmt: skip
    assert table.offload_of(name) is bound


def test_a_name_whose_routes_differ_has_no_bound():
    table = RouteTable((route("/ws", "*.example", offload=TX), route("/", offload=NONE)))
    assert table.offload_of("a.example") is None
    assert table.offload_of("example") is NONE


def test_a_listener_bounds_all_routes():
    routes = (
        route("/ws", "a", offload=BOTH),
        route("/", "a", offload=TX),
        route("/", "b", offload=NONE),
    )
    table = RouteTable(routes, TX)
    assert [table.offload_of(name) for name in ("a", "b", "c", "")] == [TX, NONE, TX, None]
    assert RouteTable(routes, NONE).offload_of("") is NONE


def test_a_name_of_tls_may_begin_with_a_dot():
    """A ClientHello may say what no DNS name looks like; a Host header may not."""
    table = RouteTable((
        route("/", "*.very.long.example", offload=NONE),
        route("/", "*.example", offload=TX),
    ))  # fmt: skip
    names = (".a.example", "..example", ".example", ".very.long.example", ".")
    assert [table.offload_of(name) for name in names] == [TX, TX, BOTH, TX, None]


def test_where_all_routes_agree_the_name_is_nothing():
    table = RouteTable((route("/", "a", offload=TX), route("/x", "b", offload=TX)))
    assert [table.offload_of(name) for name in ("a", "b", "c", "")] == [TX, TX, TX, TX]


def test_without_routes_the_listener_alone_decides():
    assert RouteTable((), TX).offload_of("a.example") is TX
    assert RouteTable(()).offload_of("") is BOTH


# The table against a walk along all routes


_AMBIGUOUS = re.compile(rb"%2f|%2e|%5c|%00|\\|//|/\.\.?(?=[/;]|\Z)", re.IGNORECASE)


def holds(patterns, name):
    """Whether one of them is everything, the name, or above it."""
    return any(
        pattern in ("*", name)
        or (pattern[0] == "*" and re.fullmatch(".+" + re.escape(pattern[1:]), name))
        for pattern in patterns
    )


def leads(prefix, path):
    if prefix == "/":
        return True
    return (path + b"/").startswith(prefix.encode() + b"/") and not _AMBIGUOUS.search(path)


def walk(routes, request):
    """All that the table must say of a head, found the long way."""
    name = request.host.removesuffix(".")
    named = [one for one in routes if holds(one.hosts, name)]
    winner = next((one for one in named if leads(one.path, request.path)), None)
    last = next((at for at, one in enumerate(named) if one.path == "/"), len(named))
    everywhere = {one.offload for one in routes}
    said = {one.offload for one in named[: last + 1]} or {BOTH}
    if len(everywhere) == 1 or not name:  # the name does not matter, or is not known
        said = everywhere
    return winner, next(iter(said)) if len(said) == 1 else None


HOSTS = st.tuples(
    NAMES, st.sampled_from(("", "", ".")), st.sampled_from(("", ":8443")), st.booleans()
).map(lambda parts: (parts[0].upper() if parts[3] else parts[0]) + parts[1] + parts[2])
ODD = st.sampled_from(("", ".", "..", "..;v", "%2F", "x%2e", "x;y", "x\\", "%78", "X"))
TARGETS = st.tuples(
    word("x", "y", "xy", most=4), st.just([]) | st.lists(ODD, max_size=1), word("x", "y", most=2)
).map(lambda parts: "/" + "/".join(itertools.chain(*parts)))
QUERIES = st.sampled_from(("", "", "?/../x//"))


@given(ROUTES, st.lists(st.tuples(HOSTS, TARGETS, QUERIES), min_size=1, max_size=8), examples=500)
def test_table_says_what_a_walk_along_all_routes_would(routes, requests):
    table = RouteTable(routes)
    for host, target, query in requests:
        request = head(target + query, host)
        found = table.match(request)
        assert (found and found.route, table.offload_of(request.host)) == walk(routes, request)
        assert not found or any(found is row for row in table.rows)


@given(ROUTES)
def test_table_says_of_each_route_whether_it_covers_its_host(routes):
    words = {Keepalive.OWN: lambda _: False, Keepalive.SINGLE: lambda _: True}
    alone = {Keepalive.AUTO: lambda one: not covers_its_host(one, routes)}
    expected = [(one, (words | alone)[one.keepalive](one)) for one in routes]
    assert list(RouteTable(routes).rows) == expected


# What a match costs: counted in lines of code that run, since clocks differ from run to run


def count_lines(call, *args):
    """How many lines of Python run until it returns; a turn of a loop counts anew."""
    count = 0

    def trace(_frame, event, _arg):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call(*args)
    finally:
        sys.settrace(before)
    return count


MANY = {
    "hosts": (lambda n: route("/", f"h{n}.example", offload=Offload.TX), "h3.example"),
    "wildcards": (lambda n: route("/app", f"*.h{n}.example", offload=Offload.TX), "x.h3.example"),
    "paths": (lambda n: route(f"/{n}", offload=Offload.TX), "h.example"),
    "both": (lambda n: route(f"/{n}", f"h{n}.example", offload=Offload.TX), "h3.example"),
}


@pytest.mark.parametrize("kind", MANY)
@pytest.mark.parametrize("target", ["/3/x", "/app", "/none"])
def test_more_routes_cost_a_connection_no_more(kind, target):
    make, host = MANY[kind]
    costs = set()
    for number in (5, 50, 500):
        table = RouteTable((*map(make, range(number)), route("/", "other.example", "*")))
        request = head(target, host)
        costs.add((count_lines(table.match, request), count_lines(table.offload_of, host)))
    assert len(costs) == 1


@pytest.mark.parametrize("segment", ["/", "/a", "/x", "/.."])
def test_long_path_is_followed_no_deeper_than_the_routes(segment):
    table = RouteTable((route("/a/a"), route("/x/y/z"), route("/")))
    costs = {count_lines(table.match, head(segment * times)) for times in (4, 40, 2000)}
    assert len(costs) == 1


def test_prefixes_cost_nothing_where_a_route_before_them_takes_all():
    alone = (route("/", "h.example"),)
    behind = (*alone, route("/x", "*.example"), route("/x"), route("/x", "h.example"))
    costs = {count_lines(RouteTable(each).match, head("/x")) for each in (alone, behind)}
    assert len(costs) == 1


def test_deep_prefix_costs_other_paths_nothing():
    tables = [RouteTable((route("/a"), route(path))) for path in ("/b", "/b" * 40)]
    assert len({count_lines(table.match, head("/c" * 50)) for table in tables}) == 1


def test_long_name_is_tried_no_further_than_the_patterns():
    table = RouteTable((route("/", "*.example"), route("/", "*.b.example", backend=B)))
    costs = {
        count_lines(table.match, head(host="a." * times + "example")) for times in (4, 40, 120)
    }
    assert len(costs) == 1
