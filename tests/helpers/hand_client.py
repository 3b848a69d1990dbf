"""A TLS 1.3 client that can send what no library would: every record is made by hand."""

import ssl

import trio
from helpers.ktls import PlainRecordLayer
from helpers.sessions import client_context, in_fiber, server_context, stream, tcp_pair

from ktlsgate.gate.client import RelayedClient
from ktlsgate.gate.handshake import perform_handshake
from ktlsgate.wire.ciphers import SUITES
from ktlsgate.wire.handshake import Handshake
from ktlsgate.wire.key_schedule import TrafficSecret

SUITE = SUITES["TLS_AES_128_GCM_SHA256"]


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
        await in_fiber(perform_handshake, theirs, handshake)
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
