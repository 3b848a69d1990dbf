"""Make every cell of the matrix on every kernel with every OpenSSL, and print what was seen.

    python3 scripts/matrix.py

What it does, with nothing but Python and a package registry:

1. builds the wheel (`run_tests.py`);
2. runs ``tests/e2e/test_cells.py`` whole, in guests of the lab (`lab.py`): each Debian
   release's OpenSSL on each kernel, and the registry's OpenSSL on each kernel;
3. collects the guests' ``matrix: {...}`` lines (``tests/helpers/matrix_report.py``), prints
   one line for each guest, and writes README.md's tables between their markers.

Exit status: 0 every cell was made and was as expected; 1 not so, and README.md is as it
was; 77 nothing failed, but some guest or cell could not be run here.
"""

from __future__ import annotations

import collections
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import run_tests

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
BEGIN, END = "<!-- matrix:begin -->\n", "<!-- matrix:end -->\n"

SUITES = "bookworm,trixie,forky"
CELLS = ("-q", "tests/e2e/test_cells.py")
# Debian's own OpenSSLs crossed with the kernels; the registry's is the same everywhere.
LAB_RUNS = (
    ("--suites", SUITES, "--kernels", SUITES, "--python", "system"),
    ("--suites", SUITES, "--python", "wheel"),
)
GUESTS = 9 + 3

_LINE = "matrix: "
_SMALL_RECORDS = "max_fragment_length"
_NOT_RUN = 77  # scripts/lab.py: nothing failed, but something could not be run here


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Connections that have all this in common, and how many of them ended how.

    ``ends`` has the mode, and behind it the reason where there is one, as its keys.
    Of an engine with which the gate does not start only the engine is known.
    """

    engine: str
    version: str = ""
    cipher: str = ""
    shape: str = ""
    ends: dict[str, int]

    @property
    def modes(self) -> str:
        """How they ended, in one word if they ended alike."""
        return " or ".join(sorted({end.split()[0] for end in self.ends}))

    @property
    def reasons(self) -> set[str]:
        """Why the kernel does not hold all of them."""
        return {end.partition(" ")[2] for end in self.ends}


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """One guest's own words; see ``tests/helpers/matrix_report.py``."""

    kernel: str
    openssl: str
    wheel: bool
    cells: dict[str, dict[str, int]]
    failed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)

    @property
    def library(self) -> str:
        """The OpenSSL's series, and whether it is the registry's."""
        return f"{series(self.openssl)} (wheel)" if self.wheel else series(self.openssl)

    @property
    def kinds(self) -> list[Kind]:
        """Its cells by what they have in common."""
        fields = ("engine", "version", "cipher", "shape")
        return [
            Kind(ends=ends, **dict(zip(fields, name.split("-"), strict=False)))
            for name, ends in self.cells.items()
        ]

    @property
    def count(self) -> int:
        """Cells that were as expected."""
        return sum(sum(ends.values()) for ends in self.cells.values())

    @property
    def problems(self) -> list[str]:
        """What was not as expected, or not seen."""
        failed = [f"{name}: not as expected" for name in self.failed]
        missing = [f"{name}: not tried" for name in self.missing]
        return failed + missing + [f"{count} skipped: {why}" for why, count in self.skipped.items()]


def series(version: str) -> str:
    """Return the first two numbers of a version."""
    return ".".join(version.split(".")[:2])


def numbers(version: str) -> list[int]:
    """Return the numbers of a version, to order by."""
    return [int(number) for number in re.findall(r"\d+", version)]


def in_order(versions: Iterable[str]) -> list[str]:
    """Return each version once."""
    return sorted(set(versions), key=numbers)


def read_guests(output: str) -> list[Guest]:
    """Find the guests' lines in the lab's output, where they stand as they ended."""
    lines = (line for line in output.splitlines() if line.startswith(_LINE + "{"))
    guests = [Guest(**json.loads(line.removeprefix(_LINE))) for line in lines]
    return sorted(guests, key=lambda guest: (numbers(guest.openssl), numbers(guest.kernel)))


def never_offloaded(guests: Sequence[Guest]) -> dict[str, set[str]]:
    """Find the ciphers, and the shapes, that every guest relays: with the reasons."""
    reasons: dict[str, set[str]] = collections.defaultdict(set)
    modes: dict[str, set[str]] = collections.defaultdict(set)
    kinds = [kind for guest in guests for kind in guest.kinds if kind.cipher]
    for kind in kinds:
        if not kind.shape:
            modes[kind.cipher].add(kind.modes)
            reasons[kind.cipher] |= kind.reasons
    others = {cipher for cipher, seen in modes.items() if seen != {"relay"}}
    for kind in kinds:
        if kind.shape and kind.cipher in others:
            modes[kind.shape].add(kind.modes)
            reasons[kind.shape] |= kind.reasons
    return {what: reasons[what] for what, seen in modes.items() if seen == {"relay"}}


def say_modes(guest: Guest, engine: str, version: str, left_out: Iterable[str]) -> str:
    """Say what an engine gives for a version: the usual mode, and the ciphers with another."""
    kinds = [kind for kind in guest.kinds if kind.engine == engine]
    if [kind.modes for kind in kinds] == ["refused"]:
        return "does not start (no kTLS in this OpenSSL)"
    modes = {
        kind.cipher: kind.modes
        for kind in kinds
        if kind.version == version and not kind.shape and kind.cipher not in left_out
    }
    ((usual, _),) = collections.Counter(modes.values()).most_common(1) or [("nothing seen", 0)]
    others = [f"{dashed(name)}: `{mode}`" for name, mode in modes.items() if mode != usual]
    return ", ".join([f"`{usual}`", *others])


def dashed(cipher: str) -> str:
    """Write a cipher's name as people do."""
    return cipher.replace("_", "-")


def engine_rows(guests: Sequence[Guest]) -> Iterator[tuple[str, ...]]:
    """Yield the first table's rows: guests and engines that give the same share one."""
    left_out = never_offloaded(guests)
    same: dict[tuple[str, ...], dict[str, set[str]]] = {}
    for engine in dict.fromkeys(kind.engine for guest in guests for kind in guest.kinds):
        for guest in guests:
            given = (engine, *(say_modes(guest, engine, v, left_out) for v in ("1.2", "1.3")))
            libraries = same.setdefault(given, collections.defaultdict(set))
            libraries[guest.library].add(series(guest.kernel))
    for (engine, *modes), libraries in same.items():
        by_kernels: dict[str, list[str]] = collections.defaultdict(list)
        for library in in_order(libraries):
            by_kernels[", ".join(in_order(libraries[library]))].append(library)
        for kernels, names in by_kernels.items():
            yield f"`{engine}`", ", ".join(names), kernels, *modes


def relayed_rows(guests: Sequence[Guest]) -> Iterator[tuple[str, ...]]:
    """Yield the second table's rows: what is relayed by every engine everywhere."""
    by_reasons: dict[str, list[str]] = collections.defaultdict(list)
    for what, reasons in never_offloaded(guests).items():
        name = f"clients that negotiate {what}" if what == _SMALL_RECORDS else dashed(what)
        by_reasons[", ".join(f"`{reason}`" for reason in sorted(reasons))].append(name)
    for reason, names in by_reasons.items():
        yield ", ".join(names), reason


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table's lines in Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def render(guests: Sequence[Guest]) -> str:
    """Return what stands between README.md's markers."""
    debian = in_order(guest.openssl for guest in guests if not guest.wheel)
    wheel = in_order(guest.openssl for guest in guests if guest.wheel)
    count = sum(guest.count for guest in guests)
    lines = [
        *table(("`engine`", "OpenSSL", "Linux", "TLS 1.2", "TLS 1.3"), engine_rows(guests)),
        "",
        *table(("relayed by every engine everywhere", "`fallback`"), relayed_rows(guests)),
        "",
        f"{count} cells, on Linux " + ", ".join(in_order(guest.kernel for guest in guests)),
        f"with Debian's OpenSSL {', '.join(debian)} and the wheel's {', '.join(wheel)}.",
    ]
    return "".join(f"{line}\n" for line in lines)


def replace_block(text: str, block: str) -> str:
    """Return README.md's text with another block between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise SystemExit(f"matrix: README.md has no {BEGIN.strip()} ... {END.strip()}")
    return f"{before}{BEGIN}{block}{END}{after}"


def say_guest(guest: Guest) -> str:
    """Return one line on a guest."""
    left_out = never_offloaded([guest])
    modes = (
        f"{engine} {version} {say_modes(guest, engine, version, left_out)}"
        for engine in dict.fromkeys(kind.engine for kind in guest.kinds)
        for version in ("1.2", "1.3")
    )
    seen = "; ".join(modes).replace("`", "")
    return f"Linux {guest.kernel}, OpenSSL {guest.library}: {guest.count} as expected; {seen}"


def run_lab(wheel: Path) -> tuple[int, str]:
    """Make the cells in all guests; the worst status, and all that was said."""
    statuses, said = [], ""
    for which in LAB_RUNS:
        lab = [sys.executable, str(ROOT / "scripts" / "lab.py"), "test", *which]
        environment = {**os.environ, "KTLSGATE_MATRIX": "all"}
        command = [*lab, str(wheel), "--", *CELLS]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            for line in process.stdout or ():
                said += line
                if not line.startswith(_LINE):
                    print(line, end="", flush=True)
        statuses.append(process.returncode)
    failed = [status for status in statuses if status not in (0, _NOT_RUN)]
    return max(failed, default=max(statuses)), said


def judge(status: int, guests: Sequence[Guest]) -> int:
    """Print what was seen and what was not; the exit status."""
    for guest in guests:
        print("\n  ".join([say_guest(guest), *guest.problems]))
    is_wrong = any(guest.failed or guest.missing for guest in guests)
    if is_wrong or status not in (0, _NOT_RUN):
        print("matrix: not every cell was as expected; README.md is as it was")
        return 1
    skipped = sum(sum(guest.skipped.values()) for guest in guests)
    if len(guests) < GUESTS or skipped:
        seen = f"{len(guests)} of {GUESTS} guests, {skipped} cells skipped"
        print(f"matrix: not run: {seen}; README.md is as it was")
        return _NOT_RUN
    print(f"matrix: {sum(guest.count for guest in guests)} cells, every one as expected")
    return 0


def main() -> int:
    """Run as a program."""
    wheel = run_tests.build_wheel(run_tests.make_venv())
    status, said = run_lab(wheel)
    guests = read_guests(said)
    status = judge(status, guests)
    if status == 0:
        README.write_text(replace_block(README.read_text(), render(guests)))
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as exc:
        sys.exit(f"matrix: {' '.join(exc.cmd)}: exit status {exc.returncode}")
