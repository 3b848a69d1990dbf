"""The pictures: SVG that says what the tables say, and the same for the same results."""

import dataclasses
import xml.etree.ElementTree as ET

import pytest
from bench.peers import PEERS
from bench.pictures import _COLOUR_OF, PICTURES, TITLES, draw_cpu, draw_memory
from bench.results import Results
from helpers.bench_results import held, one, series, some_results

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def results() -> Results:
    return some_results()


def test_the_picture_is_svg_with_a_bar_for_each_ratio(results):
    root = ET.fromstring(draw_cpu(results))
    bars = [e for e in root.iter("{http://www.w3.org/2000/svg}rect") if e.get("x")]
    assert len(bars) == 2 + 4 + 2 + 4
    texts = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "download: CPU time" in texts
    assert "time of a new connection, 1 at once: time" in texts
    assert "1.07" in texts


def test_a_bar_that_is_too_long_is_cut_and_its_figure_is_not(results):
    results.series[1] = series("conn", "gate", one(2000))
    root = ET.fromstring(draw_cpu(results))
    widths = [float(e.get("width")) for e in root.iter() if e.get("x") and e.get("fill")]
    assert max(widths) == 400
    assert "10.00" in draw_cpu(results)


def test_memory_is_a_line_from_before_the_first_connection_to_where_the_server_stopped(results):
    root = ET.fromstring(draw_memory(results))
    lines = [e.get("points") for e in root.iter(f"{SVG}polyline")]
    assert len(lines) == 3
    texts = [e.text for e in root.iter(f"{SVG}text")]
    assert "nginx: 273 MB with 5,000" in texts
    assert "ktlsgate, handing over: 29 MB with 15,000" in texts
    # The plot is 420 by 300 with its corner at 70, 346, for 15,000 connections and 500 MB.
    (gate,) = [line for line in lines if line.endswith("490.0,328.4")]
    assert gate == "70.0,328.4 98.0,328.4 490.0,328.4"


def test_names_stand_in_the_order_of_the_lines_ends(results):
    root = ET.fromstring(draw_memory(results))
    named = [e.text for e in root.iter(f"{SVG}text") if e.text and " MB with " in e.text]
    assert [text.partition(":")[0] for text in named] == [
        "nginx", "ktlsgate, relaying", "ktlsgate, handing over",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("megabytes", "highest"),
    [(3, "5"), (9, "10"), (24, "25"), (26, "50"), (60, "100"), (240, "250")],
)
def test_the_scale_of_memory_ends_at_a_round_number(results, megabytes, highest):
    one_server = held("gate", 10, pss=megabytes * 1024 - 30_000)
    results.idle = [dataclasses.replace(one_server, pss_before=0)]
    texts = [e.text for e in ET.fromstring(draw_memory(results)).iter(f"{SVG}text")]
    ticks = [text for text in texts if text and text.replace(",", "").isdecimal()]
    assert ticks[-2] == highest


def test_nothing_measured_is_no_picture():
    empty = Results(machine={}, command="", is_keyless=True, servers=["nginx"])
    assert [draw(empty) for draw in PICTURES.values()] == ["", ""]


def test_the_same_results_give_the_same_picture():
    for draw in PICTURES.values():
        assert draw(some_results()) == draw(some_results())


def test_every_server_has_a_colour_of_its_own_and_every_picture_a_title():
    assert len(set(_COLOUR_OF.values())) == len(PEERS)
    assert set(TITLES) == set(PICTURES)
