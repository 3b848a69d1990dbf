"""The table of loads, and what is made of the load generator's one line."""

import json

import pytest
from bench.loads import LOADS, Slice, parse_slice

LINE = {
    "operations": 400,
    "errors": 1,
    "resumed": 3,
    "bytes": 2_000_000_000,
    "wall": 0.5,
    "p50_us": 700.0,
    "p99_us": 900.0,
    "first_error": "connect: Connection refused",
}


def parsed(**changes) -> Slice:
    return parse_slice(json.dumps(LINE | changes), server_cpu=0.1, backend_cpu=0.02)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("conn", "conn -c 16 -d 0.4"),
        ("resumed", "conn -c 16 -r -d 0.4"),
        ("rsa", "conn -c 16 -d 0.4"),
        ("rsa-resumed", "conn -c 16 -r -d 0.4"),
        ("mlkem", "conn -c 16 -g X25519MLKEM768 -d 0.4"),
        ("keep", "keep -c 16 -d 0.4"),
        ("latency-1", "conn -c 1 -d 0.4"),
        ("latency-64", "conn -c 64 -d 0.4"),
        ("down", "down -c 2 -b 1000"),
        ("up", "up -c 2 -b 1000"),
    ],
)
def test_every_load_has_its_arguments(name, arguments):
    assert LOADS[name].words_for(seconds=0.4, bulk=1000) == arguments.split()


def test_every_load_is_in_the_test_above():
    assert len(LOADS) == 10


def test_a_load_resumes_sessions_where_the_load_generator_is_told_to():
    told = [name for name, load in LOADS.items() if "-r" in load.words]
    assert [name for name, load in LOADS.items() if load.resumes] == told != []


def test_cpu_time_counts_per_operation_in_microseconds():
    assert parsed().figure(LOADS["conn"]) == pytest.approx(250)
    assert parsed().backend_figure(LOADS["conn"]) == pytest.approx(50)
    assert parsed().rate(LOADS["conn"]) == 800


def test_bulk_counts_per_gigabyte_in_seconds():
    assert parsed().figure(LOADS["down"]) == pytest.approx(0.05)
    assert parsed().rate(LOADS["down"]) == 4


def test_latency_counts_the_median():
    assert parsed().figure(LOADS["latency-1"]) == 700


@pytest.mark.parametrize("name", ["conn", "down"])
def test_a_slice_in_which_nothing_succeeded_costs_nothing(name):
    nothing = parsed(operations=0, bytes=0, wall=0.0)
    assert (nothing.figure(LOADS[name]), nothing.rate(LOADS[name])) == (0, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tlsload: out of memory\n", "tlsload: out of memory"),
        ("", "the load generator said nothing"),
        ('{"operations": 1}', '{"operations": 1}'),
        ('{"no": 1}', '{"no": 1}'),
    ],
)
def test_anything_else_is_an_error_that_says_what_it_was(text, said):
    slice_ = parse_slice(text, server_cpu=0, backend_cpu=0)
    assert (slice_.operations, slice_.errors, slice_.first_error) == (0, 1, said)
