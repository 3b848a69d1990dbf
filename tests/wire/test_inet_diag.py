"""Questions to the kernel's socket table, byte by byte, and its answers."""

from __future__ import annotations

import errno
import struct
import sys

import pytest
from helpers.properties import given, st

from ktlsgate.wire.inet_diag import Keys, SocketAnswer, build_question, parse_answer


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def number(value: int) -> bytes:
    return struct.pack("=H", value)


def answer(*attributes: bytes, state=1, port=50_000) -> bytes:
    head = struct.pack("=BBBB", 2, state, 0, 0) + struct.pack("!HH", 443, port) + bytes(44)
    return message(20, head + bytes(20) + b"".join(attributes))


TLS = attribute(
    19,
    attribute(1, b"tls\0") + attribute(0x8002, attribute(3, number(2)) + attribute(4, number(1))),
)


def test_a_question_names_one_connection() -> None:
    question = build_question(("127.0.0.1", 443), ("127.0.0.2", 50_000))
    assert question == (
        struct.pack("=IHHII", 72, 20, 1, 0, 0)
        + struct.pack("=BBBBI", 2, 6, 2, 0, 0xFFFFFFFF)
        + bytes.fromhex("01bb c350")
        + bytes((127, 0, 0, 1)) + bytes(12)
        + bytes((127, 0, 0, 2)) + bytes(12)
        + struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
    )  # fmt: skip


def test_ipv6_is_the_other_family_and_a_zone_is_left_out() -> None:
    question = build_question(("fe80::1%eth0", 1), ("::1", 2))
    assert question[16] == 10
    assert question[28:44] == b"\xfe\x80" + bytes(13) + b"\x01"


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
        build_question(("localhost", 1), ("::1", 2))


def test_an_answer_says_who_has_the_keys() -> None:
    assert parse_answer(answer(attribute(8, b"\0"), TLS)) == SocketAnswer(
        peer_port=50_000, is_established=True, ulp="tls", tx=Keys.SOFTWARE, rx=Keys.NONE
    )


def test_an_answer_without_an_upper_layer_says_nothing_of_it() -> None:
    assert parse_answer(answer()) == SocketAnswer(peer_port=50_000, is_established=True)


def test_a_closing_socket_is_told_apart() -> None:
    found = parse_answer(answer(state=5))
    assert isinstance(found, SocketAnswer)
    assert not found.is_established


def test_a_number_that_is_not_known_is_none() -> None:
    tls = attribute(19, attribute(2, attribute(3, number(77))))
    found = parse_answer(answer(tls))
    assert isinstance(found, SocketAnswer)
    assert (found.ulp, found.tx) == ("", None)


def test_a_refusal_is_its_errno() -> None:
    refusal = message(2, (-errno.ENOENT).to_bytes(4, sys.byteorder, signed=True) + bytes(16))
    assert parse_answer(refusal) == errno.ENOENT


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "expected a whole netlink message, got 0 bytes"),
        (answer()[:40], "expected a whole netlink message, got 40 bytes"),
        (message(3, bytes(72)), "expected an answer about a socket, got a message of type 3"),
    ],
)
def test_what_is_no_answer_is_refused(data, complaint) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_answer(data)


@given(st.integers(16, 200), st.binary(max_size=8))
def test_no_bytes_make_it_fail_in_another_way(at, junk) -> None:
    data = answer(TLS)
    spoilt = data[:at] + junk + data[at + len(junk) :]
    try:
        parse_answer(spoilt)
    except ValueError:
        return
