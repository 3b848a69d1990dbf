"""What was measured when: one small file for each run that was kept, and the last two compared.

A point has the figures, what they were measured on and the commit; no slices, no name of a machine
and no path, so that it can be committed.
"""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from pathlib import Path
from typing import Any

from .goals import judge
from .machine import BenchError
from .results import Results

__all__ = ["HISTORY", "compare_last", "compare_points", "figures_of", "write_point"]

HISTORY = Path(__file__).parent / "history"
_SIGNIFICANT = 4  # digits
_SCHEMA = 1


def _load_figures(results: Results) -> dict[str, float]:
    figures = {}
    for load in results.loads:
        reference = results.reference(load)
        for server in results.servers:
            cost, ratio = results.cost(load, server), results.ratio(load, server)
            if cost:
                figures[f"{load.name}: {server}, {load.unit}"] = cost.median
            if ratio and server != reference:
                figures[f"{load.name}: {server} / {reference}"] = ratio.median
    return figures


def figures_of(results: Results) -> dict[str, float]:
    """Return every figure of a run under a name that later runs have too."""
    figures = _load_figures(results)
    figures |= {
        f"{step.ladder}: {step.size}, / smallest": ratio.median
        for step in results.growth
        if (ratio := results.growth_ratio(step))
    }
    figures |= {
        f"idle: {held.server}, {held.held}, KB each": held.bytes_each / 1024
        for held in results.idle
        if not held.is_short
    }
    figures |= {f"leak: {leak.server}, KB": float(leak.grown) for leak in results.leaks}
    figures |= {f"calls: {calls.server}": calls.total for calls in results.calls}
    figures |= {f"goal: {verdict.goal.title}": verdict.figure for verdict in judge(results)}
    return {name: float(f"{value:.{_SIGNIFICANT}g}") for name, value in figures.items()}


def _git(checkout: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words], cwd=checkout, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def write_point(
    results: Results, folder: Path, checkout: Path, at: dt.datetime | None = None
) -> Path:
    """Keep a run in a folder, in a file named for its time and its commit."""
    date = (at or dt.datetime.now(dt.UTC)).strftime("%Y%m%d-%H%M%S")
    commit = _git(checkout, "rev-parse", "--short", "HEAD") or "unknown"
    point = {
        "schema": _SCHEMA,
        "date": date,
        "commit": commit,
        "is_changed": bool(_git(checkout, "status", "--porcelain", "--untracked-files=no")),
        "machine": results.machine,
        "command": results.command,
        "is_keyless": results.is_keyless,
        "figures": figures_of(results),
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{date}-{commit}.json"
    file.write_text(json.dumps(point, indent=1) + "\n", encoding="utf-8")
    return file


def compare_points(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Write two points side by side: figures of both, and the later one by the earlier one."""
    old, new = before["figures"], after["figures"]
    rows = [["", *(f"{point['date']} {point['commit']}" for point in (before, after)), "ratio"]]
    for name in [*new, *(name for name in old if name not in new)]:
        cells = [f"{figures[name]:g}" if name in figures else "-" for figures in (old, new)]
        ratio = f"{new[name] / old[name]:.2f}" if name in new and old.get(name) else "-"
        rows.append([name, *cells, ratio])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    facts = [
        f"{fact}: {before['machine'].get(fact, '-')} -> {text}"
        for fact, text in after["machine"].items()
        if before["machine"].get(fact) != text
    ]
    lines = [
        row[0].ljust(widths[0])
        + "".join(f"  {c.rjust(w)}" for c, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    return "\n".join([*facts, *lines]) + "\n"


def compare_last(folder: Path) -> str:
    """Write the last two points of a history side by side.

    Raises:
        BenchError: there are not two.
    """
    files = sorted(folder.glob("*.json"))[-2:]
    if len(files) < 2:
        raise BenchError(f"expected two points in the history, got {len(files)}: see --record")
    before, after = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    return compare_points(before, after)
