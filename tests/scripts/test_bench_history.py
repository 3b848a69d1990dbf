"""Runs that are kept: what is in a point, and two of them side by side."""

import datetime as dt
import json
import shutil
import subprocess

import pytest
from bench.history import compare_last, figures_of, write_point
from bench.machine import BenchError
from helpers.bench_results import some_results

AT = dt.datetime(2026, 11, 20, 12, 44, 27, tzinfo=dt.UTC)


def test_figures_are_medians_under_names_that_stay():
    figures = figures_of(some_results())
    assert figures["conn: nginx, CPU us"] == 300
    assert figures["conn: gate / nginx"] == 1.075
    assert "conn: nginx / nginx" not in figures
    assert figures["down: gate, CPU s/GB"] == 0
    assert figures["routes: 1000, / smallest"] == 1.2
    assert "held: 1000, / smallest" not in figures, "it was not reached"
    assert figures["idle: nginx, 1000, KB each"] == 50
    stopped = [name for name in figures if name.startswith("idle: nginx, 9990")]
    assert stopped == [], "it was asked for more"
    assert figures["leak: gate, KB"] == 102
    assert figures["calls: nginx"] == 18.5
    assert figures["goal: memory of an idle relayed connection / nginx"] == 0.5


@pytest.fixture
def checkout(tmp_path):
    """A repository with one commit."""
    if shutil.which("git") is None:
        pytest.skip("no git here")

    def git(*words):
        done = subprocess.run(
            ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", *words],
            cwd=tmp_path, check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.strip()

    git("init", "--quiet")
    (tmp_path / "file").write_text("old")
    git("add", "file")
    git("commit", "--quiet", "--message", "one")
    return tmp_path, git("rev-parse", "--short", "HEAD")


def test_a_point_is_a_file_named_for_time_and_commit(checkout):
    folder, commit = checkout
    file = write_point(some_results(), folder / "history", folder, AT)
    assert file == folder / "history" / f"20261120-124427-{commit}.json"
    point = json.loads(file.read_text())
    assert point["figures"] == figures_of(some_results())
    del point["figures"]
    assert point == {
        "schema": 1,
        "date": "20261120-124427",
        "commit": commit,
        "is_changed": False,
        "machine": {"machine": "a machine", "peers": "nginx 1.26", "gate": ""},
        "command": "make bench ARGS=--quick",
        "is_keyless": True,
    }


def test_a_point_says_when_what_ran_was_not_what_was_committed(checkout):
    folder, _ = checkout
    (folder / "file").write_text("new")
    point = json.loads(write_point(some_results(), folder / "history", folder, AT).read_text())
    assert point["is_changed"] is True


def test_without_a_repository_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    file = write_point(some_results(), tmp_path, tmp_path, AT)
    assert file.name == "20261120-124427-unknown.json"


def write(folder, date, machine, **figures):
    point = {"date": date, "commit": "c0ffee", "machine": machine, "figures": figures}
    (folder / f"{date}-c0ffee.json").write_text(json.dumps(point))


def test_the_last_two_points_stand_side_by_side(tmp_path):
    write(tmp_path, "20260101-000000", {}, a=9)
    write(tmp_path, "20260103-000000", {"os": "new", "cpu": "same"}, both=3, zero=1, added=1.5)
    write(tmp_path, "20260102-000000", {"os": "old", "cpu": "same"}, both=2, zero=0, gone=7)
    assert compare_last(tmp_path).splitlines() == [
        "os: old -> new",
        "       20260102-000000 c0ffee  20260103-000000 c0ffee  ratio",
        "both                        2                       3   1.50",
        "zero                        0                       1      -",
        "added                       -                     1.5      -",
        "gone                        7                       -      -",
    ]


def test_one_point_compares_with_nothing(tmp_path):
    write(tmp_path, "20260101-000000", {})
    with pytest.raises(
        BenchError, match=r"^expected two points in the history, got 1: see --record$"
    ):
        compare_last(tmp_path)
