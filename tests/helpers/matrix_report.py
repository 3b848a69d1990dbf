"""What the run says of the matrix at its end: one line for people, one for ``scripts/matrix.py``.

The second, ``matrix: {...}`` on one line, is printed of complete runs (KTLSGATE_MATRIX=all):

    kernel, openssl     as they call themselves
    wheel               whether that OpenSSL is the registry's
    cells               {"direct-1.2-AES_128_GCM": {"both": 8}, ...}: how many connections
                        ended so, with the reason behind the mode where there is one
                        ("relay cipher"); with small records under a name of their own;
                        {"openssl": {"refused": 1}} where the gate does not start
    failed, missing     names of cells that were not as expected, or not tried
    skipped             {reason: how many}
"""

from __future__ import annotations

import collections
import json
import platform
import re

_CELL = re.compile(r"/test_cells\.py::test_(?:cell|engine_is_refused)\[(.*)\]$")
_SMALL_RECORDS = "max_fragment_length"


def tally(labels):
    """Count connections by engine, version and cipher: from (name of a cell, what it was)."""
    cells = collections.defaultdict(collections.Counter)
    for name, label in labels:
        kind, _, shape = name.rpartition("-")
        cells[name if shape == _SMALL_RECORDS or not kind else kind][label] += 1
    return {name: dict(counts) for name, counts in cells.items()}


def expected_facts(kernel, openssl, *, wheel):
    """What a guest's line says when every cell was as the table expects."""
    from helpers.matrix import REFUSED, cells_of, expect, generation_of, refused_by

    major, minor = (int(number) for number in openssl.split(".")[:2])
    generation = generation_of(major << 28 | minor << 20, from_registry=wheel)
    labels = [(str(cell), expect(cell, generation).label) for cell in cells_of(generation)]
    labels += [(engine, REFUSED) for engine in refused_by(generation)]
    return {"kernel": kernel, "openssl": openssl, "wheel": wheel, "cells": tally(labels)}


class Outcomes:
    """The cells of a run, from pytest's reports."""

    def __init__(self, stats):
        self.passed = {}
        self.failed = []
        self.skipped = {}
        for outcome in ("passed", "failed", "error", "skipped"):
            for report in stats.get(outcome, ()):
                if (found := _CELL.search(report.nodeid)) and found[1] != "none":
                    self._add(found[1], outcome, report)

    def _add(self, name, outcome, report):
        if outcome == "passed":
            self.passed[name] = dict(report.user_properties)["mode"]
        elif outcome == "skipped":
            self.skipped[name] = report.longrepr[2].removeprefix("Skipped: ")
        else:
            self.failed.append(name)

    def __len__(self):
        return len(self.passed) + len(self.failed) + len(self.skipped)

    def missing_of(self, names):
        return [n for n in names if n not in {*self.passed, *self.failed, *self.skipped}]


def describe(outcomes):
    """Counts by engine and version, in words."""
    counts = collections.defaultdict(collections.Counter)
    for name, label in outcomes.passed.items():
        engine, version = [*name.split("-"), ""][:2]
        counts[f"{engine} {version}".strip()][label.split()[0]] += 1
    words = (
        f"{where}: {', '.join(f'{count} {mode}' for mode, count in modes.items())}"
        for where, modes in counts.items()
    )
    return "; ".join([f"{len(outcomes.passed)} of {len(outcomes)} cells as expected", *words])


def write_report(write_line, stats, *, is_complete):
    """Say what became of the cells, if there were any."""
    outcomes = Outcomes(stats)
    if not len(outcomes):
        return
    # Only here: other runs need no OpenSSL for their last lines.
    from helpers.matrix import generation_here, is_from_registry, names_of
    from OpenSSL import SSL

    openssl = SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode().split()[1]
    write_line(f"matrix: Linux {platform.release()}, OpenSSL {openssl}: {describe(outcomes)}")
    if is_complete:
        facts = {
            "kernel": platform.release(),
            "openssl": openssl,
            "wheel": is_from_registry(),
            "cells": tally(outcomes.passed.items()),
            "failed": outcomes.failed,
            "missing": outcomes.missing_of(names_of(generation_here())),
            "skipped": dict(collections.Counter(outcomes.skipped.values())),
        }
        write_line("matrix: " + json.dumps(facts))
