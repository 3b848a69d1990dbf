"""The byte grammar of HTTP/1 lines, and what is wrong with a line that breaks it.

The functions here are the slow, explaining half of `http_head` and `request_body`:
they run on input that is incomplete or already known to be faulty. Two rules make
the verdict independent of how the network cut the bytes:

* the first fault in byte order decides, and a byte is judged by what precedes it
  only, so that a line cut anywhere is refused at the same byte as the whole line;
* what cannot be seen in one byte (form of the target, version number) is judged
  when the line feed arrives, before any byte of the next line.

Every quantifier is possessive: no input makes a pattern backtrack.

Sources: RFC 9110 sections 5.1, 5.5, 5.6.2, 5.6.4; RFC 9112 sections 2 to 5. Where h11
or llhttp refuses more than the RFC, so do we: HTAB in values is the only control
byte (h11 lets the others through), 0x80 to 0xff in values is data (both do).
"""

from __future__ import annotations

import re

from ..errors import HeadRejected

__all__ = [
    "MAX_REQUEST_LINE",
    "METHODS",
    "QUOTED_PIECE",
    "TCHAR",
    "VCHAR_OR_SPACE",
    "check_request_line_bytes",
    "find_field_fault",
]

# Possessive quantifiers stand behind classes only, never behind a group: CPython before
# 3.11.5 (Debian 12 has 3.11.2) then forgets how to match the group (python/cpython#106052).
TCHAR = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"  # RFC 9110 5.6.2
VCHAR_OR_SPACE = rb"[\t -~\x80-\xff]"  # what a field value is made of, RFC 9110 5.5
# Between the quotes of a quoted-string, any number of times; RFC 9110 5.6.4.
QUOTED_PIECE = rb"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])"

# Bytes, with the line's CRLF. RFC 9112 section 3 asks for 8000 at least; Apache has
# 8190, nginx 8192. Longer lines are a client's endless redirect or an attack.
MAX_REQUEST_LINE = 8192

# What llhttp knows, without the RTSP methods, PRI (HTTP/2) and CONNECT (a gate is no
# forward proxy). RFC 9110 9.1: an unknown method is answered with 501.
METHODS = frozenset(
    b"GET HEAD POST PUT DELETE OPTIONS TRACE PATCH COPY LOCK MKCOL MOVE PROPFIND PROPPATCH"
    b" SEARCH UNLOCK BIND REBIND UNBIND ACL REPORT MKACTIVITY CHECKOUT MERGE M-SEARCH NOTIFY"
    b" SUBSCRIBE UNSUBSCRIBE PURGE MKCALENDAR LINK UNLINK SOURCE QUERY".split()
)

_LF = 0x0A
_CR = 0x0D
_LONGEST_METHOD = max(map(len, METHODS))

_TOKEN_RUN = re.compile(TCHAR + rb"*+")
_VALUE_RUN = re.compile(VCHAR_OR_SPACE + rb"*+")


def _compile_line_prefix() -> re.Pattern[bytes]:
    """Build the pattern of every beginning of a request line; groups: method, target, version."""
    tail = rb"(?:\r\n?+)?"
    for piece in (rb"[0-9]", rb"\.", rb"[0-9]", rb"/", rb"P", rb"T", rb"T", rb"H"):
        tail = rb"(?:" + piece + tail + rb")?"
    # The lookbehind: a second space directly after the first is no separator.
    return re.compile(
        rb"(?:(%b{1,%d}+)(?: ([!\"$-~]*+)(?:(?<! ) (%b))?)?)?" % (TCHAR, _LONGEST_METHOD, tail)
    )


_LINE_PREFIX = _compile_line_prefix()

# A byte that has a story; the others are just bytes that do not belong there.
_STORIES = {
    ("at the start of the request line", _CR): "empty request line",
    ("in the request target", _CR): "expected a version after the request target",
    ("in the request target", 0x20): "expected exactly one space before the request target",
    ("in the request target", 0x23): "fragment in the request target",
    ("at the start of a header line", 0x20): "folded header line",
    ("at the start of a header line", 0x09): "folded header line",
    ("at the start of a header line", 0x3A): "empty header name",
    ("at the start of a header line", _CR): "bare CR between header lines",
    ("in the header name", 0x20): "whitespace in a header name or before its colon",
    ("in the header name", 0x09): "whitespace in a header name or before its colon",
    ("in the header name", _CR): "header line without a colon",
    ("in the header value", _CR): "bare CR in a header value",
}


def _describe(place: str, byte: int) -> str:
    """Say why a byte cannot stand in a place."""
    if byte == _LF:
        return f"bare LF {place}"
    return _STORIES.get((place, byte)) or f"byte 0x{byte:02x} {place}"


def check_request_line_bytes(data: bytes, start: int, stop: int) -> tuple[int, tuple[bytes, ...]]:
    """Check the request line, whole or begun, byte by byte (RFC 9112 section 3).

    Args:
        data: what was received; the line begins at ``start``, bytes from ``stop`` on
            are not looked at.
        start: offset of the first byte of the method.
        stop: offset behind the last byte.

    Returns:
        The offset behind the line's LF and (method, target, version); while the LF
        is not there, ``stop`` and an empty tuple.

    Raises:
        HeadRejected: 400 for a byte that cannot stand where it does, 414 when the
            line is longer than `MAX_REQUEST_LINE`, 501 for an over-long method.
    """
    cut = min(stop, start + MAX_REQUEST_LINE)
    prefix = _LINE_PREFIX.match(data, start, cut)
    if prefix is None:
        raise AssertionError("the pattern matches the empty string")
    at = prefix.end()
    method, target, version = prefix.groups()
    if version is not None and version.endswith(b"\n"):
        return at, (method, target, version[:-2])
    if at < cut:
        raise _request_line_fault(prefix, data[at])
    if cut < stop:
        raise HeadRejected(414, f"request line longer than {MAX_REQUEST_LINE} bytes")
    return stop, ()


def _request_line_fault(prefix: re.Match[bytes], byte: int) -> HeadRejected:
    """Make the error for the byte at which the request line went wrong."""
    method, target, version = prefix.groups()
    if version is not None:
        return HeadRejected(400, _describe("in the HTTP version", byte))
    if target is not None:
        return HeadRejected(400, _describe("in the request target", byte))
    # The pattern stops inside a token only where the token is longer than any method.
    if method is not None and _TOKEN_RUN.fullmatch(bytes((byte,))):
        return HeadRejected(501, "method not implemented")
    place = "at the start of the request line" if method is None else "in the method"
    return HeadRejected(400, _describe(place, byte))


def find_field_fault(data: bytes | bytearray, begin: int, stop: int, resume: int = 0) -> str | None:
    """Say what is wrong with a header or trailer line, whole or begun (RFC 9112 section 5).

    Args:
        data: holds the line.
        begin: offset of the line's first byte.
        stop: offset behind its LF, or behind the last byte received so far.
        resume: the bytes of this unfinished line before this offset were found good
            by an earlier call; so a line that comes byte by byte is read once.

    Returns:
        None for a good line and for any beginning of one, a lone CR (of the empty
        line) included; else one sentence without bytes of the peer.
    """
    if data[begin] == _CR:
        return None if stop == begin + 1 else _describe("at the start of a header line", _CR)
    resume = max(begin, resume)
    colon = data.find(b":", begin, stop)
    if colon < 0 or colon >= resume:
        name_end = _run_end(_TOKEN_RUN, data, resume, stop)
        if name_end == stop:
            return None
        if name_end != colon or colon == begin:
            place = "at the start of a header line" if name_end == begin else "in the header name"
            return _describe(place, data[name_end])
    # One byte back: the last one seen may be a CR that awaits its LF.
    value_end = _run_end(_VALUE_RUN, data, max(colon + 1, resume - 1), stop)
    if data[value_end:stop] in (b"", b"\r", b"\r\n"):
        return None
    return _describe("in the header value", data[value_end])


def _run_end(run: re.Pattern[bytes], data: bytes | bytearray, begin: int, stop: int) -> int:
    """Return the offset behind the longest run of allowed bytes."""
    match = run.match(data, begin, stop)
    if match is None:
        raise AssertionError("a run may be empty")
    return match.end()
