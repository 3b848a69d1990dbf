"""One HTTP/1.x request head: the bytes a client sent, checked and taken apart.

This scanner decides alone what reaches a backend, so it is strict: it refuses what
h11 or llhttp refuses, and what any two readers might understand differently
(request smuggling, RFC 9112 section 11.2). What it accepts, both read alike.

Theory of operation
-------------------
A head that is there in one piece takes the fast path: one search for CRLFCRLF, one
pattern for the request line, one ``findall`` for the header lines. ``findall`` skips
what it does not match, but each match holds exactly one LF, so as many matches as
LFs means that nothing was skipped.

Anything else (incomplete, over a limit, a pattern that did not match) is read line
by line by `_refuse_first_fault`, which knows the reason. The first fault in byte
order decides; faults of the head as a whole (Host, framing) come after those of
its bytes, in the order host, lengths, codings. So the verdict on a head is the
same however the network cut it, and garbage is refused at its first wrong byte.

Cost of an incomplete head: without ``checked`` a call reads all bytes again. With
it, the lines finished earlier are not read again, nor the good part of the last
line; what remains per call are three memory searches, bounded by ``max_bytes``,
and, before its LF, the request line, at most 8 KiB. Measured for a client that sends
a head byte by byte: 2 to 9 µs per byte, about what the system call for it costs.

Decisions
---------
* A leading CRLF is skipped once (RFC 9112 2.2; nginx and llhttp skip any number).
* Transfer-Encoding: codings before a final ``chunked`` are 501 (RFC 9112 6.1);
  where ``chunked`` is not final, the length is unknown, which is 400 (6.3).
* ``Transfer-Encoding: chunked`` with a TAB behind it: llhttp refuses it, so do we.
* A head with both lengths, or one length twice, is never repaired (6.3 allows it).
* Header names with ``_`` stay: who turns names into variables must drop them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import HeadRejected
from .http_syntax import (
    MAX_REQUEST_LINE,
    METHODS,
    QUOTED_PIECE,
    TCHAR,
    VCHAR_OR_SPACE,
    check_request_line_bytes,
    find_field_fault,
)
from .http_target import Target, parse_authority, parse_target

__all__ = ["HeadLimits", "RequestHead", "scan_head"]

_MAX_CONTENT_LENGTH = 2**63 - 1  # off_t; what comes after it in C is negative

_ORIGIN_FORM = rb"(/[!\"$->@-~]*+)(?:\?([!\"$-~]*+))?"
_OTHER_FORM = rb"[!\"$-.0-~][!\"$-~]*+"
_REQUEST_LINE = re.compile(
    rb"(%b++) (?:(%b)|(%b)) (HTTP/1\.[01])(?=\r\n)" % (TCHAR, _ORIGIN_FORM, _OTHER_FORM)
)
_FIELD = re.compile(rb"\r\n(%b++):[ \t]*+(%b*+)(?=\r\n)" % (TCHAR, VCHAR_OR_SPACE))

# The headers that change what a head means; the first three may come only once.
_ONCE = (b"host", b"content-length", b"transfer-encoding")
_MEANINGFUL = frozenset((*_ONCE, b"connection", b"upgrade"))

_LENGTH = re.compile(rb"[0-9]{1,19}")  # 19 digits: 2**63 - 1
_PARAMETER = rb"[ \t]*+;[ \t]*+%b++[ \t]*+=[ \t]*+(?:%b++|\"%b*\")" % (TCHAR, TCHAR, QUOTED_PIECE)
_CODING = rb"(%b++)((?:%b)*)" % (TCHAR, _PARAMETER)
_ONE_CODING = re.compile(_CODING + rb"(?:[ \t]*+,[ \t]*+|\Z)")
_CODINGS = re.compile(_CODING + rb"(?:[ \t]*+,[ \t]*+" + _CODING + rb")*")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLimits:
    """How large a head may be.

    Attributes:
        max_bytes: the whole head with its last CRLFCRLF, in bytes.
        max_count: header lines.
    """

    max_bytes: int = 32_768
    max_count: int = 100


class RequestHead(NamedTuple):
    """A request head that passed every check.

    A tuple, since ten fields of a frozen dataclass cost a connection 1 µs and these 0.2.

    Attributes:
        method: one of `http_syntax.METHODS`.
        target: the request target as received, visible ASCII without ``#``.
        version: ``HTTP/1.1`` or ``HTTP/1.0``.
        headers: names as received, values without surrounding whitespace (0x80 to
            0xff possible), in the order received, repetitions kept.
        host: lower case, without port, IPv6 in brackets; empty only in HTTP/1.0
            without Host. Of the absolute form, if the target has it.
        path: of the target, without query, not decoded; ``*`` for the asterisk form.
        query: behind the first ``?``; empty if there is none.
        content_length: 0 to 2**63 - 1; None when not given.
        is_chunked: the body comes in chunks; ``content_length`` is None then.
        wants_upgrade: HTTP/1.1 with ``Connection: upgrade`` and a protocol in
            ``Upgrade`` (RFC 9110 section 7.8).
    """

    method: bytes
    target: bytes
    version: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    host: str
    path: bytes
    query: bytes
    content_length: int | None
    is_chunked: bool
    wants_upgrade: bool

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header, None when absent; the case of letters is nothing."""
        wanted = name.lower()
        for candidate, value in self.headers:
            if candidate.lower() == wanted:
                return value
        return None


def scan_head(
    data: bytes, *, limits: HeadLimits, checked: int = 0
) -> tuple[RequestHead, int] | None:
    """Read the request head at the beginning of what was received.

    Args:
        data: from the first byte of the head on; may hold more than the head.
        limits: of size and count.
        checked: so many bytes, the first ones of this same ``data``, were given to an
            earlier call that returned None. Saves time, changes no verdict.

    Returns:
        The head and how many bytes it takes, a skipped leading CRLF included; None
        while it is incomplete and nothing is wrong yet.

    Raises:
        HeadRejected: 400 malformed, 414 request line too long, 431 over ``limits``, 501
            method or transfer coding not served, 505 version not served; as
            soon as the bytes at hand show it.
    """
    start = 2 if data.startswith(b"\r\n") else 0
    end = data.find(b"\r\n\r\n", max(start, checked - 3)) + 4
    if end < 4 or end > limits.max_bytes:
        _refuse_first_fault(data, start=start, checked=checked, limits=limits)
        if len(data) > limits.max_bytes:
            raise HeadRejected(431, f"request head larger than {limits.max_bytes} bytes")
        return None
    matched = _match_lines(data, start, end, limits)
    if matched is not None:
        return _build_head(*matched), end
    _refuse_first_fault(data[: end - 2], start=start, checked=0, limits=limits)
    raise AssertionError("the patterns refuse only what has a fault in one of its lines")


def _match_lines(
    data: bytes, start: int, end: int, limits: HeadLimits
) -> tuple[re.Match[bytes], list[tuple[bytes, bytes]]] | None:
    """Return the request line and the header lines of a whole head; None if a line is faulty."""
    line = _REQUEST_LINE.match(data, start)
    if line is None or line[1] not in METHODS or line.end() + 2 - start > MAX_REQUEST_LINE:
        return None
    fields: list[tuple[bytes, bytes]] = _FIELD.findall(data, line.end(), end - 2)
    if len(fields) + 1 != data.count(b"\n", line.end(), end - 2) or len(fields) > limits.max_count:
        return None
    if data.find(b" \r\n", start, end) >= 0 or data.find(b"\t\r\n", start, end) >= 0:
        fields = [_strip_value(*field) for field in fields]
    return line, fields


def _refuse_first_fault(data: bytes, *, start: int, checked: int, limits: HeadLimits) -> None:
    """Raise for the first wrong byte among the first ``max_bytes``; return if there is none.

    Args:
        data: a head or the beginning of one, without the CRLF of the empty line.
        start: offset of the request line.
        checked: bytes before this offset were found good before.
        limits: of size and count.
    """
    stop = min(len(data), limits.max_bytes)
    if data[:stop] == b"\r":  # perhaps the leading CRLF
        return
    begin = max(start, data.rfind(b"\n", start, checked) + 1)
    count = data.count(b"\n", start, begin) - 1
    if begin == start:
        begin, words = check_request_line_bytes(data, start, stop)
        count = 0
        if words:
            _check_request_words(*words)
    while begin < stop:
        if count >= limits.max_count and data[begin] != 0x0D:
            raise HeadRejected(431, f"more than {limits.max_count} header lines")
        line_end = data.find(b"\n", begin, stop) + 1 or stop
        fault = find_field_fault(data, begin, line_end, checked)
        if fault is not None:
            raise HeadRejected(400, fault)
        begin = line_end
        count += 1


def _check_request_words(method: bytes, target: bytes, version: bytes) -> None:
    """Judge a request line whose bytes are good: version first, then method, then target."""
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        # RFC 9110 15.6.6. HTTP/0.9 never had a version to write: not a version, a fault.
        status = 400 if version.startswith(b"HTTP/0") else 505
        raise HeadRejected(status, f"expected HTTP/1.1 or HTTP/1.0, got {version.decode('ascii')}")
    if method == b"CONNECT":
        raise HeadRejected(501, "CONNECT: this is no forward proxy")
    if method not in METHODS:
        raise HeadRejected(501, "method not implemented")
    parse_target(method, target)


def _strip_value(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Take trailing whitespace off a value: rare, so not in the pattern (RFC 9112 section 5.1)."""
    # A TAB behind "chunked" stays, to be refused with the other malformed codings.
    whitespace = b" " if name.lower() == b"transfer-encoding" else b" \t"
    return name, value.rstrip(whitespace)


def _build_head(line: re.Match[bytes], fields: list[tuple[bytes, bytes]]) -> RequestHead:
    """Judge the head as a whole and make the value of it."""
    method, target, path, query, other_target, version = line.groups()
    absolute = None
    if target is None:
        absolute = parse_target(method, other_target)
        target, path, query = other_target, absolute.path, absolute.query
    said = _collect_meaningful(fields)
    host = _choose_host(said.get(b"host"), absolute, version)
    length, is_chunked = _choose_framing(said, version)
    return RequestHead(
        method,
        target,
        version,
        tuple(fields),
        host,
        path,
        query or b"",
        length,
        is_chunked,
        b"upgrade" in said and _wants_upgrade(said, version),
    )


def _collect_meaningful(fields: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the headers that change what the head means, by lower-case name, lists joined."""
    said: dict[bytes, bytes] = {}
    for name, value in fields:
        lowered = name.lower()
        if lowered in _MEANINGFUL:
            if lowered not in said:
                said[lowered] = value
            elif lowered in _ONCE:
                raise HeadRejected(400, f"repeated {lowered.decode('ascii').title()}")
            else:
                said[lowered] += b"," + value
    return said


def _choose_host(value: bytes | None, target: Target | None, version: bytes) -> str:
    """Return the host that the request is for (RFC 9112 sections 3.2 and 3.2.2).

    An absolute target wins over Host by the RFC; since backends differ in which of the
    two they read, we refuse two that do not name the same host and port.
    """
    authority = None if target is None else target.authority
    if value is None:
        if version == b"HTTP/1.1":
            raise HeadRejected(400, "missing Host")
        return "" if authority is None else authority.host
    said = parse_authority(value)
    if target is None or authority is None:
        return said.host
    port = target.default_port if said.port is None else said.port
    if (said.host, port) != (authority.host, authority.port):
        raise HeadRejected(400, "Host and request target disagree")
    return said.host


def _choose_framing(said: dict[bytes, bytes], version: bytes) -> tuple[int | None, bool]:
    """Return content length and whether the body is chunked (RFC 9112 section 6.3)."""
    length = said.get(b"content-length")
    coding = said.get(b"transfer-encoding")
    if coding is None:
        return (None if length is None else _parse_length(length)), False
    if length is not None:
        raise HeadRejected(400, "both Content-Length and Transfer-Encoding")
    if version == b"HTTP/1.0":
        raise HeadRejected(400, "Transfer-Encoding in HTTP/1.0")
    if coding.lower() != b"chunked":
        _refuse_coding(coding)
    return None, True


def _parse_length(value: bytes) -> int:
    """Parse Content-Length: digits only, no list, no sign (RFC 9110 section 8.6)."""
    if _LENGTH.fullmatch(value) is None or int(value) > _MAX_CONTENT_LENGTH:
        raise HeadRejected(400, "malformed Content-Length")
    return int(value)


def _refuse_coding(value: bytes) -> None:
    """Raise 501 for other codings under a final chunked, 400 for everything else."""
    if _CODINGS.fullmatch(value) is None:
        raise HeadRejected(400, "malformed Transfer-Encoding")
    codings = [(name.lower(), parameters) for name, parameters in _ONE_CODING.findall(value)]
    chunked_at = [place for place, (name, _) in enumerate(codings) if name == b"chunked"]
    if chunked_at != [len(codings) - 1] or codings[-1][1]:
        raise HeadRejected(400, "expected chunked once, last and without parameters")
    raise HeadRejected(501, "transfer coding not implemented")


def _wants_upgrade(said: dict[bytes, bytes], version: bytes) -> bool:
    """Tell whether Connection announces an Upgrade that names a protocol."""
    # RFC 9110 7.8: "A server MUST ignore an Upgrade header field that is received in an
    # HTTP/1.0 request."
    if version == b"HTTP/1.0" or not said[b"upgrade"].strip(b", \t"):
        return False
    tokens = said.get(b"connection", b"").lower().split(b",")
    return any(token.strip(b" \t") == b"upgrade" for token in tokens)
