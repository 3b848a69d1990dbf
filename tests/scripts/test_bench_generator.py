"""How the load generator is called, and what is made of what it says."""

import os
import stat
import sys
import textwrap

import pytest
from bench.generator import Generator, Holding
from bench.peers import PEERS
from bench.servers import Server

LINE = {
    "operations": 400,
    "errors": 1,
    "resumed": 3,
    "bytes": 0,
    "wall": 0.5,
    "p50_us": 700.0,
    "p99_us": 900.0,
    "first_error": "",
}


def generator(tmp_path, text="", *, is_keyless=True) -> Generator:
    program = tmp_path / "tlsload"
    program.write_text(f"#!{sys.executable}\n" + textwrap.dedent(text))
    program.chmod(stat.S_IRWXU)
    cpu = min(os.sched_getaffinity(0))
    return Generator(program=[str(program)], cpu=cpu, backend=os.getpid(), is_keyless=is_keyless)


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


def test_clear_text_is_asked_for_by_an_option(tmp_path):
    one = generator(tmp_path)
    program = str(tmp_path / "tlsload")
    assert one.command(server("gate"), ["conn", "-r"]) == [program, "conn", "1", "-r", "-k"]
    assert one.command(server("nginx"), ["conn", "-r"]) == [program, "conn", "1", "-r"]


@pytest.mark.parametrize(
    ("is_keyless", "names"),
    [
        (True, ["gate", "gate-each", "gate-openssl", "floor", "floor-new"]),
        (False, ["floor", "floor-new"]),
    ],
)
def test_those_that_hand_over_leave_clear_text_where_no_kernel_has_keys(
    tmp_path, is_keyless, names
):
    one = generator(tmp_path, is_keyless=is_keyless)
    assert [name for name in PEERS if one.is_clear(server(name))] == names


def test_so_many_connections_are_made_within_a_time(tmp_path):
    text = f"""\
        import json, sys
        print(json.dumps({LINE!r} | {{"first_error": " ".join(sys.argv[1:])}}))
        """
    slice_ = generator(tmp_path, text).make(server("nginx"), 300, 60)
    assert slice_.first_error == "conn 1 -c 16 -n 300 -d 60"


def test_connections_are_held_until_the_block_ends(tmp_path):
    text = f"""\
        import json, pathlib, sys
        print(json.dumps({{"held": 7, "first_error": " ".join(sys.argv[1:])}}), flush=True)
        sys.stdin.read()
        pathlib.Path({str(tmp_path / "ended")!r}).touch()
        """
    with generator(tmp_path, text).holding(server("nginx"), "half", 9) as holding:
        assert holding == Holding(held=7, first_error="half 1 -c 32 -n 9 -d 600")
        assert not (tmp_path / "ended").exists()
    assert (tmp_path / "ended").exists()


def test_a_load_generator_that_says_nothing_holds_nothing(tmp_path):
    with generator(tmp_path).holding(server("nginx"), "idle", 9) as holding:
        assert holding == Holding(held=0, first_error="the load generator said nothing")


def test_a_group_that_cannot_be_offered_is_refused_with_words(tmp_path):
    text = """\
        import sys
        sys.exit(sys.argv.count("odd") * "no such group")
        """
    one = generator(tmp_path, text)
    assert (one.refuses("odd"), one.refuses("usual")) == ("no such group", "")
