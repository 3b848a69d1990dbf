"""The command line: every option, what is refused, and which command is said to repeat the run."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bench import cli
from bench.cli import choose_peers, main
from bench.generator import Generator
from bench.growth import LADDERS
from bench.loads import LOADS
from bench.machine import BenchError, choose_cpus, find_version, no_daemons, pinned
from bench.options import KINDS, ROOT, parse_options
from bench.peers import PEERS, Peer
from bench.readme import BEGIN, END
from bench.servers import Setting
from helpers.bench_results import some_results


@pytest.fixture(autouse=True)
def root(monkeypatch):
    """Whoever runs the tests, root runs the bench here."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)


OLD = tuple(name for name, peer in PEERS.items() if not peer.is_newest)


def test_without_options_everything_is_measured():
    options = parse_options([])
    assert options.kinds == (*LOADS, *LADDERS, "idle", "leak", "calls")
    assert options.newest
    assert [ladder.sizes[-1] for ladder in options.ladders] == [1_000, 1_000, 15_000]
    assert not options.compares
    assert not options.is_recorded
    assert options.servers == tuple(PEERS)
    assert options.idle == (1_000, 5_000, 9_000, 15_000)
    assert options.leak == 50_000
    assert (options.plan.rounds, options.plan.seconds) == (15, 0.4)
    assert options.json.parent == ROOT / "bench-results"
    assert options.json.suffix == ".json"
    assert (options.readme, options.gate_python, options.programs) == (None, "", None)


def test_quick_is_most_of_it_with_less_patience():
    quick, full = parse_options(["--quick"]), parse_options([])
    assert quick.servers == OLD
    left = {"rsa-resumed", "mlkem", "latency-64", *LADDERS, "leak", "calls"}
    assert set(full.kinds) - set(quick.kinds) == left
    assert parse_options(["--quick", "--only", "calls"]).kinds == ("calls",)
    assert quick.plan.rounds < full.plan.rounds
    assert quick.idle == (1_000,)
    assert quick.leak < full.leak
    (ladder,) = parse_options(["--quick", "--only", "held"]).ladders
    assert ladder.sizes == (0, 1_000)


@pytest.mark.parametrize(
    ("words", "newest"),
    [
        ("", True),
        ("--quick", False),
        ("--quick --newest", True),
        ("--no-newest", False),
        ("--servers gate", False),
        ("--servers gate --newest", True),
        ("--servers gate,haproxy-new", True),
        ("--servers gate --only conn,mlkem", True),
        ("--servers gate --only mlkem --no-newest", False),
    ],
)
def test_newest_programs_are_had_by_root_unless_nobody_needs_them(words, newest):
    options = parse_options(words.split())
    assert options.newest is newest
    if not newest:
        assert set(options.servers) <= set(OLD)


def test_others_have_the_newest_only_if_they_ask(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert parse_options([]).servers == OLD
    assert parse_options(["--newest"]).servers == tuple(PEERS)


def test_only_chooses_measurements():
    options = parse_options(["--only", "idle,keep,conn"])
    assert options.kinds == ("conn", "keep", "idle")
    assert [load.name for load in options.loads] == ["conn", "keep"]


def test_nginx_is_always_among_the_servers():
    assert parse_options(["--servers=relay,gate"]).servers == ("nginx", "gate", "relay")


def test_the_newest_nginx_is_among_them_where_nginx_may_not_be_able():
    options = parse_options(["--servers=gate", "--only=conn,mlkem"])
    assert options.servers == ("nginx", "nginx-new", "gate")
    options = parse_options(["--servers=gate", "--only=conn,mlkem", "--no-newest"])
    assert options.servers == ("nginx", "gate")


def test_who_needs_a_kernel_with_ktls_is_only_started_there():
    options = dataclasses.replace(parse_options([]), servers=("gate", "relay"))
    assert choose_peers(options, has_ktls=False) == ([PEERS["gate"], PEERS["relay"]], [])
    options = dataclasses.replace(options, servers=("nginx-ktls", "gate"))
    assert choose_peers(options, has_ktls=False) == ([PEERS["gate"]], [])


def test_the_other_options():
    options = parse_options(
        [
            "--rounds=3",
            "--seconds=0.1",
            "--idle=20,10",
            "--leak=5",
            "--json=a.json",
            "--record",
            "--readme",
            "--gate-python=/p",
            "--programs=/f",
        ]
    )
    assert (options.plan.rounds, options.plan.seconds) == (3, 0.1)
    assert (options.idle, options.leak) == ((10, 20), 5)
    assert options.json == Path("a.json")
    assert options.is_recorded
    assert options.readme == ROOT / "README.md"
    assert (options.gate_python, options.programs) == ("/p", Path("/f"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "conn,speed"], "no measurement speed; there are conn, resumed,"),
        (["--servers", "caddy"], "no server caddy; there are nginx, nginx-new, nginx-ktls,"),
        (["--idle", "1,0"], "expected numbers of connections, got 1,0"),
        (["--idle", "many"], "expected numbers of connections, got many"),
    ],
)
def test_what_is_not_there_is_refused(arguments, said, capsys):
    with pytest.raises(SystemExit):
        parse_options(arguments)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ([], "make bench"),
        (["--quick"], "make bench ARGS=--quick"),
        (["--quick", "--json", "/x.json", "--record", "--readme"], "make bench ARGS=--quick"),
        (["--json=/x.json", "--quick", "--programs=/p"], "make bench ARGS=--quick"),
        (["--programs", "/p", "--gate-python", "/p", "--quick"], "make bench ARGS=--quick"),
        (["--readme"], "make bench"),
        (["--only", "conn", "--rounds", "3"], "make bench ARGS='--only conn --rounds 3'"),
    ],
)
def test_the_command_that_repeats_a_run_leaves_out_every_path(arguments, command):
    assert parse_options(arguments).command == command


def test_a_run_that_cannot_be_is_one_line(tmp_path, capsys):
    options = ["--programs", str(tmp_path), "--only", "leak", "--servers", "gate"]
    assert main([*options, "--json", str(tmp_path / "r.json")]) == 1
    said = f"bench: expected a program {tmp_path}/tlsload, got none\n"
    assert capsys.readouterr() == ("", said)


def test_to_compare_measures_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "HISTORY", tmp_path)
    assert main(["--compare"]) == 1
    said = "bench: expected two points in the history, got 0: see --record\n"
    assert capsys.readouterr() == ("", said)


def test_newest_programs_that_cannot_be_had_are_one_line(tmp_path, monkeypatch):
    def refuse(folder, programs):
        assert [program.name for program in programs] == ["tlsload", "backend", "floor"]
        raise BenchError("no network")

    monkeypatch.setattr(cli, "make_newest", refuse)
    notes: list[str] = []
    assert cli._newest(parse_options(["--newest"]), tmp_path, tmp_path, notes) is None
    assert notes == ["left out: the newest nginx and haproxy: no network"]
    assert cli._newest(parse_options(["--no-newest"]), tmp_path, tmp_path, notes) is None
    assert len(notes) == 1


def test_who_does_not_start_is_left_out_with_one_line(tmp_path):
    peer = Peer(
        name="fake",
        title="a fake",
        configure=lambda site: "",
        command=lambda site, file: [sys.executable, "-c", "import sys; sys.exit('line\\nline')"],
    )
    setting = Setting(folder=tmp_path, programs=tmp_path, cpu=min(os.sched_getaffinity(0)))
    generator = Generator(program=[], cpu=0, backend=0, is_keyless=True)
    bench = cli._Bench(parse_options([]), setting, generator)
    with bench._started([peer], ["rsa", "mlkem"]) as servers:
        assert servers == []
    python = Path(sys.executable).name
    assert bench.notes == [
        f"left out: a fake (rsa): {python} did not start: line line",
        "left out of X25519MLKEM768: a fake, which does not start with it",
    ]


def test_a_run_is_written_where_it_was_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    monkeypatch.setattr(cli, "HISTORY", tmp_path / "history")
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    options = parse_options(["--json", str(tmp_path / "raw" / "a.json"), "--record", "--readme"])
    cli._write(some_results(), dataclasses.replace(options, readme=readme))
    written = [Path(line).relative_to(tmp_path) for line in capsys.readouterr().out.split()]
    (point,) = (tmp_path / "history").iterdir()
    assert list(map(str, written)) == [
        "raw/a.json", "raw/a-cpu.svg", "raw/a-memory.svg", f"history/{point.name}",
        "README.md", "docs/bench-cpu.svg", "docs/bench-memory.svg",
    ]  # fmt: skip
    assert all((tmp_path / file).stat().st_size for file in written)
    assert "(docs/bench-memory.svg)" in readme.read_text()


def test_a_run_is_kept_only_if_that_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    monkeypatch.setattr(cli, "HISTORY", tmp_path / "history")
    cli._write(some_results(), parse_options(["--json", str(tmp_path / "a.json")]))
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["a-cpu.svg", "a-memory.svg", "a.json"]


def test_servers_and_clients_run_as_far_apart_as_they_can():
    cpus = choose_cpus({2, 5, 3})
    assert (cpus.server, cpus.client, cpus.are_shared) == (2, 5, False)
    assert choose_cpus({1}).are_shared


def test_what_is_started_meanwhile_runs_on_one_cpu():
    before = os.sched_getaffinity(0)
    with pinned(max(before)):
        assert os.sched_getaffinity(0) == {max(before)}
    assert os.sched_getaffinity(0) == before


def test_packages_that_are_installed_meanwhile_start_no_daemon(tmp_path):
    policy = tmp_path / "policy-rc.d"
    with no_daemons(policy):
        assert subprocess.run([policy], check=False).returncode == 101
    assert not policy.exists()


def test_a_policy_that_somebody_has_is_left_alone(tmp_path):
    policy = tmp_path / "policy-rc.d"
    policy.write_text("theirs")
    with no_daemons(policy):
        pass
    assert policy.read_text() == "theirs"


@pytest.mark.parametrize(
    ("package", "text", "version"),
    [
        (
            "nginx",
            "nginx version: nginx/1.22.1\nbuilt with OpenSSL 3.0.15 3 Sep 2024\nTLS SNI support",
            "nginx 1.22.1 (OpenSSL 3.0.15)",
        ),
        ("haproxy", "HAProxy version 2.6.12-1+deb12u4 2024/01/01 - https", "haproxy 2.6.12"),
        ("hitch", "hitch 1.7.2\n", "hitch 1.7.2"),
        (
            "stunnel4",
            "stunnel 5.68 on x86_64\nCompiled/running with OpenSSL 3.0.9 30 May 2023",
            "stunnel4 5.68 (OpenSSL 3.0.9)",
        ),
        ("hitch", "", "hitch"),
    ],
)
def test_versions_are_found_in_what_programs_say(package, text, version):
    assert find_version(package, text) == version


def pictures_in(readme):
    return re.findall(r"!\[[^]]*\]\(([^)]*)\)", readme)


def test_the_pictures_that_the_readme_shows_are_there():
    shown = pictures_in((ROOT / "README.md").read_text())
    assert len(shown) == 2
    assert [name for name in shown if not (ROOT / name).is_file()] == []


def test_the_readme_names_the_command_and_has_room_for_the_table():
    readme = (ROOT / "README.md").read_text()
    assert "\nmake bench " in readme
    assert "make bench ARGS=--quick" in readme
    makefile = (ROOT / "Makefile").read_text()
    assert "python -m bench $(ARGS)" in makefile


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_measurement_can_be_asked_for_alone(kind):
    options = parse_options(["--only", kind])
    assert options.kinds == (kind,)
    rows = [row.name for row in (*options.loads, *options.ladders)]
    assert rows == ([] if kind in {"idle", "leak", "calls"} else [kind])
