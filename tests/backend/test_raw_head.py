"""The head that a server parses: what the client said, as far as the handoff tells it."""

import pytest
from helpers.flavours import read_head
from helpers.handoffs import nginx_head, our_head

from ktlsgate.backend.raw_head import rebuild_head
from ktlsgate.config import Dialect
from ktlsgate.errors import HandoffMalformed
from ktlsgate.wire.handoff import Handoff, Mode
from ktlsgate.wire.handoff_scgi import ReceivedHead, encode
from ktlsgate.wire.http_head import HeadLimits, scan_head


def rebuilt(**changes):
    return rebuild_head(read_head(our_head(**changes)))


def through_a_gate(raw, *, is_single=False):
    """What becomes of a client's head on the whole way."""
    head, _ = scan_head(raw, limits=HeadLimits())
    handoff = Handoff(
        head=head,
        mode=Mode.PLAIN,
        tls=None,
        remote=("192.0.2.7", 40_000),
        local=("192.0.2.1", 80),
        is_single=is_single,
    )
    return rebuild_head(read_head(encode(handoff, Dialect.KTLSGATE)))


def test_request_line_and_fields_are_the_clients():
    raw = b"POST /a%20b?x=1&y=%2f HTTP/1.1\r\nHost: example.org\r\nContent-Length: 3\r\n\r\n"
    assert through_a_gate(raw) == raw


def test_version_is_the_clients():
    assert through_a_gate(b"GET / HTTP/1.0\r\n\r\n") == b"GET / HTTP/1.0\r\n\r\n"


def test_version_is_1_1_where_nobody_tells_it():
    assert rebuild_head(read_head(nginx_head())) == b"GET /x?y=1 HTTP/1.1\r\n\r\n"


def test_repeated_fields_are_one_line_and_proxy_is_gone():
    raw = b"GET / HTTP/1.1\r\nHost: a\r\nX-Tag: 1\r\nProxy: x\r\nCookie: a=1\r\nX-Tag: 2\r\nCookie: b=2\r\n\r\n"
    assert through_a_gate(raw) == (
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Tag: 1, 2\r\nCookie: a=1; b=2\r\n\r\n"
    )


def test_bytes_over_127_come_through():
    raw = b"GET / HTTP/1.1\r\nHost: a\r\nX-Name: J\xc3\xb6rg \xff\r\n\r\n"
    assert through_a_gate(raw) == raw


def test_single_connection_asks_for_the_close_that_it_will_get():
    raw = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
    assert through_a_gate(raw, is_single=True) == raw.replace(b"keep-alive", b"close")
    assert through_a_gate(raw) == raw


def test_single_connection_may_still_be_upgraded():
    raw = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert through_a_gate(raw, is_single=True) == raw


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("HTTP_X", "a\r\nX-Admin: 1", "expected a header field, got 'X': 'a\\r\\nX-Admin: 1'"),
        ("HTTP_X", "a\nb", "expected a header field, got 'X': 'a\\nb'"),
        ("HTTP_X: Y", "", "expected a header field, got 'X: Y': ''"),
        ("HTTP_", "", "expected a header field, got '': ''"),
    ],
)
def test_field_that_would_be_two_is_refused(name, value, message):
    with pytest.raises(HandoffMalformed) as caught:
        rebuilt(**{name: value})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REQUEST_URI", "/ HTTP/1.1\r\nX-Admin: 1"),
        ("REQUEST_URI", "/a b"),
        ("REQUEST_URI", ""),
        ("REQUEST_METHOD", "GET /"),
        ("REQUEST_METHOD", ""),
        ("SERVER_PROTOCOL", "HTTP/2.0"),
        ("SERVER_PROTOCOL", "HTTP/1.1\r\nX: y"),
    ],
)
def test_request_line_that_is_none_is_refused(name, value):
    with pytest.raises(HandoffMalformed, match=r"^expected a request line of HTTP/1, got "):
        rebuilt(**{name: value})


def test_nul_cannot_reach_a_head():
    environ = dict(read_head(our_head()).environ) | {"HTTP_X": "a\0b"}
    with pytest.raises(HandoffMalformed):
        rebuild_head(ReceivedHead(environ))
