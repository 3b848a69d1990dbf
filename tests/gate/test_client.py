"""The client's stream in plain bytes: exact heads, orderly ends, records in order."""

import contextlib
import errno
import socket
import ssl

import pytest
import trio
import trio.testing
from helpers.hand_client import hand_made_pair
from helpers.sessions import (
    close,
    in_fiber,
    open_fibers,
    read_all,
    relayed_pair,
    reset,
    stream,
)

from ktlsgate.errors import HeadRejected
from ktlsgate.gate.client import ClientGone, KernelClient, RelayedClient, linger
from ktlsgate.gate.fibers import DeadlinePassed, give_way, now, set_deadline, wait_readable
from ktlsgate.wire.http_head import HeadLimits

LIMITS = HeadLimits()
HEAD = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"


@pytest.mark.parametrize("cut", range(1, len(HEAD) + 2))
async def test_i2_a_head_split_anywhere_leaves_its_body_in_the_socket(pair, cut):
    client, server = pair
    data = HEAD + b"body" + HEAD

    async with trio.open_nursery() as nursery:

        async def send():
            client.send(data[:cut])
            await trio.testing.wait_all_tasks_blocked()
            client.send(data[cut:])

        nursery.start_soon(send)
        head, trailing = await in_fiber(KernelClient(server, is_tls=False).read_head, LIMITS)
    assert (head.target, trailing) == (b"/p", b"")
    assert server.recv(1000) == b"body" + HEAD
    close(server)


async def test_i2_a_head_that_comes_byte_by_byte_is_taken_exactly(pair):
    client, server = pair

    async with trio.open_nursery() as nursery:

        async def drip():
            for byte in HEAD + b"body":
                client.send(bytes((byte,)))
                await trio.testing.wait_all_tasks_blocked()

        nursery.start_soon(drip)
        head, _ = await in_fiber(KernelClient(server, is_tls=False).read_head, LIMITS)
        assert head.content_length == 4
    assert server.recv(1000) == b"body"
    close(server)


async def test_a_head_as_large_as_the_limit_passes_and_one_byte_more_does_not(pair):
    client, server = pair
    for extra, is_refused in ((0, False), (1, True)):
        limits = HeadLimits(max_bytes=len(HEAD) - extra)
        client.send(HEAD)
        reader = KernelClient(server, is_tls=False)
        if not is_refused:
            assert (await in_fiber(reader.read_head, limits))[0].target == b"/p"
            continue
        with pytest.raises(HeadRejected) as caught:
            await in_fiber(reader.read_head, limits)
        assert caught.value.status == 431


@pytest.mark.parametrize(
    ("sent", "reason"), [(b"", "closed"), (b"GET", "cut")], ids=["nothing", "half"]
)
async def test_an_end_before_the_head_has_its_word(pair, sent, reason):
    client, server = pair
    client.send(sent)
    client.shutdown(socket.SHUT_WR)
    with pytest.raises(ClientGone) as caught:
        await in_fiber(KernelClient(server, is_tls=False).read_head, LIMITS)
    assert caught.value.reason == reason


# --- control records, as the kernel delivers them ------------------------------------


class FakeOffloaded:
    """An offloaded socket: reads answer EIO while a control record is next."""

    def __init__(self, *items):
        self.items = list(items)
        self.sent = []

    def fileno(self):
        return 0

    def recv(self, size, flags):
        item = self.items[0]
        if isinstance(item, int):
            raise OSError(item, "as the kernel says")
        if isinstance(item, tuple):
            raise OSError(errno.EIO, "a control record")
        data = item[:size]
        if not flags & socket.MSG_PEEK:
            self.items[0] = item[size:]
            if not self.items[0]:
                self.items.pop(0)
        return data

    def recvmsg(self, size, space, flags):
        item = self.items.pop(0)
        if isinstance(item[1], int):
            raise OSError(item[1], "as the kernel says")
        return item[1], [(282, 2, bytes((item[0],)))], 0, None

    def sendmsg(self, data, ancillary, flags):
        self.sent.append((ancillary[0][2][0], data[0]))


CLOSE_NOTIFY, WARNING = (21, b"\x01\x00"), (21, b"\x01\x5a")
ENDS = {
    "close_notify": (CLOSE_NOTIFY, "closed", "expected a request, got close_notify"),
    "fatal alert": ((21, b"\x02\x14"), "alert", "expected a request, got the alert bad_record_mac"),
    "KeyUpdate": (
        (22, b"\x18\x00\x00\x01\x00"), "key_update", "expected a request, got a KeyUpdate",
    ),
    "renegotiation": (
        (22, b"\x01\x00"), "unexpected_record", "expected a request, got a record of type 22",
    ),
    "unknown": (
        (99, b"x"), "unexpected_record", "expected a request, got a record of type 99",
    ),
    "bad record": (errno.EBADMSG, "bad_record", "expected a TLS record: as the kernel says"),
    "rekeyed": (errno.EKEYEXPIRED, "bad_record", "expected a TLS record: as the kernel says"),
    "reset": (errno.ECONNRESET, "reset", "the client is gone: as the kernel says"),
    "control record broken": (
        (21, errno.EBADMSG), "bad_record", "expected a record: as the kernel says",
    ),
    "end": (b"", "closed", "expected a request, got end of file"),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDS)
async def test_what_comes_instead_of_a_request_is_told_apart(case):
    item, reason, detail = ENDS[case]
    sock = FakeOffloaded(item)
    with pytest.raises(ClientGone) as caught:
        await in_fiber(KernelClient(sock, is_tls=True).read_head, LIMITS)
    assert (caught.value.reason, str(caught.value)) == (reason, detail)
    # Only what no client may send is answered by an alert.
    assert sock.sent == ([(21, b"\x02\x0a")] if reason == "unexpected_record" else [])


async def test_a_warning_in_front_of_a_head_changes_nothing():
    sock = FakeOffloaded(WARNING, HEAD + b"body")
    head, _ = await in_fiber(KernelClient(sock, is_tls=True).read_head, LIMITS)
    assert head.target == b"/p"
    assert sock.items == [b"body"]


async def test_warnings_without_end_are_not_followed():
    """They come as fast as a client likes, and nothing here would wait."""
    sock = FakeOffloaded(*[WARNING] * 1000)
    with pytest.raises(ClientGone) as caught:
        await in_fiber(KernelClient(sock, is_tls=True).read_head, LIMITS)
    assert caught.value.reason == "reset"
    assert len(sock.items) > 900


async def test_goodbye_under_ktls_is_close_notify():
    class Recorder(FakeOffloaded):
        def shutdown(self, how):
            self.sent.append(how)

    sock = Recorder(b"")
    await in_fiber(KernelClient(sock, is_tls=True).say_goodbye)
    assert sock.sent == [(21, b"\x01\x00"), socket.SHUT_WR]


# --- lingering -------------------------------------------------------------------------


async def test_linger_reads_away_what_would_reset_the_connection(pair):
    client, server = pair
    server.send(b"answer")
    client.send(bytes(50_000))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_fiber, linger, server)
        await trio.testing.wait_all_tasks_blocked()
        client.shutdown(socket.SHUT_WR)
    close(server)
    assert client.recv(100) == b"answer"
    assert client.recv(100) == b""


async def test_linger_ends_after_a_second(pair, autojump_clock):
    _, server = pair
    began = trio.current_time()
    await in_fiber(linger, server)
    assert trio.current_time() - began == pytest.approx(1)
    close(server)


@pytest.mark.parametrize(("seconds", "hears"), [(0.5, True), (2, False)])
async def test_lingering_moves_no_deadline_of_the_fiber_that_does_it(
    pair, seconds, hears, autojump_clock
):
    """An earlier one is heard inside, a later one is there again afterwards."""
    _, server = pair
    found = []

    async def run():
        set_deadline(now() + seconds)
        try:
            await linger(server)
        except DeadlinePassed:
            found.append("inside")
            return
        try:
            await wait_in_vain(server)
        except DeadlinePassed:
            found.append("behind")

    began = trio.current_time()
    await in_fiber(run)
    assert found == ["inside" if hears else "behind"]
    assert trio.current_time() - began == pytest.approx(seconds)


async def wait_in_vain(sock):
    while True:
        await wait_readable(sock)


async def test_linger_ends_after_enough_bytes(pair):
    client, server = pair
    got = 0
    async with trio.open_nursery() as nursery:

        async def flood():
            with contextlib.suppress(trio.BrokenResourceError):
                await stream(client).send_all(bytes(64 << 20))

        nursery.start_soon(flood)
        await in_fiber(linger, server)
        got = server.recv(1)
        close(server)
    assert got == b"\0"


# --- OpenSSL's side ---------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_what_openssl_decrypted_behind_the_head_is_returned(version):
    gate, tls = await relayed_pair(version=version)
    await tls.send_all(HEAD + bytes(15_000))
    head, trailing = await in_fiber(gate.read_head, LIMITS)
    assert (head.target, trailing) == (b"/p", bytes(15_000))
    close(gate.sock)
    await trio.aclose_forcefully(tls)


async def test_a_head_over_many_records_is_joined():
    gate, tls = await relayed_pair()
    async with trio.open_nursery() as nursery:

        async def drip():
            for byte in HEAD:
                await tls.send_all(bytes((byte,)))

        nursery.start_soon(drip)
        head, trailing = await in_fiber(gate.read_head, LIMITS)
    assert (head.target, trailing) == (b"/p", b"")
    close(gate.sock)
    await trio.aclose_forcefully(tls)


RELAYED_ENDS = {
    "close_notify": ("closed", "expected a request, got close_notify"),
    "fin": ("closed", "expected close_notify, got end of file"),
    "fin in the head": ("cut", "expected close_notify, got end of file"),
    "reset": ("reset", "the client is gone: Connection reset by peer"),
    "bad record": ("bad_record", "expected a TLS record, got "),
}


@pytest.mark.parametrize("case", RELAYED_ENDS)
async def test_an_end_before_the_head_has_its_word_where_openssl_decrypts(case):
    gate, tls = await relayed_pair()
    if case == "fin in the head":
        await tls.send_all(b"GET")
    if case.startswith("fin"):
        await tls.transport_stream.send_eof()
    elif case == "close_notify":
        await tls.aclose()
    elif case == "reset":
        reset(tls.transport_stream.socket)
    else:
        await tls.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    with pytest.raises(ClientGone) as caught:
        await in_fiber(gate.read_head, LIMITS)
    reason, detail = RELAYED_ENDS[case]
    assert caught.value.reason == reason
    assert str(caught.value).startswith(detail)
    close(gate.sock)
    await trio.aclose_forcefully(tls)


class Flood:
    """A client that always has one more record, and what OpenSSL makes of it: nothing."""

    wanted = 5
    is_closed = False

    def __init__(self):
        self.count = 0

    def recv(self, size, flags):
        self.count += 1
        if self.count > 100_000:
            raise AssertionError("the others starved")
        return bytes(size)

    def receive_data(self, data):
        return b""

    def data_to_send(self):
        return b""


async def test_records_without_data_keep_nobody_waiting_and_move_no_deadline():
    flood, log = Flood(), []
    client = RelayedClient(flood, flood, kernel_sends=False)

    async def read():
        set_deadline(now() + 0.05)
        with pytest.raises(DeadlinePassed):
            await client.read_head(LIMITS)
        log.append("passed")

    async def other():
        for _ in range(10):
            await give_way()
        log.append("other")

    async with open_fibers() as fibers:
        fibers.start(read())
        fibers.start(other())
        while len(log) < 2:
            await trio.lowlevel.checkpoint()
    assert log == ["other", "passed"]


async def test_goodbye_is_close_notify_and_fin():
    gate, tls = await relayed_pair()
    async with trio.open_nursery() as nursery:

        async def leave():
            await in_fiber(gate.send_all, b"answer")
            await in_fiber(gate.say_goodbye)

        nursery.start_soon(leave)
        assert await read_all(tls) == b"answer"
        await tls.aclose()
    close(gate.sock)


async def test_after_a_bad_record_sending_is_an_error_of_the_connection():
    gate, tls = await relayed_pair()
    await tls.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    with pytest.raises(ClientGone):
        await in_fiber(gate.receive)
    with pytest.raises(BrokenPipeError):
        await in_fiber(gate.send_all, b"answer")
    await in_fiber(gate.send_close_notify)  # says nothing, raises nothing
    close(gate.sock)
    await trio.aclose_forcefully(tls)


async def test_i4_where_the_kernel_sends_openssl_says_nothing():
    """Neither its alert nor its close_notify: they would be under a key that is not its own."""
    gate, tls = await relayed_pair(kernel_sends=True)
    raw = tls.transport_stream
    await raw.receive_some(65536)  # the tickets of the handshake
    await raw.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    with pytest.raises(ClientGone):
        await in_fiber(gate.receive)
    await in_fiber(gate.send_all, b"as the backend would")
    gate.sock.shutdown(socket.SHUT_WR)
    assert await read_all(raw) == b"as the backend would"
    close(gate.sock)
    await trio.aclose_forcefully(tls)


async def test_a_key_update_is_answered_where_openssl_does_both():
    """OpenSSL answers in front of what it encrypts next."""
    gate, client = await hand_made_pair()
    await client.update_key(is_requested=True)
    await client.send(23, b"under the new key")
    assert await in_fiber(gate.receive) == b"under the new key"
    await in_fiber(gate.send_all, b"so is this")
    assert await client.receive() == (22, b"\x18\x00\x00\x01\x00")
    client.follow_key_update()
    assert await client.receive() == (23, b"so is this")
    close(gate.sock)
    await client.stream.aclose()
