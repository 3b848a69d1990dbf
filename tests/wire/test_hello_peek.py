"""The ClientHello is read out of bytes that stay where they are."""

import contextlib
import ssl

import pytest

from ktlsgate.errors import HandshakeFailed
from ktlsgate.wire.hello_peek import MAX_HELLO, look_at_hello


def hello(name="a.example"):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def in_records(record, size):
    """The same handshake message in records of at most so many bytes."""
    message = record[5:]
    pieces = [message[i : i + size] for i in range(0, len(message), size)]
    return b"".join(record[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def test_the_name_is_known_from_the_last_byte_of_the_hello_on():
    data = hello()
    assert all(look_at_hello(data[:length]) is None for length in range(1, len(data)))
    for behind in (b"", b"\x17\x03\x03", b"anything at all"):
        assert look_at_hello(data + behind).server_name == "a.example"


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_hello_in_several_records_is_read(size):
    data = in_records(hello("b.example"), size)
    assert look_at_hello(data[:-1]) is None
    assert look_at_hello(data).server_name == "b.example"


def test_an_alert_in_its_place_says_nothing_and_is_left_to_openssl():
    data = b"\x16\x03\x01\x00\x01\x01" + b"\x15\x03\x01\x00\x02\x02\x28"
    found = look_at_hello(data)
    assert (found.is_complete, found.server_name) == (True, "")


FAILURES = {
    b"GET / HTTP/1.1\r\n": ("plain_http", "expected a ClientHello, got plain HTTP"),
    b"SSH-2.0-x\r\n": ("not_tls", "expected a ClientHello, got b'SSH-2'"),
    b"\x16\x03\x01\xff\xff": ("not_tls", r"expected a ClientHello, got b'\x16\x03\x01\xff\xff'"),
    b"\x16\x03\x01\x00\x01\x01\x16\x03\x01\x00\x00": (
        "bad_record",
        "expected a record of 1 to 18432 bytes, got one of 0",
    ),
}


@pytest.mark.parametrize("data", FAILURES, ids=["http", "ssh", "length", "empty record"])
def test_what_is_no_hello_is_refused_with_its_reason(data):
    with pytest.raises(HandshakeFailed) as caught:
        look_at_hello(data)
    assert (caught.value.reason, str(caught.value)) == FAILURES[data]


def test_a_hello_that_does_not_end_is_refused_at_the_bound():
    record = b"\x16\x03\x01\x40\x00" + b"\x01\x00\xff\xff" + bytes(16_380)
    endless = record + b"\x16\x03\x01\x40\x00" + bytes(16_384)
    assert look_at_hello(endless[: MAX_HELLO - 1]) is None
    with pytest.raises(HandshakeFailed) as caught:
        look_at_hello(endless[:MAX_HELLO])
    assert caught.value.reason == "handshake_too_long"
    assert str(caught.value) == "expected a ClientHello of less than 32768 bytes"
