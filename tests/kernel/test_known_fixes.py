"""Fixes that stable releases brought: the whole table, each with its source."""

from __future__ import annotations

import pytest

from ktlsgate.kernel.known_bugs import KNOWN_BUGS, KernelVersion
from ktlsgate.kernel.known_fixes import KNOWN_FIXES, NOT_LISTED, advise_fixes, lacks, unlisted

# The releases of 6.1 and of 6.12, and under which name; 0 is "never had the fault".
TABLE = [
    ("CVE-2023-28466", 20, 0),
    ("changelog of 6.1.52", 52, 0),
    ("CVE-2024-0646", 69, 0),
    ("CVE-2024-26582", 82, 0),
    ("CVE-2024-26583", 82, 0),
    ("CVE-2024-26584", 82, 0),
    ("CVE-2024-26585", 82, 0),
    ("CVE-2024-26800", 85, 0),
    ("CVE-2024-36489", 94, 0),
    ("CVE-2025-37756", 135, 25),
    ("CVE-2025-38471", 147, 41),
    ("CVE-2025-38616", NOT_LISTED, 43),
    ("CVE-2025-39682", 153, 48),
    ("CVE-2025-39946", 158, 57),
    ("CVE-2026-23414", 170, 85),
    ("CVE-2026-23240", NOT_LISTED, 85),
    ("changelogs of 6.1.176 and 6.12.94", 176, 94),
    ("changelog of 6.12.100", 0, 100),
]
REMEDY = (
    "A hostile client can use some of them: update, or switch offload off for listeners that face"
    " strangers. Source: changelogs of Debian's linux 6.1.176-1 and 6.12.107-1."
)
NEVER = (
    "No release of Linux 6.1 is known to have: data disappearing under the layer"
    " (CVE-2025-38616); race in cancelling tx work (CVE-2026-23240)."
)


def version(text: str) -> KernelVersion:
    major, minor, *patch = (int(part) for part in text.split("."))
    return KernelVersion(series=(major, minor), patch=patch[0] if patch else None)


def test_the_table_is_whole_and_each_row_has_its_source() -> None:
    rows = [(f.source, f.releases.get((6, 1), 0), f.releases.get((6, 12), 0)) for f in KNOWN_FIXES]
    assert rows == TABLE
    assert all(fix.fault for fix in KNOWN_FIXES)
    assert all(bug.source for bug in KNOWN_BUGS)


@pytest.mark.parametrize("fix", KNOWN_FIXES, ids=lambda fix: fix.source)
def test_the_release_that_brought_a_fix_has_it_and_the_one_before_has_not(fix) -> None:
    assert fix.releases
    for series, release in fix.releases.items():
        if release == NOT_LISTED:
            assert fix in unlisted(KernelVersion(series=series, patch=999))
        else:
            assert fix in lacks(KernelVersion(series=series, patch=release - 1))
            assert fix not in lacks(KernelVersion(series=series, patch=release))


def test_what_is_missing_is_named_with_its_source() -> None:
    assert advise_fixes(version("6.12.93")) == (
        "By its number (6.12.93), this kernel lacks fixes of net/tls, unless the distribution"
        " brought them back: scatter list off by one (changelogs of 6.1.176 and 6.12.94);"
        f" read_sock eats empty records (changelog of 6.12.100). {REMEDY}"
    )


def test_what_no_release_is_known_to_have_is_told_apart() -> None:
    assert advise_fixes(version("6.1.176")) == f"{NEVER} {REMEDY}"
    assert advise_fixes(version("6.1.175")) == (
        "By its number (6.1.175), this kernel lacks fixes of net/tls, unless the distribution"
        " brought them back: scatter list off by one (changelogs of 6.1.176 and 6.12.94)."
        f" {NEVER} {REMEDY}"
    )


@pytest.mark.parametrize("text", ["6.6.10", "5.15.200", "6.12", "6.1"])
def test_of_a_series_or_release_that_is_not_known_nothing_is_claimed(text) -> None:
    assert advise_fixes(version(text)) == (
        f"Nothing certain is known of the fixes of net/tls in Linux {text}: the distribution may"
        f" have brought them, or not. {REMEDY}"
    )
    assert lacks(version(text)) == ()


@pytest.mark.parametrize("text", ["6.12.100", "6.12.107", "6.13", "6.18.44", "7.2.7"])
def test_a_warning_that_every_kernel_gets_warns_nobody(text) -> None:
    assert advise_fixes(version(text)) == ""
