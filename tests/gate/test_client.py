"""The client's stream in plain bytes: exact heads, orderly ends, records in order."""

import contextlib
import errno
import socket
import ssl

import pytest
import trio
import trio.testing
from helpers.ktls import PlainRecordLayer
from helpers.sessions import (
    client_context,
    close,
    read_all,
    relayed_pair,
    reset,
    server_context,
    stream,
    tcp_pair,
)

from ktlsgate.errors import HeadRejected
from ktlsgate.gate.client import ClientGone, KernelClient, RelayedClient, linger
from ktlsgate.gate.handshake import perform_handshake
from ktlsgate.wire.ciphers import SUITES
from ktlsgate.wire.handshake import Handshake
from ktlsgate.wire.http_head import HeadLimits
from ktlsgate.wire.key_schedule import TrafficSecret

LIMITS = HeadLimits()
HEAD = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
SUITE = SUITES["TLS_AES_128_GCM_SHA256"]


@pytest.fixture
def pair():
    client, server = tcp_pair()
    yield client, server
    client.close()
    server.close()


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
        head, trailing = await KernelClient(server, is_tls=False).read_head(LIMITS)
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
        head, _ = await KernelClient(server, is_tls=False).read_head(LIMITS)
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
            assert (await reader.read_head(limits))[0].target == b"/p"
            continue
        with pytest.raises(HeadRejected) as caught:
            await reader.read_head(limits)
        assert caught.value.status == 431


@pytest.mark.parametrize(
    ("sent", "reason"), [(b"", "closed"), (b"GET", "cut")], ids=["nothing", "half"]
)
async def test_an_end_before_the_head_has_its_word(pair, sent, reason):
    client, server = pair
    client.send(sent)
    client.shutdown(socket.SHUT_WR)
    with pytest.raises(ClientGone) as caught:
        await KernelClient(server, is_tls=False).read_head(LIMITS)
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
        await KernelClient(sock, is_tls=True).read_head(LIMITS)
    assert (caught.value.reason, str(caught.value)) == (reason, detail)
    # Only what no client may send is answered by an alert.
    assert sock.sent == ([(21, b"\x02\x0a")] if reason == "unexpected_record" else [])


async def test_a_warning_in_front_of_a_head_changes_nothing():
    sock = FakeOffloaded(WARNING, HEAD + b"body")
    head, _ = await KernelClient(sock, is_tls=True).read_head(LIMITS)
    assert head.target == b"/p"
    assert sock.items == [b"body"]


async def test_warnings_without_end_are_not_followed():
    """They come as fast as a client likes, and nothing here would wait."""
    sock = FakeOffloaded(*[WARNING] * 1000)
    with pytest.raises(ClientGone) as caught:
        await KernelClient(sock, is_tls=True).read_head(LIMITS)
    assert caught.value.reason == "reset"
    assert len(sock.items) > 900


async def test_goodbye_under_ktls_is_close_notify():
    class Recorder(FakeOffloaded):
        def shutdown(self, how):
            self.sent.append(how)

    sock = Recorder(b"")
    await KernelClient(sock, is_tls=True).say_goodbye()
    assert sock.sent == [(21, b"\x01\x00"), socket.SHUT_WR]


# --- lingering -------------------------------------------------------------------------


async def test_linger_reads_away_what_would_reset_the_connection(pair):
    client, server = pair
    server.send(b"answer")
    client.send(bytes(50_000))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(linger, server)
        await trio.testing.wait_all_tasks_blocked()
        client.shutdown(socket.SHUT_WR)
    close(server)
    assert client.recv(100) == b"answer"
    assert client.recv(100) == b""


async def test_linger_ends_after_a_second(pair, autojump_clock):
    _, server = pair
    began = trio.current_time()
    await linger(server)
    assert trio.current_time() - began == pytest.approx(1)
    close(server)


async def test_linger_ends_after_enough_bytes(pair):
    client, server = pair
    got = 0
    async with trio.open_nursery() as nursery:

        async def flood():
            with contextlib.suppress(trio.BrokenResourceError):
                await stream(client).send_all(bytes(64 << 20))

        nursery.start_soon(flood)
        await linger(server)
        got = server.recv(1)
        close(server)
    assert got == b"\0"


# --- OpenSSL's side ---------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_what_openssl_decrypted_behind_the_head_is_returned(version):
    gate, tls = await relayed_pair(version=version)
    await tls.send_all(HEAD + bytes(15_000))
    head, trailing = await gate.read_head(LIMITS)
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
        head, trailing = await gate.read_head(LIMITS)
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
        await gate.read_head(LIMITS)
    reason, detail = RELAYED_ENDS[case]
    assert caught.value.reason == reason
    assert str(caught.value).startswith(detail)
    close(gate.sock)
    await trio.aclose_forcefully(tls)


async def test_goodbye_is_close_notify_and_fin():
    gate, tls = await relayed_pair()
    async with trio.open_nursery() as nursery:

        async def leave():
            await gate.send_all(b"answer")
            await gate.say_goodbye()

        nursery.start_soon(leave)
        assert await read_all(tls) == b"answer"
        await tls.aclose()
    close(gate.sock)


async def test_after_a_bad_record_sending_is_an_error_of_the_connection():
    gate, tls = await relayed_pair()
    await tls.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    with pytest.raises(ClientGone):
        await gate.receive()
    with pytest.raises(BrokenPipeError):
        await gate.send_all(b"answer")
    await gate.send_close_notify()  # says nothing, raises nothing
    close(gate.sock)
    await trio.aclose_forcefully(tls)


async def test_i4_where_the_kernel_sends_openssl_says_nothing():
    """Neither its alert nor its close_notify: they would be under a key that is not its own."""
    gate, tls = await relayed_pair(kernel_sends=True)
    raw = tls.transport_stream
    await raw.receive_some(65536)  # the tickets of the handshake
    await raw.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    with pytest.raises(ClientGone):
        await gate.receive()
    await gate.send_all(b"as the backend would")
    gate.sock.shutdown(socket.SHUT_WR)
    assert await read_all(raw) == b"as the backend would"
    close(gate.sock)
    await trio.aclose_forcefully(tls)


class HandClient:
    """A TLS 1.3 client whose records after the handshake are made by hand."""

    def __init__(self, sock, secrets):
        self.stream = stream(sock)
        self.buffer = b""
        self.send_secret, self.receive_secret = secrets
        self.sends = PlainRecordLayer(suite=SUITE, key=self.send_secret.derive_key())
        self.receives = PlainRecordLayer(suite=SUITE, key=self.receive_secret.derive_key())

    async def send(self, content_type, data):
        await self.stream.send_all(self.sends.seal(content_type, data))

    async def receive(self):
        """The next record: its type and its data."""
        while len(self.buffer) < 5 or len(self.buffer) < 5 + self._length:
            self.buffer += await self.stream.receive_some(65536)
        record, self.buffer = self.buffer[: 5 + self._length], self.buffer[5 + self._length :]
        return self.receives.open(record)

    @property
    def _length(self):
        return int.from_bytes(self.buffer[3:5], "big")

    async def update_key(self, *, is_requested):
        await self.send(22, b"\x18\x00\x00\x01" + bytes((is_requested,)))
        self.send_secret = self.send_secret.next_generation()
        self.sends.key, self.sends.rec_seq = self.send_secret.derive_key(), 0

    def follow_key_update(self):
        self.receive_secret = self.receive_secret.next_generation()
        self.receives.key, self.receives.rec_seq = self.receive_secret.derive_key(), 0


async def hand_made_pair():
    """A `RelayedClient` and a `HandClient`, the tickets already read."""
    ours, theirs = tcp_pair()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    handshake = Handshake(server_context(ciphersuites=SUITE.name))
    raw = stream(ours)

    async def shake_hands():
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await raw.send_all(outgoing.read())
                incoming.write(await raw.receive_some(65536))
                continue
            await raw.send_all(outgoing.read())
            return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake_hands)
        await perform_handshake(theirs, handshake)
    secrets = [
        TrafficSecret(secret=handshake._secrets[name], suite=SUITE)
        for name in (b"CLIENT_TRAFFIC_SECRET_0", b"SERVER_TRAFFIC_SECRET_0")
    ]
    client = HandClient(ours, secrets)
    client.buffer = incoming.read()
    gate = RelayedClient(theirs, handshake.into_record_layer(), kernel_sends=False)
    for _ in range(2):
        assert (await client.receive())[0] == 22
    return gate, client


async def test_a_key_update_is_answered_where_openssl_does_both():
    """OpenSSL answers in front of what it encrypts next."""
    gate, client = await hand_made_pair()
    await client.update_key(is_requested=True)
    await client.send(23, b"under the new key")
    assert await gate.receive() == b"under the new key"
    await gate.send_all(b"so is this")
    assert await client.receive() == (22, b"\x18\x00\x00\x01\x00")
    client.follow_key_update()
    assert await client.receive() == (23, b"so is this")
    close(gate.sock)
    await client.stream.aclose()


async def test_records_leave_in_the_order_in_which_they_were_made():
    """Every answer to a KeyUpdate stands between data under the old and under the new key."""
    gate, client = await hand_made_pair()
    total, updates = 4 << 20, 0

    async def read():
        nonlocal updates
        received = 0
        while received < total:
            content_type, data = await client.receive()  # raises when it does not decrypt
            if content_type == 22:
                updates += 1
                client.follow_key_update()
            else:
                received += len(data)

    async def ask():
        for _ in range(20):
            await client.update_key(is_requested=True)
            await client.send(23, b"?")

    async def receive():
        received = 0
        while received < 20:
            received += len(await gate.receive())

    async def send():
        for _ in range(total // 65_536):
            await gate.send_all(bytes(65_536))

    async with trio.open_nursery() as nursery:
        for job in (read, ask, receive, send):
            nursery.start_soon(job)
    assert updates
    close(gate.sock)
    await client.stream.aclose()


class FakeRecords:
    """A record layer whose every read makes a record of its own, numbered with the rest."""

    is_closed = False
    wanted = 65_536

    def __init__(self):
        self.number = 0
        self.own = b""

    def _make(self):
        self.number += 1
        return b"%08d" % self.number + bytes(4088)

    def receive_data(self, data):
        if data:
            self.own += self._make()
        return data

    def raise_failure(self):
        pass

    def data_to_send(self):
        output, self.own = self.own, b""
        return output

    def send_data(self, data):
        return self._make()


async def test_own_records_made_while_data_is_being_sent_keep_their_place():
    """The lock changes hands before its new owner runs; who made a record earlier goes first."""
    client, server = tcp_pair(small=True)
    gate = RelayedClient(server, FakeRecords(), kernel_sends=False)
    numbers = []

    async def send():
        for _ in range(200):
            await gate.send_all(b"x")

    async def receive():
        for _ in range(200):
            await gate.receive()

    async def drip():
        for _ in range(400):
            await stream_of_client.send_all(b"?")
            await trio.lowlevel.checkpoint()

    async def read():
        buffer = b""
        while True:
            buffer += await stream_of_client.receive_some(3000)
            while len(buffer) >= 4096:
                numbers.append(int(buffer[:8]))
                buffer = buffer[4096:]

    stream_of_client = stream(client)
    async with trio.open_nursery() as readers:
        readers.start_soon(read)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            nursery.start_soon(send)
            with trio.move_on_after(2):
                await receive()
            await trio.testing.wait_all_tasks_blocked()
        readers.cancel_scope.cancel()
    assert len(numbers) >= 200
    assert numbers == sorted(numbers)
    close(server)
    await stream_of_client.aclose()
