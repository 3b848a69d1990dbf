"""Alerts: what they are called, and which of them end a connection."""

from __future__ import annotations

import pytest

from ktlsgate.wire.messages import (
    CLOSE_NOTIFY,
    KEY_UPDATE,
    KEY_UPDATE_REQUESTED,
    NO_RENEGOTIATION,
    Alert,
    AlertDescription,
    HandshakeType,
    build_alert,
    parse_alert,
)


def test_handshake_types_have_the_numbers_of_the_rfc():
    assert {kind.name: int(kind) for kind in HandshakeType} == {
        "HELLO_REQUEST": 0,
        "CLIENT_HELLO": 1,
        "NEW_SESSION_TICKET": 4,
        "KEY_UPDATE": 24,
    }


def test_constants_are_the_bytes_of_the_wire():
    assert CLOSE_NOTIFY == b"\x01\x00"
    assert NO_RENEGOTIATION == b"\x01\x64"
    assert KEY_UPDATE == b"\x18\x00\x00\x01\x00"
    assert KEY_UPDATE_REQUESTED == b"\x18\x00\x00\x01\x01"


@pytest.mark.parametrize(("is_fatal", "level"), [(True, 2), (False, 1)])
def test_built_alert_is_level_and_description(is_fatal, level):
    built = build_alert(AlertDescription.UNEXPECTED_MESSAGE, is_fatal=is_fatal)
    assert built == bytes((level, 10))


@pytest.mark.parametrize(
    ("data", "is_fatal", "name"),
    [
        (b"\x01\x00", False, "close_notify"),
        (b"\x02\x00", False, "close_notify"),
        (b"\x01\x5a", False, "user_canceled"),
        (b"\x02\x5a", False, "user_canceled"),
        (b"\x01\x64", False, "no_renegotiation"),
        (b"\x02\x64", True, "no_renegotiation"),
        (b"\x01\x70", False, "unrecognized_name"),
        (b"\x02\x70", True, "unrecognized_name"),
        (b"\x02\x28", True, "handshake_failure"),
        (b"\x02\x2a", True, "bad_certificate"),
        (b"\x02\x14", True, "bad_record_mac"),
        (b"\x02\xff", True, "alert 255"),
    ],
)
def test_alert_is_read_with_its_name(data, is_fatal, name):
    alert = parse_alert(data)
    assert alert == Alert(is_fatal=is_fatal, description=data[1])
    assert alert.name == name


@pytest.mark.parametrize("description", [10, 20, 40, 48, 80, 116, 255])
def test_error_alert_is_fatal_whatever_its_level_says(description):
    """RFC 8446 section 6: the level is to be ignored."""
    assert parse_alert(bytes((1, description))).is_fatal


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x01\x00\x00"])
def test_alert_of_another_length_is_refused(data):
    with pytest.raises(ValueError, match=f"^expected an alert of 2 bytes, got {len(data)}$"):
        parse_alert(data)
