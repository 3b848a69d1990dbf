"""Handoffs as they arrive: well-formed, malformed, slow, many at once."""

import array
import contextlib
import errno
import fcntl
import io
import os
import select
import socket
import time
from pathlib import Path

import pytest
import trio
from helpers.handoffs import (
    build_head,
    connect,
    hand_off,
    nginx_head,
    open_fds,
    our_head,
    our_pairs,
    tcp_pair,
)

from ktlsgate.backend.arrival import Arrival
from ktlsgate.backend.blocking_connection import BlockingClientConnection
from ktlsgate.backend.blocking_listener import BlockingHandoffListener
from ktlsgate.backend.receiver import Receiver
from ktlsgate.backend.serving import HandoffListener, serve_trio
from ktlsgate.backend.trio_connection import ClientConnection
from ktlsgate.backend.unix_listener import bind_unix_listener
from ktlsgate.errors import LocalProtocolError
from ktlsgate.kernel.ancillary import send_fds
from ktlsgate.wire.handoff import RECEIVED, Mode


class Lab:
    """A receiver under a clock of its own, and what it refused."""

    def __init__(self, address, **options):
        self.refused = []
        self.now = 100.0
        self.receiver = Receiver(
            bind_unix_listener(address), on_refused=self.refused.append, **options
        )

    @property
    def address(self):
        return self.receiver.listener.address

    def advance(self):
        return self.receiver.advance(self.now)

    def refusal(self):
        """Advance; the text of the one thing that was refused."""
        assert self.advance() is None
        (error,) = self.refused
        self.refused.clear()
        return str(error)


@pytest.fixture
def lab(tmp_path):
    lab = Lab(str(tmp_path / "s"))
    yield lab
    lab.receiver.close()


@pytest.fixture
def pair():
    """The client's end of a TCP connection, and the end to be handed over."""
    client, server = tcp_pair()
    with client, server:
        yield client, server


def raw_send(unix, data, fds):
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    unix.sendmsg([data], [rights] if fds else [])


def end_of(sock):
    """How a Unix connection ended, seen from the sender."""
    try:
        return sock.recv(1)
    except ConnectionResetError:
        return "reset"


# What becomes of the Unix connection: dialect by mode.


@pytest.mark.parametrize("head", [our_head("plain"), nginx_head()], ids=["ours", "nginx"])
def test_plain_is_acknowledged_by_closing(lab, pair, head):
    client, server = pair
    with hand_off(lab.address, head, server) as unix:
        received = lab.advance()
        assert received.head.mode is Mode.PLAIN
        assert received.unix is None
        assert end_of(unix) == b""
    client.sendall(b"request body")
    assert received.descriptor.recv(100) == b"request body"
    received.close()
    assert client.recv(1) == b""


def test_relay_is_acknowledged_by_a_byte_and_the_connection_stays(lab):
    ours, theirs = socket.socketpair()
    with ours, hand_off(lab.address, our_head("relay"), theirs) as unix:
        received = lab.advance()
        assert received.head.mode is Mode.RELAY
        assert unix.recv(10) == RECEIVED
        unix.settimeout(0)
        with pytest.raises(BlockingIOError):
            unix.recv(1)
        received.close()
        assert end_of(unix) == b""


KEPT = our_head(KTLSGATE_CONNECTION="kept")


def pass_on(lab, unix, head=KEPT):
    """Send one more handoff; the client."""
    client, server = tcp_pair()
    assert send_fds(unix, head, [server.fileno()]) == len(head)
    server.close()
    return client


def is_silent(unix):
    return select.select([unix], [], [], 0)[0] == []


def test_a_kept_connection_takes_one_handoff_after_another(lab):
    with connect(lab.address) as unix:
        for _ in range(3):
            with pass_on(lab, unix) as client:
                received = lab.advance()
                assert (received.head.mode, received.unix) == (Mode.PLAIN, None)
                assert unix.recv(10) == RECEIVED
                assert is_silent(unix)
                client.sendall(b"request body")
                assert received.descriptor.recv(100) == b"request body"
                received.close()
    assert lab.advance() is None
    assert not lab.refused


def test_a_kept_connection_may_become_an_ordinary_one(lab):
    with connect(lab.address) as unix, pass_on(lab, unix):
        lab.advance().close()
        assert unix.recv(10) == RECEIVED
        with pass_on(lab, unix, our_head()):
            received = lab.advance()
            assert end_of(unix) == b""
            received.close()


def test_a_kept_connection_has_no_time_limit_before_the_next_head_begins(lab, pair):
    with connect(lab.address) as unix, pass_on(lab, unix):
        lab.advance().close()
        assert lab.receiver.next_deadline is None
        lab.now += 1000
        assert lab.advance() is None
        assert not lab.refused
        send_fds(unix, KEPT[:10], [pair[1].fileno()])
        assert lab.advance() is None
        assert lab.receiver.next_deadline == lab.now + 5
        lab.now += 5
        assert lab.refusal() == "expected the whole head in time, got 10 bytes of it"


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_RDWR])
def test_a_handoff_that_its_sender_takes_back_is_not_taken(lab, how):
    """Who does not hear that we have it may ask somebody else."""
    with connect(lab.address) as unix, pass_on(lab, unix) as client:
        unix.shutdown(how)
        assert lab.refusal() == "the sender went away: Broken pipe"
        assert unix.recv(1) == b""
        assert client.recv(1) == b""


def test_only_so_many_idle_connections_are_kept(lab):
    lab.receiver._most_kept = 1
    with connect(lab.address) as first, connect(lab.address) as second:
        for unix in (first, second):
            with pass_on(lab, unix):
                lab.advance().close()
                assert unix.recv(1) == RECEIVED
        assert is_silent(first)
        assert end_of(second) == b""
        with pass_on(lab, first):
            lab.advance().close()
            assert first.recv(1) == RECEIVED


def test_who_keeps_none_acknowledges_and_closes(tmp_path):
    """For a process that serves one client at a time: the next one is for another."""
    lab = Lab(str(tmp_path / "s"), keeps=False)
    with connect(lab.address) as unix, pass_on(lab, unix):
        lab.advance().close()
        assert unix.recv(10) == RECEIVED
        assert end_of(unix) == b""
    lab.receiver.close()


def test_a_byte_out_of_band_ends_a_kept_connection(lab):
    """It makes epoll tell of something that cannot be read, for ever."""
    with connect(lab.address) as unix, pass_on(lab, unix):
        lab.advance().close()
        assert unix.recv(1) == RECEIVED
        try:
            unix.send(b"!", socket.MSG_OOB)
        except OSError as exc:
            pytest.skip(f"Unix sockets have no out-of-band data here: {exc.strerror}")
        assert lab.advance() is None
        assert end_of(unix) in (b"", "reset")


def test_closing_ends_kept_connections(tmp_path):
    before = open_fds()
    lab = Lab(str(tmp_path / "s"))
    with connect(lab.address) as unix, pass_on(lab, unix):
        lab.advance().close()
        assert unix.recv(1) == RECEIVED
        lab.receiver.close()
        assert end_of(unix) == b""
    assert open_fds() == before


def test_what_is_no_handoff_ends_a_kept_connection(lab):
    with connect(lab.address) as unix, pass_on(lab, unix):
        lab.advance().close()
        assert unix.recv(1) == RECEIVED
        unix.send(b"GET / HTTP/1.1\r\n")
        assert lab.refusal() == (
            "expected one descriptor on the first byte, got 0 with bytes 1 to 8"
        )
        assert end_of(unix) == "reset"


def test_the_descriptor_is_close_on_exec(lab, pair):
    with hand_off(lab.address, our_head(), pair[1]):
        received = lab.advance()
    assert fcntl.fcntl(received.descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    received.close()


def test_the_head_may_come_byte_by_byte(lab, pair):
    head = our_head()
    with connect(lab.address) as unix:
        send_fds(unix, head[:1], [pair[1].fileno()])
        for position in range(1, len(head)):
            assert lab.advance() is None
            unix.send(head[position : position + 1])
        received = lab.advance()
    assert received.head.environ["REQUEST_URI"] == "/x?y=1"
    received.close()


@pytest.mark.parametrize("chunk", [1, 7, 100_000])
def test_no_byte_behind_the_head_is_read(chunk):
    """In mode TX the client's input follows it."""
    ours, theirs = socket.socketpair()
    client, server = tcp_pair()
    head = our_head("plain", HTTP_X="y" * 5000)
    stream = head + b"first bytes of the input"
    with ours, theirs, client, server:
        arrival = Arrival(theirs.dup(), 0)
        send_fds(ours, stream[:chunk], [server.fileno()])
        received = arrival.advance()
        for start in range(chunk, len(stream), chunk):
            ours.sendall(stream[start : start + chunk])
            received = received or arrival.advance()
        assert theirs.recv(100) == b"first bytes of the input"
        received.close()


# What is refused, and that everything is closed then.


def test_a_connection_without_a_word_is_refused(lab):
    connect(lab.address).close()
    assert lab.refusal() == "expected a head, got end of file after 0 bytes"


def test_a_head_that_breaks_off_is_refused(lab, pair):
    client, server = pair
    with connect(lab.address) as unix:
        send_fds(unix, our_head()[:50], [server.fileno()])
        server.close()
    assert lab.refusal() == "expected a head, got end of file after 50 bytes"
    assert client.recv(1) == b""


def test_no_descriptor_is_refused(lab):
    with connect(lab.address) as unix:
        unix.sendall(our_head())
        assert lab.refusal() == "expected one descriptor on the first byte, got 0 with bytes 1 to 8"
        assert end_of(unix) == "reset"


@pytest.mark.parametrize("count", [2, 4])
def test_surplus_descriptors_are_closed_and_refused(lab, count):
    pipes = [os.pipe() for _ in range(count)]
    with connect(lab.address) as unix:
        raw_send(unix, our_head(), [write for _, write in pipes])
        for _, write in pipes:
            os.close(write)
        text = f"expected one descriptor on the first byte, got {count} with bytes 1 to 8"
        assert lab.refusal() == text
    for read, _ in pipes:
        assert os.read(read, 1) == b"", "a copy of the writing end is still open"
        os.close(read)


def test_more_descriptors_than_there_is_room_for_are_refused(lab):
    reads, writes = zip(*[os.pipe() for _ in range(20)], strict=True)
    with connect(lab.address) as unix:
        raw_send(unix, our_head(), list(writes))
        for write in writes:
            os.close(write)
        assert lab.refusal() == "expected one descriptor, got some that there was no room for"
    for read in reads:
        assert os.read(read, 1) == b""
        os.close(read)


def test_a_second_descriptor_on_a_later_byte_is_refused(lab, pair):
    client, server = pair
    head = our_head()
    with connect(lab.address) as unix:
        send_fds(unix, head[:20], [server.fileno()])
        send_fds(unix, head[20:], [server.fileno()])
        server.close()
        text = f"expected one descriptor on the first byte, got 1 with bytes 9 to {len(head)}"
        assert lab.refusal() == text
    assert client.recv(1) == b""


def test_bytes_that_are_no_netstring_are_refused(lab, pair):
    client, server = pair
    with hand_off(lab.address, b"GET / HTTP/1.1\r\n", server):
        assert lab.refusal() == "expected the length of a netstring, got b'GET / HT'"
    assert client.recv(1) == b""


@pytest.mark.parametrize("mode", ["both", "tx"])
def test_a_socket_without_ktls_is_refused_for_a_mode_that_needs_it(lab, pair, mode):
    """The backend would write plaintext where ciphertext belongs."""
    with hand_off(lab.address, our_head(mode), pair[1]) as unix:
        text = f"expected a socket that the kernel encrypts for mode {mode}, got one without"
        assert lab.refusal() == text
        assert end_of(unix) == b""


def udp_socket():
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def unix_end():
    ours, theirs = socket.socketpair()
    ours.close()
    return theirs


def tcp_end():
    client, server = tcp_pair()
    client.close()
    return server


def listening():
    return socket.create_server(("127.0.0.1", 0))


@pytest.mark.parametrize(
    ("make", "mode", "text"),
    [
        (udp_socket, "plain", "expected a stream socket for mode plain, got family 2, type 2"),
        (unix_end, "plain", "expected a stream socket for mode plain, got family 1, type 1"),
        (unix_end, "tx", "expected a stream socket for mode tx, got family 1, type 1"),
        (tcp_end, "relay", "expected a stream socket for mode relay, got family 2, type 1"),
        (listening, "plain", "expected a connection, got a listening socket"),
        (
            lambda: io.FileIO(os.devnull),
            "plain",
            "expected a socket, got another kind of descriptor",
        ),
    ],
)
def test_a_descriptor_of_another_kind_is_refused(lab, make, mode, text):
    with hand_off(lab.address, our_head(mode), make()):
        assert lab.refusal() == text


def test_nothing_leaks_over_all_refusals(lab):
    before = open_fds()
    heads = [
        our_head("tx"),
        our_head("both"),
        our_head("relay"),
        b"x",
        nginx_head("1"),
        our_head()[:9],
    ]
    for head in heads:
        client, server = tcp_pair()
        hand_off(lab.address, head, server).close()
        client.close()
    lab.advance()
    assert len(lab.refused) == len(heads)
    assert open_fds() == before


# The sender.


def test_a_sender_of_another_user_is_refused(tmp_path, pair):
    lab = Lab(str(tmp_path / "s"), allowed_uids={os.getuid() + 1})
    with hand_off(lab.address, our_head(), pair[1]) as unix:
        assert lab.refusal() == f"expected an allowed sender, got user id {os.getuid()}"
        assert end_of(unix) == "reset"
    lab.receiver.close()


def test_a_sender_of_the_allowed_user_is_let_in(tmp_path, pair):
    lab = Lab(str(tmp_path / "s"), allowed_uids={os.getuid()})
    with hand_off(lab.address, our_head(), pair[1]):
        lab.advance().close()
    lab.receiver.close()


# Time.


def test_a_slow_sender_holds_up_nobody(lab, pair):
    with connect(lab.address) as slow, hand_off(lab.address, our_head(), pair[1]):
        slow.send(b"3")
        # The byte came without a descriptor, so this one is refused, too.
        lab.advance().close()


def test_the_deadline_closes_what_came_late(lab, pair):
    client, server = pair
    with connect(lab.address) as slow:
        send_fds(slow, b"300:", [server.fileno()])
        server.close()
        assert lab.advance() is None
        assert lab.receiver.next_deadline == 105.0
        lab.now = 104.9
        assert lab.advance() is None
        assert not lab.refused
        lab.now = 105.0
        assert lab.refusal() == "expected the whole head in time, got 4 bytes of it"
        assert lab.receiver.next_deadline is None
        assert end_of(slow) == b""
    assert client.recv(1) == b""


def test_running_out_of_descriptors_pauses_accepting(lab, pair, monkeypatch):
    class Full:
        def accept(self):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        def fileno(self):
            return real.fileno()

    real = lab.receiver.listener.socket
    with hand_off(lab.address, our_head(), pair[1]):
        monkeypatch.setattr(lab.receiver.listener, "socket", Full())
        assert lab.refusal() == "cannot accept for 0.1 s: Too many open files"
        assert lab.receiver.next_deadline == 100.1
        assert select.select([lab.receiver], [], [], 0)[0] == [], "it would spin"
        monkeypatch.undo()
        assert lab.advance() is None
        lab.now = 100.1
        lab.advance().close()


def test_too_many_half_received_handoffs_wait_in_the_kernel(lab, monkeypatch):
    monkeypatch.setattr("ktlsgate.backend.receiver._MAX_PENDING", 2)
    with contextlib.ExitStack() as stack:
        senders = []
        for _ in range(3):
            client, server = tcp_pair()
            stack.enter_context(client)
            unix = stack.enter_context(connect(lab.address))
            send_fds(unix, our_head()[:9], [server.fileno()])
            server.close()
            senders.append(unix)
        assert lab.advance() is None
        assert len(lab.receiver._arrivals) == 2
        assert select.select([lab.receiver], [], [], 0)[0] == [], "it would spin"
        senders[0].sendall(our_head()[9:])
        lab.advance().close()
        assert lab.advance() is None
        assert len(lab.receiver._arrivals) == 2


def test_closing_drops_what_was_not_taken(lab, pair):
    before = open_fds()
    client, server = tcp_pair()
    first = hand_off(lab.address, our_head(), server)
    second = connect(lab.address)
    send_fds(second, our_head()[:9], [pair[1].fileno()])
    lab.advance().close()
    lab.receiver.close()
    lab.receiver.close()
    assert lab.receiver.fileno() == -1
    for sock in (first, second, client):
        sock.close()
    assert len(open_fds()) < len(before)
    assert not Path(lab.address).exists()


# Both flavours.


@contextlib.contextmanager
def blocking_listener(tmp_path, **options):
    with BlockingHandoffListener(bind_unix_listener(str(tmp_path / "s")), **options) as listener:
        listener.settimeout(5)
        yield listener


def test_blocking_accept_gives_a_connection(tmp_path, pair):
    with (
        blocking_listener(tmp_path) as listener,
        hand_off(listener.address, our_head(), pair[1]),
        listener.accept() as connection,
    ):
        assert isinstance(connection, BlockingClientConnection)
        assert connection.remote == ("192.0.2.7", 40000)


def test_blocking_accept_times_out_and_goes_on_later(tmp_path, pair):
    head = our_head()
    with blocking_listener(tmp_path) as listener, connect(listener.address) as unix:
        send_fds(unix, head[:9], [pair[1].fileno()])
        listener.settimeout(0)
        with pytest.raises(TimeoutError):
            listener.accept()
        unix.sendall(head[9:])
        listener.accept().close()


def test_blocking_accept_honours_the_deadline_of_a_sender(tmp_path):
    refused = []
    with (
        blocking_listener(tmp_path, deadline=0.01, on_refused=refused.append) as listener,
        connect(listener.address),
    ):
        listener.settimeout(0.05)
        with pytest.raises(TimeoutError):
            listener.accept()
    assert [str(error) for error in refused] == [
        "expected the whole head in time, got 0 bytes of it"
    ]


def test_blocking_accept_on_a_closed_listener_is_a_mistake(tmp_path):
    with blocking_listener(tmp_path) as listener:
        pass
    assert listener.fileno() == -1
    with pytest.raises(LocalProtocolError):
        listener.accept()


@contextlib.asynccontextmanager
async def trio_listener(tmp_path, **options):
    listener = HandoffListener(bind_unix_listener(str(tmp_path / "s")), **options)
    try:
        yield listener
    finally:
        with trio.CancelScope(shield=True):
            await listener.aclose()


async def test_trio_accept_gives_a_connection(tmp_path, pair):
    async with trio_listener(tmp_path) as listener:
        with hand_off(listener.address, our_head(), pair[1]):
            async with await listener.accept() as connection:
                assert isinstance(connection, ClientConnection)
                assert connection.remote == ("192.0.2.7", 40000)


async def test_trio_accept_cancelled_loses_no_handoff(tmp_path, pair):
    head = our_head()
    async with trio_listener(tmp_path) as listener:
        with connect(listener.address) as unix:
            send_fds(unix, head[:9], [pair[1].fileno()])
            with trio.move_on_after(0.01) as scope:
                await listener.accept()
            assert scope.cancelled_caught
            unix.sendall(head[9:])
            await (await listener.accept()).aclose()


async def test_trio_accept_honours_the_deadline_of_a_sender(tmp_path, autojump_clock):
    refused = []
    async with trio_listener(tmp_path, on_refused=refused.append) as listener:
        with connect(listener.address), trio.move_on_after(60):
            await listener.accept()
    assert [str(error) for error in refused] == [
        "expected the whole head in time, got 0 bytes of it"
    ]


async def test_trio_accept_ends_when_the_listener_is_closed(tmp_path):
    async with trio_listener(tmp_path) as listener, trio.open_nursery() as nursery:

        async def accept():
            with pytest.raises(trio.ClosedResourceError):
                await listener.accept()

        nursery.start_soon(accept)
        await trio.testing.wait_all_tasks_blocked()
        await listener.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()


async def test_a_crash_in_one_handler_ends_that_connection_only(tmp_path):
    crashes = []

    async def handler(connection):
        if connection.environ["REQUEST_URI"] == "/crash":
            raise RuntimeError("a bug")
        await connection.send_all(b"fine")

    def note(connection, exc):
        crashes.append((connection.environ["REQUEST_URI"], str(exc)))

    async def ask(address, target):
        client, server = tcp_pair()
        hand_off(address, our_head(REQUEST_URI=target), server).close()
        async with trio.SocketStream(trio.socket.from_stdlib_socket(client)) as stream:
            return b"".join([piece async for piece in stream])

    async with trio_listener(tmp_path) as listener, trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: serve_trio(
                handler, listener, on_crash=note, task_status=task_status
            )
        )
        assert await ask(listener.address, "/crash") == b""
        assert await ask(listener.address, "/fine") == b"fine"
        await listener.aclose()
    assert crashes == [("/crash", "a bug")]


async def test_serving_ends_behind_the_last_handler_once_the_listener_is_closed(tmp_path, pair):
    ended = []

    async def handler(connection):
        await connection.receive_some()
        ended.append(connection.remote)

    async with trio_listener(tmp_path) as listener, trio.open_nursery() as nursery:
        await nursery.start(serve_trio, handler, listener)
        hand_off(listener.address, our_head(), pair[1]).close()
        await trio.testing.wait_all_tasks_blocked(0.02)
        await listener.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert not ended
        pair[0].send(b"x")
    assert ended == [("192.0.2.7", 40000)]


def test_refusals_are_logged_unless_somebody_asks_for_them(tmp_path, caplog):
    receiver = Receiver(bind_unix_listener(str(tmp_path / "s")))
    connect(receiver.listener.address).close()
    assert receiver.advance(time.monotonic()) is None
    receiver.close()
    assert caplog.messages == ["refused a handoff: expected a head, got end of file after 0 bytes"]


def test_a_head_of_a_megabyte_is_received(lab, pair):
    head = build_head([*our_pairs(), ("HTTP_X", "x" * 1_000_000)])
    with connect(lab.address) as unix:
        unix.setblocking(False)
        sent = send_fds(unix, head, [pair[1].fileno()])
        received = lab.advance()
        while received is None:
            with contextlib.suppress(BlockingIOError):
                sent += unix.send(head[sent:])
            received = lab.advance()
        received.close()
