"""The handshake over a socket: exact reads, every byte sent, alerts flushed."""

import contextlib
import ssl

import pytest
import trio
import trio.testing
from helpers.sessions import (
    OneByteSegments,
    client_context,
    close,
    in_fiber,
    reset,
    server_context,
    stream,
)

from ktlsgate.errors import HandshakeFailed
from ktlsgate.gate.handshake import perform_handshake
from ktlsgate.wire.handshake import Handshake

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


async def perform(server, handshake):
    """Perform a handshake as a session does."""
    await in_fiber(perform_handshake, server, handshake)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
async def test_a_handshake_in_segments_of_one_byte_succeeds(pair, version):
    client, server = pair
    tls = trio.SSLStream(
        OneByteSegments(stream(client)), client_context(version), server_hostname="localhost"
    )
    handshake = Handshake(server_context())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tls.do_handshake)
        await perform(server, handshake)
    assert handshake.is_established
    await trio.aclose_forcefully(tls)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
async def test_i2_nothing_behind_the_last_handshake_record_is_read(pair, version):
    """What a client sends in one go with its Finished stays in the socket for the kernel."""
    client, server = pair
    context = client_context(version)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    handshake = Handshake(server_context())
    behind = b"\x17\x03\x03\x00\x05early"

    async def shake_hands():
        raw = stream(client)
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                # TLS 1.3: our Finished is the last record; TLS 1.2: the server's is.
                await raw.send_all(outgoing.read() + behind)
                return
            output = outgoing.read()
            is_last = (
                version is ssl.TLSVersion.TLSv1_2
                and output[:1] == b"\x16"
                and len(output) < 400
                and b"\x14\x03\x03" in output
            )
            await raw.send_all(output + (behind if is_last else b""))
            if is_last:
                return
            incoming.write(await raw.receive_some(65536))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake_hands)
        await perform(server, handshake)
    assert server.recv(1000) == behind
    close(client)


class LongFlights:
    """A handshake of records without meaning: it answers the first, and takes so many more."""

    RECORD = 1024

    def __init__(self, more):
        self.left, self.output = more + 1, b"hello"

    @property
    def is_established(self):
        return self.left == 0

    def cut(self, data, start):
        return min(len(data), start + self.RECORD)

    def receive_data(self, data):
        self.left -= len(data) / self.RECORD
        return True

    def data_to_send(self):
        output, self.output = self.output, b""
        return output


async def test_a_flight_longer_than_a_look_is_read_without_further_news(pair):
    client, server = pair
    async with trio.open_nursery() as nursery:
        client.send(bytes(LongFlights.RECORD))
        nursery.start_soon(perform, server, LongFlights(40))
        await stream(client).receive_some(5)
        client.send(bytes(40 * LongFlights.RECORD))
    close(client)


async def test_i2_nothing_more_is_read_for_what_came_with_the_hello(pair):
    """A client may send change_cipher_spec right behind its hello (RFC 8446, D.4)."""
    client, server = pair
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context(ssl.TLSVersion.TLSv1_3).wrap_bio(
        incoming, outgoing, server_hostname="localhost"
    )
    behind = b"\x17\x03\x03\x00\x05early"

    async def shake_hands():
        raw = stream(client)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                output = outgoing.read()
                await raw.send_all(output + b"\x14\x03\x03\x00\x01\x01" if output else b"")
                incoming.write(await raw.receive_some(65536))
        await raw.send_all(outgoing.read() + behind)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake_hands)
        await perform(server, Handshake(server_context()))
    assert server.recv(1000) == behind
    close(client)


async def failure(server, **changes):
    with pytest.raises(HandshakeFailed) as caught:
        await perform(server, Handshake(server_context(), **changes))
    return caught.value


async def test_the_alert_of_a_failed_handshake_is_sent(pair):
    client, server = pair
    context, hello = client_context(), ssl.MemoryBIO()
    context.set_alpn_protocols(["h2"])
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost").do_handshake()
    client.send(hello.read())
    assert (await failure(server)).reason == "no_application_protocol"
    alert = client.recv(100)
    assert (alert[0], alert[5:]) == (21, b"\x02\x78")  # fatal, no_application_protocol


async def test_a_client_that_does_not_read_its_alert_holds_up_nobody(pair):
    client, server = pair
    with contextlib.suppress(BlockingIOError):
        while server.send(bytes(1 << 20)):
            pass
    client.send(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00")
    assert (await failure(server)).reason == "protocol_error"


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
async def test_a_client_that_closes_in_the_middle_is_gone(pair, sent):
    client, server = pair
    client.send(sent)
    client.close()
    failed = await failure(server)
    assert failed.reason == "client_gone"
    expected = "handshake record" if sent else "ClientHello"
    assert str(failed) == f"expected a {expected}, got end of file"


async def test_a_client_that_resets_is_gone(pair):
    client, server = pair
    reset(client)
    failed = await failure(server)
    assert (failed.reason, str(failed)) == (
        "client_gone", "the client is gone: Connection reset by peer",
    )  # fmt: skip


async def test_plain_http_and_garbage_are_told_apart_by_four_bytes(pair):
    client, server = pair
    client.send(b"GET ")
    assert (await failure(server)).reason == "plain_http"


async def test_garbage_is_no_tls(pair):
    client, server = pair
    client.send(b"\x00\x01\x02")
    failed = await failure(server)
    assert (failed.reason, str(failed)) == (
        "not_tls", r"expected a ClientHello, got b'\x00\x01\x02'",
    )  # fmt: skip


async def test_a_handshake_that_never_ends_has_a_bound(pair):
    client, server = pair
    client.send(b"\x16\x03\x01\x40\x00" + b"\x01\x00\xff\xff" + bytes(16_380))
    assert (await failure(server, max_bytes=10_000)).reason == "handshake_too_long"


async def test_i6_a_cancelled_handshake_leaves_the_socket_to_its_owner(pair):
    _, server = pair
    with trio.CancelScope() as scope:
        scope.cancel()
        await perform(server, Handshake(server_context()))
    assert server.fileno() >= 0
