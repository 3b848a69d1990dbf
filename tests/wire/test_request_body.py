"""Where a request body ends: never a byte too many, whatever the chunks look like."""

from __future__ import annotations

import pytest

from ktlsgate.errors import LocalProtocolError, RemoteProtocolError
from ktlsgate.wire.request_body import MAX_CHUNK_LINE, MAX_TRAILER, BodyLimit

NEXT = b"GET /next HTTP/1.1\r\n"


def chunked() -> BodyLimit:
    return BodyLimit(None, is_chunked=True)


def take_as_wanted(body: BodyLimit, stream: bytes) -> bytes:
    """Read a stream as a careful receiver does."""
    taken = b""
    while not body.is_complete:
        piece = stream[len(taken) : len(taken) + body.wanted]
        assert piece, "wanted more than there was"
        assert body.receive_data(piece) == piece
        taken += piece
    assert body.wanted == 0
    return taken


# Without chunks


@pytest.mark.parametrize("length", [None, 0])
def test_request_without_content_is_complete_at_once(length):
    body = BodyLimit(length)
    assert (body.is_complete, body.wanted) == (True, 0)
    assert body.receive_data(NEXT) == b""


def test_content_length_wants_what_is_left():
    body = BodyLimit(5)
    assert (body.wanted, body.is_complete) == (5, False)
    assert body.receive_data(b"he") == b"he"
    assert (body.wanted, body.is_complete) == (3, False)
    assert body.receive_data(b"llo" + NEXT) == b"llo"
    assert (body.wanted, body.is_complete) == (0, True)
    assert body.receive_data(NEXT) == b""


def test_empty_data_changes_nothing():
    for body in (BodyLimit(5), chunked(), BodyLimit(0)):
        before = body.wanted
        assert body.receive_data(b"") == b""
        assert body.wanted == before


@pytest.mark.parametrize(("length", "is_chunked"), [(5, True), (0, True), (-1, False)])
def test_impossible_framing_is_the_callers_mistake(length, is_chunked):
    with pytest.raises(
        LocalProtocolError, match=r"^expected a content length of 0 or more, or chunks$"
    ):
        BodyLimit(length, is_chunked=is_chunked)


# Chunks


@pytest.mark.parametrize(
    "stream",
    [
        b"0\r\n\r\n",
        b"00\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"0005\r\nhello\r\n0\r\n\r\n",
        b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
        b"4\r\n\r\n\r\n\r\n0\r\n\r\n",
        b"5;a\r\nhello\r\n0;b=c\r\n\r\n",
        b'5;a=b;c="d ;\\" \t\xff";e\r\nhello\r\n0\r\n\r\n',
        b"0\r\nX: y\r\n\r\n",
        b"0\r\nX:\r\nY: \xff z \r\n\r\n",
        b"1000\r\n" + b"x" * 4096 + b"\r\n0\r\n\r\n",
    ],
)
def test_chunked_body_is_returned_raw_and_ends_exactly(stream):
    assert take_as_wanted(chunked(), stream + NEXT) == stream
    whole = chunked()
    assert whole.receive_data(stream + NEXT) == stream
    assert whole.is_complete
    stepwise = chunked()
    for offset in range(len(stream)):
        assert not stepwise.is_complete
        assert 1 <= stepwise.wanted <= len(stream) - offset
        assert stepwise.receive_data(stream[offset : offset + 1]) == stream[offset : offset + 1]
    assert stepwise.is_complete


@pytest.mark.parametrize(
    ("received", "wanted"),
    [
        (b"", len(b"0\r\n\r\n")),
        (b"0", len(b"\r\n\r\n")),
        (b"0\r", len(b"\n\r\n")),
        (b"0\r\n", len(b"\r\n")),
        (b"0\r\n\r", len(b"\n")),
        (b"0\r\nX", len(b":\r\n\r\n") - 1),
        (b"0\r\nX:", len(b"\r\n\r\n")),
        (b"0\r\nX:\r", len(b"\n\r\n")),
        (b"0\r\nX:\r\n", len(b"\r\n")),
        (b"5", len(b"\r\nhello\r\n0\r\n\r\n")),
        (b"5\r", len(b"\nhello\r\n0\r\n\r\n")),
        (b"5\r\n", len(b"hello\r\n0\r\n\r\n")),
        (b"5\r\nhel", len(b"lo\r\n0\r\n\r\n")),
        (b"5\r\nhello", len(b"\r\n0\r\n\r\n")),
        (b"5\r\nhello\r", len(b"\n0\r\n\r\n")),
        (b"5\r\nhello\r\n", len(b"0\r\n\r\n")),
        (b"5;a=b", len(b"\r\nhello\r\n0\r\n\r\n")),
    ],
)
def test_wanted_is_the_shortest_rest_that_could_complete_the_body(received, wanted):
    body = chunked()
    body.receive_data(received)
    assert body.wanted == wanted


def test_largest_chunk_is_wanted_in_full():
    body = chunked()
    body.receive_data(b"7fffffffffffffff\r\n")
    assert body.wanted == 2**63 - 1 + 7


SIZE = "malformed chunk size or extension"


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"\r\n", SIZE),
        (b"g\r\n", SIZE),
        (b"+5\r\n", SIZE),
        (b"-5\r\n", SIZE),
        (b"0x5\r\n", SIZE),
        (b" 5\r\n", SIZE),
        (b"5 \r\n", SIZE),
        (b"5\t\r\n", SIZE),
        (b"5\n", SIZE),
        (b"5\rx", SIZE),
        (b"5 ;a\r\n", SIZE),
        (b"5; a\r\n", SIZE),
        (b"5;\r\n", SIZE),
        (b"5;;a\r\n", SIZE),
        (b"5;a=\r\n", SIZE),
        (b"5;a =b\r\n", SIZE),
        (b"5=b\r\n", SIZE),
        (b"5;=b\r\n", SIZE),
        (b"5;a=b=c\r\n", SIZE),
        (b"5;a\xff\r\n", SIZE),
        (b"5;a=\xff\r\n", SIZE),
        (b'5;a="b\r\n', SIZE),
        (b'5;a="b\\\r\n', SIZE),
        (b'5;a="b"c\r\n', SIZE),
        (b'5;a="b\x00"\r\n', SIZE),
        (b"0" * 16 + b"5\r\n", SIZE),
        (b"8000000000000000", "chunk size over 2**63 - 1"),
        (b"5\r\nhello\n", "expected CRLF behind the chunk data"),
        (b"5\r\nhelloX", "expected CRLF behind the chunk data"),
        (b"5\r\nhello\r\r", "expected CRLF behind the chunk data"),
        (b"5\r\nhello0\r\n\r\n", "expected CRLF behind the chunk data"),
        (b"0\r\n\n", "malformed trailer: bare LF at the start of a header line"),
        (b"0\r\nX: y\n", "malformed trailer: bare LF in the header value"),
        (b"0\r\nX : y\r\n", "malformed trailer: whitespace in a header name or before its colon"),
        (b"0\r\nX: y\r\n z\r\n", "malformed trailer: folded header line"),
        (b"0\r\nX: \x01\r\n", "malformed trailer: byte 0x01 in the header value"),
        (b"0\r\n: y\r\n", "malformed trailer: empty header name"),
        (b"0\r\nX\r\n", "malformed trailer: header line without a colon"),
        (b"0\r\n\rX", "malformed trailer: bare CR between header lines"),
        (b"0\r\nContent-LENGTH: 5\r\n", "content-length in the trailers"),
        (b"0\r\ntransfer-encoding: chunked\r\n", "transfer-encoding in the trailers"),
    ],
)
def test_malformed_framing_is_refused_alike_at_once_and_byte_by_byte(stream, message):
    with pytest.raises(RemoteProtocolError) as info:
        chunked().receive_data(stream)
    assert str(info.value) == message
    body = chunked()
    with pytest.raises(RemoteProtocolError) as info:
        for offset in range(len(stream)):
            body.receive_data(stream[offset : offset + 1])
    assert str(info.value) == message


def test_endless_chunk_line_is_refused():
    body = chunked()
    body.receive_data(b"5;" + b"a" * (MAX_CHUNK_LINE - 2))
    with pytest.raises(RemoteProtocolError, match=r"^chunk line longer than 1024 bytes$"):
        body.receive_data(b"a")


def test_endless_trailers_are_refused():
    body = chunked()
    line = b"X: " + b"y" * 1019 + b"\r\n"
    body.receive_data(b"0\r\n" + line * (MAX_TRAILER // len(line)))
    with pytest.raises(RemoteProtocolError, match=r"^trailers larger than 8192 bytes$"):
        body.receive_data(b"X")


# Properties

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis makes the chunks")
st = hypothesis.strategies

PROFILE = hypothesis.settings(
    derandomize=True,
    deadline=None,
    max_examples=300,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
# No backslash: httptools 0.6 refuses it, against RFC 9110 5.6.4.
EXTENSIONS = [b"", b"", b"", b";a", b";a=b", b';a="b;c"', b";a;b=c"]
NASTY = [b"\r", b"\n", b"\r\n", b" ", b";", b"=", b'"', b"0", b"f", b"\x00", b"\xff", b"X: y\r\n"]


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A well-formed chunked body and its content."""
    raw = content = b""
    for data in draw(st.lists(st.binary(min_size=1, max_size=40), max_size=4)):
        size = draw(st.sampled_from([b"%x", b"%X", b"0%x"])) % len(data)
        raw += size + draw(st.sampled_from(EXTENSIONS)) + b"\r\n" + data + b"\r\n"
        content += data
    raw += draw(st.sampled_from([b"0", b"00"])) + draw(st.sampled_from(EXTENSIONS)) + b"\r\n"
    for line in draw(st.lists(st.sampled_from([b"X: y", b"Y:", b"Z: \xff "]), max_size=2)):
        raw += line + b"\r\n"
    return raw + b"\r\n", content


@PROFILE
@hypothesis.given(made=bodies(), follow=st.sampled_from([b"", NEXT, b"\r\n", b"0\r\n\r\n"]))
def test_reading_what_is_wanted_ends_exactly_behind_the_body(made, follow):
    raw, _ = made
    assert take_as_wanted(chunked(), raw + follow) == raw


@PROFILE
@hypothesis.given(made=bodies(), cut=st.integers(0, 100), data=st.data())
def test_any_split_gives_the_same_end(made, cut, data):
    raw, _ = made
    body = chunked()
    taken = body.receive_data(raw[:cut])
    taken += body.receive_data(raw[cut:] + NEXT)
    assert (taken, body.is_complete) == (raw, True)


def mutate(draw: st.DrawFn) -> bytes:
    raw, _ = draw(bodies())
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.sampled_from([b"", *NASTY])) + raw[at + draw(st.integers(0, 2)) :]
    return raw


def ended_by_us(raw: bytes) -> int | None:
    """Where we see the end; None when malformed or unfinished."""
    body = chunked()
    try:
        taken = body.receive_data(raw)
    except RemoteProtocolError:
        return None
    return len(taken) if body.is_complete else None


@PROFILE
@hypothesis.given(raw=st.composite(mutate)())
def test_where_we_see_the_end_h11_sees_it_too(raw):
    h11 = pytest.importorskip("h11", reason="h11 is an oracle of this test")
    end = ended_by_us(raw)
    hypothesis.assume(end is not None)
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(HEAD + raw[:end] + NEXT)
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Request | h11.Data)
    assert connection.trailing_data[0] == NEXT


class Counter:
    """httptools' callbacks."""

    def __init__(self) -> None:
        self.messages = 0

    def on_message_complete(self) -> None:
        self.messages += 1


@PROFILE
@hypothesis.given(raw=st.composite(mutate)())
def test_where_we_see_the_end_httptools_sees_it_too(raw):
    httptools = pytest.importorskip("httptools", reason="httptools is an oracle of this test")
    end = ended_by_us(raw)
    hypothesis.assume(end is not None)
    seen = Counter()
    parser = httptools.HttpRequestParser(seen)
    parser.feed_data(HEAD + raw[: end - 1])
    assert seen.messages == 0
    parser.feed_data(raw[end - 1 : end])
    assert seen.messages == 1
