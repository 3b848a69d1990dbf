"""The gate's own answers, byte for byte."""

from __future__ import annotations

import pytest

from ktlsgate.errors import LocalProtocolError
from ktlsgate.wire.error_response import build_error_response, is_own_answer

STATUSES = {
    400: b"Bad Request",
    404: b"Not Found",
    408: b"Request Timeout",
    414: b"URI Too Long",
    421: b"Misdirected Request",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}


def test_bad_request_is_these_bytes():
    assert build_error_response(400) == (
        b"HTTP/1.1 400 Bad Request\r\n"
        b"Connection: close\r\n"
        b"Content-Length: 26\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Cache-Control: no-store\r\n"
        b"\r\n"
        b"The request is malformed.\n"
    )


def test_service_unavailable_asks_to_retry_after_a_second():
    assert build_error_response(503) == (
        b"HTTP/1.1 503 Service Unavailable\r\n"
        b"Connection: close\r\n"
        b"Content-Length: 52\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Cache-Control: no-store\r\n"
        b"Retry-After: 1\r\n"
        b"\r\n"
        b"No backend is free at the moment; please try again.\n"
    )


@pytest.mark.parametrize("status", STATUSES)
def test_every_answer_is_complete_and_names_its_phrase(status):
    answer = build_error_response(status)
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 %d %s" % (status, STATUSES[status])
    assert lines[1:5] == [
        b"Connection: close",
        b"Content-Length: %d" % len(body),
        b"Content-Type: text/plain; charset=utf-8",
        b"Cache-Control: no-store",
    ]
    assert lines[5:] == ([b"Retry-After: 1"] if status == 503 else [])
    assert body.endswith(b".\n")
    assert body.count(b"\n") == 1


@pytest.mark.parametrize("status", STATUSES)
def test_head_request_gets_the_same_head_and_no_body(status):
    answer = build_error_response(status)
    head, separator, _ = answer.partition(b"\r\n\r\n")
    assert build_error_response(status, is_head_request=True) == head + separator


def test_same_arguments_give_the_same_bytes():
    assert build_error_response(502) == build_error_response(502)
    assert build_error_response(502, detail="x") == build_error_response(502, detail="x")


def test_detail_is_a_second_line_and_counted():
    assert build_error_response(400, detail="bare LF in the header value") == (
        b"HTTP/1.1 400 Bad Request\r\n"
        b"Connection: close\r\n"
        b"Content-Length: 54\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Cache-Control: no-store\r\n"
        b"\r\n"
        b"The request is malformed.\n"
        b"bare LF in the header value\n"
    )


def test_detail_is_escaped_and_cut():
    answer = build_error_response(400, detail="a\r\n\x00\x1b\ud800ä" + "b" * 500)
    body = answer.partition(b"\r\n\r\n")[2]
    expected = "The request is malformed.\na\\r\\n\\x00\\x1b\\ud800ä" + "b" * 193 + "\n"
    assert body == expected.encode()
    assert b"Content-Length: %d\r\n" % len(body) in answer


def test_detail_leaves_the_head_of_a_head_request_as_for_get():
    with_body = build_error_response(400, detail="why")
    head = build_error_response(400, detail="why", is_head_request=True)
    assert with_body.startswith(head)
    assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("status", [0, 200, 418, 599])
def test_status_without_an_answer_is_the_callers_mistake(status):
    with pytest.raises(
        LocalProtocolError, match=f"^expected a status with an answer, got {status}$"
    ):
        build_error_response(status)


@pytest.mark.parametrize("status", STATUSES)
def test_h11_reads_every_answer(status):
    h11 = pytest.importorskip("h11", reason="h11 is an oracle of this test")
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(build_error_response(status))
    response = client.next_event()
    assert (response.status_code, response.reason) == (status, STATUSES[status])
    assert isinstance(client.next_event(), h11.Data)
    assert isinstance(client.next_event(), h11.EndOfMessage)
    assert client.their_state is h11.MUST_CLOSE


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("detail", ["", "more"])
def test_its_own_answer_is_known_again_by_its_head(status, detail):
    head = build_error_response(status, detail=detail).partition(b"\r\n\r\n")[0]
    assert is_own_answer(head)
    assert is_own_answer(head + b"\r\n")


@pytest.mark.parametrize(
    "head",
    [b"", b"HTTP/1.1 503 Service Unavailable", b"HTTP/1.1 200 OK\r\nConnection: close\r\n"],
)
def test_a_backends_answer_is_not_its_own(head):
    assert not is_own_answer(head)
