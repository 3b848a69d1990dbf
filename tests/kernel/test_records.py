"""Control records beside data on an offloaded socket; all but one test need real kTLS."""

from __future__ import annotations

import errno
import socket

import pytest
from helpers.ktls import TLS12, TLS13, ktls_pair

from ktlsgate.kernel.records import recv_record, send_record
from ktlsgate.wire.messages import CLOSE_NOTIFY
from ktlsgate.wire.records import ContentType

ALERT, HANDSHAKE, DATA = (
    ContentType.ALERT,
    ContentType.HANDSHAKE,
    ContentType.APPLICATION_DATA,
)
both_versions = pytest.mark.parametrize("suite", [TLS12, TLS13], ids=["TLSv1.2", "TLSv1.3"])


def test_a_plain_socket_has_application_data_only() -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(b"plain")
        assert recv_record(near, 99) == (DATA, b"plain")
        far.shutdown(socket.SHUT_WR)
        assert recv_record(near, 99) == (DATA, b"")


@pytest.mark.ktls
@both_versions
def test_data_alert_and_data_come_in_order_with_their_types(suite) -> None:
    with ktls_pair(suite) as (sock, peer):
        peer.send(b"one")
        peer.send(CLOSE_NOTIFY, ALERT)
        peer.send(b"two")
        assert recv_record(sock, 99) == (DATA, b"one")
        assert recv_record(sock, 99) == (ALERT, CLOSE_NOTIFY)
        assert recv_record(sock, 99) == (DATA, b"two")


@pytest.mark.ktls
@both_versions
def test_plain_recv_fails_with_eio_until_the_control_record_is_taken(suite) -> None:
    with ktls_pair(suite) as (sock, peer):
        peer.send(CLOSE_NOTIFY, ALERT)
        peer.sock.shutdown(socket.SHUT_WR)
        for _ in range(3):
            with pytest.raises(OSError, match="Input/output error") as caught:
                sock.recv(99)
            assert caught.value.errno == errno.EIO
        assert recv_record(sock, 99) == (ALERT, CLOSE_NOTIFY)
        assert sock.recv(99) == b""


@pytest.mark.ktls
@both_versions
@pytest.mark.parametrize("content_type", [ALERT, HANDSHAKE])
def test_a_sent_control_record_has_its_type_on_the_wire(suite, content_type) -> None:
    with ktls_pair(suite) as (sock, peer):
        assert send_record(sock, content_type, b"\x01\x00") == 2
        assert peer.recv() == (content_type, b"\x01\x00")


@pytest.mark.ktls
def test_a_control_record_longer_than_the_buffer_comes_in_pieces() -> None:
    with ktls_pair() as (sock, peer):
        peer.send(CLOSE_NOTIFY, ALERT)
        assert recv_record(sock, 1) == (ALERT, b"\x01")
        assert recv_record(sock, 1) == (ALERT, b"\x00")


@pytest.mark.ktls
def test_a_peek_leaves_the_data_where_it_is() -> None:
    with ktls_pair() as (sock, peer):
        peer.send(b"peeked")
        assert recv_record(sock, 4, socket.MSG_PEEK) == (DATA, b"peek")
        assert recv_record(sock, 99) == (DATA, b"peeked")


@pytest.mark.ktls
def test_nothing_there_is_eagain_when_not_to_wait() -> None:
    with ktls_pair() as (sock, _):
        sock.settimeout(None)  # with a timeout Python itself waits, whatever the flags say
        with pytest.raises(BlockingIOError):
            recv_record(sock, 99, socket.MSG_DONTWAIT)


@pytest.mark.ktls
@both_versions
def test_a_record_with_a_bad_tag_is_ebadmsg(suite) -> None:
    with ktls_pair(suite) as (sock, peer):
        peer.send(b"spoiled", corrupt=True)
        with pytest.raises(OSError, match="Bad message") as caught:
            recv_record(sock, 99)
        assert caught.value.errno == errno.EBADMSG


@pytest.mark.ktls
def test_padding_does_not_show() -> None:
    with ktls_pair(TLS13) as (sock, peer):
        peer.send(b"padded", padding=100)
        assert recv_record(sock, 99) == (DATA, b"padded")
