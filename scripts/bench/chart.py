"""A bar chart as SVG: a group for each load, a bar for each server, nginx is 1."""

from __future__ import annotations

from xml.sax.saxutils import escape

from .peers import NGINX, PEERS
from .results import Results

__all__ = ["draw"]

_LEFT, _WIDTH, _RIGHT = 250, 400, 110  # of labels, of bars, of figures
_BAR, _GAP, _HEAD = 14, 12, 46
_MOST = 3.0  # longer bars are cut, their figure is not
_COLOURS = ("#9a9a9a", "#1b6ca8", "#7fb2d6", "#c96b3c", "#e3a983", "#6a9a58", "#8e6ea8")


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}"{more}>{escape(text)}</text>'


def _bar(y: float, ratio: float, colour: str) -> list[str]:
    width = min(ratio, _MOST) / _MOST * _WIDTH
    size = f'width="{max(width, 1):.1f}" height="{_BAR - 2}"'
    figure = _text(_LEFT + width + 5, y + _BAR - 4, f"{ratio:.2f}")
    return [f'<rect x="{_LEFT}" y="{y:g}" {size} fill="{colour}"/>', figure]


def _group(results: Results, number: int, y: float) -> tuple[list[str], float]:
    load = results.loads[number]
    parts = []
    for index, server in enumerate(results.servers):
        ratio = results.ratio(load, server)
        if ratio is None:
            continue
        title = PEERS[server].title
        parts += _bar(y, ratio.median, _COLOURS[index % len(_COLOURS)])
        parts.append(_text(_LEFT - 6, y + _BAR - 4, title, ' text-anchor="end"'))
        y += _BAR
    return parts, y


def draw(results: Results) -> str:
    """Return the picture, as text."""
    parts: list[str] = []
    y = float(_HEAD)
    for number, load in enumerate(results.loads):
        unit = "time" if load.is_latency else "CPU time"
        parts.append(_text(6, y + _BAR - 4, f"{load.title}: {unit}", ' font-weight="bold"'))
        bars, y = _group(results, number, y + _BAR)
        parts += bars
        y += _GAP
    one = _LEFT + _WIDTH / _MOST
    line = f'<line x1="{one:.1f}" y1="{_HEAD}" x2="{one:.1f}" y2="{y:g}" stroke="#444"'
    title = f"Relative to {PEERS[NGINX].title} in the same round; shorter is better"
    width = _LEFT + _WIDTH + _RIGHT
    size = f'width="{width}" height="{y:g}" font-family="sans-serif" font-size="11"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        '<rect width="100%" height="100%" fill="white"/>',
        _text(6, 22, title, ' font-size="14"'),
        *parts,
        f'{line} stroke-dasharray="3 3"/>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
