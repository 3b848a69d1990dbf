"""What plain `read()`, `write()` and `close()` do on a descriptor that was handed over.

The contract for backends without `ktlsgate.backend`, as README.md states it: exact bytes
and errno. Nothing of the project is called on the descriptor here but keys are put in.
What kernels do differently is asked of `helpers.kernel_quirks`, and nothing is left out.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import select
import signal
import socket
import termios
import threading
import time

import pytest
from helpers.after_handoff import (
    ALERT,
    CASES,
    CLOSE_NOTIFY,
    DATA,
    EAGAIN,
    EBADMSG,
    EINVAL,
    EIO,
    FULL,
    HANDSHAKE,
    KEY_UPDATE,
    TICKET,
)
from helpers.kernel_quirks import Quirk, has_quirk
from helpers.ktls import TLS12, TLS13, ktls_pair

pytestmark = pytest.mark.ktls

SOL_TLS, SET_RECORD_TYPE, GET_RECORD_TYPE = 282, 1, 2
SPLICE_F_MORE = 4
QUIET = 50  # ms in which poll would have spoken up
PATIENCE = 2000  # ms


@contextlib.contextmanager
def non_blocking(suite):
    """A descriptor as the gate hands it over, and the client."""
    with ktls_pair(suite) as (sock, peer):
        sock.setblocking(False)
        yield sock, peer


@pytest.fixture(params=[TLS12, TLS13], ids=["1.2", "1.3"])
def pair(request):
    with non_blocking(request.param) as (sock, peer):
        yield sock, peer


@pytest.fixture
def pair13():
    with non_blocking(TLS13) as (sock, peer):
        yield sock, peer


def attempt(call, *arguments):
    """What a call gives: its result, or its errno."""
    try:
        return call(*arguments)
    except OSError as exc:
        return exc.errno


def polled(sock, events=select.POLLIN, ms=QUIET):
    poll = select.poll()
    poll.register(sock, events)
    return dict(poll.poll(ms)).get(sock.fileno(), 0)


def read(sock, size=1 << 16):
    return attempt(os.read, sock.fileno(), size)


def write(sock, data):
    return attempt(os.write, sock.fileno(), data)


def take(sock):
    """The control record that waits: what `recvmsg` with room for its type gives."""
    data, [(level, kind, content_type)], *_ = sock.recvmsg(64, socket.CMSG_SPACE(1))
    assert (level, kind) == (SOL_TLS, GET_RECORD_TYPE)
    return content_type[0], data


def say(sock, content_type, data, flags=0):
    """Send a control record."""
    cmsg = [(SOL_TLS, SET_RECORD_TYPE, bytes((content_type,)))]
    return attempt(sock.sendmsg, [data], cmsg, flags)


def data_until_quiet(peer, seconds=0.2):
    """The data records that come before the client's patience ends."""
    peer.sock.settimeout(seconds)
    records = []
    with contextlib.suppress(TimeoutError):
        while (record := peer.recv())[0] == DATA:
            records.append(record[1])
    return records


def everything(recv):
    """How much data a client gets, and its end: an alert, a bare FIN, or a cut record."""
    size, last = 0, None
    while last != (0, b""):
        try:
            content_type, data = last = recv()
        except AssertionError:
            return size, "a part of a record"
        size += len(data) if content_type == DATA else 0
        if content_type == ALERT:
            assert recv() == (0, b"")
            return size, data
    return size, "FIN"


def end_of(peer):
    """How the client sees the connection go."""
    try:
        while data := peer.sock.recv(1 << 16):
            assert data
    except ConnectionResetError:
        return "RST"
    return "FIN"


# Whatever a client can do.


@pytest.mark.parametrize(("row", "suite"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_read_write_and_close_give_what_the_row_says(row, suite):
    with non_blocking(suite) as (sock, peer):
        for act in row.does:
            act(peer)
        polled(sock)
        seen = tuple(read(sock) for _ in row.reads)
        wrote = write(sock, b"answer")
        sock.close()
        end = end_of(peer) if peer.sock.fileno() >= 0 else ""
        assert (seen, wrote, end) == (row.reads, row.writes or 6, row.closes)


# Reading.


def test_a_control_record_is_taken_by_recvmsg_and_reading_goes_on(pair):
    sock, peer = pair
    peer.send(CLOSE_NOTIFY, ALERT)
    peer.send(TICKET, HANDSHAKE)
    peer.sock.shutdown(socket.SHUT_WR)
    assert read(sock) == EIO
    assert take(sock) == (ALERT, CLOSE_NOTIFY)
    assert read(sock) == EIO
    assert take(sock) == (HANDSHAKE, TICKET)
    assert read(sock) == b""


def test_behind_a_key_update_that_was_taken_reading_has_ended(pair13):
    sock, peer = pair13
    peer.send(KEY_UPDATE, HANDSHAKE)
    peer.rekey_sending()
    peer.send(b"data")
    assert read(sock) == EIO
    assert take(sock) == (HANDSHAKE, KEY_UPDATE)
    expected = EBADMSG if has_quirk(Quirk.KEY_UPDATE_ENDS_READING) else errno.EKEYEXPIRED
    assert [read(sock), read(sock)] == [expected, expected]
    assert write(sock, b"answer") == (EBADMSG if expected == EBADMSG else 6)


def test_poll_hides_a_key_update_that_was_decrypted_where_keys_can_be_replaced(pair13):
    """Decrypted by the read of the data before it; so read until EAGAIN or an error."""
    sock, peer = pair13
    peer.send(b"data")
    peer.send(KEY_UPDATE, HANDSHAKE)
    assert polled(sock) == select.POLLIN
    assert read(sock) == b"data"
    expected = select.POLLIN if has_quirk(Quirk.KEY_UPDATE_ENDS_READING) else 0
    assert polled(sock) == expected
    assert read(sock) == EIO
    assert polled(sock) == expected


def test_poll_hides_no_alert(pair):
    sock, peer = pair
    peer.send(b"data")
    peer.send(CLOSE_NOTIFY, ALERT)
    assert read(sock) == b"data"
    assert polled(sock) == select.POLLIN
    assert read(sock) == EIO
    assert polled(sock) == select.POLLIN


def test_half_a_record_is_readable_or_not(pair):
    """Where it is, a loop of poll and read spins for as long as the client likes."""
    sock, peer = pair
    record = peer.sends.seal(DATA, b"data")
    peer.sock.sendall(record[:10])
    expected = select.POLLIN if has_quirk(Quirk.PARTIAL_RECORD_SPINS) else 0
    for _ in range(3):
        assert polled(sock) == expected
        assert read(sock) == EAGAIN
    peer.sock.sendall(record[10:])
    assert polled(sock) == select.POLLIN
    assert read(sock) == b"data"


def test_edge_triggered_epoll_tells_half_a_record_once(pair):
    sock, peer = pair
    record = peer.sends.seal(DATA, b"data")
    with select.epoll() as epoll:
        epoll.register(sock, select.EPOLLIN | select.EPOLLET)
        peer.sock.sendall(record[:10])
        epoll.poll(QUIET / 1000)
        assert read(sock) == EAGAIN
        assert epoll.poll(QUIET / 1000) == []
        peer.sock.sendall(record[10:])
        assert epoll.poll(PATIENCE / 1000) == [(sock.fileno(), select.EPOLLIN)]
        assert read(sock) == b"data"


def test_an_empty_record_is_readable_and_then_not_there(pair):
    sock, peer = pair
    peer.send(b"")
    assert polled(sock) == select.POLLIN
    assert read(sock) == EAGAIN
    assert polled(sock) == 0


@pytest.mark.parametrize(
    ("header", "code"), [(b"\x17\3\3\xff\xff", errno.EMSGSIZE), (b"\x17\3\1\0\x30", EINVAL)]
)
def test_a_refused_record_is_an_error_of_poll_until_it_was_told(pair, header, code):
    sock, peer = pair
    peer.sock.sendall(header + bytes(100))
    readable = select.POLLIN if has_quirk(Quirk.PARTIAL_RECORD_SPINS) else 0
    assert polled(sock) == select.POLLERR | readable
    assert [write(sock, b"answer"), write(sock, b"answer")] == [code, code]
    assert read(sock) == code
    assert polled(sock) == readable
    assert read(sock) == EAGAIN


def test_a_look_takes_an_error_that_is_told_once(pair):
    sock, peer = pair
    peer.sock.sendall(b"\x17\3\3\xff\xff" + bytes(100))
    assert attempt(sock.recv, 1, socket.MSG_PEEK) == errno.EMSGSIZE
    assert read(sock) == EAGAIN


def test_looks_cross_records_and_take_nothing(pair):
    sock, peer = pair
    peer.send(b"one")
    peer.send(b"two")
    assert [sock.recv(size, socket.MSG_PEEK) for size in (2, 100, 4)] == [b"on", b"onetwo", b"onet"]
    assert [read(sock, 4), read(sock)] == [b"onet", b"wo"]


def test_waiting_for_all_crosses_records(pair):
    sock, peer = pair
    sock.setblocking(True)
    peer.send(b"one")
    peer.send(b"two")
    assert sock.recv(6, socket.MSG_WAITALL) == b"onetwo"


def test_readv_fills_one_buffer_after_the_other(pair):
    sock, peer = pair
    peer.send(b"one")
    peer.send(b"two")
    buffers = [bytearray(4), bytearray(4)]
    assert os.readv(sock.fileno(), buffers) == 6
    assert buffers == [b"onet", b"wo\0\0"]


@pytest.mark.parametrize(
    ("suite", "size"), [(TLS12, 2 * (5 + 8 + 16 + 5)), (TLS13, 2 * (5 + 1 + 16 + 5))]
)
def test_fionread_counts_what_is_on_the_wire(suite, size):
    with non_blocking(suite) as (sock, peer):
        peer.send(b"hello")
        peer.send(b"hello")
        polled(sock)
        assert fcntl.ioctl(sock, termios.FIONREAD, bytes(4)) == size.to_bytes(4, "little")


def test_a_low_water_mark_makes_a_reader_stall(pair):
    sock, peer = pair
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1000)
    peer.send(b"hello")
    assert polled(sock) == 0


# Writing.


def test_writes_are_cut_into_full_records_and_a_short_one(pair):
    sock, peer = pair
    assert write(sock, bytes(50_000)) == 50_000
    assert [len(record) for record in data_until_quiet(peer)] == [16384, 16384, 16384, 848]


def test_writev_makes_one_record_of_its_buffers(pair):
    sock, peer = pair
    assert os.writev(sock.fileno(), [b"one", b"two"]) == 6
    assert data_until_quiet(peer) == [b"onetwo"]


def test_more_makes_one_record_of_several_sends(pair):
    sock, peer = pair
    assert sock.send(b"a", socket.MSG_MORE) == 1
    assert sock.send(b"b", socket.MSG_MORE) == 1
    assert data_until_quiet(peer) == []
    assert sock.send(b"c") == 1
    assert data_until_quiet(peer) == [b"abc"]


@pytest.mark.parametrize("how", ["close", "shutdown"])
def test_more_and_then_an_end_loses_the_data(pair, how):
    sock, peer = pair
    assert sock.send(b"lost", socket.MSG_MORE) == 4
    if how == "shutdown":
        sock.shutdown(socket.SHUT_WR)
    sock.close()
    assert everything(peer.recv) == (0, "FIN")


def test_cork_keeps_no_record_back(pair):
    sock, peer = pair
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    assert [write(sock, b"a"), write(sock, b"b")] == [1, 1]
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    assert data_until_quiet(peer) == [b"a", b"b"]


@pytest.mark.parametrize(
    "flag", ["MSG_OOB", "MSG_DONTROUTE", "MSG_ZEROCOPY", "MSG_FASTOPEN", "MSG_CONFIRM"]
)
def test_flags_that_a_send_refuses(pair13, flag):
    sock, peer = pair13
    numbers = {"MSG_ZEROCOPY": 0x4000000, "MSG_FASTOPEN": 0x20000000}
    number = numbers.get(flag) or getattr(socket, flag)
    assert attempt(sock.send, b"x", number) == errno.ENOTSUP
    assert write(sock, b"y") == 1
    assert data_until_quiet(peer) == [b"y"]


def test_the_end_of_a_record_can_be_asked_for_or_not(pair13):
    sock, peer = pair13
    assert sock.send(b"a", socket.MSG_MORE) == 1
    if has_quirk(Quirk.REFUSES_MSG_EOR):
        assert attempt(sock.send, b"b", socket.MSG_EOR) == errno.ENOTSUP
        assert data_until_quiet(peer) == []
        return
    assert attempt(sock.send, b"b", socket.MSG_EOR) == 1
    assert data_until_quiet(peer) == [b"ab"]


def test_a_control_record_goes_at_once_or_not_at_all(pair):
    sock, peer = pair
    assert say(sock, ALERT, CLOSE_NOTIFY, socket.MSG_MORE) == EINVAL
    assert say(sock, ALERT, CLOSE_NOTIFY) == 2
    assert peer.recv() == (ALERT, CLOSE_NOTIFY)


def fill(sock, step=16384):
    """Write until EAGAIN; how many bytes were taken."""
    taken = 0
    while (written := write(sock, bytes(step))) != EAGAIN:
        taken += written
    return taken


def test_with_a_full_send_buffer_writes_and_close_notify_are_eagain(pair):
    sock, _ = pair
    assert fill(sock) > 16384
    assert say(sock, ALERT, CLOSE_NOTIFY, socket.MSG_DONTWAIT) == EAGAIN


def test_behind_the_last_record_number_nothing_is_sent():
    with ktls_pair(TLS13, rec_seq=(1 << 64) - 1) as (sock, _):
        sock.setblocking(False)
        assert [write(sock, b"x") for _ in range(2)] == [EBADMSG, EBADMSG]


def test_once_a_reset_was_read_writes_go_nowhere_and_poll_alone_says_so(pair):
    """For ever: until the TCP memory of the system is used up."""
    sock, peer = pair
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.sock.close()
    assert polled(sock) & select.POLLHUP
    assert [write(sock, b"x"), write(sock, b"x")] == [errno.ECONNRESET, errno.ECONNRESET]
    assert read(sock) == errno.ECONNRESET
    assert [write(sock, FULL) for _ in range(300)] == [len(FULL)] * 300
    assert polled(sock) & select.POLLHUP


def test_writes_behind_our_own_shutdown_go_nowhere(pair):
    sock, peer = pair
    sock.shutdown(socket.SHUT_WR)
    assert write(sock, b"x") == 1
    assert everything(peer.recv) == (0, "FIN")


# Files and pipes.


@pytest.mark.parametrize("count", [40_000, 1 << 20], ids=["whole", "more than there is"])
def test_sendfile_sends_what_the_file_has(pair, tmp_path, count):
    sock, peer = pair
    (tmp_path / "f").write_bytes(FULL * 2 + b"rest")
    with open(tmp_path / "f", "rb") as file:
        assert os.sendfile(sock.fileno(), file.fileno(), 0, count) == 32_772
        assert os.sendfile(sock.fileno(), file.fileno(), 32_772, count) == 0
    records = data_until_quiet(peer)
    assert b"".join(records) == FULL * 2 + b"rest"
    assert len(records) == 3


def test_sendfile_from_the_descriptor_is_refused(pair13, tmp_path):
    sock, peer = pair13
    peer.send(b"data")
    polled(sock)
    with open(tmp_path / "f", "wb") as file:
        assert attempt(os.sendfile, file.fileno(), sock.fileno(), None, 4) == EINVAL
    assert read(sock) == b"data"


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_splice_from_a_pipe_is_sent(pair, pipe):
    sock, peer = pair
    os.write(pipe[1], b"hello")
    assert os.splice(pipe[0], sock.fileno(), 5) == 5
    assert data_until_quiet(peer) == [b"hello"]


def test_splice_with_more_keeps_the_record_open_or_not(pair, pipe):
    sock, peer = pair
    is_ignored = has_quirk(Quirk.IGNORES_SPLICE_MORE)
    os.write(pipe[1], b"ABC")
    assert os.splice(pipe[0], sock.fileno(), 2, flags=SPLICE_F_MORE) == 2
    # By the TLS layer, that is: TCP keeps the record for 200 ms.
    assert data_until_quiet(peer, 1) == ([b"AB"] if is_ignored else [])
    assert os.splice(pipe[0], sock.fileno(), 1) == 1
    assert data_until_quiet(peer) == ([b"C"] if is_ignored else [b"ABC"])


def test_splice_with_more_and_then_a_close_loses_the_data_or_not(pair, pipe):
    sock, peer = pair
    os.write(pipe[1], b"AB")
    assert os.splice(pipe[0], sock.fileno(), 2, flags=SPLICE_F_MORE) == 2
    sock.close()
    assert everything(peer.recv) == (2 if has_quirk(Quirk.IGNORES_SPLICE_MORE) else 0, "FIN")


def test_splice_to_a_pipe_stops_at_a_control_record_with_einval(pair, pipe):
    sock, peer = pair
    fd = sock.fileno()
    peer.send(b"one")
    peer.send(b"two")
    peer.send(TICKET, HANDSHAKE)
    peer.send(b"three")
    peer.sock.shutdown(socket.SHUT_WR)
    polled(sock)
    assert [attempt(os.splice, fd, pipe[1], 100) for _ in range(4)] == [3, 3, EINVAL, EINVAL]
    assert take(sock) == (HANDSHAKE, TICKET)
    assert [attempt(os.splice, fd, pipe[1], 100) for _ in range(2)] == [5, 0]
    assert os.read(pipe[0], 100) == b"onetwothree"


# Ending.


def test_close_and_shutdown_say_no_close_notify(pair):
    sock, peer = pair
    assert write(sock, b"answer") == 6
    sock.shutdown(socket.SHUT_WR)
    sock.close()
    assert everything(peer.recv) == (6, "FIN")


def test_close_notify_and_shutdown_are_a_clean_end_and_reading_goes_on(pair):
    sock, peer = pair
    assert write(sock, b"answer") == 6
    assert say(sock, ALERT, CLOSE_NOTIFY) == 2
    sock.shutdown(socket.SHUT_WR)
    assert everything(peer.recv) == (6, CLOSE_NOTIFY)
    peer.send(b"late")
    assert read(sock) == b"late"


@pytest.mark.parametrize("content_type", [ALERT, DATA])
def test_closing_over_an_unread_record_resets(pair, content_type):
    sock, peer = pair
    peer.send(CLOSE_NOTIFY, content_type)
    polled(sock)
    sock.close()
    assert end_of(peer) == "RST"


BUFFERS = [(step, size) for step in (1000, 5000, 16384, 65536) for size in (20_000, 33_333)]


@contextlib.contextmanager
def stuffed(step, size):
    """A descriptor whose send buffer is full; its client; and what was taken."""
    with non_blocking(TLS13) as (sock, peer):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 30_000)
        yield sock, peer, fill(sock, step)


@pytest.mark.parametrize("how", ["close", "shutdown"])
def test_an_end_over_a_full_send_buffer_can_cut_the_last_record(how):
    ends = []
    for step, size in BUFFERS:
        with stuffed(step, size) as (sock, peer, taken):
            if how == "shutdown":
                sock.shutdown(socket.SHUT_WR)
            sock.close()
            got, end = everything(peer.recv)
            assert taken - 16384 <= got <= taken
            assert end == ("FIN" if got == taken else "a part of a record")
            ends.append(end)
    assert set(ends) == {"FIN", "a part of a record"}


def test_room_then_close_notify_then_shutdown_loses_nothing():
    for step, size in BUFFERS:
        with stuffed(step, size) as (sock, peer, taken):
            client = Client(peer)
            client.start()
            assert polled(sock, select.POLLOUT, PATIENCE) == select.POLLOUT
            assert say(sock, ALERT, CLOSE_NOTIFY) == 2
            sock.shutdown(socket.SHUT_WR)
            sock.close()
            client.join()
            assert client.seen == (taken, CLOSE_NOTIFY)


# The descriptor and its holders.


def test_closing_leaves_it_in_an_epoll_set_while_somebody_else_holds_it(pair13):
    """The gate's copy is open for a moment behind the handoff; epoll watches what both share."""
    sock, peer = pair13
    with select.epoll() as watcher, socket.socket(fileno=os.dup(sock.fileno())):
        number = sock.fileno()
        watcher.register(number, select.EPOLLIN)
        sock.close()
        peer.send(b"data")
        assert watcher.poll(PATIENCE) == [(number, select.EPOLLIN)]
        with pytest.raises(OSError):
            watcher.unregister(number)


def test_taken_out_of_the_set_first_it_is_gone(pair13):
    sock, peer = pair13
    with select.epoll() as watcher, socket.socket(fileno=os.dup(sock.fileno())):
        watcher.register(sock.fileno(), select.EPOLLIN)
        watcher.unregister(sock.fileno())
        sock.close()
        peer.send(b"data")
        assert watcher.poll(0) == []


def test_whether_it_blocks_and_what_it_shut_down_is_shared_by_all_holders(pair13):
    sock, peer = pair13
    with socket.socket(fileno=os.dup(sock.fileno())) as other:
        os.set_blocking(other.fileno(), True)
        assert os.get_blocking(sock.fileno())
        os.set_blocking(other.fileno(), False)
        other.shutdown(socket.SHUT_WR)
        assert everything(peer.recv) == (0, "FIN")
        assert write(sock, b"x") == 1
        assert read(sock) == EAGAIN


# Signals.

STORM = 1_500_000  # bytes: much more than the buffers
ERESTARTSYS = 512  # the kernel's own, and never to be seen by a program
# Seconds between signals, one storm each: one has to hit the right microsecond.
STORMS = [0.0007, 0.002] * 6


@contextlib.contextmanager
def signals(interval):
    """A signal for this thread, again and again."""
    old = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, interval, interval)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


class Client(threading.Thread):
    """Reads to the end; ``seen`` is what `everything` gave."""

    def __init__(self, peer, nap=0.0):
        super().__init__()
        self.peer, self.nap, self.seen = peer, nap, (0, None)

    def run(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        count = itertools.count()

        def recv():
            if self.nap and next(count) % 5 == 0:
                time.sleep(self.nap)
            return self.peer.recv()

        self.seen = everything(recv)


def write_all(sock, data):
    """Write it all, waiting where the descriptor does not; the errno that ended it, or 0."""
    with memoryview(data) as rest:
        sent = 0
        while sent < len(data):
            try:
                sent += os.write(sock.fileno(), rest[sent : sent + 300_000])
            except BlockingIOError:
                polled(sock, select.POLLOUT, PATIENCE)
            except OSError as exc:
                return exc.errno
    return 0


def weather(interval, *, is_blocking):
    """One storm over one connection: errno of the writes, of the next, and the client's end."""
    with non_blocking(TLS13) as (sock, peer):
        sock.setblocking(is_blocking)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        client = Client(peer, nap=0.005)
        client.start()
        with signals(interval):
            code = write_all(sock, bytes(STORM))
        polled(sock, select.POLLOUT, PATIENCE)
        again = write(sock, b"x")
        sock.close()
        client.join()
        return code, again, client.seen


@pytest.mark.slow
@pytest.mark.parametrize("is_blocking", [True, False], ids=["blocking", "non-blocking"])
def test_signals_during_a_send_break_it_or_not(is_blocking):
    whole = 0, 1, (STORM + 1, "FIN")
    ends = (weather(interval, is_blocking=is_blocking) for interval in STORMS)
    broken = next((end for end in ends if end != whole), None)
    if not (is_blocking and has_quirk(Quirk.SIGNAL_BREAKS_BLOCKING_SEND)):
        assert broken is None
        return
    assert broken is not None, "no storm did it"
    code, again, (size, end) = broken
    assert (code, again, end) == (ERESTARTSYS, ERESTARTSYS, "a part of a record")
    assert size < STORM
