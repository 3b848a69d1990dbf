"""The report: exit codes, advice for each symptom, and how the text looks."""

from __future__ import annotations

import dataclasses
import errno
import io
import json

import pytest
from helpers.findings import (
    BARE,
    BROKEN,
    BUSY,
    EINVAL,
    ENOENT,
    FEATURES,
    LIBRARIES,
    NO_RX,
    NOT_LOADED,
    ONLY_13,
    findings,
    only,
    trials,
    without,
)

from ktlsgate.config import Offload
from ktlsgate.kernel.engines import Engine
from ktlsgate.kernel.features import FeatureName
from ktlsgate.kernel.openssl_probe import OpenSslReport
from ktlsgate.kernel.probe import Cell, OffloadTable
from ktlsgate.kernel.tls_stat import CounterChange, CounterCheck
from ktlsgate.kernel.trials import DONE, NOT_TRIED, Outcome
from ktlsgate.service.probe_advice import advise
from ktlsgate.service.probe_findings import Mode
from ktlsgate.service.probe_report import main
from ktlsgate.service.probe_require import parse_requirements
from ktlsgate.service.probe_text import Look, render_text
from ktlsgate.wire.ciphers import KernelCipher, Version

# Exit codes and modes.


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (findings(), 0),
        (findings(openssl=ONLY_13), 1),
        (without(ENOENT), 3),
        (findings(table=OffloadTable(ulp=BROKEN)), 4),
        (findings(openssl=BARE), 0),
        (findings(openssl=BARE, table=only(Version.TLS12)), 1),
        (findings(openssl=BARE, table=OffloadTable.none("no")), 3),
    ],
    ids=["both", "one", "none", "broken", "bare, both", "bare, one", "bare, none"],
)
def test_the_exit_code_counts_the_versions_that_are_handed_off(found, code) -> None:
    assert found.exit_code == code


def test_engine_direct_is_named_where_both_work() -> None:
    assert findings().modes == (
        Mode(version=Version.TLS13, offload=Offload.BOTH, engine=Engine.DIRECT),
        Mode(version=Version.TLS12, offload=Offload.BOTH, engine=Engine.DIRECT),
    )


def test_engine_openssl_is_named_where_only_it_works() -> None:
    report = OpenSslReport(
        libraries=LIBRARIES, trials=trials(Engine.DIRECT, rx=EINVAL) + trials(Engine.OPENSSL)
    )
    assert [mode.engine for mode in findings(openssl=report).modes] == [Engine.OPENSSL] * 2


def test_one_direction_is_a_relay_that_says_so() -> None:
    report = OpenSslReport(libraries=LIBRARIES, trials=trials(Engine.DIRECT, rx=EINVAL))
    mode = findings(openssl=report).modes[0]
    assert (mode.name, mode.offload, mode.reason) == ("relay", Offload.TX, "unknown (EINVAL)")


def test_a_relay_says_why() -> None:
    tls13, tls12 = without(ENOENT).modes
    assert tls13.reason == tls12.reason
    assert tls13.reason == (
        "the tls module is not loaded, and this process may not load it: that takes"
        " CAP_NET_ADMIN in the first user namespace (ENOENT)"
    )


def test_without_pyopenssl_the_kernel_answers_alone() -> None:
    tls13, tls12 = findings(openssl=BARE, table=only(Version.TLS12)).modes
    assert (tls13.name, tls13.reason) == ("relay", "unknown (EINVAL)")
    assert (tls12.name, tls12.engine) == ("handoff", None)


# Advice.


NO_MODULE = (
    "Root could not load the module on demand: try `modprobe tls`; look for `install tls` or"
    " `blacklist tls` in /etc/modprobe.d; or run a kernel built with CONFIG_TLS."
)
CONTAINER = "This is a container: the host's kernel decides, so load the module on the host."
POLICY = "Allow setsockopt(TCP_ULP) in the seccomp or LSM profile that this process runs under."


def test_nothing_is_advised_where_all_is_well() -> None:
    assert advise(findings()) == ()


def test_a_user_is_told_to_have_the_module_loaded() -> None:
    assert advise(without(ENOENT)) == (NOT_LOADED,)


def test_root_is_told_where_to_look() -> None:
    assert advise(without(ENOENT, has_net_admin=True)) == (NO_MODULE,)


def test_in_a_container_the_host_is_named() -> None:
    assert advise(without(ENOENT, is_container=True)) == (NOT_LOADED, CONTAINER)


@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES, errno.ENOSYS])
def test_a_security_policy_is_named(code) -> None:
    assert advise(without(Outcome(ok=False, errno=code, reason="forbidden"))) == (POLICY,)


def test_a_tcp_without_upper_layers_is_named() -> None:
    (line,) = advise(without(Outcome(ok=False, errno=errno.ENOPROTOOPT, reason="what")))
    assert line.startswith("TCP here knows no upper layer protocols")


def test_no_errno_without_a_row_invents_advice() -> None:
    assert advise(without(Outcome(ok=False, errno=errno.ENOTSUP, reason="what"))) == ()


@pytest.mark.parametrize(
    ("code", "start"),
    [
        (errno.ENOENT, "For TLSv1.3 AES_CCM_128 the kernel's crypto algorithm is missing"),
        (errno.EINVAL, "TLSv1.3 AES_CCM_128: unknown to this kernel"),
        (errno.ENOMEM, "The kernel had no memory for the keys of TLSv1.3 AES_CCM_128"),
    ],
)
def test_a_refused_cipher_is_named_with_its_remedy(code, start) -> None:
    refused = Outcome(ok=False, errno=code, reason="refused")
    bad = Cell(
        version=Version.TLS13,
        cipher=KernelCipher.AES_CCM_128,
        tx=refused,
        rx=refused,
        data=NOT_TRIED,
    )
    cells = (*OffloadTable.all().cells[:3], bad)
    (line,) = advise(findings(table=OffloadTable(ulp=DONE, cells=cells)))
    assert line.startswith(start)


def test_missing_pyopenssl_is_named() -> None:
    (line,) = advise(findings(openssl=BARE))
    assert line == (
        "pyOpenSSL is not installed: engines not tried. The gate needs pyOpenSSL, cryptography"
        " and trio."
    )


def test_an_openssl_without_ktls_is_no_matter() -> None:
    report = OpenSslReport(libraries=LIBRARIES, trials=trials(Engine.DIRECT), has_ktls=False)
    (line,) = advise(findings(openssl=report))
    assert line.startswith("This OpenSSL was built without kTLS")


def test_an_openssl_with_half_of_tls13_is_no_matter() -> None:
    report = OpenSslReport(
        libraries=LIBRARIES,
        trials=trials(Engine.DIRECT) + trials(Engine.OPENSSL, rx=NO_RX),
        has_ktls=True,
    )
    (line,) = advise(findings(openssl=report))
    assert line.startswith("This OpenSSL (older than 3.2)")


def test_a_broken_probe_warns_first() -> None:
    assert advise(findings(table=OffloadTable(ulp=BROKEN))) == (
        "The probe itself failed, so nothing above is certain: no loopback.",
    )


def test_a_measured_defect_is_told_without_doubt_and_a_numbered_one_with() -> None:
    features = tuple(
        dataclasses.replace(f, outcome=BUSY) if f.name is FeatureName.REKEY else f for f in FEATURES
    )
    signal, rekey = advise(findings(kernel="6.12.101", features=features))
    assert signal.startswith("By its number (6.12.101), on this kernel a signal")
    assert rekey.startswith("On this kernel a TLS 1.3 connection cannot be read any more")


def test_a_measurement_silences_the_number() -> None:
    """A distribution that brought poll's fix back to 6.1 is not accused of lacking it."""
    signal, fixes = advise(findings(kernel="6.1.176"))
    assert signal.startswith("By its number (6.1.176), on this kernel a signal")
    assert fixes.startswith("No release of Linux 6.1 is known to have: ")


def test_counters_that_contradict_the_trials_are_told() -> None:
    refused = Outcome(ok=False, reason="TlsTxSw rose by 0, but 8 sending keys were taken")
    (line,) = advise(findings(counters=CounterCheck(moved=(), proof=refused)))
    assert line == (
        "The kernel's counters contradict the trials (TlsTxSw rose by 0, but 8 sending keys were"
        " taken): something else than Linux's tls code answers here, a sandbox or a made-up /proc."
        " Trust the trials, not the counters."
    )


def test_defects_are_not_told_where_there_is_no_ktls_to_have_them() -> None:
    assert advise(without(ENOENT, kernel="6.1.100")) == (NOT_LOADED,)


# Text.

WHOLE_TEXT = """\
kTLS: tx+rx

System
  kernel             Linux 7.2.7 x86_64 (#1 Fri Sep 25)
  user               uid 1000, CAP_NET_ADMIN no, first user namespace yes
  seccomp            off
  tcp_available_ulp  tls
  tls module         loaded yes, tls_stat yes

Upper layer protocol
  ✓ attached

Ciphers: sending key, receiving key, 20 kB moved
  TLSv1.3 AES_GCM_128        ✓  ✓  ✓
  TLSv1.3 AES_GCM_256        ✓  ✓  ✓
  TLSv1.3 CHACHA20_POLY1305  ✓  ✓  ✓
  TLSv1.3 AES_CCM_128        ✓  ✓  ✓
  TLSv1.2 AES_GCM_128        ✓  ✓  ✓
  TLSv1.2 AES_GCM_256        ✓  ✓  ✓
  TLSv1.2 CHACHA20_POLY1305  ✓  ✓  ✓
  TLSv1.2 AES_CCM_128        ✓  ✓  ✓

Features
  ✓ control records (alerts)
  ✓ rekey (KeyUpdate)
  ✓ sendfile
  ✓ splice, pipe to socket
  ✓ splice, socket to pipe
  ✓ smaller records
  ✓ zero-copy sendfile option
  ✓ no-padding option
  ✓ poll hides partial records
  ✓ keys readable by any holder

Counters in /proc/net/tls_stat
  ✓ TlsTxSw +28, TlsRxSw +16

OpenSSL
  library            OpenSSL 3.6.5
  pyOpenSSL          26.4.0
  cryptography       50.0.2
  built with kTLS    ✓ yes
  engine direct      ✓ TLSv1.3  tx+rx    SUITE
  engine direct      ✓ TLSv1.2  tx+rx    SUITE
  engine openssl     ✓ TLSv1.3  tx+rx    SUITE
  engine openssl     ✓ TLSv1.2  tx+rx    SUITE

What a connection gets
  ✓ TLSv1.3  handoff (engine direct)
  ✓ TLSv1.2  handoff (engine direct)
"""


def test_the_text_of_a_good_machine() -> None:
    assert render_text(findings(), Look(has_marks=True)) == WHOLE_TEXT


def test_ascii_has_words_for_marks() -> None:
    text = render_text(without(ENOENT), Look())
    assert text.isascii()
    assert "  no the tls module is not loaded" in text
    assert "  built with kTLS    -- cannot be known where the kernel has none\n" in text


def test_what_was_not_tried_and_what_is_unknown_say_so() -> None:
    text = render_text(
        findings(openssl=BARE, has_net_admin=None, is_module_loaded=None, seccomp=None, available_ulps=None, is_container=True),
        Look(has_marks=True),
    )  # fmt: skip
    assert "CAP_NET_ADMIN unknown" in text
    assert "  seccomp            unknown\n  tcp_available_ulp  unknown\n" in text
    assert "  tls module         loaded unknown, tls_stat yes\n  container          yes\n" in text
    assert "  pyOpenSSL is not installed: engines not tried\n" in text
    assert "  ✓ TLSv1.3  handoff, as far as the kernel is concerned\n" in text


def test_a_refusal_stands_in_its_row() -> None:
    text = render_text(findings(table=only(Version.TLS12), openssl=ONLY_13), Look(has_marks=True))
    assert "  TLSv1.3 AES_GCM_128        ✗  ✓  ✓  unknown (EINVAL)\n" in text
    assert "  engine direct      ✗ TLSv1.2  none     SUITE  unknown (EINVAL)\n" in text
    assert "  ✗ TLSv1.2  relay: unknown (EINVAL)\n" in text


def section(text: str, title: str) -> list[str]:
    return text.partition(f"\n{title}\n")[2].partition("\n\n")[0].rstrip().split("\n")


@pytest.mark.parametrize(
    ("counters", "lines"),
    [
        (CounterCheck(), ["  -- there are none: the file is absent"]),
        (CounterCheck(moved=()), ["  -- none moved"]),
        (
            CounterCheck(
                moved=(CounterChange(name="TlsTxSw", by=1),),
                proof=Outcome(ok=False, reason="TlsRxSw rose by 0"),
            ),
            ["  no TlsTxSw +1", "  TlsRxSw rose by 0"],
        ),
    ],
    ids=["absent", "silent", "contradicting"],
)
def test_counters_say_what_they_prove(counters, lines) -> None:
    text = render_text(findings(counters=counters), Look())
    assert section(text, "Counters in /proc/net/tls_stat") == lines


def test_what_was_required_and_is_there_comes_last() -> None:
    text = render_text(findings(), Look(), parse_requirements("rx,1.3,AES_256_GCM,rekey"))
    assert section(text, "Required") == ["  ok rx, 1.3, AES_256_GCM, rekey"]
    assert text.endswith("\nRequired\n  ok rx, 1.3, AES_256_GCM, rekey\n")


def test_what_was_required_and_is_missing_has_a_line_each() -> None:
    text = render_text(without(ENOENT), Look(), parse_requirements("1.3,rekey"))
    reason = (
        "the tls module is not loaded, and this process may not load it: that takes"
        " CAP_NET_ADMIN in the first user namespace (ENOENT)"
    )
    assert section(text, "Required") == [f"  no tx+rx TLSv1.3: {reason}", f"  no rekey: {reason}"]


def test_advice_is_wrapped_to_the_width() -> None:
    text = render_text(without(ENOENT), Look(width=60))
    assert (
        "Advice\n"
        "  - Load the module as root and keep it loaded: `modprobe\n"
        "    tls`, and `echo tls > /etc/modules-load.d/tls.conf`.\n"
    ) in text


class Stream(io.StringIO):
    def __init__(self, encoding: str | None, *, is_tty: bool) -> None:
        super().__init__()
        self._encoding = encoding
        self._is_tty = is_tty

    @property
    def encoding(self) -> str | None:
        return self._encoding

    def isatty(self) -> bool:
        return self._is_tty


@pytest.mark.parametrize(
    ("encoding", "has_marks"),
    [("utf-8", True), ("ascii", False), ("latin-1", False), (None, False), ("nonsense", False)],
)
def test_marks_need_an_encoding_that_has_them(encoding, has_marks) -> None:
    assert Look.of(Stream(encoding, is_tty=False), {}, 80).has_marks is has_marks


@pytest.mark.parametrize(
    ("is_tty", "environment", "has_colours"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"NO_COLOR": ""}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {"TERM": "xterm"}, False),
    ],
)
def test_colours_need_a_terminal_and_nobody_against_them(is_tty, environment, has_colours) -> None:
    assert Look.of(Stream("utf-8", is_tty=is_tty), environment, 80).has_colours is has_colours


def test_lines_are_never_wider_than_a_hundred_columns() -> None:
    assert Look.of(Stream("utf-8", is_tty=False), {}, 300).width == 100


def test_colours_change_nothing_but_colours() -> None:
    import re

    coloured = render_text(findings(), Look(has_marks=True, has_colours=True))
    assert "\x1b[32m✓\x1b[0m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == WHOLE_TEXT


# main.


def test_main_prints_text_and_returns_the_exit_code(capsys) -> None:
    code = main([])
    out, err = capsys.readouterr()
    assert code in {0, 1, 3}
    assert "What a connection gets" in out
    assert err == ""


def test_main_prints_json_that_agrees_with_its_exit_code(capsys) -> None:
    code = main(["--json"])
    out, err = capsys.readouterr()
    assert json.loads(out)["exit_code"] == code
    assert out.count("\n") == 1
    assert err == ""


def test_main_ends_with_1_when_something_required_is_missing(capsys) -> None:
    """On a machine without the feature; with it, with 0."""
    code = main(["--require", "sendfile", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == report["exit_code"] == bool(report["required"]["missing"])


def test_an_unknown_requirement_is_a_usage_error_with_the_nearest_name(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--require", "rx,rekye"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "ktlsgate probe: error: argument --require: unknown name 'rekye': the nearest is 'rekey'"
    )


def test_an_unknown_argument_is_a_usage_error(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--what"])
    assert caught.value.code == 2
    assert "usage: ktlsgate probe" in capsys.readouterr().err


class Refusing(io.StringIO):
    """A standard output that cannot be written."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self._code = code

    def write(self, text: str) -> int:
        raise OSError(self._code, "no")


def test_a_crash_is_exit_code_4_and_not_pythons_1(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.stdout", Refusing(errno.ENOSPC))
    assert main(["--json"], prog="probe") == 4
    assert capsys.readouterr().err == "probe: the probe itself failed: OSError: [Errno 28] no\n"


def test_a_reader_that_goes_away_changes_no_answer(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.stdout", Refusing(errno.EPIPE))
    assert main(["--json"]) in {0, 1, 3}
    assert capsys.readouterr().err == ""
