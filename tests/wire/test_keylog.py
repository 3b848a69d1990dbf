"""Key log lines: what is taken, and that no refusal repeats a secret."""

from __future__ import annotations

import pytest

from ktlsgate.wire.keylog import CLIENT_TRAFFIC_SECRET, SERVER_TRAFFIC_SECRET, parse_keylog_line

RANDOM = b"5a" * 32
SECRET = bytes(range(48))


@pytest.mark.parametrize("size", [32, 48])
def test_line_is_a_label_and_a_secret(size):
    secret = SECRET[:size]
    line = b"SERVER_TRAFFIC_SECRET_0 " + RANDOM + b" " + secret.hex().encode()
    assert parse_keylog_line(line) == (SERVER_TRAFFIC_SECRET, secret)


def test_labels_are_those_of_application_data():
    assert CLIENT_TRAFFIC_SECRET == b"CLIENT_TRAFFIC_SECRET_0"
    assert SERVER_TRAFFIC_SECRET == b"SERVER_TRAFFIC_SECRET_0"


def test_hexadecimal_may_be_upper_case():
    assert parse_keylog_line(b"L " + RANDOM + b" AbCd") == (b"L", b"\xab\xcd")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "expected a key log line of 3 words, got 1"),
        (b"LABEL c0ffee", "expected a key log line of 3 words, got 2"),
        (b"LABEL c0ffee c0ffee c0ffee", "expected a key log line of 3 words, got 4"),
        (b"LABEL c0ffee c0ffe", "expected a key log secret in hexadecimal"),
        (b"LABEL c0ffee c0ffeeXX", "expected a key log secret in hexadecimal"),
    ],
)
def test_i5_refused_line_is_not_repeated(line, message):
    with pytest.raises(ValueError, match=r"^expected a key log") as info:
        parse_keylog_line(line)
    assert str(info.value) == message
    assert info.value.__cause__ is None
    assert info.value.__suppress_context__ or info.value.__context__ is None
