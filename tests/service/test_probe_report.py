"""The report: exit codes, advice for each symptom, and how the text looks."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import platform

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
    NO_TX,
    NOT_LOADED,
    ONLY_13,
    findings,
    only,
    trials,
    without,
)

from ktlsgate.config import Offload
from ktlsgate.kernel.engines import Engine
from ktlsgate.kernel.features import ON_REQUEST, FeatureName
from ktlsgate.kernel.module_rules import ModuleRule
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

NET_ADMIN = 1 << 12  # linux/capability.h

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


INSTALL = ModuleRule(module="tls", text="install tls /bin/false", path="/etc/modprobe.d/a.conf")
BLACKLIST = ModuleRule(module="tls", text="blacklist tls", path="/etc/modprobe.d/b.conf")
CCM = ModuleRule(module="ccm", text="blacklist ccm", path="/etc/modprobe.d/b.conf")
TAKE_OUT = (
    "modprobe is told not to load tls: take out `install tls /bin/false` in"
    " /etc/modprobe.d/a.conf, then `modprobe tls`."
)
LOAD_ALL_THE_SAME = (
    "modprobe is told not to load tls on demand, by `blacklist tls` in /etc/modprobe.d/b.conf:"
    " `modprobe tls` loads it all the same, until the next boot; take that line out, or list it"
    " in /etc/modules-load.d."
)
NO_FILE = (
    "There is no tls module for this kernel in /lib/modules/7.2.7: install the package that"
    " brings this kernel's modules, or run a kernel built with CONFIG_TLS."
)


@pytest.mark.parametrize(
    ("system", "lines"),
    [
        ({"module_rules": (INSTALL,)}, (TAKE_OUT,)),
        ({"module_rules": (CCM, BLACKLIST)}, (LOAD_ALL_THE_SAME,)),
        ({"has_module_file": False}, (NO_FILE,)),
        ({"has_module_file": True}, (NO_MODULE,)),
        ({"module_rules": (INSTALL,), "capabilities": 0}, (TAKE_OUT, NOT_LOADED)),
        ({"has_module_file": False, "capabilities": 0}, (NO_FILE,)),
        (
            {"module_rules": (INSTALL,), "has_module_file": False, "is_container": True},
            (NO_MODULE, CONTAINER),
        ),
    ],
    ids=["install", "blacklist", "no file", "a file", "user", "user, no file", "container"],
)
def test_why_there_is_no_module_is_looked_up(system, lines) -> None:
    """In a container the files are not those of the host's modprobe."""
    assert advise(without(ENOENT, **{"capabilities": NET_ADMIN, **system})) == lines


def test_root_is_told_where_to_look() -> None:
    assert advise(without(ENOENT, capabilities=NET_ADMIN)) == (NO_MODULE,)


def test_in_a_container_the_host_is_named() -> None:
    assert advise(without(ENOENT, is_container=True)) == (NOT_LOADED, CONTAINER)


@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES, errno.ENOSYS])
def test_a_security_policy_is_named(code) -> None:
    assert advise(without(Outcome(ok=False, errno=code, reason="forbidden"))) == (POLICY,)


def test_a_tcp_without_upper_layers_is_named() -> None:
    (line,) = advise(without(Outcome(ok=False, errno=errno.ENOPROTOOPT, reason="what")))
    assert line.startswith("TCP here knows no upper layer protocols")


def test_a_peer_that_was_gone_is_no_fault_of_the_system() -> None:
    (line,) = advise(without(Outcome(ok=False, errno=errno.ENOTCONN, reason="what")))
    assert line.startswith("Not a fault of the kernel's TLS: the probe's own peer was gone")


def test_no_errno_without_a_row_invents_advice() -> None:
    assert advise(without(Outcome(ok=False, errno=errno.ENOTSUP, reason="what"))) == ()


@pytest.mark.parametrize(
    ("code", "start"),
    [
        (
            errno.ENOENT,
            "For TLSv1.3 AES_CCM_128 the kernel's crypto algorithm is missing: `modprobe ccm`;",
        ),
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


def test_a_rule_against_a_missing_algorithm_is_told() -> None:
    cells = (
        dataclasses.replace(c, tx=ENOENT) if c.cipher is not KernelCipher.CHACHA20_POLY1305 else c
        for c in OffloadTable.all().cells
    )
    table = OffloadTable(ulp=DONE, cells=tuple(cells))
    first, second = advise(findings(table=table, module_rules=(BLACKLIST, CCM)))
    assert first.endswith(
        "is missing: `modprobe gcm` and `modprobe ccm`; FIPS mode and stripped kernels forbid some."
    )
    assert second.startswith(
        "modprobe is told not to load ccm on demand, by `blacklist ccm` in /etc/modprobe.d/b.conf:"
    )


def test_missing_pyopenssl_is_named() -> None:
    (line,) = advise(findings(openssl=BARE))
    assert line == (
        "pyOpenSSL is not installed: engines not tried. The gate needs pyOpenSSL, cryptography"
        " and trio."
    )


def test_missing_trio_is_named() -> None:
    report = OpenSslReport(
        libraries=dataclasses.replace(LIBRARIES, trio=""), trials=findings().openssl.trials
    )
    assert advise(findings(openssl=report)) == (
        "trio is not installed. The gate needs pyOpenSSL, cryptography and trio.",
    )


def test_an_openssl_without_ktls_has_two_ways_out() -> None:
    (line,) = advise(findings(openssl=WHEEL))
    assert line == (
        "This OpenSSL was built without kTLS, as those in the registry's wheels are: `engine ="
        ' "openssl"` hands nothing over. Two ways out: `engine = "direct"` installs the keys itself'
        " and needs none of OpenSSL's kTLS; or take the distribution's packages, whose OpenSSL is"
        " built with it: `apt install python3-openssl`, and a Python that sees them: `python3 -m"
        " venv --system-site-packages DIR`."
    )


@pytest.mark.parametrize(
    ("version", "age"), [("OpenSSL 3.0.20 7 Apr 2026", " (older than 3.2)"), ("OpenSSL 3.2.0", "")]
)
def test_an_openssl_with_half_of_tls13_has_two_ways_out(version, age) -> None:
    libraries = dataclasses.replace(LIBRARIES, openssl=version)
    (line,) = advise(findings(openssl=dataclasses.replace(OLD, libraries=libraries)))
    assert line == (
        f"This OpenSSL{age} gives the kernel only the sending key of TLS 1.3: with `engine ="
        ' "openssl"` those connections are handed over for sending only. `engine = "direct"`'
        " installs both keys; so does OpenSSL 3.2 or later."
    )


def test_a_broken_probe_warns_first() -> None:
    assert advise(findings(table=OffloadTable(ulp=BROKEN))) == (
        "The probe itself failed, so nothing above is certain: no loopback.",
    )


UNASKED = tuple(
    dataclasses.replace(f, outcome=NOT_TRIED) if f.name in ON_REQUEST else f for f in FEATURES
)


def test_signals_are_judged_by_their_trial_when_somebody_asked() -> None:
    (fixes,) = advise(findings(kernel="6.1.176"))
    assert fixes.startswith("No release of Linux 6.1 is known to have: ")
    died = Outcome(ok=False, reason="a signal broke it")
    features = tuple(
        dataclasses.replace(f, outcome=died) if f.name in ON_REQUEST else f for f in FEATURES
    )
    (signal,) = advise(findings(kernel="9.9.9", features=features))
    assert signal.startswith("On this kernel a signal during a blocking send() breaks the")
    assert " (measured). Keep descriptors non-blocking" in signal


def test_a_measured_defect_is_told_without_doubt_and_a_numbered_one_with() -> None:
    features = tuple(
        dataclasses.replace(f, outcome=BUSY) if f.name is FeatureName.REKEY else f for f in UNASKED
    )
    signal, rekey = advise(findings(kernel="6.12.101", features=features))
    assert signal.startswith("By its number (6.12.101), on this kernel a signal")
    assert rekey.startswith("On this kernel a TLS 1.3 connection cannot be read any more")


def test_a_measurement_silences_the_number() -> None:
    """A distribution that brought poll's fix back to 6.1 is not accused of lacking it."""
    signal, fixes = advise(findings(kernel="6.1.176", features=UNASKED))
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
  user               uid 1000, first user namespace yes
  capabilities       0000000000000000, without CAP_NET_ADMIN
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
  ✓ passing the socket on
  ✓ IPv6
  ✓ MPTCP sockets
  ✓ signals in blocking sends

Counters in /proc/net/tls_stat
  ✓ TlsTxSw +28, TlsRxSw +16

Libraries
  Python             PYTHON
  OpenSSL            OpenSSL 3.6.5
  pyOpenSSL          26.4.0
  cryptography       50.0.2
  trio               0.35.0
  OpenSSL's own kTLS ✓ built in

What a connection gets
  ✓ engine direct   TLSv1.3  both directions
  ✓ engine direct   TLSv1.2  both directions
  ✓ engine openssl  TLSv1.3  both directions
  ✓ engine openssl  TLSv1.2  both directions
  Both engines give the same.
""".replace("PYTHON", platform.python_version())


def test_the_text_of_a_good_machine() -> None:
    assert render_text(findings(), Look(has_marks=True)) == WHOLE_TEXT


def test_ascii_has_words_for_marks() -> None:
    text = render_text(without(ENOENT), Look())
    assert text.isascii()
    assert "  no the tls module is not loaded" in text
    assert "  OpenSSL's own kTLS -- cannot be known where the kernel has none\n" in text


def test_what_was_not_tried_and_what_is_unknown_say_so() -> None:
    text = render_text(
        findings(openssl=BARE, capabilities=None, is_module_loaded=None, seccomp=None, available_ulps=None, is_container=True),
        Look(has_marks=True),
    )  # fmt: skip
    assert "  capabilities       unknown\n" in text
    assert "  seccomp            unknown\n  tcp_available_ulp  unknown\n" in text
    assert "  tls module         loaded unknown, tls_stat yes\n  container          yes\n" in text
    assert "  pyOpenSSL is not installed: engines not tried\n" in text
    assert "  ✓ TLSv1.3  both directions, as far as the kernel goes\n" in text
    assert "  trio               not installed\n" in text
    assert "  OpenSSL            unknown without pyOpenSSL\n" in text


def test_a_refusal_stands_in_its_row() -> None:
    text = render_text(findings(table=only(Version.TLS12), openssl=ONLY_13), Look(has_marks=True))
    assert "  TLSv1.3 AES_GCM_128        ✗  ✓  ✓  unknown (EINVAL)\n" in text
    assert "  ✗ engine direct   TLSv1.2  relay: unknown (EINVAL)\n" in text


WHEEL = OpenSslReport(
    libraries=LIBRARIES,
    trials=trials(Engine.DIRECT) + trials(Engine.OPENSSL, tx=NO_TX, rx=NO_RX, data=NOT_TRIED),
    has_ktls=False,
)
OLD = OpenSslReport(
    libraries=dataclasses.replace(LIBRARIES, openssl="OpenSSL 3.0.20 7 Apr 2026"),
    trials=trials(Engine.DIRECT)
    + trials(Engine.OPENSSL, rx=NO_RX)[:1]
    + trials(Engine.OPENSSL)[1:],
    has_ktls=True,
)


def test_engines_are_compared_with_the_reason() -> None:
    """What a gate would get of each, and which gives more."""
    assert section(render_text(findings(openssl=WHEEL), Look()), "What a connection gets") == [
        "  ok engine direct   TLSv1.3  both directions",
        "  ok engine direct   TLSv1.2  both directions",
        "  no engine openssl  TLSv1.3  relay: OpenSSL did not give the sending key to the kernel",
        "  no engine openssl  TLSv1.2  relay: OpenSSL did not give the sending key to the kernel",
        "  Engine direct gives more for TLSv1.3 and TLSv1.2: this OpenSSL was built without kTLS.",
    ]
    assert section(render_text(findings(openssl=OLD), Look()), "What a connection gets")[2:] == [
        f"  no engine openssl  TLSv1.3  sending only: {NO_RX.reason}",
        "  ok engine openssl  TLSv1.2  both directions",
        "  Engine direct gives more for TLSv1.3: this OpenSSL is older than 3.2.",
    ]


def test_engine_openssl_can_give_more_too() -> None:
    report = OpenSslReport(
        libraries=LIBRARIES,
        trials=trials(Engine.DIRECT, rx=EINVAL) + trials(Engine.OPENSSL),
        has_ktls=True,
    )
    lines = section(render_text(findings(openssl=report), Look()), "What a connection gets")
    assert lines[0] == "  no engine direct   TLSv1.3  sending only: unknown (EINVAL)"
    assert lines[-1] == "  Engine openssl gives more for TLSv1.3 and TLSv1.2: unknown (EINVAL)."


def test_without_a_layer_the_reason_stands_once() -> None:
    text = render_text(without(ENOENT), Look())
    assert text.count("the tls module is not loaded, and this process may not load it") == 2
    assert section(text, "What a connection gets")[2:] == [
        "  Neither engine can do more: the kernel gives no TLS layer, see above."
    ]


def test_what_was_not_asked_for_says_how_to_ask() -> None:
    text = render_text(findings(features=UNASKED), Look())
    assert (
        "  -- signals in blocking sends    not tried: takes a second, ask with --signals\n" in text
    )


def test_without_mptcp_it_was_not_tried_and_that_is_no_fault() -> None:
    features = tuple(
        dataclasses.replace(f, outcome=NOT_TRIED) if f.name is FeatureName.MPTCP else f
        for f in FEATURES
    )
    text = render_text(findings(features=features), Look())
    assert "  -- MPTCP sockets                not tried: there are none here\n" in text


def test_what_modprobe_is_told_is_shown() -> None:
    text = render_text(without(ENOENT, module_rules=(INSTALL, BLACKLIST)), Look())
    assert (
        "  modprobe           `install tls /bin/false` in /etc/modprobe.d/a.conf,"
        " `blacklist tls` in /etc/modprobe.d/b.conf\n" in text
    )


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


def test_advice_is_wrapped_to_the_width_but_commands_are_not() -> None:
    text = render_text(without(ENOENT), Look(width=60))
    assert (
        "Advice\n"
        "  - Load the module as root and keep it loaded:\n"
        "    `modprobe tls`, and\n"
        "    `echo tls > /etc/modules-load.d/tls.conf`.\n"
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


def test_main_tries_signals_when_asked(capsys, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(
        "ktlsgate.service.probe_report.collect_findings",
        lambda names: asked.append(set(names)) or findings(),
    )
    main(["--json"])
    main(["--signals"])
    main(["--require", "send-survives-signals"])
    signals = {FeatureName.SEND_SURVIVES_SIGNALS}
    assert asked == [set(), signals, signals]
    assert capsys.readouterr().err == ""


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
