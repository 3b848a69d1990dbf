"""A handshake in which OpenSSL reads the socket itself: looked at first, left alone after.

Without kTLS in kernel or OpenSSL nothing is offloaded, and all the rest is the same.
"""

import contextlib
import ssl

import pytest
import trio
from helpers.fibers import settled
from helpers.sessions import (
    OneByteSegments,
    client_context,
    identity,
    in_fiber,
    receive,
    reset,
    stream,
)

from ktlsgate.config import Offload, Tls
from ktlsgate.errors import HandshakeFailed
from ktlsgate.gate import bound_handshake
from ktlsgate.gate.bound_handshake import BoundHandshake, Progress, perform_bound_handshake
from ktlsgate.gate.fibers import give_way
from ktlsgate.kernel.ktls import attach_ulp
from ktlsgate.wire.tls_context import build_server_context

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
BOTH_VERSIONS = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)


def server_context(*, lets_openssl_offload=False, **tls):
    """By default one that keeps its keys, so that every kernel gives the same."""
    return build_server_context(
        Tls(**tls), identity().chain, identity().key, lets_openssl_offload=lets_openssl_offload
    )


async def shake(server, handshake, *, max_bytes=131_072):
    return await in_fiber(perform_bound_handshake, server, handshake, max_bytes=max_bytes)


async def shake_both(client, server, version=None, **changes):
    """Both sides; the client's stream, our handshake, the hello."""
    tls = trio.SSLStream(stream(client), client_context(version), server_hostname="localhost")
    handshake = BoundHandshake(server_context(), server)
    hello = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tls.do_handshake)
        hello.append(await shake(server, handshake, **changes))
    return tls, handshake, hello[0]


@BOTH_VERSIONS
async def test_a_handshake_tells_the_facts_of_the_hello_and_of_openssl(pair, version):
    tls, handshake, hello = await shake_both(*pair, version)
    facts = handshake.established(hello).facts
    assert facts.sni == "localhost"
    assert facts.protocol == tls.version()
    assert facts.cipher == tls.cipher()[0]
    assert not facts.is_resumed
    assert handshake.offload() is Offload.NONE
    assert not handshake.has_pending_data


@BOTH_VERSIONS
async def test_openssl_goes_on_over_memory_and_leaves_the_socket(pair, version):
    client, server = pair
    tls, handshake, _ = await shake_both(client, server, version)
    records = handshake.into_record_layer()
    await tls.send_all(b"request")
    assert records.receive_data(await receive(server)) == b"request"
    server.send(records.send_data(b"answer"))
    assert await tls.receive_some(100) == b"answer"
    server.send(records.send_close_notify())
    assert await tls.receive_some(100) == b""


async def test_i2_a_request_behind_finished_stays_in_the_socket(pair):
    """OpenSSL reads record by record; it must not take the request along."""
    client, server = pair
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = client_context(ssl.TLSVersion.TLSv1_3)
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    handshake = BoundHandshake(server_context(), server)

    async def shake_hands():
        raw = stream(client)
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                break
            await raw.send_all(outgoing.read())
            incoming.write(await raw.receive_some(65536))
        tls.write(b"request")
        await raw.send_all(outgoing.read())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake_hands)
        await shake(server, handshake)
    assert not handshake.has_pending_data
    assert handshake.into_record_layer().receive_data(await receive(server)) == b"request"


async def test_forgetting_sends_nothing_and_leaves_the_socket_open(pair):
    client, server = pair
    _, handshake, _ = await shake_both(client, server)
    with contextlib.suppress(BlockingIOError):
        client.recv(1000)  # tickets
    handshake.forget()
    del handshake
    with pytest.raises(BlockingIOError):
        client.recv(1)
    assert server.send(b"x") == 1


async def failure(server, **changes):
    handshake = BoundHandshake(server_context(), server)
    with pytest.raises(HandshakeFailed) as caught:
        await shake(server, handshake, **changes)
    return caught.value


ENDS = {
    b"": "expected a ClientHello, got end of file",
    b"\x16": "expected a handshake record, got end of file",
    b"\x16\x03\x01\x00\xff\x01\x00": "expected a handshake record, got end of file",
}


@pytest.mark.parametrize("data", ENDS)
async def test_a_client_that_ends_before_its_hello_is_gone(pair, data):
    client, server = pair
    client.send(data)
    client.close()
    error = await failure(server)
    assert (error.reason, str(error)) == ("client_gone", ENDS[data])


async def test_a_client_that_ends_after_its_hello_is_gone(pair):
    client, server = pair
    client.send(hello_of(client_context()))
    client.shutdown(1)
    error = await failure(server)
    assert (error.reason, str(error)) == (
        "client_gone",
        "expected a handshake record, got end of file",
    )


async def test_a_client_that_resets_is_gone(pair):
    client, server = pair
    reset(client)
    error = await failure(server)
    assert (error.reason, str(error)) == (
        "client_gone",
        "the client is gone: Connection reset by peer",
    )


def hello_of(context):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


async def test_openssl_itself_sends_the_alert_of_a_failure(pair):
    client, server = pair
    context = client_context()
    context.set_alpn_protocols(["h2"])
    client.send(hello_of(context))
    assert (await failure(server)).reason == "no_application_protocol"
    alert = client.recv(100)
    assert (alert[0], alert[5:]) == (21, b"\x02\x78")


async def test_plain_http_is_told_before_openssl_sees_it(pair):
    client, server = pair
    client.send(b"GET / HTTP/1.1\r\n\r\n")
    assert (await failure(server)).reason == "plain_http"
    with pytest.raises(BlockingIOError):
        client.recv(1)  # not even an alert


async def test_more_handshake_than_the_bound_is_refused(pair):
    """OpenSSL alone would take a hundred kilobytes of certificates."""
    client, server = pair
    context = server_context()
    hello = hello_of(client_context(ssl.TLSVersion.TLSv1_3))
    client.send(hello)
    handshake = BoundHandshake(context, server)
    with pytest.raises(HandshakeFailed) as caught:
        await shake(server, handshake, max_bytes=len(hello) - 1)
    assert caught.value.reason == "handshake_too_long"
    assert str(caught.value) == f"expected at most {len(hello) - 1} bytes of handshake"


@pytest.mark.parametrize("grows", [False, True])
async def test_half_a_hello_is_looked_at_ever_less(pair, monkeypatch, grows):
    """What is only looked at stays readable, and each look reads all of it again."""
    client, server = pair
    looks, pauses = [], []

    async def sleep(seconds):
        pauses.append(seconds)
        await give_way()
        if grows:
            client.send(hello[8 + len(pauses) : 9 + len(pauses)])
        if len(pauses) == 9:
            client.send(hello[18 if grows else 9 :])

    hello = hello_of(client_context(ssl.TLSVersion.TLSv1_3))
    look = bound_handshake.look_at_hello
    monkeypatch.setattr(bound_handshake, "sleep", sleep)
    monkeypatch.setattr(
        bound_handshake, "look_at_hello", lambda data: looks.append(len(data)) or look(data)
    )
    client.send(hello[:9])
    handshake = BoundHandshake(server_context(), server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake, server, handshake)
        await settled()  # OpenSSL has the hello, and waits for more
        nursery.cancel_scope.cancel()
    seen = [9, *range(9, 18)] if grows else [9] * 10
    assert looks == [*seen, len(hello)]
    assert pauses[:9] == [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.1, 0.1]


async def test_a_hello_of_single_bytes_is_read(pair):
    client, server = pair
    handshake = BoundHandshake(server_context(), server)
    tls = trio.SSLStream(OneByteSegments(stream(client)), client_context(),
                         server_hostname="localhost")  # fmt: skip
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tls.do_handshake)
        hello = await shake(server, handshake)
    assert hello.server_name == "localhost"


class LongHandshake:
    """A handshake that sends more than any buffer holds, and is done then."""

    SIZE = 16 << 20

    def __init__(self, sock):
        self.sock, self.left, self.waits = sock, self.SIZE, 0

    def advance(self):
        while self.left:
            try:
                self.left -= self.sock.send(bytes(min(self.left, 65_536)))
            except BlockingIOError:
                self.waits += 1
                return Progress.WANTS_WRITE
        return Progress.DONE


async def test_openssl_that_wants_to_write_waits_for_room(pair):
    client, server = pair
    client.send(hello_of(client_context()))
    handshake, received = LongHandshake(server), 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake, server, handshake)
        await settled()
        assert handshake.left
        while received < LongHandshake.SIZE:
            received += len(await receive(client))
    assert handshake.waits < 1000


class FakeSocket:
    """A socket of which the kernel holds what it is told."""

    def __init__(self, sock, *, tx, rx):
        self.held = {1: tx, 2: rx}
        self.fileno = sock.fileno

    def getsockopt(self, level, direction, size):
        if self.held[direction]:
            return bytes(4)
        raise OSError(16, "busy")


@pytest.mark.parametrize(
    ("tx", "rx", "held"),
    [(True, True, Offload.BOTH), (True, False, Offload.TX), (False, False, Offload.NONE)],
)
def test_the_socket_is_asked_what_the_kernel_holds(pair, tx, rx, held):
    sock = FakeSocket(pair[1], tx=tx, rx=rx)
    assert BoundHandshake(server_context(), sock).offload() is held


def test_a_kernel_that_opens_and_does_not_seal_is_of_no_use(pair):
    sock = FakeSocket(pair[1], tx=False, rx=True)
    with pytest.raises(HandshakeFailed) as caught:
        BoundHandshake(server_context(), sock).offload()
    assert (caught.value.reason, str(caught.value)) == (
        "key_refused",
        "the kernel took the receiving key and refused the sending key",
    )


@pytest.mark.ktls
@BOTH_VERSIONS
async def test_on_a_real_kernel_openssl_moves_its_keys(pair, version):
    from helpers.ktls import kernel_table, require_ktls

    from ktlsgate.kernel.engines import Engine
    from ktlsgate.kernel.openssl_probe import probe_openssl
    from ktlsgate.wire.ciphers import Version

    require_ktls()
    kind = Version.TLS12 if version is ssl.TLSVersion.TLSv1_2 else Version.TLS13
    client, server = pair
    attach_ulp(server)
    tls = trio.SSLStream(stream(client), client_context(version), server_hostname="localhost")
    handshake = BoundHandshake(server_context(lets_openssl_offload=True), server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tls.do_handshake)
        await shake(server, handshake)
    held = handshake.offload()
    assert held is probe_openssl(kernel_table()).trial(Engine.OPENSSL, kind).offload
    await tls.send_all(b"request")
    if held is Offload.BOTH:
        handshake.forget()
        assert await receive(server) == b"request"
    else:
        assert handshake.into_record_layer().receive_data(await receive(server)) == b"request"
