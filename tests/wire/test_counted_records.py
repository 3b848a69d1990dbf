"""Exact records behind the handshake: the kernel can take over at any border between two."""

import pytest
from helpers.counted_calls import counted
from helpers.identities import Authority
from helpers.kernel_records import KernelRecords
from helpers.memory_tls import Client, client_context, server_context, shake_hands

from ktlsgate.errors import RemoteProtocolError
from ktlsgate.wire.ciphers import SUITES
from ktlsgate.wire.crypto_info import TxCryptoInfo
from ktlsgate.wire.handshake import Handshake
from ktlsgate.wire.key_schedule import TrafficSecret
from ktlsgate.wire.keylog import CLIENT_TRAFFIC_SECRET

CONTEXT = server_context(Authority().issue("localhost"))
SUITE = SUITES["TLS_AES_128_GCM_SHA256"]
KEY_UPDATE = b"\x18\0\0\1\0"
HANDSHAKE = 22


@pytest.fixture(params=["TLSv1.2", "TLSv1.3"])
def version(request):
    return request.param


def connect(version):
    client = Client(client_context(version, suites=SUITE.name))
    handshake = Handshake(CONTEXT)
    shake_hands(handshake, client)
    return handshake, handshake.count_records(), client


def receive(records, client):
    """Read as a shell does, to the end of what the client sent."""
    plain = b""
    while client.sent:
        plain += records.receive_data(client.take(records.wanted))
    return plain


@pytest.mark.parametrize("count", [1, 2, 5])
def test_i3_the_kernel_takes_over_behind_any_record(version, count):
    handshake, records, client = connect(version)
    for number in range(count):
        client.send(b"%d" % number)
    assert receive(records, client) == b"".join(b"%d" % number for number in range(count))
    assert not records.has_control_records
    tx, rx = handshake.derive_keys(handshake.established().suite)
    kernel_tx, kernel_rx = KernelRecords(tx.pack()), KernelRecords(rx.pack())
    client.send(b"to the kernel")
    assert kernel_rx.open(client.take_all()) == (23, b"to the kernel")
    client.step(kernel_tx.seal(23, b"from the kernel"))
    assert client.received == b"from the kernel"


def test_i2_no_byte_behind_the_record_is_wanted(version):
    _, records, client = connect(version)
    client.send(b"head")
    client.send(b"body")
    total, first = len(client.sent), 5 + int.from_bytes(client.sent[3:5], "big")
    while not (plain := records.receive_data(client.take(records.wanted))):
        pass
    assert plain == b"head"
    assert len(client.sent) == total - first


def test_openssl_is_asked_once_for_each_record_from_the_first_on(version):
    """It holds no part of a record behind the handshake, and gets whole ones only."""
    _, records, client = connect(version)
    connection = counted(records._layer)
    client.send(b"head")
    client.send(b"body")
    assert receive(records, client) == b"headbody"
    assert connection.calls == ["bio_write", "recv"] * 2


def test_openssl_may_keep_it_all(version):
    handshake, records, client = connect(version)
    client.send(b"head")
    assert receive(records, client) == b"head"
    rest = handshake.into_record_layer()
    client.send(b"body")
    assert rest.receive_data(client.take_all()) == b"body"
    client.step(rest.send_data(b"answer"))
    assert client.received == b"answer"


def test_a_key_update_is_seen_and_followed():
    handshake, records, client = connect("TLSv1.3")
    secret = TrafficSecret(secret=client.secrets[CLIENT_TRAFFIC_SECRET], suite=SUITE)
    old = KernelRecords(TxCryptoInfo(suite=SUITE, key=secret.derive_key(), rec_seq=0).pack())
    new_key = secret.next_generation().derive_key()
    new = KernelRecords(TxCryptoInfo(suite=SUITE, key=new_key, rec_seq=0).pack())
    client.sent += old.seal(HANDSHAKE, KEY_UPDATE) + new.seal(23, b"behind it")
    assert receive(records, client) == b"behind it"
    assert records.has_control_records
    assert handshake.into_record_layer().receive_data(new.seal(23, b"more")) == b"more"


def test_an_answer_of_our_own_keeps_the_keys_with_openssl(version):
    _, records, client = connect(version)
    client.step(records.send_data(b"404"))
    assert client.received == b"404"
    assert records.has_control_records


def test_close_notify_goes_both_ways(version):
    _, records, client = connect(version)
    client.tls.shutdown()
    client._drain()
    assert receive(records, client) == b""
    assert records.is_closed
    assert records.send_close_notify()


def test_a_record_that_does_not_decrypt_is_a_fault_with_an_alert(version):
    _, records, client = connect(version)
    client.send(b"data")
    client.sent[-1] ^= 1
    with pytest.raises(RemoteProtocolError, match=r"^expected a TLS record, got "):
        receive(records, client)
    assert records.data_to_send()
    with pytest.raises(RemoteProtocolError):
        records.raise_failure()


def test_a_record_of_no_length_is_a_fault(version):
    _, records, client = connect(version)
    client.sent += b"\x17\x03\x03\0\0"
    with pytest.raises(RemoteProtocolError) as caught:
        receive(records, client)
    assert str(caught.value) == "expected a record of 1 to 18432 bytes, got one of 0"


def test_forgetting_drops_openssl(version):
    _, records, _ = connect(version)
    records.forget()
    with pytest.raises(AttributeError):
        records.send_close_notify()
