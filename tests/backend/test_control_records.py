"""What control records mean."""

import pytest

from ktlsgate.backend.control_records import ControlRecords, Meaning
from ktlsgate.errors import FatalAlert, RemoteProtocolError

ALERT, HANDSHAKE = 21, 22
TICKET = b"\x04\0\0\3abc"
CLIENT_HELLO = b"\x01\0\0\5hello"
KEY_UPDATE = b"\x18\0\0\1\0"
NO_KEY_UPDATE = (
    "the client sent a KeyUpdate, and this backend cannot install the next receiving key"
)


@pytest.fixture
def tls12():
    return ControlRecords(is_tls13=False)


@pytest.fixture
def tls13():
    return ControlRecords(is_tls13=True)


@pytest.mark.parametrize("level", [b"\1", b"\2"])
def test_close_notify_is_the_end_whatever_its_level(tls13, level):
    assert tls13.receive_piece(ALERT, level + b"\0") is Meaning.END


def test_an_alert_may_come_in_two_pieces(tls13):
    assert tls13.receive_piece(ALERT, b"\1") is Meaning.IGNORE
    assert tls13.receive_piece(ALERT, b"\0") is Meaning.END


def test_a_fatal_alert_is_told_with_number_and_name(tls13):
    with pytest.raises(FatalAlert) as caught:
        tls13.receive_piece(ALERT, b"\2\x14")
    assert caught.value.description == 20
    assert str(caught.value) == "the peer sent the fatal alert bad_record_mac"


@pytest.mark.parametrize("alert", [b"\1\x5a", b"\2\x5a", b"\1\x64", b"\1\x70"])
def test_other_warnings_mean_nothing(tls12, alert):
    assert tls12.receive_piece(ALERT, alert) is Meaning.IGNORE


def test_an_alert_that_is_too_long_is_an_error(tls13):
    with pytest.raises(RemoteProtocolError) as caught:
        tls13.receive_piece(ALERT, b"\1\0\0")
    assert str(caught.value) == "expected an alert of 2 bytes, got 3"


@pytest.mark.parametrize("record", [TICKET, b"\0\0\0\0", TICKET * 3])
def test_tickets_and_hello_requests_mean_nothing(tls13, record):
    assert tls13.receive_piece(HANDSHAKE, record) is Meaning.IGNORE


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_handshake_messages_are_followed_over_pieces_of_any_size(tls12, size):
    stream = TICKET + CLIENT_HELLO + TICKET
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    meanings = [tls12.receive_piece(HANDSHAKE, piece) for piece in pieces]
    assert meanings.count(Meaning.REFUSE_RENEGOTIATION) == 1
    with pytest.raises(RemoteProtocolError):
        tls12.receive_piece(HANDSHAKE, KEY_UPDATE)


@pytest.mark.parametrize("record", [KEY_UPDATE, TICKET + KEY_UPDATE])
def test_a_key_update_cannot_be_followed(tls13, record):
    with pytest.raises(RemoteProtocolError) as caught:
        tls13.receive_piece(HANDSHAKE, record)
    assert str(caught.value) == NO_KEY_UPDATE


def test_a_client_hello_is_a_wish_in_tls12(tls12):
    assert tls12.receive_piece(HANDSHAKE, CLIENT_HELLO) is Meaning.REFUSE_RENEGOTIATION


def test_a_client_hello_is_an_error_in_tls13(tls13):
    with pytest.raises(RemoteProtocolError) as caught:
        tls13.receive_piece(HANDSHAKE, CLIENT_HELLO)
    assert str(caught.value) == "expected application data, got handshake message 1"


def test_a_fourth_wish_to_renegotiate_is_an_error(tls12):
    for _ in range(3):
        tls12.receive_piece(HANDSHAKE, CLIENT_HELLO)
        tls12.note_data()
    with pytest.raises(RemoteProtocolError) as caught:
        tls12.receive_piece(HANDSHAKE, CLIENT_HELLO)
    assert str(caught.value) == "expected application data, got 4 wishes to renegotiate"


def test_control_records_without_end_are_an_error(tls12):
    for _ in range(32):
        tls12.receive_piece(ALERT, b"\1\x5a")
    with pytest.raises(RemoteProtocolError) as caught:
        tls12.receive_piece(ALERT, b"\1\x5a")
    assert str(caught.value) == "expected data, got 33 control records in a row"


def test_data_between_makes_control_records_bearable(tls12):
    for _ in range(100):
        tls12.receive_piece(ALERT, b"\1\x5a")
        tls12.note_data()


@pytest.mark.parametrize("content_type", [20, 24, 99])
def test_another_content_type_is_an_error(tls12, content_type):
    with pytest.raises(RemoteProtocolError) as caught:
        tls12.receive_piece(content_type, b"x")
    assert str(caught.value) == f"expected application data, got content type {content_type}"


# KeyUpdates that can be followed


@pytest.fixture
def able():
    return ControlRecords(is_tls13=True, can_rekey=True)


@pytest.mark.parametrize(
    ("request_byte", "meaning"), [(0, Meaning.KEY_UPDATE), (1, Meaning.KEY_UPDATE_REQUESTED)]
)
@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_a_key_update_is_told_with_its_last_byte(able, size, request_byte, meaning):
    record = KEY_UPDATE[:4] + bytes((request_byte,))
    pieces = [record[start : start + size] for start in range(0, 5, size)]
    for piece in pieces[:-1]:
        assert able.receive_piece(HANDSHAKE, piece) is Meaning.IGNORE
        assert able.is_inside_key_update
    assert able.receive_piece(HANDSHAKE, pieces[-1]) is meaning
    assert not able.is_inside_key_update


def test_a_ticket_in_part_is_no_key_update_in_part(able):
    able.receive_piece(HANDSHAKE, TICKET[:2])
    assert not able.is_inside_key_update
    able.receive_piece(HANDSHAKE, TICKET[2:])
    assert not able.is_inside_key_update


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            TICKET + KEY_UPDATE,
            "expected a KeyUpdate alone in its record, got one behind another message",
        ),
        (
            KEY_UPDATE + KEY_UPDATE,
            "expected a KeyUpdate alone in its record, got 5 bytes behind it",
        ),
        (b"\x18\0\0\2\0\0", "expected a KeyUpdate of 1 byte, got one of 2"),
        (b"\x18\0\0\0", "expected a KeyUpdate of 1 byte, got one of 0"),
        (b"\x18\0\0\1\2", "expected 0 or 1 as the request of a KeyUpdate, got 2"),
    ],
)
def test_a_key_update_that_breaks_the_rules_is_an_error(able, record, message):
    with pytest.raises(RemoteProtocolError) as caught:
        able.receive_piece(HANDSHAKE, record)
    assert str(caught.value) == message


def test_key_updates_without_data_have_a_bound_of_their_own(able):
    for _ in range(100):
        assert able.receive_piece(HANDSHAKE, KEY_UPDATE) is Meaning.KEY_UPDATE
