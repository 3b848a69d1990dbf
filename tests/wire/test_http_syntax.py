"""Line grammar: where a line goes wrong, however it was cut."""

from __future__ import annotations

import pytest

from ktlsgate.errors import HeadRejected
from ktlsgate.wire.http_syntax import METHODS, check_request_line_bytes, find_field_fault


def test_request_line_gives_its_three_words_and_its_end():
    data = b"..PUT /a HTTP/9.9\r\nX"
    assert check_request_line_bytes(data, 2, len(data)) == (19, (b"PUT", b"/a", b"HTTP/9.9"))


def test_unfinished_request_line_gives_no_words():
    line = b"PUT /a HTTP/9.9\r\n"
    for stop in range(len(line)):
        assert check_request_line_bytes(line, 0, stop) == (stop, ())


def test_over_long_method_is_501_at_the_byte_too_many():
    longest = max(map(len, METHODS))
    assert check_request_line_bytes(b"A" * longest, 0, longest) == (longest, ())
    with pytest.raises(HeadRejected, match=r"^method not implemented$") as info:
        check_request_line_bytes(b"A" * 100, 0, longest + 1)
    assert info.value.status == 501


def test_methods_leave_out_connect_pri_and_rtsp():
    assert not METHODS & {b"CONNECT", b"PRI", b"DESCRIBE", b"SETUP", b"get"}


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_good_field_line_has_no_fault_at_any_length_from_any_resume(kind):
    line = kind(b"X-Name: a:b\t\xff \r\n")
    for stop in range(1, len(line) + 1):
        for resume in range(stop):
            assert find_field_fault(line, 0, stop, resume) is None


@pytest.mark.parametrize(
    ("line", "at", "fault"),
    [
        (b"X@: v\r\n", 1, "byte 0x40 in the header name"),
        (b"X: \x1b\r\n", 3, "byte 0x1b in the header value"),
        (b"X: v\rw\r\n", 5, "bare CR in a header value"),
        (b"X: v\n", 4, "bare LF in the header value"),
        (b"X\n", 1, "bare LF in the header name"),
        (b" X: v\r\n", 0, "folded header line"),
        (b":\r\n", 0, "empty header name"),
        (b"\r\r", 1, "bare CR between header lines"),
    ],
)
def test_faulty_field_line_is_known_at_its_first_wrong_byte(line, at, fault):
    data = b"Y: z\r\n" + line
    assert at == 0 or find_field_fault(data, 6, 6 + at) is None
    for stop in range(at + 1, len(line) + 1):
        assert find_field_fault(data, 6, 6 + stop) == fault
        assert find_field_fault(data, 6, 6 + stop, 6 + at) == fault
