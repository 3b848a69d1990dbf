"""OpenSSL's record layer over memory BIOs: data, KeyUpdates, ends, and what comes after errors."""

from __future__ import annotations

import struct

import pytest
from helpers.counted_calls import counted
from helpers.identities import Authority
from helpers.kernel_records import KernelRecords
from helpers.memory_tls import Client, client_context, server_context, shake_hands
from helpers.properties import given, st
from OpenSSL import SSL

from ktlsgate.config import Tls
from ktlsgate.errors import LocalProtocolError, RemoteProtocolError
from ktlsgate.wire.ciphers import SUITES
from ktlsgate.wire.crypto_info import TxCryptoInfo
from ktlsgate.wire.handshake import Handshake
from ktlsgate.wire.key_schedule import TrafficSecret
from ktlsgate.wire.keylog import CLIENT_TRAFFIC_SECRET, SERVER_TRAFFIC_SECRET
from ktlsgate.wire.record_layer import RecordLayer, drain_output, openssl_reason
from ktlsgate.wire.records import split_records

IDENTITY = Authority().issue("localhost")
CONTEXT = server_context(IDENTITY)
VERSIONS = ["TLSv1.2", "TLSv1.3"]
SUITE = SUITES["TLS_AES_128_GCM_SHA256"]

KEY_UPDATE = b"\x18\0\0\1\0"
KEY_UPDATE_REQUESTED = b"\x18\0\0\1\1"


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


def connect(version):
    """A record layer and its client."""
    client = Client(client_context(version, suites=SUITE.name))
    handshake = Handshake(CONTEXT)
    shake_hands(handshake, client)
    return handshake.into_record_layer(), client


def direction(secret, generation=0, rec_seq=0):
    """A TLS 1.3 direction in our own hands, some KeyUpdates later."""
    secret = TrafficSecret(secret=secret, suite=SUITE)
    for _ in range(generation):
        secret = secret.next_generation()
    info = TxCryptoInfo(suite=SUITE, key=secret.derive_key(), rec_seq=rec_seq)
    return KernelRecords(info.pack())


def test_data_goes_both_ways(version):
    records, client = connect(version)
    for text in (b"one", b"two"):
        client.send(text)
        assert records.receive_data(client.take_all()) == text
        client.step(records.send_data(text))
    assert client.received == b"onetwo"
    assert not records.is_closed


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 100_000])
def test_plaintext_of_any_size_becomes_whole_records(version, size):
    records, client = connect(version)
    sent = records.send_data(b"x" * size)
    assert b"".join(split_records(sent)) == sent
    assert len(list(split_records(sent))) == -(-size // 16_384)
    client.step(sent)
    assert client.received == b"x" * size


def test_many_records_are_one_piece_of_plaintext(version):
    records, client = connect(version)
    client.send(b"x" * 50_000)
    client.send(b"end")
    assert records.receive_data(client.take_all()) == b"x" * 50_000 + b"end"


def test_nothing_in_nothing_out(version):
    records, _ = connect(version)
    assert records.receive_data(b"") == b""
    assert records.data_to_send() == b""


@given(
    texts=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 200), min_size=1, max_size=8),
    version=st.sampled_from(VERSIONS),
    examples=40,
)
def test_any_split_of_the_ciphertext_gives_the_same_plaintext(texts, cuts, version):
    records, client = connect(version)
    for text in texts:
        client.send(text)
    received, position = b"", 0
    while client.sent:
        received += records.receive_data(client.take(cuts[position % len(cuts)]))
        position += 1
    assert received == b"".join(texts)


# Ends


def test_close_notify_of_the_client_is_the_end(version):
    records, client = connect(version)
    client.send(b"last words")
    client.tls.shutdown()
    client._drain()
    assert records.receive_data(client.take_all()) == b"last words"
    assert records.is_closed
    assert records.receive_data(b"") == b""
    assert records.data_to_send() == b""  # half-closed: our side is still open
    client.tls.bio_write(records.send_data(b"answer"))


def test_bytes_after_close_notify_are_ignored(version):
    records, client = connect(version)
    client.tls.shutdown()
    client._drain()
    records.receive_data(client.take_all())
    assert records.receive_data(b"\x17\x03\x03\x00\x05hello") == b""
    assert records.is_closed


def test_our_close_notify_is_understood(version):
    records, client = connect(version)
    client.tls.bio_write(records.send_data(b"bye") + records.send_close_notify())
    assert client.tls.recv(100) == b"bye"
    with pytest.raises(SSL.ZeroReturnError):
        client.tls.recv(100)


def test_data_is_read_after_our_close_notify(version):
    records, client = connect(version)
    records.send_close_notify()
    client.send(b"late")
    assert records.receive_data(client.take_all()) == b"late"


def test_second_close_notify_is_nothing(version):
    records, _ = connect(version)
    assert records.send_close_notify()
    assert records.send_close_notify() == b""


# Errors


def spoiled(client, text):
    client.send(text)
    data = bytearray(client.take_all())
    data[-1] ^= 1
    return bytes(data)


def test_bad_record_is_an_error_with_its_reason(version):
    records, client = connect(version)
    with pytest.raises(RemoteProtocolError) as info:
        records.receive_data(spoiled(client, b"x"))
    assert str(info.value) == ("expected a TLS record, got decryption failed or bad record mac")
    assert list(split_records(records.data_to_send()))  # the alert


def test_plaintext_before_a_bad_record_is_delivered_first(version):
    records, client = connect(version)
    client.send(b"good")
    data = client.take_all() + spoiled(client, b"bad")
    assert records.receive_data(data) == b"good"
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match=r"^expected a TLS record, got "):
            records.receive_data(b"")


def test_failed_connection_says_no_goodbye_and_sends_no_data(version):
    records, client = connect(version)
    with pytest.raises(RemoteProtocolError):
        records.receive_data(spoiled(client, b"x"))
    records.data_to_send()
    assert records.send_close_notify() == b""
    with pytest.raises(RemoteProtocolError, match=r"^expected a TLS record, got "):
        records.send_data(b"x")
    with pytest.raises(RemoteProtocolError, match=r"^expected a TLS record, got "):
        records.raise_failure()


def test_nothing_can_be_sent_after_our_close_notify(version):
    records, _ = connect(version)
    records.send_close_notify()
    with pytest.raises(LocalProtocolError, match=r"^expected no more data after close_notify$"):
        records.send_data(b"x")
    records.raise_failure()
    assert records.data_to_send() == b""


def test_plain_bytes_are_no_record(version):
    records, _ = connect(version)
    with pytest.raises(RemoteProtocolError) as info:
        records.receive_data(b"GET / HTTP/1.1\r\n")
    assert str(info.value).startswith("expected a TLS record, got ")


def test_fatal_alert_is_an_error_that_names_it():
    records, client = connect("TLSv1.3")
    ours = direction(client.secrets[CLIENT_TRAFFIC_SECRET])
    data = ours.seal(23, b"before") + ours.seal(21, b"\2\x28")
    assert records.receive_data(data) == b"before"
    with pytest.raises(RemoteProtocolError) as info:
        records.receive_data(b"")
    assert "alert handshake failure" in str(info.value)


# KeyUpdate (RFC 8446 section 4.6.3), with the client's secrets in our own hands


def test_key_update_of_the_client_is_absorbed():
    records, client = connect("TLSv1.3")
    secret = client.secrets[CLIENT_TRAFFIC_SECRET]
    old, new = direction(secret), direction(secret, generation=1)
    data = old.seal(23, b"before ") + old.seal(22, KEY_UPDATE) + new.seal(23, b"after")
    assert records.receive_data(data) == b"before after"
    assert records.data_to_send() == b""


def test_requested_key_update_is_answered_and_our_keys_change_too():
    records, client = connect("TLSv1.3")
    theirs = client.secrets[SERVER_TRAFFIC_SECRET]
    asking = direction(client.secrets[CLIENT_TRAFFIC_SECRET])
    records.receive_data(asking.seal(22, KEY_UPDATE_REQUESTED))
    sent = records.data_to_send() + records.send_data(b"under the new key")
    update, data = split_records(sent)
    assert direction(theirs, rec_seq=2).open(update) == (22, KEY_UPDATE)  # behind two tickets
    assert direction(theirs, generation=1).open(data) == (23, b"under the new key")


def test_i4_decryption_goes_on_when_the_answer_is_thrown_away():
    """Mode TX: OpenSSL's sending key is stale, its answer must never be sent."""
    records, client = connect("TLSv1.3")
    secret = client.secrets[CLIENT_TRAFFIC_SECRET]
    assert records.receive_data(direction(secret).seal(22, KEY_UPDATE_REQUESTED)) == b""
    records.data_to_send()  # OpenSSL answers no later than with its next data
    assert records.receive_data(direction(secret, generation=1).seal(23, b"on")) == b"on"


def test_several_key_updates_in_a_row():
    records, client = connect("TLSv1.3")
    secret = client.secrets[CLIENT_TRAFFIC_SECRET]
    for generation in range(5):
        ours = direction(secret, generation)
        text = b"generation %d" % generation
        data = ours.seal(23, text) + ours.seal(22, KEY_UPDATE)
        assert records.receive_data(data) == text


# Renegotiation (TLS 1.2), which is refused with a warning


def test_renegotiation_is_refused_and_the_connection_goes_on():
    client = Client(client_context("TLSv1.2"))
    handshake = Handshake(CONTEXT)
    shake_hands(handshake, client)
    records = handshake.into_record_layer()
    assert client.tls.renegotiate()
    with pytest.raises(SSL.WantReadError):
        client.tls.do_handshake()
    client._drain()
    assert records.receive_data(client.take_all()) == b""
    alert = records.data_to_send()
    assert [record[0] for record in split_records(alert)] == [21]
    client.tls.bio_write(alert)
    with pytest.raises(SSL.Error) as info:
        client.tls.do_handshake()
    assert openssl_reason(info.value) == "no renegotiation"
    assert not records.is_closed


# The two helpers


def test_drained_output_is_everything():
    connection = SSL.Connection(client_context("TLSv1.3"), None)
    connection.set_connect_state()
    assert drain_output(connection) == b""
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    hello = drain_output(connection)
    assert struct.unpack_from(">BHH", hello) == (22, 0x0301, len(hello) - 5)
    assert drain_output(connection) == b""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SSL.Error(), "unexpected end"),
        (SSL.Error([]), "unexpected end"),
        (SSL.SysCallError(-1, "Unexpected EOF"), "unexpected end"),
        (SSL.Error([("SSL routines", "f", "no shared cipher")]), "no shared cipher"),
        (SSL.Error([("a", "b", "first"), ("a", "b", "last")]), "last"),
        (SSL.Error([("a", "b", "bad mac"), ("a", "", "record layer failure")]), "bad mac"),
        (SSL.Error([("a", "", "record layer failure")]), "unexpected end"),
    ],
)
def test_reason_is_the_last_one_that_says_something(error, reason):
    assert openssl_reason(error) == reason


def test_record_layer_has_no_room_for_more():
    assert not hasattr(RecordLayer.__new__(RecordLayer), "__dict__")


def test_a_connection_that_was_cut_can_be_resumed_without_tickets():
    context, clients = server_context(IDENTITY, Tls(tickets=False)), client_context("TLSv1.2")
    client = Client(clients)
    handshake = Handshake(context)
    shake_hands(handshake, client)
    handshake.into_record_layer().forget()  # no close_notify came or went
    again = Client(clients, session=client.leave())
    second = Handshake(context)
    shake_hands(second, again)
    assert second.established().facts.is_resumed


def test_a_connection_that_failed_cannot_be_resumed_without_tickets():
    context, clients = server_context(IDENTITY, Tls(tickets=False)), client_context("TLSv1.2")
    client = Client(clients)
    handshake = Handshake(context)
    shake_hands(handshake, client)
    records = handshake.into_record_layer()
    with pytest.raises(RemoteProtocolError):
        records.receive_data(spoiled(client, b"x"))
    records.forget()
    again = Client(clients, session=client.leave())
    second = Handshake(context)
    shake_hands(second, again)
    assert not second.established().facts.is_resumed


def test_a_record_of_data_that_comes_alone_is_asked_for_once(version):
    """Nor has OpenSSL anything to say to it: most requests are one such record."""
    records, client = connect(version)
    records.data_to_send()
    connection = counted(records)
    for _ in range(2):
        client.send(b"request")
        assert records.receive_data(client.take_all()) == b"request"
        assert records.data_to_send() == b""
    assert connection.calls == ["bio_write", "recv"] * 2


@pytest.mark.parametrize("cut", [1, 3, 5, 6, -1])
def test_the_next_lone_record_is_known_behind_one_that_came_in_pieces(version, cut):
    records, client = connect(version)
    connection = counted(records)
    client.send(b"one")
    client.send(b"two")
    data = client.take_all()
    plain = records.receive_data(data[:cut]) + records.receive_data(data[cut:])
    assert plain == b"onetwo"
    connection.calls.clear()
    client.send(b"three")
    assert records.receive_data(client.take_all()) == b"three"
    assert connection.calls == ["bio_write", "recv"]


def test_where_a_record_may_have_begun_no_record_is_alone(version):
    """What OpenSSL holds of a record is not known to who takes it over."""
    known, client = connect(version)
    records = RecordLayer(known._connection)
    client.send(b"one")
    client.send(b"two")
    first, second = split_records(client.take_all())
    assert records.receive_data(first[:7]) == b""
    assert records.receive_data(first[7:] + second) == b"onetwo"
    connection = counted(records)
    client.send(b"three")
    assert records.receive_data(client.take_all()) == b"three"
    assert connection.calls == ["bio_write", "recv", "recv"]


def test_shrinking_loses_no_part_of_a_record(version):
    records, client = connect(version)
    client.send(b"x" * 10_000)
    data = client.take_all()
    assert records.receive_data(data[:5_000]) == b""
    before = records._connection._into_ssl
    records.shrink()
    assert records._connection._into_ssl != before
    assert records.receive_data(data[5_000:]) == b"x" * 10_000
    client.step(records.send_data(b"y" * 100_000))
    records.shrink()
    client.step(records.send_data(b"z"))
    assert client.received == b"y" * 100_000 + b"z"
