"""From slices to tables, verdicts, the README and the picture."""

import json
import xml.etree.ElementTree as ET

import pytest
from bench.breakeven import LIVES, first_cheaper_request, life_cost
from bench.chart import draw
from bench.goals import GOALS, Goal, Verdict, judge
from bench.idle import Held
from bench.leak import Leak
from bench.loads import LOADS, Slice
from bench.machine import BenchError
from bench.readme import BEGIN, END, replace_table
from bench.report import markdown, terminal
from bench.results import Results
from bench.rounds import Series
from bench.syscalls import Calls

SERVERS = ["nginx", "gate", "relay", "haproxy", "haproxy-tcp"]


def one(cpu_us=0.0, *, operations=1000, errors=0, p50=500.0, gigabytes=0.0, backend_us=0.0):
    """A slice whose operations cost so much."""
    return Slice(
        operations=operations,
        errors=errors,
        resumed=0,
        bytes=int(gigabytes * 1e9),
        wall=0.5,
        p50_us=p50,
        p99_us=2 * p50,
        first_error="receive: Connection reset by peer" if errors else "",
        server_cpu=cpu_us * operations / 1e6,
        backend_cpu=backend_us * operations / 1e6,
    )


def series(load, server, *slices):
    return Series(load=load, server=server, slices=dict(enumerate(slices)))


def bulk(cpu_seconds):
    """A slice of one gigabyte."""
    return one(cpu_seconds * 1e6, operations=1, gigabytes=1.0)


def held(server, asked, *, got=None, pss=0, rss=0, entries=0):
    return Held(
        server=server,
        asked=asked,
        held=asked if got is None else got,
        rss=40_000 + rss,
        pss=30_000 + pss,
        pss_before=30_000,
        descriptors=12,
        descriptors_before=10,
        epoll_entries=3 + entries,
        epoll_entries_before=3,
        first_error="",
    )


@pytest.fixture
def results() -> Results:
    made = [
        series("conn", "nginx", one(200, backend_us=20), one(400, backend_us=20)),
        series("conn", "gate", one(220, backend_us=40), one(420, backend_us=40)),
        series("keep", "nginx", one(16), one(16)),
        series("keep", "gate", one(0.2, operations=1600), one(0.2, operations=1600)),
        series("keep", "relay", one(18, errors=2), one(18)),
        series("keep", "haproxy-tcp", one(15), one(15)),
        series("latency-1", "nginx", one(1, p50=600)),
        series("latency-1", "gate", one(1, p50=660)),
        series("down", "nginx", bulk(0.7)),
        series("down", "gate", bulk(0.0)),
        series("down", "relay", bulk(0.5)),
        series("down", "haproxy", bulk(0.5)),
    ]
    return Results(
        machine={"machine": "a machine", "peers": "nginx 1.26", "gate": ""},
        command="make bench ARGS=--quick",
        is_keyless=True,
        servers=SERVERS,
        notes=["left out: hitch: not installed (Debian: apt-get install hitch)"],
        series=made,
        idle=[
            held("nginx", 1_000, pss=50_000),
            held("gate", 1_000, rss=100),
            held("gate", 15_000, rss=356, entries=0),
            held("nginx", 15_000, got=9_990),
            held("nginx", 5_000, pss=250_000),
            held("relay", 5_000, pss=125_000),
        ],
        leaks=[
            Leak(
                server="gate",
                connections=50_000,
                errors=0,
                rss=(37_888, 37_900, 37_900, 37_990, 37_990),
                descriptors_before=10,
                descriptors=10,
            )
        ],
        calls=[Calls(server="gate", connections=100, calls={"recvfrom": 900, "brk": 3})],
    )


def test_what_counts_is_the_median_of_the_rounds(results):
    assert results.cost(LOADS["conn"], "nginx").median == pytest.approx(300)


def test_a_ratio_is_taken_round_by_round(results):
    found = results.ratio(LOADS["conn"], "gate")
    assert found.median == pytest.approx((1.1 + 1.05) / 2)


def test_a_backends_time_can_be_counted_in(results):
    found = results.with_backend_ratio(LOADS["conn"], "gate")
    assert found.median == pytest.approx((260 / 220 + 460 / 420) / 2)


def test_a_load_that_did_not_run_has_no_figure(results):
    assert results.cost(LOADS["rsa"], "nginx") is None
    assert results.ratio(LOADS["rsa"], "gate") is None


def test_rounds_without_success_do_not_count(results):
    results.series[1].slices[0] = one(0, operations=0, errors=1)
    assert results.ratio(LOADS["conn"], "gate").count == 1


def test_a_life_is_the_connection_the_other_requests_and_the_bytes(results):
    by_title = {life.title: life_cost(results, "nginx", life) for life in LIVES}
    assert by_title == pytest.approx(
        {
            "1 request": 300,
            "4 requests": 348,
            "20 requests": 604,
            "100 requests": 1884,
            "1 MB": 1000,
            "1 GB": 700_300,
        }
    )


def test_a_life_of_unknown_parts_is_unknown(results):
    assert life_cost(results, "haproxy", LIVES[0]) is None
    assert first_cheaper_request(results, "haproxy") is None


@pytest.mark.parametrize(
    ("connection", "request_", "first"),
    [(320, 0.2, 3), (299, 20, 1), (320, 16, None), (300, 6, 2), (310, 6, 3)],
)
def test_from_which_request_on_a_life_is_cheaper(results, connection, request_, first):
    results.series[1] = series("conn", "gate", one(connection))
    results.series[3] = series("keep", "gate", one(request_))
    assert first_cheaper_request(results, "gate") == first


def test_memory_of_an_idle_connection_is_what_was_added(results):
    assert results.held("nginx", 1_000).bytes_each == 51_200
    assert held("nginx", 5, got=0).bytes_each == 0


def test_who_stopped_before_all_were_there_has_no_figure_for_that_count(results):
    assert results.held("nginx", 15_000) is None
    assert results.held("gate", 15_000) is not None


def test_each_goal_that_was_measured_is_judged(results):
    figures = {verdict.goal.title: round(verdict.figure, 3) for verdict in judge(results)}
    assert figures == {
        "CPU of a connection handed over / of one through nginx": 1.075,
        "CPU of a request after the handoff / of one through nginx": 0.013,
        "requests a second after the handoff / through nginx": 1.6,
        "median time of a new connection, 1 at once / nginx": 1.1,
        "MB of growth from 1,000 to 15,000 connections handed over": 0.25,
        "epoll entries more than before, 15,000 connections handed over": 0,
        "MB of growth behind the first fifth of 50,000 connections": round(102 / 1024, 3),
        "memory of an idle relayed connection / nginx": 0.5,
        "CPU of a relayed request / haproxy tcp": 1.2,
        "CPU of a relayed download / haproxy http": 1.0,
    }


def test_nothing_measured_is_nothing_judged():
    empty = Results(machine={}, command="", is_keyless=True, servers=[])
    assert judge(empty) == []
    assert len({goal.title for goal in GOALS}) == len(GOALS)


@pytest.mark.parametrize(
    ("figure", "is_least", "line"),
    [
        (1.1, False, "met       1.10  <= 1.1   a title"),
        (1.104, False, "met       1.10  <= 1.1   a title"),
        (1.106, False, "MISSED    1.11  <= 1.1   a title"),
        (1.1, True, "met       1.10  >= 1.1   a title"),
        (1.09, True, "MISSED    1.09  >= 1.1   a title"),
    ],
)
def test_a_verdict_is_one_line(figure, is_least, line):
    goal = Goal(title="a title", bound=1.1, measure=lambda _: figure, is_least=is_least)
    assert Verdict(goal=goal, figure=figure).line == line


def test_the_terminal_gets_everything(results):
    text = terminal(results)
    lines = text.splitlines()
    assert lines[:3] == [
        "machine: a machine",
        "peers: nginx 1.26",
        "left out: hitch: not installed (Debian: apt-get install hitch)",
    ]
    assert "not installed, since this kernel has no kTLS" in lines[3]
    assert "ktlsgate, relaying" in text
    assert (
        "nginx with 9,990 idle: RSS 39.1 MB, descriptors 10 -> 12, epoll entries 3 -> 3,"
        " stopped: no more came"
    ) in lines
    assert (
        "gate, RSS by fifth of 50,000 connections: 37.00, 37.01, 37.01, 37.10, 37.10 MB;"
        " descriptors 10 -> 10; 0 errors"
    ) in lines
    assert "gate, system calls for a connection: 9.0: recvfrom 9.0" in lines
    failed = "relay, request on a kept connection: 2 errors"
    assert f"{failed}, the first: receive: Connection reset by peer" in lines
    assert "handing over is cheaper than nginx from request 3 on" in lines


def rows(text, first):
    """The cells of the Markdown row with that heading."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_the_markdown_has_nginxs_figures_and_the_others_ratios(results):
    text = markdown(results)
    assert text.startswith("`make bench ARGS=--quick` on a machine; nginx 1.26.\n")
    assert rows(text, "new connection, ECDSA P-256") == [
        "300 CPU us", "1.07 (1.06-1.09)", "-", "-", "-",
    ]  # fmt: skip
    assert rows(text, "download")[:4] == ["0.70 CPU s/GB", "0.00 (0.00-0.00)",
                                          "0.71 (0.71-0.71)", "0.71 (0.71-0.71)"]  # fmt: skip
    assert rows(text, "100 requests")[:2] == ["1,884 CPU us", "0.18"]
    assert rows(text, "15,000 idle connections") == [
        "stopped at 9,990", "0.0 KB", "-", "-", "-",
    ]  # fmt: skip


def test_every_row_of_a_table_has_all_columns(results):
    tables = [line for line in markdown(results).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {len(SERVERS) + 2}


def test_with_real_keys_nothing_is_said_of_clear_text(results):
    results.is_keyless = False
    assert "in clear" not in markdown(results) + terminal(results)


def test_an_empty_run_says_its_facts_only():
    empty = Results(machine={"machine": "m"}, command="c", is_keyless=False, servers=["nginx"])
    assert terminal(empty) == "machine: m\n"


def test_the_json_keeps_every_slice_and_the_verdicts(results):
    whole = json.loads(results.to_json([verdict.to_dict() for verdict in judge(results)]))
    assert whole["schema"] == 1
    assert whole["series"][0]["slices"]["1"]["server_cpu"] == pytest.approx(0.4)
    assert whole["goals"][0] == {
        "title": "CPU of a connection handed over / of one through nginx",
        "bound": 1.1,
        "is_least": False,
        "figure": pytest.approx(1.075),
        "is_met": True,
    }


def test_the_table_goes_between_the_markers():
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert replace_table(text, "new\n") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"


@pytest.mark.parametrize(
    "text",
    ["", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{END}\n{END}", f"{BEGIN}\n{BEGIN}\n{END}"],
)
def test_markers_that_are_not_there_once_are_an_error(text):
    with pytest.raises(BenchError, match="once each"):
        replace_table(text, "new\n")


def test_the_picture_is_svg_with_a_bar_for_each_ratio(results):
    root = ET.fromstring(draw(results))
    bars = [e for e in root.iter("{http://www.w3.org/2000/svg}rect") if e.get("x")]
    assert len(bars) == 2 + 4 + 2 + 4
    texts = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "download: CPU time" in texts
    assert "time of a new connection, 1 at once: time" in texts
    assert "1.07" in texts


def test_a_bar_that_is_too_long_is_cut_and_its_figure_is_not(results):
    results.series[1] = series("conn", "gate", one(2000))
    root = ET.fromstring(draw(results))
    widths = [float(e.get("width")) for e in root.iter() if e.get("x") and e.get("fill")]
    assert max(widths) == 400
    assert "10.00" in draw(results)
