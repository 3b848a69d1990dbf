"""The report: exit codes, the JSON schema, advice for each symptom, and how the text looks."""

from __future__ import annotations

import dataclasses
import errno
import io
import json

import pytest

from ktlsgate.config import Offload
from ktlsgate.kernel.engines import Engine, EngineTrial
from ktlsgate.kernel.features import Feature, FeatureName
from ktlsgate.kernel.openssl_probe import Libraries, OpenSslReport
from ktlsgate.kernel.probe import Capabilities, Cell, OffloadTable
from ktlsgate.kernel.system import SystemFacts
from ktlsgate.kernel.trials import DONE, NOT_TRIED, Outcome
from ktlsgate.service import probe_report
from ktlsgate.service.probe_advice import advise
from ktlsgate.service.probe_findings import Findings, Mode
from ktlsgate.service.probe_report import main, render_json
from ktlsgate.service.probe_text import Look, render_text
from ktlsgate.wire.ciphers import KernelCipher, Version

ENOENT = Outcome(ok=False, errno=errno.ENOENT, reason="nobody loaded it (ENOENT)")
EINVAL = Outcome(ok=False, errno=errno.EINVAL, reason="unknown (EINVAL)")
BUSY = Outcome(ok=False, errno=errno.EBUSY, reason="cannot rekey (EBUSY)")
BROKEN = Outcome(ok=False, reason="no loopback", is_broken=True)
NO_RX = Outcome(ok=False, reason="OpenSSL did not give the receiving key to the kernel")
SYSTEM = SystemFacts(
    kernel="7.2.7",
    build="#1 Fri Sep 25",
    machine="x86_64",
    uid=1000,
    has_net_admin=False,
    is_first_user_namespace=True,
    seccomp=0,
    available_ulps=("tls",),
    is_module_loaded=True,
    has_tls_stat=True,
    is_container=False,
)
FEATURES = tuple(Feature(name=name, outcome=DONE) for name in FeatureName)
LIBRARIES = Libraries(openssl="OpenSSL 3.6.5", pyopenssl="26.4.0", cryptography="50.0.2")


def trials(engine: Engine, **changes: Outcome) -> tuple[EngineTrial, ...]:
    outcomes = {"handshake": DONE, "tx": DONE, "rx": DONE, "data": DONE} | changes
    return tuple(
        EngineTrial(engine=engine, version=version, suite="SUITE", **outcomes)
        for version in reversed(Version)
    )


def findings(
    *,
    table: OffloadTable | None = None,
    features: tuple[Feature, ...] = FEATURES,
    openssl: OpenSslReport | None = None,
    **system: object,
) -> Findings:
    report = openssl or OpenSslReport(
        libraries=LIBRARIES,
        trials=trials(Engine.DIRECT) + trials(Engine.OPENSSL),
        has_ktls=True,
    )
    capabilities = Capabilities(
        system=dataclasses.replace(SYSTEM, **system),
        offload=table or OffloadTable.all(),
        features=features,
    )
    return Findings(capabilities=capabilities, openssl=report)


def without(outcome: Outcome, **system: object) -> Findings:
    """A kernel whose ULP answers so."""
    report = OpenSslReport(
        libraries=LIBRARIES, trials=trials(Engine.DIRECT, tx=outcome, rx=outcome, data=NOT_TRIED)
    )
    table = OffloadTable(ulp=outcome)
    return findings(table=table, features=(), openssl=report, **system)


BARE = OpenSslReport(libraries=Libraries(), problem="pyOpenSSL is not installed: engines not tried")
ONLY_13 = OpenSslReport(
    libraries=LIBRARIES, trials=trials(Engine.DIRECT)[:1] + trials(Engine.DIRECT, tx=EINVAL)[1:]
)


def only(version: Version) -> OffloadTable:
    cells = (
        dataclasses.replace(c, tx=DONE if c.version is version else EINVAL)
        for c in OffloadTable.all().cells
    )
    return OffloadTable(ulp=DONE, cells=tuple(cells))


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


NOT_LOADED = (
    "Load the module as root and keep it loaded: `modprobe tls`, and"
    " `echo tls > /etc/modules-load.d/tls.conf`."
)
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
    lines = advise(findings(kernel="6.1.176"))
    assert [line.partition(",")[0] for line in lines] == ["By its number (6.1.176)"]


def test_defects_are_not_told_where_there_is_no_ktls_to_have_them() -> None:
    assert advise(without(ENOENT, kernel="6.1.100")) == (NOT_LOADED,)


# JSON.


def outcome_keys(value: dict[str, object] | None) -> bool:
    return value is None or list(value) == ["ok", "errno", "reason"]


def test_the_schema_is_the_documented_one() -> None:
    report = json.loads(render_json(findings()))
    documented = [
        line.split()[0]
        for line in probe_report.__doc__.split("::", 1)[1].splitlines()
        if line.startswith("    ") and not line.startswith("     ")
    ]
    assert list(report) == documented
    assert report["schema"] == 1
    assert set(report["system"]) == {
        "kernel", "build", "machine", "uid", "net_admin", "first_user_namespace", "seccomp",
        "available_ulps", "tls_module_loaded", "tls_stat", "container",
    }  # fmt: skip
    assert list(report["features"]) == [name.value for name in FeatureName]
    assert all(map(outcome_keys, report["features"].values()))
    for row in report["ciphers"]:
        assert list(row) == ["version", "cipher", "offload", "tx", "rx", "data"]
        assert all(outcome_keys(row[name]) for name in ("tx", "rx", "data"))
    for row in report["engines"]:
        assert list(row) == [
            "engine", "version", "suite", "offload", "handshake", "tx", "rx", "data",
        ]  # fmt: skip
    for row in report["modes"]:
        assert list(row) == ["version", "mode", "offload", "engine", "reason"]
    assert set(report["openssl"]) == {
        "library", "pyopenssl", "cryptography", "has_ktls", "problem",
    }  # fmt: skip


def test_values_in_json_are_those_found() -> None:
    report = json.loads(render_json(without(ENOENT, available_ulps=None)))
    assert report["exit_code"] == 3
    assert report["failure"] == ""
    assert report["summary"] == "no kTLS here: relaying, because nobody loaded it (ENOENT)"
    assert report["ulp"]["errno"] == "ENOENT"
    assert report["system"]["available_ulps"] is None
    assert report["ciphers"] == []
    assert report["features"] == {}
    assert report["engines"][0]["data"] is None
    assert report["modes"][0]["mode"] == "relay"
    assert report["modes"][0]["engine"] is None
    assert report["advice"] == [NOT_LOADED]


def test_json_is_one_ascii_line() -> None:
    text = render_json(findings(build="#1 Größe\n"))
    assert "\n" not in text
    assert text.isascii()


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
