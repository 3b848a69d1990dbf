"""What becomes of the guests' lines: tables that say what was seen, and nothing else."""

import json
from types import SimpleNamespace

import pytest
from helpers.matrix import cells_of, names_of
from helpers.matrix_report import Outcomes, describe, expected_facts, tally, write_report
from helpers.scripts import load_script

load_script("run_tests")
matrix = load_script("matrix")

KERNELS = ("6.1.176", "6.12.101", "7.2.7")
LIBRARIES = (("3.0.20", False), ("3.5.7", False), ("3.6.5", False), ("4.0.3", True))
PAIRS = [(kernel, *library) for kernel in KERNELS for library in LIBRARIES]

TABLES = """\
| `engine` | OpenSSL | Linux | TLS 1.2 | TLS 1.3 |
|---|---|---|---|---|
| `direct` | 3.0, 3.5, 3.6, 4.0 (wheel) | 6.1, 6.12, 7.2 | `both` | `both` |
| `openssl` | 3.0 | 6.1, 6.12, 7.2 | `both` | `tx`, AES-128-CCM: `relay` |
| `openssl` | 3.5, 3.6 | 6.1, 6.12, 7.2 | `both` | `both` |
| `openssl` | 4.0 (wheel) | 6.1, 6.12, 7.2 | does not start (no kTLS in this OpenSSL) | does not start (no kTLS in this OpenSSL) |

| relayed by every engine everywhere | `fallback` |
|---|---|
| AES-128-CCM-8, AES-256-CCM, AES-128-CBC | `cipher` |
| clients that negotiate max_fragment_length | `max_fragment_length` |

2481 cells, on Linux 6.1.176, 6.12.101, 7.2.7
with Debian's OpenSSL 3.0.20, 3.5.7, 3.6.5 and the wheel's 4.0.3.
"""


def line_of(kernel, openssl, wheel, **changes):
    facts = expected_facts(kernel, openssl, wheel=wheel)
    return "matrix: " + json.dumps(facts | changes)


def guests_of(lines):
    return matrix.read_guests("\n".join(["===== bookworm system", *lines, "lab: done"]))


ALL = guests_of(line_of(*pair) for pair in PAIRS)


def test_tables_say_what_was_seen_on_all_guests_whichever_ended_first():
    assert matrix.render(ALL) == TABLES
    assert guests_of(line_of(*pair) for pair in reversed(PAIRS)) == ALL


def test_kernel_that_differs_gets_a_row_of_its_own():
    odd = line_of("6.12.101", "3.6.5", False)
    odd = odd.replace('"direct-1.3-AES_256_GCM": {"both"', '"direct-1.3-AES_256_GCM": {"relay x"')
    guests = guests_of([line_of("6.1.176", "3.6.5", False), odd])
    rows = matrix.render(guests).splitlines()
    assert "| `direct` | 3.6 | 6.1 | `both` | `both` |" in rows
    assert "| `direct` | 3.6 | 6.12 | `both` | `both`, AES-256-GCM: `relay` |" in rows


def test_cipher_is_relayed_everywhere_only_if_every_guest_relays_it():
    name = '"direct-1.2-AES_256_CCM": {"relay cipher"'
    odd = line_of("7.2.7", "3.6.5", False).replace(name, name.replace("relay cipher", "both"))
    rendered = matrix.render([*ALL, *guests_of([odd])])
    assert "| AES-128-CCM-8, AES-128-CBC | `cipher` |" in rendered
    assert "| `both`, AES-256-CCM: `relay` | `both` |" in rendered


def test_modes_that_differ_within_a_cipher_are_both_said():
    odd = line_of("7.2.7", "3.6.5", False).replace(
        '"direct-1.3-AES_128_GCM": {"both": 10}',
        '"direct-1.3-AES_128_GCM": {"both": 9, "tx tx_only": 1}',
    )
    assert "`both`, AES-128-GCM: `both or tx` |" in matrix.render(guests_of([odd]))


def test_block_is_replaced_and_nothing_else():
    text = f"before\n{matrix.BEGIN}old\n{matrix.END}after\n"
    assert matrix.replace_block(text, "new\n") == text.replace("old", "new")


def test_text_without_markers_is_left_alone():
    with pytest.raises(SystemExit, match=r"README\.md has no"):
        matrix.replace_block("before\n", "new\n")


def test_all_guests_without_a_fault_are_a_success(capsys):
    assert matrix.judge(0, ALL) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(PAIRS) + 1
    assert said[0] == (
        "Linux 6.1.176, OpenSSL 3.0: 236 as expected; direct 1.2 both; direct 1.3 both;"
        " openssl 1.2 both; openssl 1.3 tx, AES-128-CCM: relay"
    )
    assert said[-1] == "matrix: 2481 cells, every one as expected"


@pytest.mark.parametrize(
    ("changes", "status", "problem"),
    [
        ({"failed": ["direct-1.2-AES_128_GCM-full"]}, 1, "direct-1.2-AES_128_GCM-full: not as"),
        ({"missing": ["openssl"]}, 1, "openssl: not tried"),
        ({"skipped": {"no kTLS: why": 3}}, 77, "3 skipped: no kTLS: why"),
    ],
)
def test_fault_of_one_guest_is_told_and_counts(capsys, changes, status, problem):
    guests = [*ALL[:-1], *guests_of([line_of(*PAIRS[-1], **changes)])]
    assert matrix.judge(0, guests) == status
    said = capsys.readouterr().out
    assert f"\n  {problem}" in said
    assert "README.md is as it was" in said


def test_guest_that_is_absent_is_told(capsys):
    assert matrix.judge(77, ALL[1:]) == 77
    assert capsys.readouterr().out.endswith(
        "matrix: not run: 11 of 12 guests, 0 cells skipped; README.md is as it was\n"
    )


def test_status_of_the_lab_counts_though_every_line_is_good(capsys):
    """A guest that broke down, or the comparison with the oracle, has no cell to blame."""
    assert matrix.judge(1, ALL) == 1


def test_guest_without_cells_is_no_success():
    assert matrix.judge(0, []) == 77


# The guests' side


def report(name, outcome="passed", test="test_cell"):
    return SimpleNamespace(
        nodeid=f"tests/e2e/test_cells.py::{test}[{name}]",
        user_properties=[("mode", "both")],
        longrepr=("file", 1, "Skipped: no kTLS: why") if outcome == "skipped" else None,
    )


def written(stats, *, is_complete):
    lines = []
    write_report(lines.append, stats, is_complete=is_complete)
    return lines


def test_cells_are_counted_by_what_they_have_in_common():
    labels = [
        ("direct-1.2-AES_128_GCM-full", "both"),
        ("direct-1.2-AES_128_GCM-fin", "both"),
        ("direct-1.2-AES_128_GCM-max_fragment_length", "relay max_fragment_length"),
        ("openssl", "refused"),
    ]
    assert tally(labels) == {
        "direct-1.2-AES_128_GCM": {"both": 2},
        "direct-1.2-AES_128_GCM-max_fragment_length": {"relay max_fragment_length": 1},
        "openssl": {"refused": 1},
    }


def test_only_cells_are_looked_at():
    other = SimpleNamespace(nodeid="tests/e2e/test_matrix.py::test_x[a-b]", user_properties=[])
    stats = {
        "passed": [report("direct-1.2-AES_128_GCM-full"), other, report("x", test="test_y")],
        "skipped": [report("none", "skipped", "test_engine_is_refused")],
    }
    outcomes = Outcomes(stats)
    assert (outcomes.passed, len(outcomes)) == ({"direct-1.2-AES_128_GCM-full": "both"}, 1)


def test_line_for_people_counts_modes_by_engine_and_version():
    stats = {
        "passed": [report("direct-1.2-AES_128_GCM-full"), report("direct-1.3-AES_128_GCM-full")],
        "failed": [report("direct-1.3-AES_256_GCM-full")],
    }
    assert (
        describe(Outcomes(stats))
        == "2 of 3 cells as expected; direct 1.2: 1 both; direct 1.3: 1 both"
    )


def test_complete_run_says_what_it_lacks():
    stats = {
        "passed": [report("direct-1.2-AES_128_GCM-full")],
        "error": [report("direct-1.2-AES_128_GCM-fin")],
        "skipped": [report("direct-1.2-AES_128_GCM-glued", "skipped")],
    }
    (guest,) = matrix.read_guests("\n".join(written(stats, is_complete=True)))
    assert guest.failed == ["direct-1.2-AES_128_GCM-fin"]
    assert guest.skipped == {"no kTLS: why": 1}
    assert guest.cells == {"direct-1.2-AES_128_GCM": {"both": 1}}
    assert "direct-1.2-AES_128_GCM-ticket" in guest.missing
    assert "direct-1.2-AES_128_GCM-full" not in guest.missing


def test_part_of_a_run_has_no_line_for_the_collector():
    (line,) = written({"passed": [report("direct-1.2-AES_128_GCM-full")]}, is_complete=False)
    assert line.startswith("matrix: Linux ")
    assert matrix.read_guests(line) == []


def test_run_without_cells_says_nothing():
    assert written({}, is_complete=True) == []


def test_every_cell_served_or_refused_has_a_name_to_be_missed_by():
    assert len(names_of("3.0")) == len(cells_of("3.0")) == 236
    assert names_of("wheel") == [*(str(cell) for cell in cells_of("wheel")), "openssl"]


def test_guests_that_the_lab_is_asked_for_are_those_that_are_counted():
    kernels, suites = (matrix.LAB_RUNS[0][n].split(",") for n in (3, 1))
    wheels = matrix.LAB_RUNS[1][1].split(",")
    assert matrix.GUESTS == len(kernels) * len(suites) + len(wheels) == len(PAIRS)
