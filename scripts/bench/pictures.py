"""The pictures, as SVG: CPU time as bars beside nginx's, memory as lines over connections.

The same results give the same bytes. A server has the same colour in every picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

from .peers import NGINX, PEERS
from .results import Results

__all__ = ["PICTURES", "TITLES", "draw_cpu", "draw_memory"]

_COLOURS = (
    *("#8a8a8a", "#bdbdbd", "#5f5f5f", "#1b6ca8", "#123f63", "#3aa6a0", "#8fd0cb"),
    *("#7fb2d6", "#c96b3c", "#e6b08f", "#a8482a", "#6a9a58", "#8e6ea8", "#5b8fd9"),
)
_COLOUR_OF = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(PEERS)}

_LEFT, _WIDTH, _RIGHT = 250, 400, 110  # of labels, of bars, of figures
_BAR, _GAP, _HEAD = 14, 12, 46
_MOST = 3.0  # longer bars are cut, their figure is not

_PLOT_LEFT, _PLOT_TOP, _PLOT_WIDTH, _PLOT_HEIGHT = 70, 46, 420, 300
_LEGEND, _LINE = 310, 16  # width of the names beside the plot, height of one
_TICKS = 5


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.5g}" y="{y:.5g}"{more}>{escape(text)}</text>'


def _straight(x1: float, y1: float, x2: float, y2: float, more: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {more}/>'


def _picture(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    size = f'width="{width:g}" height="{height:g}" font-family="sans-serif" font-size="11"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        _text(6, 22, title, ' font-size="14"'),
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _bar(y: float, ratio: float, colour: str) -> list[str]:
    width = min(ratio, _MOST) / _MOST * _WIDTH
    size = f'width="{max(width, 1):.1f}" height="{_BAR - 2}"'
    figure = _text(_LEFT + width + 5, y + _BAR - 4, f"{ratio:.2f}")
    return [f'<rect x="{_LEFT}" y="{y:g}" {size} fill="{colour}"/>', figure]


def _group(results: Results, number: int, y: float) -> tuple[list[str], float]:
    load = results.loads[number]
    parts = []
    for server in results.servers:
        ratio = results.ratio(load, server)
        if ratio is None:
            continue
        parts += _bar(y, ratio.median, _COLOUR_OF[server])
        parts.append(_text(_LEFT - 6, y + _BAR - 4, PEERS[server].title, ' text-anchor="end"'))
        y += _BAR
    return parts, y


def draw_cpu(results: Results) -> str:
    """Return a group of bars for each load, a bar for each server; empty without loads."""
    parts: list[str] = []
    y = float(_HEAD)
    for number, load in enumerate(results.loads):
        unit = "time" if load.is_latency else "CPU time"
        parts.append(_text(6, y + _BAR - 4, f"{load.title}: {unit}", ' font-weight="bold"'))
        bars, y = _group(results, number, y + _BAR)
        parts += bars
        y += _GAP
    one = _LEFT + _WIDTH / _MOST
    parts.insert(0, _straight(one, _HEAD, one, y, 'stroke="#444" stroke-dasharray="3 3"'))
    title = f"Relative to {PEERS[NGINX].title} in the same round; shorter is better"
    return _picture(_LEFT + _WIDTH + _RIGHT, y, title, parts) if results.loads else ""


def _memory_points(results: Results, server: str) -> list[tuple[int, float]]:
    """Return connections held and MB of the server then, beginning with none."""
    found = [held for held in results.idle if held.server == server]
    first = [(0, found[0].pss_before / 1024)] if found else []
    return [*first, *((held.held, held.pss / 1024) for held in found)]


def _axes(most: int, highest: float) -> list[str]:
    right, bottom = _PLOT_LEFT + _PLOT_WIDTH, _PLOT_TOP + _PLOT_HEIGHT
    parts = []
    for number in range(_TICKS + 1):
        part = number / _TICKS
        x, y = _PLOT_LEFT + part * _PLOT_WIDTH, bottom - part * _PLOT_HEIGHT
        parts.append(_straight(_PLOT_LEFT, y, right, y, 'stroke="#ddd"'))
        parts.append(_text(_PLOT_LEFT - 6, y + 4, f"{part * highest:,.0f}", ' text-anchor="end"'))
        parts.append(_text(x, bottom + 16, f"{part * most:,.0f}", ' text-anchor="middle"'))
    middle = _PLOT_LEFT + _PLOT_WIDTH / 2
    parts.append(_text(middle, bottom + 34, "idle connections", ' text-anchor="middle"'))
    parts.append(_text(6, _PLOT_TOP - 6, "MB"))
    return parts


def _round_up(value: float) -> float:
    """Return a number not below a value that its ticks divide without a rest."""
    step = 1.0
    while step * _TICKS < value:
        step *= 2 if f"{step:g}"[0] in "15" else 2.5
    return step * _TICKS


def draw_memory(results: Results) -> str:
    """Return a line for each server, to where it stopped; empty if nothing was held."""
    lines = {name: _memory_points(results, name) for name in results.servers}
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return ""
    most = max(count for points in lines.values() for count, _ in points) or 1
    highest = _round_up(max(size for points in lines.values() for _, size in points))
    parts = _axes(most, highest)
    bottom, x = _PLOT_TOP + _PLOT_HEIGHT, _PLOT_LEFT + _PLOT_WIDTH + 20
    # The names stand in the order of the lines' ends.
    by_end = sorted(lines.items(), key=lambda item: -item[1][-1][1])
    for number, (name, points) in enumerate(by_end):
        places = " ".join(
            f"{_PLOT_LEFT + count / most * _PLOT_WIDTH:.1f},"
            f"{bottom - size / highest * _PLOT_HEIGHT:.1f}"
            for count, size in points
        )
        colour, y = _COLOUR_OF[name], _PLOT_TOP + 8 + number * _LINE
        parts.append(f'<polyline points="{places}" fill="none" stroke="{colour}"'
                     ' stroke-width="2"/>')  # fmt: skip
        parts.append(_straight(x, y - 4, x + 18, y - 4, f'stroke="{colour}" stroke-width="2"'))
        count, size = points[-1]
        parts.append(_text(x + 24, y, f"{PEERS[name].title}: {size:,.0f} MB with {count:,}"))
    height = max(bottom + 46, _PLOT_TOP + len(lines) * _LINE + 20)
    return _picture(x + _LEGEND, height, TITLES["memory"], parts)


PICTURES: dict[str, Callable[[Results], str]] = {"cpu": draw_cpu, "memory": draw_memory}
TITLES = {
    "cpu": "CPU time for each load, relative to nginx",
    "memory": "Memory of a server, by how many idle connections it has",
}
