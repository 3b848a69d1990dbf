"""Record borders: the reader never wants a byte too many, and refuses absurd lengths."""

from __future__ import annotations

import pytest
from helpers.properties import given, st

from ktlsgate.errors import RemoteProtocolError
from ktlsgate.wire.records import (
    HEADER_SIZE,
    MAX_CIPHERTEXT,
    ContentType,
    RecordReader,
    split_records,
)


def record(body, content_type=22):
    return bytes((content_type, 3, 3)) + len(body).to_bytes(2, "big") + body


def read_all(reader, stream, sizes):
    """Read as a socket would: at most what is wanted, at most the next size of ``sizes``."""
    position, whole = 0, []
    for size in sizes:
        taken = stream[position : position + min(size, reader.wanted)]
        if not taken:
            break
        position += len(taken)
        found = reader.receive_data(taken)
        if found is not None:
            whole.append(found)
    return position, whole


def test_content_types_have_the_numbers_of_the_rfc():
    assert {kind.name: int(kind) for kind in ContentType} == {
        "CHANGE_CIPHER_SPEC": 20,
        "ALERT": 21,
        "HANDSHAKE": 22,
        "APPLICATION_DATA": 23,
    }


def test_reader_wants_the_header_then_exactly_the_body():
    reader = RecordReader()
    assert (reader.wanted, reader.taken, reader.peek()) == (5, 0, b"")
    assert reader.receive_data(b"\x16\x03") is None
    assert (reader.wanted, reader.peek()) == (3, b"\x16\x03")
    assert reader.receive_data(b"\x03\x00\x04") is None
    assert reader.wanted == 4
    assert reader.receive_data(b"ab") is None
    assert reader.wanted == 2
    assert reader.receive_data(b"cd") == record(b"abcd")
    assert (reader.wanted, reader.taken, reader.peek()) == (5, 9, b"")


def test_largest_record_is_taken_whole():
    whole = record(bytes(MAX_CIPHERTEXT))
    reader = RecordReader()
    assert reader.receive_data(whole[:5]) is None
    assert reader.wanted == MAX_CIPHERTEXT == 18_432
    assert reader.receive_data(whole[5:]) == whole


@pytest.mark.parametrize("length", [0, MAX_CIPHERTEXT + 1, 0xFFFF])
def test_header_of_an_empty_or_oversized_record_is_refused(length):
    with pytest.raises(RemoteProtocolError) as info:
        RecordReader().receive_data(b"\x16\x03\x03" + length.to_bytes(2, "big"))
    assert str(info.value) == f"expected a record of 1 to 18432 bytes, got one of {length}"


def test_refusal_waits_for_the_whole_header():
    reader = RecordReader()
    assert reader.receive_data(b"\x16\x03\x03\xff") is None
    with pytest.raises(RemoteProtocolError):
        reader.receive_data(b"\xff")


@given(
    bodies=st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5),
    sizes=st.lists(st.integers(1, 50), min_size=300, max_size=300),
    behind=st.binary(max_size=8),
)
def test_i2_any_split_gives_the_same_records_and_reads_nothing_behind(bodies, sizes, behind):
    stream = b"".join(record(body) for body in bodies)
    reader = RecordReader()
    position, whole = 0, []
    for size in sizes:
        if len(whole) == len(bodies):
            break
        assert 0 < reader.wanted <= len(stream) - position  # never into what lies behind
        taken, found = read_all(reader, stream[position:] + behind, [size])
        position += taken
        whole += found
    assert whole == [record(body) for body in bodies]
    assert position == reader.taken == len(stream)


def test_output_is_cut_into_its_records():
    records = [record(b"a"), record(b"bc" * 300, 23), record(b"d", 20)]
    assert list(split_records(b"".join(records))) == records
    assert list(split_records(b"")) == []


def test_header_has_five_bytes():
    assert len(record(b"")) == HEADER_SIZE
