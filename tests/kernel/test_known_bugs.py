"""Kernel versions: how they are read, and what is known of them."""

from __future__ import annotations

import pytest

from ktlsgate.kernel.features import FeatureName
from ktlsgate.kernel.known_bugs import KNOWN_BUGS, KernelVersion, Suspicion, parse_version

SIGNAL, POLL, REKEY = KNOWN_BUGS
NO, PERHAPS, YES = Suspicion.NO, Suspicion.PERHAPS, Suspicion.YES


@pytest.mark.parametrize(
    ("release", "build", "text"),
    [
        ("6.12.101", "#1 Wed Aug 12", "6.12.101"),
        ("7.2", "", "7.2"),
        ("6.18.44-fc-v657", "#1 SMP PREEMPT_DYNAMIC @0", "6.18.44"),
        ("6.1.0-41-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.158-1 (2025-11-09)", "6.1.158"),
        ("6.12.63+deb13-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.12.63-1 (2025-12-30)", "6.12.63"),
        ("6.8.0-90-generic", "#91-Ubuntu SMP", "6.8"),
        ("5.14.0-611.el9.x86_64", "#1 SMP", "5.14"),
        ("7.0.0", "", "7.0.0"),
    ],
)
def test_a_version_is_upstreams(release, build, text) -> None:
    assert str(parse_version(release, build)) == text


@pytest.mark.parametrize("release", ["", "custom", "v6.1", "6"])
def test_a_name_without_a_version_has_none(release) -> None:
    assert parse_version(release) is None


@pytest.mark.parametrize(
    ("bug", "release", "suspicion"),
    [
        (SIGNAL, "5.15.200", YES),
        (SIGNAL, "6.1.176", YES),
        (SIGNAL, "6.12.101", YES),
        (SIGNAL, "6.12.104", YES),
        (SIGNAL, "6.12.105", NO),
        (SIGNAL, "6.12.0-5-amd64", PERHAPS),
        (SIGNAL, "6.18.44", PERHAPS),
        (SIGNAL, "7.2.7", NO),
        (POLL, "6.1.176", YES),
        (POLL, "6.6.10", PERHAPS),
        (POLL, "6.12.101", NO),
        (REKEY, "6.12.105", YES),
        (REKEY, "6.13.1", YES),
        (REKEY, "6.14", NO),
    ],
)
def test_versions_are_judged_by_series_and_by_stable_fix(bug, release, suspicion) -> None:
    assert bug.suspect(parse_version(release)) is suspicion


def test_a_line_by_number_admits_that_a_distribution_may_have_the_fix() -> None:
    assert SIGNAL.advice(KernelVersion(series=(6, 12), patch=101)) == (
        "By its number (6.12.101), on this kernel a signal during a blocking send() breaks the"
        " connection and loses data; the distribution may have brought a fix back. Keep"
        " descriptors non-blocking (the gate hands them over so), or run Linux 6.12.105 or later"
        " in that series, or 7.2. Source: observed on 6.1.176 and 6.12.101, not on 7.2.7;"
        " changelog of Debian's linux 6.12.107-1."
    )


def test_a_line_about_an_unknown_series_says_perhaps() -> None:
    line = SIGNAL.advice(KernelVersion(series=(6, 18), patch=44))
    assert line.startswith("Perhaps on this kernel a signal during a blocking send()")
    assert "nothing certain is known of Linux 6.18.44" in line


def test_a_good_version_has_no_line() -> None:
    assert [bug.advice(KernelVersion(series=(7, 2), patch=7)) for bug in KNOWN_BUGS] == [""] * 3


def test_what_a_trial_measures_is_said_without_doubt() -> None:
    assert POLL.measured_advice == (
        "On this kernel a client that sends part of a record makes a poll loop in the backend"
        " spin (measured). Run Linux 6.12 or later, or use edge-triggered epoll in backends."
        " Source: observed on 6.1.176, not on 6.12.101."
    )


def test_the_measurable_ones_name_their_trial() -> None:
    assert [bug.feature for bug in KNOWN_BUGS] == [
        FeatureName.SEND_SURVIVES_SIGNALS,
        FeatureName.POLL_HIDES_PARTIAL_RECORDS,
        FeatureName.REKEY,
    ]
