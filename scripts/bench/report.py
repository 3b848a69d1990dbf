"""Tables: as text for the terminal, as Markdown for the README."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .breakeven import LIVES, first_cheaper_request, life_cost
from .goals import judge
from .growth import LADDERS, Step
from .idle import Held
from .loads import Load
from .peers import NGINX, PEERS
from .pictures import TITLES
from .results import Results
from .stats import spread

__all__ = ["markdown", "terminal"]

_DASH = "-"
_RARE = 0.1  # system calls for a connection that are not worth a word
_KEYLESS = (
    "Keys derived but not installed, since this kernel has no kTLS: behind the handoff client and"
    " backend spoke in clear. So rates there are an upper bound, and what the kernel's encryption"
    " costs, which the backend's sends would pay, is in no figure."
)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Write Markdown; the first row is the heading."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|---|" + "---:|" * (len(rows[0]) - 1), *lines[1:]]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Write aligned text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _amount(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _titles(results: Results) -> list[str]:
    return [PEERS[name].title for name in results.servers]


def _compare(results: Results, load: Load, server: str) -> str:
    ratio, cost = results.ratio(load, server), results.cost(load, server)
    if ratio and server != results.reference(load):
        return ratio.format()
    return f"{_amount(cost.median)} {load.unit}" if cost else _DASH


def load_rows(results: Results) -> list[list[str]]:
    """Return what counts: nginx's own figure, the others' ratios to it."""
    rows = [["", *_titles(results)]]
    for load in results.loads:
        row = [_compare(results, load, server) for server in results.servers]
        rows.append([load.title, *row])
    return rows


def rate_rows(results: Results) -> list[list[str]]:
    """Return operations or GB a second, medians."""
    rows = [["per second", *_titles(results)]]
    for load in results.loads:
        row = [load.title]
        for server in results.servers:
            rate = results.rate(load, server)
            row.append(_amount(rate.median) if rate else _DASH)
        rows.append(row)
    return rows


def _held(held: Held) -> str:
    if held.is_short:
        return f"stopped at {held.held:,}"
    return f"{held.bytes_each / 1024:.1f} KB"


def idle_rows(results: Results) -> list[list[str]]:
    """Return memory for each idle connection, or where a server stopped."""
    counts = sorted({held.asked for held in results.idle})
    rows = [["memory for each of", *_titles(results)]]
    for count in counts:
        found = {held.server: _held(held) for held in results.idle if held.asked == count}
        row = [found.get(server, _DASH) for server in results.servers]
        rows.append([f"{count:,} idle connections", *row])
    return rows


def life_rows(results: Results) -> list[list[str]]:
    """Return what a connection costs in its whole life: nginx's figure, the others' ratios."""
    rows = [["a connection's whole life", *_titles(results)]]
    for life in LIVES:
        reference = life_cost(results, NGINX, life)
        row = [life.title]
        for server in results.servers:
            cost = life_cost(results, server, life)
            if cost is None or not reference:
                row.append(_DASH)
            else:
                is_nginx = server == NGINX
                row.append(f"{_amount(cost)} CPU us" if is_nginx else f"{cost / reference:.2f}")
        rows.append(row)
    return rows if any(cell != _DASH for row in rows[1:] for cell in row[1:]) else rows[:1]


def _step(results: Results, step: Step) -> str:
    if step.is_short:
        return f"{step.size:,}: stopped at {step.held:,}"
    if ratio := results.growth_ratio(step):
        return f"{step.size:,}: {ratio.format()}"
    cost = spread(list(step.costs.values()))
    return f"{step.size:,}: {_amount(cost.median)} CPU us" if cost else f"{step.size:,}: {_DASH}"


def growth_rows(results: Results) -> list[list[str]]:
    """Return what a connection handed over costs: with few, and ratios to that with more."""
    ladders = [ladder for ladder in LADDERS.values() if results.climbed(ladder.name)]
    if not ladders:
        return []
    cells = [[_step(results, step) for step in results.climbed(ladder.name)] for ladder in ladders]
    width = max(map(len, cells))
    heading = ["a connection handed over, by how many", "fewest", *["more"] * (width - 1)]
    return [
        heading,
        *(
            [ladder.title, *row, *[_DASH] * (width - len(row))]
            for ladder, row in zip(ladders, cells, strict=True)
        ),
    ]


def call_rows(results: Results) -> list[list[str]]:
    """Return how many system calls a connection takes."""
    found = {calls.server: f"{calls.total:.1f}" for calls in results.calls}
    row = [found.get(server, _DASH) for server in results.servers]
    return [["system calls", *_titles(results)], ["for a new connection", *row]] if found else []


def _facts(results: Results) -> list[str]:
    return [f"{name}: {text}" for name, text in results.machine.items() if text]


def _descriptor_lines(results: Results) -> list[str]:
    return [
        f"{held.server} with {held.held:,} idle: RSS {held.rss / 1024:.1f} MB, descriptors"
        f" {held.descriptors_before} -> {held.descriptors}, epoll entries"
        f" {held.epoll_entries_before} -> {held.epoll_entries}"
        + (f", stopped: {held.first_error or 'no more came'}" if held.is_short else "")
        for held in results.idle
    ]


def _leak_lines(results: Results) -> list[str]:
    return [
        f"{leak.server}, RSS by fifth of {leak.connections:,} connections:"
        f" {', '.join(f'{size / 1024:.2f}' for size in leak.rss)} MB; descriptors"
        f" {leak.descriptors_before} -> {leak.descriptors}; {leak.errors} errors"
        for leak in results.leaks
    ]


def _call_lines(results: Results) -> list[str]:
    lines = []
    for calls in results.calls:
        often = (f"{name} {count:.1f}" for name, count in calls.each.items() if count >= _RARE)
        begin = f"{calls.server}, system calls for a connection: {calls.total:.1f}:"
        lines.append(f"{begin} {', '.join(often)}")
    return lines


def _error_lines(results: Results) -> list[str]:
    lines = []
    for load in results.loads:
        for server in results.servers:
            count, said = results.errors(load, server)
            if count:
                lines.append(f"{server}, {load.title}: {count} errors, the first: {said}")
    return lines


def _resumption_lines(results: Results) -> list[str]:
    return [
        f"{server}, {load.title}: no session was resumed by {count:,} connections"
        for load in results.loads
        for server in results.servers
        if (count := results.connections_without_resumption(load, server))
    ]


def _backend_lines(results: Results) -> list[str]:
    lines = []
    for load in results.loads:
        found = results.with_backend_ratio(load, "gate")
        if found and not load.is_latency:
            lines.append(
                f"gate with its backend / nginx with its own, {load.title}: {found.format()}"
            )
    return lines


def _cheaper_lines(results: Results) -> list[str]:
    number = first_cheaper_request(results, "gate")
    return [f"handing over is cheaper than nginx from request {number} on"] if number else []


_MORE_ROWS = (life_rows, growth_rows, idle_rows, call_rows)


def terminal(results: Results) -> str:
    """Write everything."""
    lines = [*_facts(results), *results.notes]
    if results.is_keyless:
        lines.append(_KEYLESS)
    for rows in (write(results) for write in (load_rows, rate_rows, *_MORE_ROWS)):
        if len(rows) > 1:
            lines += ["", *_columns(rows)]
    details = (
        _cheaper_lines,
        _backend_lines,
        _descriptor_lines,
        _leak_lines,
        _call_lines,
        _error_lines,
        _resumption_lines,
    )
    for write in details:
        if found := write(results):
            lines += ["", *found]
    if verdicts := judge(results):
        lines += ["", *(verdict.line for verdict in verdicts)]
    return "\n".join(lines) + "\n"


def markdown(results: Results, pictures: Sequence[str] = ()) -> str:
    """Write what the README shows, with pictures from where they are."""
    facts = "; ".join(text for text in results.machine.values() if text)
    lines = [f"`{results.command}` on {facts}."]
    if results.is_keyless:
        lines.append(_KEYLESS)
    lines.append(
        "nginx's own figure (the newest's where nginx itself is not able), and the others' ratio"
        " to it in the same round: median (quartiles)."
    )
    for rows in (write(results) for write in (load_rows, *_MORE_ROWS)):
        if len(rows) > 1:
            lines += ["", *_table(rows)]
    for picture in pictures:
        lines += ["", f"![{TITLES[Path(picture).stem.rpartition('-')[2]]}]({picture})"]
    return "\n".join(lines) + "\n"
