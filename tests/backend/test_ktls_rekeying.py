"""KeyUpdates on a real kTLS socket: followed where the kernel can, a clean end elsewhere."""

import contextlib
import hashlib
import os
import socket
import threading
import time

import pytest
import trio
from helpers.flavours import FLAVOURS, received
from helpers.handoffs import our_head
from helpers.ktls import TLS13, kernel_table, ktls_pair, require_rekey

from ktlsgate.backend.client_input import peer_error
from ktlsgate.errors import BadRecord, RemoteProtocolError
from ktlsgate.gate.client import KernelClient
from ktlsgate.wire.ciphers import SUITES, Version
from ktlsgate.wire.http_head import HeadLimits

pytestmark = pytest.mark.ktls

ALERT, HANDSHAKE, DATA = 21, 22, 23
CLOSE_NOTIFY = b"\1\0"
KEY_UPDATE = b"\x18\0\0\1\0"
REQUESTED = b"\x18\0\0\1\1"
TICKET = b"\x04\0\0\1x"
SUITES13 = [suite for suite in SUITES.values() if suite.version is Version.TLS13]


@pytest.fixture(params=FLAVOURS, ids=lambda flavour: flavour.__name__)
def flavour(request):
    return request.param


@contextlib.contextmanager
def hands_on(flavour, sock, peer, *, names=None, **options):
    """A connection in mode BOTH with the secrets that it began with."""
    first, suite = peer.first_secrets, peer.sends.suite
    secrets = {
        "KTLSGATE_TX_SECRET": first.tx.secret.hex(),
        "KTLSGATE_RX_SECRET": first.rx.secret.hex(),
    }
    facts = {"HTTPS": "on", "SSL_PROTOCOL": "TLSv1.3", "SSL_CIPHER": suite.name}
    head = our_head("both", **(facts | secrets | (names or {})))
    descriptor = socket.socket(fileno=sock.detach())
    descriptor.setblocking(False)
    hands = flavour(received(head, descriptor), **options)
    peer.sock.settimeout(10)
    try:
        yield hands
    finally:
        hands.abort()


@contextlib.contextmanager
def shared(flavour, suite=TLS13, **options):
    """The same on a fresh pair, and the client with its record layer."""
    with ktls_pair(suite) as (sock, peer), hands_on(flavour, sock, peer, **options) as hands:
        yield hands, peer


@pytest.fixture
def pair(flavour):
    require_rekey()
    with shared(flavour) as (hands, peer):
        yield hands, peer


def update(peer, message=KEY_UPDATE):
    """Send a KeyUpdate and go on under the next key."""
    peer.send(message, HANDSHAKE)
    peer.rekey_sending()


def expect_update(peer, message=KEY_UPDATE):
    """Receive the other side's KeyUpdate and expect the next key."""
    assert peer.recv() == (HANDSHAKE, message)
    peer.rekey_receiving()


@pytest.mark.parametrize("suite", SUITES13, ids=lambda suite: suite.name)
def test_forty_key_updates_of_the_client_lose_no_data(flavour, suite):
    require_rekey(suite)
    with shared(flavour, suite) as (hands, peer):
        for number in range(40):
            peer.send(b"before %d." % number)
            update(peer)
            peer.send(b"behind %d." % number)
            text = b"before %d.behind %d." % (number, number)
            data = b""
            while len(data) < len(text):
                data += hands.recv(100)
            assert data == text
        hands.sendall(b"answer")
        assert peer.recv() == (DATA, b"answer")
        assert hands.connection.generations == (0, 40)


def test_forty_key_updates_that_ask_for_ours_are_answered(pair):
    hands, peer = pair
    for number in range(40):
        update(peer, REQUESTED)
        peer.send(b"%d" % number)
        assert hands.recv(100) == b"%d" % number
        hands.sendall(b"answer")
        expect_update(peer)
        assert peer.recv() == (DATA, b"answer")
    assert hands.connection.generations == (40, 40)


def test_a_request_is_answered_by_a_side_that_only_reads(pair):
    hands, peer = pair
    update(peer, REQUESTED)
    assert hands.times_out("recv", 100)
    expect_update(peer)


@pytest.mark.parametrize("message", [KEY_UPDATE, REQUESTED])
def test_a_waiting_reader_sees_a_key_update_at_once(pair, message):
    """On 6.14 and later poll can hide it; nobody may wait for the next look."""
    hands, peer = pair

    def send():
        time.sleep(0.3)
        update(peer, message)
        time.sleep(0.3)
        peer.send(b"data")

    sender = threading.Thread(target=send)
    sender.start()
    begin = time.monotonic()
    assert hands.recv(100) == b"data"
    assert time.monotonic() - begin < 3
    sender.join()


def test_a_key_update_read_in_small_pieces_is_followed(pair):
    hands, peer = pair
    update(peer, REQUESTED)
    peer.send(b"data")
    assert b"".join(hands.recv(1) for _ in range(4)) == b"data"
    expect_update(peer)


@pytest.mark.parametrize("pieces", [(1, 5), (4, 5), (1, 2, 3, 4, 5)], ids=str)
def test_a_key_update_split_over_records_is_followed(pair, pieces):
    """RFC 8446 5.1 lets messages be cut anywhere; the kernel takes a piece for the whole."""
    hands, peer = pair
    peer.send(b"before.")
    start = 0
    for end in pieces:
        peer.send(REQUESTED[start:end], HANDSHAKE)
        start = end
    peer.rekey_sending()
    peer.send(b"behind")
    data = b""
    while len(data) < 13:
        data += hands.recv(100)
    assert data == b"before.behind"
    hands.sendall(b"answer")
    expect_update(peer)
    assert peer.recv() == (DATA, b"answer")


def test_a_key_update_split_in_time_is_followed(pair):
    hands, peer = pair
    peer.send(KEY_UPDATE[:2], HANDSHAKE)
    assert hands.times_out("recv", 100)
    peer.send(KEY_UPDATE[2:], HANDSHAKE)
    assert hands.times_out("recv", 100)
    peer.rekey_sending()
    peer.send(b"data")
    assert hands.recv(100) == b"data"


def test_a_key_update_behind_another_message_is_an_error(pair):
    hands, peer = pair
    peer.send(TICKET + KEY_UPDATE, HANDSHAKE)
    for _ in range(2):
        with pytest.raises(RemoteProtocolError) as caught:
            hands.recv(100)
        assert str(caught.value) == (
            "expected a KeyUpdate alone in its record, got one behind another message"
        )


def test_data_under_the_old_key_is_a_bad_record(pair):
    hands, peer = pair
    peer.send(KEY_UPDATE, HANDSHAKE)
    peer.send(b"data")
    with pytest.raises(BadRecord):
        hands.recv(100)


def test_a_hundred_and_one_key_updates_at_once_are_a_flood(pair):
    hands, peer = pair
    for _ in range(101):
        update(peer)
    with pytest.raises(RemoteProtocolError) as caught:
        hands.recv(100)
    assert str(caught.value) == "expected at most 100 KeyUpdates in a second, got more"


def test_a_key_update_on_a_single_exchange_is_followed(flavour):
    require_rekey()
    names = {"KTLSGATE_KEEPALIVE": "single", "HTTP_CONTENT_LENGTH": "8"}
    with shared(flavour, names=names) as (hands, peer):
        peer.send(b"body")
        update(peer)
        peer.send(b"body")
        assert hands.recv(4) + hands.recv(100) == b"bodybody"
        update(peer, REQUESTED)
        assert hands.times_out("recv", 100)
        expect_update(peer)
        peer.send(CLOSE_NOTIFY, ALERT)
        assert hands.recv(100) == b""


@pytest.mark.parametrize("is_glued", [True, False])
def test_a_key_update_right_behind_the_head_is_followed(flavour, is_glued):
    """The gate's look at the head (MSG_PEEK) makes the kernel decrypt it: poll hides it then."""
    require_rekey()
    with ktls_pair() as (sock, peer):
        request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
        peer.send(request)
        if is_glued:
            update(peer, REQUESTED)
            time.sleep(0.1)
        sock.setblocking(False)
        gate = KernelClient(sock, is_tls=True)
        head, _ = trio.run(gate.read_head, HeadLimits())
        assert head.target == b"/"
        if not is_glued:
            update(peer, REQUESTED)
        peer.send(b"data")
        with hands_on(flavour, sock, peer) as hands:
            assert hands.recv(100) == b"data"
            hands.sendall(b"answer")
            expect_update(peer)
            assert peer.recv() == (DATA, b"answer")


def follow(peer, seen):
    """Read data and KeyUpdates to the end: the hash, and what else came."""
    total = hashlib.sha256()
    while True:
        content_type, data = peer.recv()
        if content_type == DATA:
            total.update(data)
            continue
        seen.append((content_type, data))
        if content_type == HANDSHAKE:
            peer.rekey_receiving()
        elif not content_type:
            seen.append(total.hexdigest())
            return


@pytest.mark.parametrize("how", ["sendall", "sendfile"])
def test_forty_key_updates_of_ours_lose_no_data(flavour, how, tmp_path):
    """32 MB are 2000 records, every 50 of them under another key."""
    require_rekey()
    data = os.urandom(1 << 20) * 32
    (tmp_path / "f").write_bytes(data)
    with shared(flavour, record_limit=48) as (hands, peer):
        seen = []
        reader = threading.Thread(target=follow, args=(peer, seen))
        reader.start()
        if how == "sendall":
            for start in range(0, len(data), 1 << 18):
                hands.sendall(data[start : start + (1 << 18)])
        else:
            with open(tmp_path / "f", "rb") as file:
                assert hands.sendfile(file) == len(data)
        sent, _ = hands.connection.generations
        hands.close()
        reader.join()
    assert sent >= (40 if how == "sendall" else 25)
    assert seen == [
        *[(HANDSHAKE, KEY_UPDATE)] * sent,
        (ALERT, CLOSE_NOTIFY),
        (0, b""),
        hashlib.sha256(data).hexdigest(),
    ]


def test_an_answer_waits_for_room_and_comes_before_more_data(pair):
    """The send buffer is full, then the client asks, three times: one answer is enough."""
    hands, peer = pair
    data = os.urandom(1 << 20) * 12
    assert hands.times_out("sendall", data)
    for _ in range(3):
        update(peer, REQUESTED)
    peer.send(b"x")
    assert hands.recv(100) == b"x"
    assert hands.connection.generations == (0, 3), "there was no room for the answer"
    seen = []
    reader = threading.Thread(target=follow, args=(peer, seen))
    reader.start()
    hands.sendall(b"")
    hands.sendall(b"rest")
    hands.end_output()
    reader.join()
    assert hands.connection.generations == (1, 3)
    assert seen[:-1] == [(HANDSHAKE, KEY_UPDATE), (ALERT, CLOSE_NOTIFY), (0, b"")]


def test_many_received_records_make_us_ask_for_the_clients_key(flavour):
    require_rekey()
    with shared(flavour, record_limit=10) as (hands, peer):
        for _ in range(12):
            peer.send(b"x")
            assert hands.recv(100) == b"x"
        hands.sendall(b"answer")
        expect_update(peer, REQUESTED)
        assert peer.recv() == (DATA, b"answer")
        update(peer)
        peer.send(b"x")
        assert hands.recv(100) == b"x"
        assert hands.connection.generations == (1, 1)


def test_nothing_is_updated_behind_close_notify(pair):
    hands, peer = pair
    hands.end_output()
    update(peer, REQUESTED)
    peer.send(b"data")
    assert hands.recv(100) == b"data"
    assert peer.recv() == (ALERT, CLOSE_NOTIFY)
    assert peer.recv() == (0, b"")


def test_without_rekeying_in_the_kernel_a_key_update_is_a_clean_end(flavour):
    """The gate does not share secrets there; a backend that got some all the same is told why."""
    if kernel_table().can_rekey:
        pytest.skip("this kernel can rekey")
    with shared(flavour) as (hands, peer):
        peer.send(b"data")
        update(peer)
        peer.send(b"more")
        assert hands.recv(100) == b"data"
        for _ in range(2):
            with pytest.raises(RemoteProtocolError) as caught:
                hands.recv(100)
            assert str(caught.value) == (
                "the client sent a KeyUpdate, but cannot install the receiving key: "
                "keys are set already, and this kernel cannot rekey (EBUSY)"
            )
        hands.sendall(b"answer")
        assert peer.recv() == (DATA, b"answer")
        hands.close()
        assert peer.recv() == (ALERT, CLOSE_NOTIFY)


def test_no_text_shows_the_secrets(pair):
    hands, peer = pair
    connection = hands.connection
    texts = repr((connection, connection.head, connection.environ, connection._core.__dict__))
    assert connection.head.secrets is None
    assert peer.first_secrets.tx.secret.hex() not in texts
    assert repr(peer.first_secrets.tx.secret) not in texts
    assert "SECRET" not in texts


def test_a_key_that_is_missing_is_told_as_before():
    error = peer_error(OSError(127, "Key has expired"))
    assert str(error) == (
        "the client sent a KeyUpdate, and this backend cannot install the next receiving key"
    )
