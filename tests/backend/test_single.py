"""One request and no more."""

import pytest
from helpers.flavours import read_head
from helpers.handoffs import our_head

from ktlsgate.backend.single import SingleExchange


def exchange(**names):
    return SingleExchange(read_head(our_head("plain", "single", **names)))


def test_without_a_body_nothing_may_be_read():
    assert exchange().clamp(100) == 0


def test_a_read_never_passes_the_body():
    single = exchange(HTTP_CONTENT_LENGTH="5")
    assert single.clamp(3) == 3
    single.note_read(b"abc")
    assert single.clamp(100) == 2
    single.note_read(b"de")
    assert single.clamp(100) == 0


def test_a_chunked_body_ends_behind_its_last_chunk():
    single = exchange(HTTP_TRANSFER_ENCODING="chunked")
    stream = b"3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1"
    taken = b""
    while size := single.clamp(100):
        piece = stream[len(taken) : len(taken) + size]
        single.note_read(piece)
        taken += piece
    assert taken == b"3\r\nabc\r\n0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 4, 12, 13, 100])
def test_an_accepted_upgrade_lifts_the_limit(size):
    """The status line may come in pieces of any size."""
    single = exchange()
    line = b"HTTP/1.1 101 Switching Protocols\r\n"
    for start in range(0, len(line), size):
        single.note_written(line[start : start + size])
    assert single.clamp(100) == 100
    single.note_read(b"anything")
    assert single.clamp(100) == 100


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 101 "),
        (b"HTTP/1.1 101",),
        (b"HTTP/1.0 101 ",),
        (b"x", b"HTTP/1.1 101 "),
        (b"HTTP/1.1 1010",),
        (b"HTTP/1.1 10", b"0 Continue\r\n\r\n", b"HTTP/1.1 101 "),
    ],
)
def test_any_other_beginning_keeps_the_limit(pieces):
    single = exchange()
    for piece in pieces:
        single.note_written(piece)
    assert single.clamp(100) == 0


def test_a_file_as_the_first_thing_written_keeps_the_limit():
    single = exchange()
    single.note_file_sent()
    single.note_written(b"HTTP/1.1 101 ")
    assert single.clamp(100) == 0
