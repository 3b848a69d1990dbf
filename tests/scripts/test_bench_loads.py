"""The table of loads, and what is made of the load generator's one line."""

import json
import os
import stat
import sys
import textwrap

import pytest
from bench.loads import LOADS, Generator, Slice, parse_slice, slice_arguments
from bench.peers import PEERS
from bench.servers import Server

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
        ("conn", "conn 18000 -c 16 -d 0.4"),
        ("resumed", "conn 18000 -c 16 -r -d 0.4"),
        ("rsa", "conn 18000 -c 16 -d 0.4"),
        ("rsa-resumed", "conn 18000 -c 16 -r -d 0.4"),
        ("keep", "keep 18000 -c 16 -d 0.4"),
        ("latency-1", "conn 18000 -c 1 -d 0.4"),
        ("latency-64", "conn 18000 -c 64 -d 0.4"),
        ("down", "down 18000 -c 2 -b 1000"),
        ("up", "up 18000 -c 2 -b 1000"),
    ],
)
def test_every_load_has_its_arguments(name, arguments):
    words = slice_arguments(LOADS[name], 18000, seconds=0.4, bulk=1000, is_clear=False)
    assert words == arguments.split()


def test_every_load_is_in_the_test_above():
    assert len(LOADS) == 9


def test_clear_text_is_asked_for_by_an_option():
    words = slice_arguments(LOADS["conn"], 1, seconds=1, bulk=1, is_clear=True)
    assert words[-1] == "-k"


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


def generator(tmp_path, text) -> Generator:
    program = tmp_path / "tlsload"
    program.write_text(f"#!{sys.executable}\n" + textwrap.dedent(text))
    program.chmod(stat.S_IRWXU)
    cpu = min(os.sched_getaffinity(0))
    return Generator(program=program, cpu=cpu, backend=os.getpid(), is_keyless=True)


def server(name) -> Server:
    return Server(peer=PEERS[name], key="ec", port=1, pid=os.getpid())


def test_a_load_that_prepares_is_told_to_begin(tmp_path):
    slice_ = generator(
        tmp_path,
        f"""\
        import json, os, sys
        print("ready", flush=True)
        line = {LINE!r} | {{"first_error": repr(sys.stdin.readline()) + sys.argv[1]}}
        print(json.dumps(line | {{"errors": len(os.sched_getaffinity(0))}}))
        """,
    ).run(server("gate"), ["keep"])
    assert slice_.first_error == "'begin\\n'keep"
    assert slice_.errors == 1, "pinned to one CPU"


def test_only_those_that_hand_over_leave_clear_text(tmp_path):
    one = generator(tmp_path, "")
    assert [name for name in PEERS if one.is_clear(server(name))] == ["gate"]
