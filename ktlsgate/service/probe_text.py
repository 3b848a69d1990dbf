"""The probe's report for people: aligned text, with marks and colours where they can be shown.

Rule: values in, text out; the caller knows the terminal and says so in a `Look`.
"""

from __future__ import annotations

import platform
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TextIO

from ..config import Offload
from ..kernel.features import FeatureName
from ..kernel.system import SystemFacts
from ..kernel.trials import NOT_TRIED, Outcome
from .probe_advice import advise
from .probe_findings import Findings
from .probe_require import Requirements, missing_from

__all__ = ["Look", "render_text"]

_GREEN, _RED, _YELLOW, _BOLD, _RESET = "\x1b[32m", "\x1b[31m", "\x1b[33m", "\x1b[1m", "\x1b[0m"
_COLOURS = {True: _GREEN, False: _RED, None: _YELLOW}
_MARKS = {True: "✓", False: "✗", None: "·"}
_ASCII_MARKS = {True: "ok", False: "no", None: "--"}

_FEATURES = {
    FeatureName.CONTROL_RECORDS: "control records (alerts)",
    FeatureName.REKEY: "rekey (KeyUpdate)",
    FeatureName.SENDFILE: "sendfile",
    FeatureName.SPLICE_TO_SOCKET: "splice, pipe to socket",
    FeatureName.SPLICE_FROM_SOCKET: "splice, socket to pipe",
    FeatureName.TX_MAX_PAYLOAD_LEN: "smaller records",
    FeatureName.TX_ZEROCOPY_RO: "zero-copy sendfile option",
    FeatureName.RX_EXPECT_NO_PAD: "no-padding option",
    FeatureName.POLL_HIDES_PARTIAL_RECORDS: "poll hides partial records",
    FeatureName.KEYS_READABLE: "keys readable by any holder",
    FeatureName.FD_PASSING: "passing the socket on",
    FeatureName.IPV6: "IPv6",
    FeatureName.MPTCP: "MPTCP sockets",
    FeatureName.SEND_SURVIVES_SIGNALS: "signals in blocking sends",
}
_NO_LAYER = "Neither engine can do more: the kernel gives no TLS layer, see above."
_WHY_NOT_TRIED = {
    FeatureName.MPTCP: "not tried: there are none here",
    FeatureName.SEND_SURVIVES_SIGNALS: "not tried: takes a second, ask with --signals",
}
_QUOTED = re.compile(r"`[^`]+`")  # commands: to be copied, so a line does not break them
_NO_BREAK = "\0"
_YES_NO = {True: "yes", False: "no", None: "unknown"}
_SECCOMP = {0: "off", 1: "strict", 2: "filter"}
_BUILT = {True: "built in", False: "left out", None: "cannot be known where the kernel has none"}
_GETS = {
    Offload.BOTH: "both directions",
    Offload.TX: "sending only",
    Offload.NONE: "relay",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the output can show.

    Attributes:
        has_marks: its encoding has check marks.
        has_colours: it is a terminal, and nobody asked for no colours.
        width: columns for text that is wrapped.
    """

    has_marks: bool = False
    has_colours: bool = False
    width: int = 100

    @classmethod
    def of(cls, stream: TextIO, environment: Mapping[str, str], width: int) -> Look:
        """Find out for a stream; ``NO_COLOR`` set to anything means none (no-color.org)."""
        may_colour = not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
        try:
            "".join(_MARKS.values()).encode(stream.encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            has_marks = False
        else:
            has_marks = True
        return cls(
            has_marks=has_marks, has_colours=may_colour and stream.isatty(), width=min(width, 100)
        )

    def paint(self, text: str, colour: str) -> str:
        """Colour the text, if colours can be shown."""
        return f"{colour}{text}{_RESET}" if self.has_colours else text

    @property
    def marks(self) -> Mapping[bool | None, str]:
        """A check mark, a cross, and a dot for unknown; in ASCII two columns wide."""
        marks = _MARKS if self.has_marks else _ASCII_MARKS
        return {is_good: self.paint(mark, _COLOURS[is_good]) for is_good, mark in marks.items()}

    def mark_of(self, outcome: Outcome) -> str:
        """The mark of an outcome; what was not tried is unknown."""
        return self.marks[None if outcome is NOT_TRIED else outcome.ok]


def render_text(findings: Findings, look: Look, wanted: Requirements | None = None) -> str:
    """Write the whole report, ending in a line break; what was required comes last."""
    sections: dict[str, Iterable[str]] = {
        "System": _system(findings),
        "Upper layer protocol": _ulp(findings, look),
        "Ciphers: sending key, receiving key, 20 kB moved": _ciphers(findings, look),
        "Features": _features(findings, look),
        "Counters in /proc/net/tls_stat": _counters(findings, look),
        "Libraries": _libraries(findings, look),
        "What a connection gets": _gets(findings, look),
        "Advice": _advice(findings, look),
        "Required": _required(findings, look, wanted) if wanted else (),
    }
    lines = [look.paint(findings.summary, _BOLD)]
    for title, body in sections.items():
        if content := list(body):
            lines += ["", look.paint(title, _BOLD), *(f"  {line}" for line in content)]
    return "\n".join(lines) + "\n"


def _system(findings: Findings) -> Iterator[str]:
    system = findings.capabilities.system
    ulps = system.available_ulps
    rows = {
        "kernel": f"Linux {system.kernel} {system.machine} ({system.build})",
        "user": f"uid {system.uid}, first user namespace {_YES_NO[system.is_first_user_namespace]}",
        "capabilities": _capabilities(system),
        "seccomp": "unknown" if system.seccomp is None else _SECCOMP.get(system.seccomp, "?"),
        "tcp_available_ulp": "unknown" if ulps is None else " ".join(ulps) or "none",
        "tls module": f"loaded {_YES_NO[system.is_module_loaded]},"
        f" tls_stat {_YES_NO[system.has_tls_stat]}",
    }
    if system.is_container:
        rows["container"] = "yes"
    for rule in system.module_rules:
        rows["modprobe"] = f"{rows['modprobe']}, {rule}" if "modprobe" in rows else str(rule)
    for name, value in rows.items():
        yield f"{name:<18} {value}"


def _capabilities(system: SystemFacts) -> str:
    if system.capabilities is None:
        return "unknown"
    has = "with" if system.has_net_admin else "without"
    return f"{system.capabilities:016x}, {has} CAP_NET_ADMIN"


def _ulp(findings: Findings, look: Look) -> Iterator[str]:
    ulp = findings.capabilities.offload.ulp
    yield f"{look.mark_of(ulp)} {findings.capabilities.ulp_reason or 'attached'}"


def _ciphers(findings: Findings, look: Look) -> Iterator[str]:
    for cell in findings.capabilities.offload.cells:
        marks = "  ".join(look.mark_of(outcome) for outcome in (cell.tx, cell.rx, cell.data))
        yield f"{cell.label:<26} {marks}  {cell.reason}".rstrip()


def _features(findings: Findings, look: Look) -> Iterator[str]:
    for feature in findings.capabilities.features:
        name, outcome = _FEATURES[feature.name], feature.outcome
        why_not = _WHY_NOT_TRIED.get(feature.name, "") if outcome is NOT_TRIED else ""
        reason = why_not or outcome.reason
        yield f"{look.mark_of(outcome)} {name:<28} {reason}".rstrip()


def _counters(findings: Findings, look: Look) -> Iterator[str]:
    counters = findings.capabilities.counters
    if counters.moved is None:
        yield f"{look.marks[None]} there are none: the file is absent"
        return
    moved = ", ".join(map(str, counters.moved)) or "none moved"
    yield f"{look.mark_of(counters.proof)} {moved}"
    if counters.proof.reason and counters.proof is not NOT_TRIED:
        yield counters.proof.reason


def _libraries(findings: Findings, look: Look) -> Iterator[str]:
    report = findings.openssl
    for name, version in (
        ("Python", platform.python_version()),
        ("OpenSSL", report.libraries.openssl or "unknown without pyOpenSSL"),
        ("pyOpenSSL", report.libraries.pyopenssl),
        ("cryptography", report.libraries.cryptography),
        ("trio", report.libraries.trio),
    ):
        yield f"{name:<18} {version or 'not installed'}"
    if report.trials:
        name = "OpenSSL's own kTLS"
        yield f"{name:<18} {look.marks[report.has_ktls]} {_BUILT[report.has_ktls]}"


def _gets(findings: Findings, look: Look) -> Iterator[str]:
    """By engine and version; without engines what the kernel would allow."""
    has_layer = not findings.capabilities.ulp_reason  # else it was said above, once
    if findings.openssl.problem:
        yield findings.openssl.problem
        for mode in findings.modes:
            words = f"{mode.version.label}  {_GETS[mode.offload]}, as far as the kernel goes"
            reason = mode.reason if has_layer else ""
            yield _with_reason(f"{look.marks[mode.is_handoff]} {words}", reason)
        return
    for trial in findings.openssl.trials:
        mark = look.marks[trial.offload is Offload.BOTH]
        words = f"engine {trial.engine:<8} {trial.version.label}  {_GETS[trial.offload]}"
        yield _with_reason(f"{mark} {words}", trial.reason if has_layer else "")
    yield from _comparison(findings) if has_layer else (_NO_LAYER,)


def _with_reason(words: str, reason: str) -> str:
    return f"{words}: {reason}" if reason else words


def _comparison(findings: Findings) -> Iterator[str]:
    found = [(each.better, each.reason) for each in findings.comparisons]
    if not any(better for better, _ in found):
        yield "Both engines give the same."
        return
    for better, reason in dict.fromkeys(found):
        if better:
            labels = [
                each.version.label
                for each in findings.comparisons
                if (each.better, each.reason) == (better, reason)
            ]
            yield f"Engine {better} gives more for {' and '.join(labels)}: {reason}."


def _required(findings: Findings, look: Look, wanted: Requirements) -> Iterator[str]:
    missing = missing_from(findings, wanted)
    for each in missing:
        yield f"{look.marks[False]} {each}"
    if not missing:
        yield f"{look.marks[True]} {', '.join(wanted.names)}"


def _advice(findings: Findings, look: Look) -> Iterator[str]:
    for line in advise(findings):
        lines = textwrap.wrap(
            _QUOTED.sub(lambda match: match[0].replace(" ", _NO_BREAK), line),
            look.width - 2,
            initial_indent="- ",
            subsequent_indent="  ",
            break_on_hyphens=False,
            break_long_words=False,
        )
        yield from (each.replace(_NO_BREAK, " ") for each in lines)
