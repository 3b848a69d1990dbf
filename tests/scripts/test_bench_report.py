"""From slices to tables, verdicts and the README."""

import dataclasses
import json

import pytest
from bench.breakeven import LIVES, first_cheaper_request, life_cost
from bench.goals import GOALS, Goal, Verdict, judge
from bench.history import figures_of
from bench.loads import LOADS
from bench.machine import BenchError
from bench.readme import BEGIN, END, replace_table
from bench.report import markdown, terminal
from bench.results import Results
from helpers.bench_results import SERVERS, held, one, series, some_results


@pytest.fixture
def results() -> Results:
    return some_results()


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


def test_a_server_that_shrank_meanwhile_holds_connections_in_no_memory(results):
    results.idle = [held("nginx", 1_000, pss=-3_277), held("relay", 1_000, pss=1_024)]
    assert results.held("nginx", 1_000).bytes_each == 0
    assert figures_of(results)["idle: nginx, 1000, KB each"] == 0
    assert rows(markdown(results), "1,000 idle connections") == [
        "0.0 KB", "-", "1.0 KB", "-", "-",
    ]  # fmt: skip


def test_memory_is_not_judged_where_the_noise_is_more(results):
    results.idle = [held("nginx", 5_000, pss=250_000), held("relay", 5_000, pss=-10)]
    assert [v.goal.title for v in judge(results) if "idle relayed" in v.goal.title] == []


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
        "epoll entries more with 15,000 connections handed over than with 1,000": 0,
        "MB of growth behind the first fifth of 50,000 connections": round(102 / 1024, 3),
        "memory of an idle relayed connection / nginx": 0.5,
        "CPU of a relayed request / haproxy tcp": 1.2,
        "CPU of a relayed download / haproxy http": 1.0,
    }


def everything() -> Results:
    """A run in which every load went through every server, of all that the goals ask for."""
    servers = ["nginx", "nginx-ktls", "floor", "gate", "relay", "haproxy", "haproxy-tcp"]
    one_of_each = dataclasses.replace(one(1), bytes=10**9)
    return dataclasses.replace(
        some_results(),
        is_keyless=False,
        servers=servers,
        series=[series(load, server, one_of_each) for load in LOADS for server in servers],
        idle=[
            held(server, count, pss=1_000 * count)
            for server in servers
            for count in (1_000, 5_000, 15_000)
        ],
    )


def test_every_goal_is_judged_where_everything_was_measured():
    judged = [(verdict.goal, verdict.figure) for verdict in judge(everything())]
    assert [goal for goal, _ in judged] == list(GOALS)
    beside_an_equal = [figure for goal, figure in judged if " / " in goal.title]
    assert beside_an_equal == pytest.approx([1.0] * 15)


@pytest.mark.parametrize(("connections", "count"), [(49_999, 0), (50_000, 1), (50_003, 1)])
def test_a_leak_is_judged_where_so_many_connections_were_really_made(results, connections, count):
    results.leaks = [dataclasses.replace(results.leaks[0], connections=connections)]
    titles = [v.goal.title for v in judge(results) if "50,000 connections" in v.goal.title]
    assert len(titles) == count


def test_system_calls_are_judged_where_the_kernel_has_ktls(results):
    def judged() -> list[float]:
        return [v.figure for v in judge(results) if v.goal.title.startswith("system calls")]

    assert judged() == []
    results.is_keyless = False
    assert judged() == [pytest.approx(9.03)]


@pytest.mark.parametrize(
    ("reference", "title"),
    [
        ("floor", "CPU of a connection handed over / of the same path in C"),
        ("nginx-ktls", "CPU of a connection handed over / of one through nginx with kTLS"),
    ],
)
def test_a_connection_is_judged_beside_the_floor_and_nginx_with_ktls(results, reference, title):
    results.series.append(series("conn", reference, one(200), one(400)))
    figures = {v.goal.title: v.figure for v in judge(results)}
    assert figures[title] == pytest.approx((1.1 + 1.05) / 2)


def test_the_rate_beside_nginx_with_ktls_is_judged_too(results):
    fewer = one(200, operations=800)
    results.series.append(series("conn", "nginx-ktls", fewer, fewer))
    figures = {v.goal.title: v.figure for v in judge(results)}
    title = "new connections a second, handed over / through nginx with kTLS"
    assert figures[title] == pytest.approx(1.25)


def test_where_nginx_is_not_able_the_newest_takes_its_place(results):
    results.servers = ["nginx", "nginx-new", "gate"]
    results.series += [
        series("mlkem", "nginx-new", one(200), one(200)),
        series("mlkem", "gate", one(300), one(300)),
    ]
    assert results.reference(LOADS["conn"]) == "nginx"
    assert results.reference(LOADS["mlkem"]) == "nginx-new"
    cells = rows(markdown(results), "new connection, X25519MLKEM768")
    assert cells == ["-", "200 CPU us", "1.50 (1.50-1.50)"]


def test_where_no_nginx_is_able_each_has_its_own_figure(results):
    results.series.append(series("mlkem", "gate", one(300), one(300)))
    assert rows(markdown(results), "new connection, X25519MLKEM768")[:2] == ["-", "300 CPU us"]


def test_growth_is_the_smallest_steps_figure_and_the_others_ratios(results):
    text = markdown(results)
    heading = "| a connection handed over, by how many | fewest | more | more |"
    assert heading in text.splitlines()
    assert rows(text, "routes") == [
        "1: 450 CPU us", "10: 1.01 (1.01-1.01)", "1,000: 1.20 (1.20-1.20)",
    ]  # fmt: skip
    assert rows(text, "connections held, handed over") == [
        "0: 500 CPU us", "1,000: stopped at 990", "-",
    ]  # fmt: skip


def test_the_markdown_has_system_calls_and_pictures(results):
    text = markdown(results, ["docs/bench-cpu.svg", "docs/bench-memory.svg"])
    assert rows(text, "for a new connection")[:2] == ["18.5", "9.0"]
    assert text.endswith(
        "\n\n![CPU time for each load, relative to nginx](docs/bench-cpu.svg)"
        "\n\n![Memory of a server, by how many idle connections it has](docs/bench-memory.svg)\n"
    )


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
    assert "for a new connection   18.5                     9.0                   -" in text
    failed = "relay, request on a kept connection: 2 errors"
    assert f"{failed}, the first: receive: Connection reset by peer" in lines
    assert "handing over is cheaper than nginx from request 3 on" in lines


def test_a_load_that_should_resume_sessions_says_who_resumed_none(results):
    title = LOADS["resumed"].title
    results.series += [
        series("resumed", "nginx", one(200), one(200, resumed=1)),
        series("resumed", "gate", one(200), one(200)),
        series("resumed", "relay", one(operations=0, errors=1)),
    ]
    said = [line for line in terminal(results).splitlines() if "resumed by" in line]
    assert said == [f"gate, {title}: no session was resumed by 2,000 connections"]


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
    tables = markdown(results).split("\n\n")[1:]
    assert len(tables) == 5, "loads, lives, growth, memory, system calls"
    for table in tables:
        widths = {line.count("|") for line in table.splitlines()}
        assert widths == {5 if "fewest" in table else len(SERVERS) + 2}


def test_with_real_keys_nothing_is_said_of_clear_text(results):
    results.is_keyless = False
    assert "in clear" not in markdown(results) + terminal(results)


def test_an_empty_run_says_its_facts_only():
    empty = Results(machine={"machine": "m"}, command="c", is_keyless=False, servers=["nginx"])
    assert terminal(empty) == "machine: m\n"


def test_the_json_keeps_every_slice_and_the_verdicts(results):
    whole = json.loads(results.to_json([verdict.to_dict() for verdict in judge(results)]))
    assert whole["schema"] == 2
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
