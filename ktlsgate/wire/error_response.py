"""The gate's own answers: one plain sentence, then the connection is closed.

Every answer is complete in itself and built at import, so that refusing costs nothing.
There is no Date: a core has no clock, and RFC 9110 section 6.6.1 asks for Date only of an
origin server *with* a clock (a recipient notes the time of arrival instead).
In return the bytes are always the same and can be compared, cached and logged.

Sources: RFC 9110 section 15, RFC 6585 section 5 (431), RFC 9112 section 9.6 (close).
"""

from __future__ import annotations

from http import HTTPStatus

from ..errors import LocalProtocolError

__all__ = ["build_error_response", "is_own_answer"]

# Characters; a reason is one short sentence, the rest is somebody's mistake.
_MAX_DETAIL = 200

_SENTENCES = {
    400: "The request is malformed.",
    404: "There is nothing here under this address.",
    408: "The request took too long to arrive.",
    414: "The request target is too long.",
    421: "This host is not served on this connection.",
    431: "The request headers are too large.",
    500: "The gate made a mistake.",
    501: "The gate does not implement what the request asks for.",
    502: "The backend did not take the connection.",
    503: "No backend is free at the moment; please try again.",
    504: "The backend took too long.",
    505: "This version of HTTP is not served here.",
}

# RFC 9110 10.2.3, in seconds. A full backend queue is a matter of moments.
_EXTRA_HEADERS = {503: "Retry-After: 1\r\n"}


def _build(status: int, body: bytes) -> tuple[bytes, bytes]:
    """Return head and body of an answer."""
    head = (
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\n"
        "Connection: close\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        "Cache-Control: no-store\r\n"
        f"{_EXTRA_HEADERS.get(status, '')}\r\n"
    )
    return head.encode("ascii"), body


# Python renames phrases now and then; ours are the RFC's.
_PHRASES = {status: HTTPStatus(status).phrase for status in _SENTENCES} | {
    414: "URI Too Long",
    421: "Misdirected Request",
}

_ANSWERS = {
    status: _build(status, f"{sentence}\n".encode()) for status, sentence in _SENTENCES.items()
}


def build_error_response(status: int, *, is_head_request: bool = False, detail: str = "") -> bytes:
    """Build a complete answer that ends the connection.

    Args:
        status: 400, 404, 408, 414, 421, 431, 500, 501, 502, 503 (with Retry-After),
            504 or 505.
        is_head_request: leave the body out; Content-Length still says what a GET
            would have got (RFC 9110 section 9.3.2).
        detail: a second line for the body, cut at 200 characters; what is not
            printable is escaped.

    Returns:
        The bytes to send; the same arguments always give the same bytes.

    Raises:
        LocalProtocolError: when ``status`` is not in the table.
    """
    answer = _ANSWERS.get(status)
    if answer is None:
        raise LocalProtocolError(f"expected a status with an answer, got {status}")
    head, body = answer
    if detail:
        head, body = _build(status, body + _escape(detail))
    return head if is_head_request else head + body


def is_own_answer(head: bytes) -> bool:
    """Whether a response head is one of these answers, whatever its detail was.

    Args:
        head: from the status line to the empty line, which may be missing.
    """
    return _without_length(head) in _OWN_HEADS


def _without_length(head: bytes) -> tuple[bytes, ...]:
    lines = head.rstrip(b"\r\n").split(b"\r\n")
    return tuple(line for line in lines if not line.startswith(b"Content-Length: "))


_OWN_HEADS = {_without_length(head) for head, _ in _ANSWERS.values()}


def _escape(detail: str) -> bytes:
    """Make one printable line of a detail: it may quote what a peer sent."""
    shown = detail[:_MAX_DETAIL]
    escaped = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in shown
    )
    return f"{escaped}\n".encode()
