"""Sending on a real kTLS socket: slow clients, dead ones, signals; both flavours."""

import contextlib
import os
import signal
import socket
import threading
import time

import pytest
from helpers.after_handoff import ALERT, BROKEN_PIPE, CLOSE_NOTIFY, DATA, RESET, rst
from helpers.flavours import FLAVOURS, received
from helpers.handoffs import our_head
from helpers.ktls import TLS13, fill, ktls_pair, room_for

from ktlsgate.config import Offload
from ktlsgate.errors import ConnectionCut
from ktlsgate.wire.handoff import RECEIVED

pytestmark = pytest.mark.ktls

# What is written in one call, and the size of the send buffer: some of these fill it in the
# middle of the last record; which ones, depends on the kernel. All are far above what the
# kernel corks within sendfile, which on loopback is 64 KiB.
BUFFERS = [(step, size) for step in (5000, 16384, 65536) for size in (200_000, 233_333)]


@pytest.fixture(params=FLAVOURS, ids=lambda flavour: flavour.__name__)
def flavour(request):
    return request.param


@contextlib.contextmanager
def connected(flavour, mode="both", *, is_blocking=False, sndbuf=0):
    """A connection of the given mode, and the client."""
    offload = Offload.BOTH if mode == "both" else Offload.TX
    with ktls_pair(TLS13, offload=offload) as (sock, peer), contextlib.ExitStack() as stack:
        unix = None
        if mode == "tx":
            gate, unix = socket.socketpair()
            stack.enter_context(gate)
            unix.send(RECEIVED)
        descriptor = socket.socket(fileno=sock.detach())
        descriptor.setblocking(is_blocking)
        if sndbuf:
            descriptor.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
        head = our_head(mode, HTTPS="on", SSL_PROTOCOL="TLSv1.3")
        hands = flavour(received(head, descriptor, unix))
        peer.sock.settimeout(10)
        try:
            yield hands, peer
        finally:
            hands.abort()


class Reader(threading.Thread):
    """A client that begins late, or reads slowly, or has signals sent while it reads."""

    def __init__(self, peer, *, delay=0.0, storm=0):
        super().__init__()
        self.peer, self.delay, self.storm = peer, delay, storm
        self.size, self.count, self.end = 0, 0, []

    def run(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        time.sleep(self.delay)
        try:
            while not self.end or self.end[-1][0]:
                content_type, data = self.peer.recv()
                if content_type == DATA:
                    self.note_data(len(data))
                else:
                    self.end.append((content_type, data))
        except AssertionError:
            self.end.append("a part of a record")
        except OSError as exc:  # a test that failed closes the socket
            self.end.append(exc)

    def note_data(self, size):
        """With a storm of so many bytes, read slowly, and send signals every 2 ms until then."""
        self.size += size
        self.count += 1
        if not self.storm:
            return
        if self.count == 1:
            signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        if self.size > self.storm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.storm = 0
        elif self.count % 5 == 0:
            time.sleep(0.005)


CLEAN = [(ALERT, CLOSE_NOTIFY), (0, b"")]


@pytest.mark.parametrize("mode", ["both", "tx"])
@pytest.mark.parametrize("how", ["sendall", "sendfile"])
def test_what_was_sent_to_a_slow_client_is_whole_behind_a_close(flavour, mode, how, tmp_path):
    """With a full buffer the kernel's TLS layer holds a part of the last record, and loses it."""
    for step, sndbuf in BUFFERS:
        size = room_for(step, sndbuf)
        (tmp_path / "f").write_bytes(bytes(size))
        with connected(flavour, mode, sndbuf=sndbuf) as (hands, peer):
            reader = Reader(peer, delay=0.05)
            reader.start()
            if how == "sendall":
                for start in range(0, size, step):
                    hands.sendall(bytes(min(step, size - start)))
            else:
                with open(tmp_path / "f", "rb") as file:
                    assert hands.sendfile(file) == size
            hands.close()
            reader.join()
            assert (reader.size, reader.end) == (size, CLEAN)


def test_the_end_of_the_output_takes_along_what_a_given_up_write_left(flavour):
    for step, sndbuf in BUFFERS:
        with connected(flavour, sndbuf=sndbuf) as (hands, peer):
            taken = fill(hands.connection.fileno(), step)
            assert hands.times_out("end_output")
            reader = Reader(peer)
            reader.start()
            hands.end_output()
            reader.join()
            assert (reader.size, reader.end) == (taken, CLEAN)


def test_a_file_that_is_shorter_than_asked_for_is_sent_whole(flavour, tmp_path):
    (tmp_path / "f").write_bytes(bytes(20_000))
    with connected(flavour) as (hands, peer), open(tmp_path / "f", "rb") as file:
        assert hands.sendfile(file, 0, 1 << 20) == 20_000
        assert [peer.recv(), peer.recv()] == [(DATA, bytes(16_384)), (DATA, bytes(3616))]


@pytest.mark.parametrize("how", ["sendall", "sendfile"])
def test_to_a_client_that_was_reset_nothing_is_sent_for_ever(flavour, how, tmp_path):
    """Once a read has told the reset, the kernel takes every write and sends none."""
    with open(tmp_path / "f", "wb") as file:
        file.truncate(1 << 30)
    with connected(flavour) as (hands, peer):
        rst(peer)
        with pytest.raises(ConnectionCut) as caught:
            hands.recv(100)
        assert str(caught.value) == RESET.text
        for _ in range(2):
            with pytest.raises(ConnectionCut) as caught, open(tmp_path / "f", "rb") as file:
                hands.sendall(b"answer") if how == "sendall" else hands.sendfile(file)
            assert str(caught.value) == BROKEN_PIPE.text


def test_to_a_client_whose_reset_the_gate_has_read_nothing_is_sent_for_ever(flavour):
    """In mode TX it is the gate that reads the socket."""
    with connected(flavour, "tx") as (hands, peer):
        with socket.socket(fileno=os.dup(hands.connection.fileno())) as gates_copy:
            rst(peer)
            with pytest.raises(ConnectionResetError):
                gates_copy.recv(1)
        with pytest.raises(ConnectionCut) as caught:
            hands.sendall(b"answer")
        assert str(caught.value) == BROKEN_PIPE.text


# Signals.

STORM = 4_000_000  # bytes, of which half are read before the signals end


@pytest.fixture
def signals():
    """A list that grows by one with each signal."""
    seen = []
    old = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    yield seen
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)


@pytest.mark.slow
@pytest.mark.parametrize("is_blocking", [False, True], ids=["non-blocking", "blocking"])
@pytest.mark.parametrize("how", ["sendall", "sendfile"])
def test_signals_during_a_large_send_do_no_harm(flavour, is_blocking, how, tmp_path, signals):
    """On Linux 6.1, and 6.12 before .105, one signal ends a connection in a blocking send."""
    (tmp_path / "f").write_bytes(bytes(STORM))
    with connected(flavour, is_blocking=is_blocking, sndbuf=200_000) as (hands, peer):
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 200_000)
        reader = Reader(peer, storm=STORM // 2)
        reader.start()
        if how == "sendall":
            hands.sendall(bytes(STORM))
        else:
            with open(tmp_path / "f", "rb") as file:
                assert hands.sendfile(file) == STORM
        hands.close()
        reader.join()
    assert (reader.size, reader.end) == (STORM, CLEAN)
    assert len(signals) > 5
