"""Routes that hide each other or let requests slip past are complaints."""

import sys

import pytest
from helpers.config_text import error_of, errors_of, parse, routes
from helpers.plain_routes import ROUTES, first_rival, hiding
from helpers.properties import given

from ktlsgate import config
from ktlsgate.service.config_routes import check_routes


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("", ""),
        ("", "host = 'x'"),
        ("", "path = '/x'"),
        ("host = '*.x'", "host = 'a.b.x'"),
        ("host = '*.x'", "host = '*.b.x'"),
        ("path = '/a'", "path = '/a/b'"),
        ("host = ['x', 'y']", "host = 'y', path = '/a'"),
    ],
)
def test_route_that_an_earlier_one_covers_is_a_complaint(earlier, later):
    text = routes(f"backend = 'a', {earlier}", f"backend = 'b', {later}")
    [error] = errors_of(text)
    assert error.endswith(
        ": route: expected a route that some request can reach, got one whose requests all go to route 1:"
        " the first route that matches wins"
    )
    line = int(error.split(":")[1])
    assert text.splitlines()[line - 1] == "[[route]]"
    assert "[[route]]" not in text.splitlines()[line:]


def test_route_whose_hosts_are_covered_by_several_is_a_complaint():
    text = routes(
        "backend = 'a', host = 'x'", "backend = 'b', host = 'y'", "backend = 'a', host = ['y', 'x']"
    )
    assert "got one whose requests all go to route 1 and 2:" in error_of(text)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("host = 'x'", ""),
        ("host = '*.x'", "host = 'x'"),
        ("path = '/a'", "path = '/ab'"),
        ("path = '/a/b'", "path = '/a'"),
        ("host = 'x', path = '/a'", "host = 'y', path = '/a'"),
        ("host = 'x'", "host = ['x', 'y']"),
    ],
)
def test_route_that_some_request_reaches_is_fine(earlier, later):
    assert len(parse(routes(f"backend = 'a', {earlier}", f"backend = 'b', {later}")).routes) == 2


def test_own_keepalive_on_a_part_of_a_host_is_a_complaint():
    [error] = errors_of(routes("backend = 'a', path = '/x', keepalive = 'own'"))
    assert error == (
        'k.toml:7: route.keepalive: expected "auto" or "single", got "own":'
        ' this route is only a part of its host (path "/x"),'
        " so a later request on the same connection would slip past the routes"
    )


@pytest.mark.parametrize(
    ("one", "own"),
    [("path = '/x'", ""), ("host = 'x'", ""), ("host = '*.x'", "host = 'x.x'")],
)
def test_own_keepalive_beside_a_route_to_another_backend_is_a_complaint(one, own):
    tables = [f"backend = 'a', {one}", f"backend = 'b', keepalive = 'own', {own}"]
    if own:
        tables.reverse()
    [error] = errors_of(routes(*tables))
    assert error.endswith(
        f' expected "auto" or "single", got "own": route {2 if own else 1} gives some of the'
        ' same hosts to "a", so a later request on the same connection would slip past the routes'
    )


def test_own_keepalive_is_fine_where_all_of_the_host_goes_to_one_backend():
    text = routes(
        "backend = 'a', path = '/x', host = 'x'",
        "backend = 'a', host = 'x', keepalive = 'own'",
        "backend = 'b', host = 'y', keepalive = 'own'",
    )
    assert parse(text).routes[1].keepalive is config.Keepalive.OWN


def test_route_that_cannot_be_read_hides_no_other():
    [error] = errors_of(routes("backend = 'a', host = 7", "backend = 'b', host = 'x'"))
    assert "host" in error


def test_secrets_are_shared_only_by_wish():
    text = routes("backend = 'a', host = 'x', share_secrets = true", "backend = 'b'")
    assert [route.share_secrets for route in parse(text).routes] == [True, False]


def test_secrets_in_nginxs_dialect_are_a_complaint():
    text = routes("backend = 'a', share_secrets = true")
    [error] = errors_of(text.replace("'unix:@a'", "'unix:@a'\nbackend.a.dialect = 'nginx'"))
    assert error == (
        "k.toml:7: route.share_secrets: expected false, got true:"
        ' the dialect "nginx" of backend "a" has no fields for secrets'
    )


def test_secrets_are_shared_by_true_or_false_alone():
    [error] = errors_of(routes("backend = 'a', share_secrets = 'yes'"))
    assert error == 'k.toml:6: route.share_secrets: expected true or false, got "yes"'


def plain_complaints(listed):
    """What must be complained of, every route against every other."""
    for index, route in enumerate(listed):
        if hidden := hiding(route, listed[:index]):
            numbers = " and ".join(str(number + 1) for number in hidden)
            yield (
                index,
                "",
                (
                    "expected a route that some request can reach, got one whose requests"
                    f" all go to route {numbers}: the first route that matches wins"
                ),
            )
        if route.keepalive is not config.Keepalive.OWN:
            continue
        rival, why = first_rival(route, listed), ""
        if route.path != "/":
            why = f'this route is only a part of its host (path "{route.path}")'
        elif rival is not None:
            name = listed[rival].backend.name
            why = f'route {rival + 1} gives some of the same hosts to "{name}"'
        if why:
            yield (
                index,
                "keepalive",
                (
                    f'expected "auto" or "single", got "own": {why},'
                    " so a later request on the same connection would slip past the routes"
                ),
            )


@given(ROUTES, examples=1000)
def test_complaints_are_those_of_every_route_against_every_other(listed):
    assert list(check_routes(listed)) == list(plain_complaints(listed))


def count_lines(call):
    """How many lines of Python run until it returns; a turn of a loop counts anew."""
    count = 0

    def trace(_frame, event, _arg):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


MANY = {
    "hosts": lambda n: {"hosts": (f"h{n}.example",)},
    "wildcards": lambda n: {"hosts": (f"*.h{n}.example",)},
    "paths": lambda n: {"path": f"/x/{n}"},
    "both": lambda n: {"hosts": (f"h{n}.example", f"*.h{n}.example"), "path": f"/x/{n}"},
    "nested": lambda n: {"hosts": (f"h{n}.example", "*.example"), "path": f"/{n}/x"},
}


@pytest.mark.parametrize("kind", MANY)
def test_each_route_costs_the_check_the_same_however_many_there_are(kind):
    """Counted in lines of code that run, since clocks differ from run to run."""

    def cost(number):
        listed = [
            config.Route(
                **MANY[kind](n),
                backend=config.Backend(name=f"b{n % 7}", addresses=("/x",)),
                keepalive=config.Keepalive.OWN,
            )
            for n in range(number)
        ]
        return count_lines(lambda: list(check_routes(listed)))

    few, more, many = cost(100), cost(200), cost(400)
    assert many - more < 2.1 * (more - few)
