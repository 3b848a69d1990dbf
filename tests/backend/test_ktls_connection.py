"""A handed-over connection on a real kTLS socket: what each record does to it."""

import contextlib
import errno
import io
import os
import select
import socket
import threading
import time

import pytest
from helpers.flavours import FLAVOURS, received
from helpers.handoffs import hand_off, our_head
from helpers.ktls import TLS12, TLS13, ktls_pair

from ktlsgate.backend.arrival import Arrival
from ktlsgate.backend.blocking_listener import BlockingHandoffListener
from ktlsgate.backend.unix_listener import bind_unix_listener
from ktlsgate.config import Offload
from ktlsgate.errors import (
    BadRecord,
    ConnectionCut,
    FatalAlert,
    HandoffMalformed,
    RemoteProtocolError,
)
from ktlsgate.kernel.ancillary import send_fds
from ktlsgate.wire.ciphers import Version
from ktlsgate.wire.handoff import RECEIVED

pytestmark = pytest.mark.ktls

ALERT, HANDSHAKE, DATA = 21, 22, 23
CLOSE_NOTIFY = b"\1\0"
TICKET = b"\x04\0\0\1x"
KEY_UPDATE = b"\x18\0\0\1\0"
NO_KEY_UPDATE = (
    "the client sent a KeyUpdate, and this backend cannot install the next receiving key"
)


@pytest.fixture(params=FLAVOURS, ids=lambda flavour: flavour.__name__)
def flavour(request):
    return request.param


@contextlib.contextmanager
def both(flavour, suite=TLS13):
    """A connection in mode BOTH, and the client with its record layer."""
    with ktls_pair(suite) as (sock, peer):
        version = "TLSv1.3" if suite.version is Version.TLS13 else "TLSv1.2"
        head = our_head("both", HTTPS="on", SSL_PROTOCOL=version)
        descriptor = socket.socket(fileno=sock.detach())
        descriptor.setblocking(False)
        hands = flavour(received(head, descriptor))
        peer.sock.settimeout(10)
        try:
            yield hands, peer
        finally:
            hands.abort()


@pytest.fixture(params=[TLS13, TLS12], ids=["1.3", "1.2"])
def pair(request, flavour):
    with both(flavour, request.param) as (hands, peer):
        yield hands, peer


@pytest.fixture
def pair13(flavour):
    with both(flavour) as (hands, peer):
        yield hands, peer


@pytest.fixture
def pair12(flavour):
    with both(flavour, TLS12) as (hands, peer):
        yield hands, peer


def raises_twice(kind, hands):
    """The text of an error that stays."""
    texts = set()
    for _ in range(2):
        with pytest.raises(kind) as caught:
            hands.recv(100)
        texts.add(str(caught.value))
    (text,) = texts
    return text


# Reading.


def test_close_notify_is_the_end_behind_all_data_and_stays(pair):
    hands, peer = pair
    peer.send(b"one")
    peer.send(b"two")
    peer.send(CLOSE_NOTIFY, ALERT)
    peer.sock.shutdown(socket.SHUT_WR)
    assert hands.recv(100) == b"onetwo"
    assert hands.recv(100) == b""
    assert hands.recv(100) == b""


def test_close_notify_read_by_single_bytes_is_the_end(pair):
    """The kernel gives an alert in pieces when the buffer is small."""
    hands, peer = pair
    peer.send(b"x")
    peer.send(CLOSE_NOTIFY, ALERT)
    assert hands.recv(1) == b"x"
    assert hands.recv(1) == b""


def test_after_close_notify_writing_goes_on(pair):
    hands, peer = pair
    peer.send(CLOSE_NOTIFY, ALERT)
    assert hands.recv(100) == b""
    hands.sendall(b"answer")
    assert peer.recv() == (DATA, b"answer")


def test_fin_without_close_notify_is_a_cut_behind_all_data(pair):
    hands, peer = pair
    peer.send(b"data")
    peer.sock.shutdown(socket.SHUT_WR)
    assert hands.recv(100) == b"data"
    text = raises_twice(ConnectionCut, hands)
    assert text == "the client's stream ended without close_notify"


def test_half_a_record_and_fin_is_a_cut(pair):
    hands, peer = pair
    record = peer.sends.seal(DATA, b"data")
    peer.sock.sendall(record[: len(record) // 2])
    peer.sock.shutdown(socket.SHUT_WR)
    assert raises_twice(ConnectionCut, hands) == "the client's stream ended without close_notify"


def test_a_reset_is_a_cut(pair):
    hands, peer = pair
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.sock.close()
    text = raises_twice(ConnectionCut, hands)
    assert text == "the connection broke: Connection reset by peer (ECONNRESET)"


def test_a_fatal_alert_is_told(pair):
    hands, peer = pair
    peer.send(b"\2\x50", ALERT)
    with pytest.raises(FatalAlert) as caught:
        hands.recv(100)
    assert caught.value.description == 80
    assert raises_twice(FatalAlert, hands) == "the peer sent the fatal alert internal_error"


def test_warnings_and_tickets_are_passed_over(pair):
    hands, peer = pair
    peer.send(b"\1\x5a", ALERT)
    peer.send(TICKET, HANDSHAKE)
    peer.send(b"data")
    assert hands.recv(100) == b"data"


def test_a_bad_tag_is_a_bad_record_and_writing_fails_too(pair):
    hands, peer = pair
    peer.send(b"data", corrupt=True)
    text = raises_twice(BadRecord, hands)
    assert text == "a record does not decrypt (EBADMSG)"
    with pytest.raises((BadRecord, ConnectionCut)):
        hands.sendall(b"answer")


def test_a_record_that_is_too_long_is_a_bad_record_that_stays(pair):
    """The kernel says so once, and then EAGAIN."""
    hands, peer = pair
    peer.sock.sendall(b"\x17\3\3\xff\xff" + bytes(100))
    assert raises_twice(BadRecord, hands) == "a record is longer than TLS allows (EMSGSIZE)"


def test_what_is_no_tls_is_a_bad_record_that_stays(pair):
    hands, peer = pair
    peer.sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    with pytest.raises(BadRecord) as caught:
        hands.recv(100)
    assert caught.value.errno in (errno.EINVAL, errno.EMSGSIZE)
    assert raises_twice(BadRecord, hands) == str(caught.value)


def test_a_key_update_is_an_error_that_says_so(pair13):
    hands, peer = pair13
    peer.send(b"data")
    peer.send(KEY_UPDATE, HANDSHAKE)
    assert hands.recv(100) == b"data"
    assert raises_twice(RemoteProtocolError, hands) == NO_KEY_UPDATE


def test_renegotiation_is_refused_and_reading_goes_on(pair12):
    hands, peer = pair12
    peer.send(b"\1\0\0\5hello", HANDSHAKE)
    peer.send(b"data")
    assert hands.recv(100) == b"data"
    assert peer.recv() == (ALERT, b"\1\x64")
    hands.sendall(b"answer")
    assert peer.recv() == (DATA, b"answer")


@pytest.mark.slow
def test_half_a_record_does_not_burn_the_processor(pair13):
    """Linux before 6.12 calls it readable. 1 s of waiting is about 20 looks."""
    hands, peer = pair13
    record = peer.sends.seal(DATA, b"data")
    peer.sock.sendall(record[:10])
    sender = threading.Timer(1, lambda: peer.sock.sendall(record[10:]))
    sender.start()
    begin = time.process_time()
    assert hands.recv(100) == b"data"
    assert time.process_time() - begin < 0.3
    sender.join()


def test_an_empty_record_is_not_the_end(pair):
    hands, peer = pair
    peer.send(b"")
    assert hands.times_out("recv", 100)
    peer.send(b"data")
    assert hands.recv(100) == b"data"


# Writing, ending, closing.


def read_data(peer, chunks, ends):
    """Read records until the end: data into ``chunks``, the others into ``ends``."""
    while True:
        content_type, data = peer.recv()
        if content_type == DATA:
            chunks.append(data)
            continue
        ends.append((content_type, data))
        if not content_type:
            return


def test_sendfile_is_encrypted_by_the_kernel(pair, tmp_path):
    hands, peer = pair
    assert hands.connection.is_ktls_tx
    assert hands.connection.is_ktls_rx
    data = os.urandom(1_000_000)
    (tmp_path / "f").write_bytes(data)
    chunks, ends = [], []
    reader = threading.Thread(target=read_data, args=(peer, chunks, ends))
    reader.start()
    with io.FileIO(tmp_path / "f") as file:
        assert hands.sendfile(file, 100, 900_000) == 900_000
    hands.close()
    reader.join()
    assert b"".join(chunks) == data[100:900_100]
    assert ends == [(ALERT, CLOSE_NOTIFY), (0, b"")]


def test_a_large_write_arrives_whole(pair):
    hands, peer = pair
    data = os.urandom(1_000_000)
    chunks, ends = [], []
    reader = threading.Thread(target=read_data, args=(peer, chunks, ends))
    reader.start()
    hands.sendall(data)
    hands.end_output()
    reader.join()
    assert b"".join(chunks) == data
    assert ends == [(ALERT, CLOSE_NOTIFY), (0, b"")]


def test_the_end_of_the_output_leaves_reading_alone(pair):
    hands, peer = pair
    hands.end_output()
    assert peer.recv() == (ALERT, CLOSE_NOTIFY)
    assert peer.recv() == (0, b"")
    peer.send(b"data")
    assert hands.recv(100) == b"data"


def test_closing_says_close_notify(pair):
    hands, peer = pair
    hands.sendall(b"answer")
    hands.close()
    assert peer.recv() == (DATA, b"answer")
    assert peer.recv() == (ALERT, CLOSE_NOTIFY)
    assert peer.recv() == (0, b"")


def test_aborting_says_nothing(pair):
    hands, peer = pair
    hands.sendall(b"half an ans")
    hands.abort()
    assert peer.recv() == (DATA, b"half an ans")
    assert peer.recv() == (0, b"")


def test_closing_over_unread_records_does_not_destroy_the_answer(pair):
    hands, peer = pair
    peer.send(b"x" * 10_000)
    peer.send(b"\1\x5a", ALERT)
    peer.send(b"y" * 10_000)
    assert hands.recv(1) == b"x"
    hands.sendall(b"answer")
    hands.close()
    assert peer.recv() == (DATA, b"answer")
    assert peer.recv() == (ALERT, CLOSE_NOTIFY)
    assert peer.recv() == (0, b"")


def test_closing_with_a_full_buffer_does_not_wait(pair13):
    hands, _ = pair13
    assert hands.times_out("sendall", b"x" * 50_000_000)
    begin = time.monotonic()
    hands.close()
    assert time.monotonic() - begin < 2


def test_single_reads_no_byte_behind_the_body(flavour):
    with ktls_pair(TLS13) as (sock, peer):
        head = our_head("both", "single", HTTPS="on", HTTP_CONTENT_LENGTH="4")
        descriptor = socket.socket(fileno=sock.detach())
        hands = flavour(received(head, descriptor))
        peer.send(b"bodyGET /other")
        assert hands.recv(100) == b"body"
        assert hands.times_out("recv", 100)
        hands.sendall(b"HTTP/1.1 101 ")
        assert hands.recv(100) == b"GET /other"
        hands.abort()


def test_single_reads_end_with_close_notify_behind_the_body(flavour):
    with ktls_pair(TLS13) as (sock, peer):
        head = our_head("both", "single", HTTPS="on")
        hands = flavour(received(head, socket.socket(fileno=sock.detach())))
        assert hands.times_out("recv", 100)
        peer.send(CLOSE_NOTIFY, ALERT)
        assert hands.recv(100) == b""
        hands.abort()


def test_single_tells_a_bad_record_behind_the_body(flavour):
    """The kernel says it once, and the look for a next request is who hears it."""
    with ktls_pair(TLS13) as (sock, peer):
        head = our_head("both", "single", HTTPS="on", HTTP_CONTENT_LENGTH="4")
        hands = flavour(received(head, socket.socket(fileno=sock.detach())))
        peer.send(b"body")
        assert hands.recv(100) == b"body"
        peer.sock.sendall(b"\x17\3\3\xff\xff" + bytes(100))
        assert raises_twice(BadRecord, hands) == "a record is longer than TLS allows (EMSGSIZE)"
        hands.abort()


# Mode TX: the kernel encrypts, the input comes over the Unix connection.


def test_tx_reads_from_the_gate_and_writes_to_the_kernel(flavour):
    with ktls_pair(TLS13, offload=Offload.TX) as (sock, peer):
        gate, unix = socket.socketpair()
        unix.send(RECEIVED)
        with gate, socket.socket(fileno=os.dup(sock.fileno())) as gates_copy:
            descriptor = socket.socket(fileno=sock.detach())
            descriptor.setblocking(False)
            hands = flavour(received(our_head("tx", HTTPS="on"), descriptor, unix))
            assert hands.connection.is_ktls_tx
            assert not hands.connection.is_ktls_rx
            gate.sendall(b"request body")
            assert hands.recv(100) == b"request body"
            gate.recv(1)
            gate.shutdown(socket.SHUT_WR)
            assert hands.recv(100) == b""
            hands.sendall(b"answer")
            hands.close()
            assert peer.recv() == (DATA, b"answer")
            assert peer.recv() == (ALERT, CLOSE_NOTIFY)
            assert peer.recv() == (0, b"")
            assert gates_copy.recv(1) == b"", "the gate must learn that it is over"


# The receiver asks the kernel.


@pytest.mark.parametrize("mode", ["both", "tx"])
def test_a_ktls_socket_is_taken(tmp_path, mode):
    with (
        ktls_pair(TLS13, offload=Offload.BOTH if mode == "both" else Offload.TX) as (sock, _),
        BlockingHandoffListener(bind_unix_listener(str(tmp_path / "s"))) as listener,
    ):
        listener.settimeout(5)
        descriptor = socket.socket(fileno=sock.detach())
        with hand_off(listener.address, our_head(mode), descriptor) as unix:
            with listener.accept() as connection:
                assert connection.mode.value == mode
                if mode == "tx":
                    assert unix.recv(1) == RECEIVED
            assert select.select([unix], [], [], 5)[0] == [unix]
            assert unix.recv(1) == b""


def test_a_socket_that_only_encrypts_is_refused_for_both():
    with ktls_pair(TLS13, offload=Offload.TX) as (sock, _):
        gate, unix = socket.socketpair()
        with gate:
            send_fds(gate, our_head("both"), [sock.fileno()])
            with pytest.raises(HandoffMalformed) as caught:
                Arrival(unix, 0).advance()
    text = "expected a socket that the kernel decrypts for mode both, got one without"
    assert str(caught.value) == text
