"""kTLS for tests: whether this kernel has it, and a peer that writes any record by hand.

`ktls_pair` gives a loopback TCP connection: one end holds random keys in the kernel,
the other is a `PlainPeer`, a plain socket with TLS's record layer in Python, so that a
test can send every record there is, and see what the kernel wrote.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives.ciphers import aead

from ktlsgate.config import Offload
from ktlsgate.kernel.ktls import attach_ulp, install_rx, install_tx
from ktlsgate.kernel.probe import OffloadTable, probe_offload
from ktlsgate.kernel.trials import loopback_pair
from ktlsgate.wire.ciphers import SUITES, CipherSuite, KernelCipher, Version
from ktlsgate.wire.crypto_info import RxCryptoInfo, TxCryptoInfo
from ktlsgate.wire.key_schedule import AeadKey, TrafficSecret, TrafficSecrets

# One suite for each version and cipher, and their names for pytest's ids.
KERNEL_SUITES = list({(s.version, s.cipher): s for s in SUITES.values()}.values())
TLS13 = SUITES["TLS_AES_128_GCM_SHA256"]
TLS12 = SUITES["ECDHE-RSA-AES128-GCM-SHA256"]

_AEADS = {
    KernelCipher.AES_GCM_128: aead.AESGCM,
    KernelCipher.AES_GCM_256: aead.AESGCM,
    KernelCipher.AES_CCM_128: aead.AESCCM,  # tags of 16 bytes by default
    KernelCipher.CHACHA20_POLY1305: aead.ChaCha20Poly1305,
}


@functools.cache
def kernel_table() -> OffloadTable:
    """This kernel's answer, asked for once."""
    return probe_offload()


def require_ktls(suite: CipherSuite | None = None, offload: Offload = Offload.BOTH) -> None:
    """Skip the test, with the probe's reason, unless the kernel does what it needs.

    Args:
        suite: what it needs keys for; any when None.
        offload: which directions; NONE needs the ULP alone.
    """
    table = kernel_table()
    found = table.best if suite is None else table.supports(suite)
    if table.ulp.ok and (found is Offload.BOTH or found is offload):
        return
    what = "" if suite is None else f" for {suite.version.label} {suite.cipher.name}"
    pytest.skip(f"no kTLS{what}: {table.ulp_reason or found.value + ' only'}")


def require_rekey(suite: CipherSuite | None = None) -> None:
    """Skip the test, with the probe's reason, unless the kernel can replace TLS 1.3 keys."""
    require_ktls(suite)
    if not kernel_table().can_rekey:
        pytest.skip(f"no rekeying: {kernel_table().rekey.reason}")


@dataclass(slots=True, kw_only=True)
class PlainRecordLayer:
    """One direction of TLS's record protection in Python (RFC 8446 5.2, 5246 6.2.3.3).

    Attributes:
        suite: version and cipher.
        key: the AEAD key and the static iv.
        rec_seq: the next record's number.
    """

    suite: CipherSuite
    key: AeadKey = field(repr=False)
    rec_seq: int = 0

    def seal(
        self,
        content_type: int,
        data: bytes,
        *,
        padding: int = 0,
        header_version: int = 0x0303,
        corrupt: bool = False,
    ) -> bytes:
        """Build a whole record; ``padding`` zeros are TLS 1.3's, ``corrupt`` spoils the tag."""
        if self.suite.version is Version.TLS13:
            record = self._seal13(data + bytes((content_type,)) + bytes(padding), header_version)
        else:
            record = self._seal12(content_type, data, header_version)
        self.rec_seq += 1
        return record[:-1] + bytes((record[-1] ^ 1,)) if corrupt else record

    def open(self, record: bytes) -> tuple[int, bytes]:
        """Take a whole record apart: its true content type and its data.

        Raises:
            cryptography.exceptions.InvalidTag: it was not sealed with this key and number.
        """
        header, body = record[:5], record[5:]
        assert len(body) == int.from_bytes(header[3:], "big"), "expected exactly one record"
        if self.suite.version is Version.TLS13:
            inner = self._aead.decrypt(self._nonce(b""), body, header).rstrip(b"\0")
            content_type, data = inner[-1], inner[:-1]
        else:
            explicit = self.suite.shape.explicit
            length = len(body) - explicit - 16
            nonce = self._nonce(body[:explicit])
            data = self._aead.decrypt(nonce, body[explicit:], self._additional(header[0], length))
            content_type = header[0]
        self.rec_seq += 1
        return content_type, data

    @property
    def _aead(self):
        return _AEADS[self.suite.cipher](self.key.key)

    def _nonce(self, explicit: bytes) -> bytes:
        if explicit:
            return self.key.iv + explicit
        number = self.rec_seq.to_bytes(12, "big")
        return bytes(a ^ b for a, b in zip(self.key.iv, number, strict=True))

    def _additional(self, content_type: int, length: int) -> bytes:
        head = self.rec_seq.to_bytes(8, "big") + bytes((content_type,))
        return head + b"\x03\x03" + length.to_bytes(2, "big")

    def _seal13(self, inner: bytes, header_version: int) -> bytes:
        header = b"\x17" + header_version.to_bytes(2, "big") + (len(inner) + 16).to_bytes(2, "big")
        return header + self._aead.encrypt(self._nonce(b""), inner, header)

    def _seal12(self, content_type: int, data: bytes, header_version: int) -> bytes:
        explicit = self.rec_seq.to_bytes(8, "big") if self.suite.shape.explicit else b""
        additional = self._additional(content_type, len(data))
        body = explicit + self._aead.encrypt(self._nonce(explicit), data, additional)
        header = bytes((content_type,)) + header_version.to_bytes(2, "big")
        return header + len(body).to_bytes(2, "big") + body


@dataclass(slots=True, kw_only=True)
class PlainPeer:
    """The other end: records by hand over a plain socket.

    Attributes:
        sock: for what is no record at all.
        sends: seals what the kernel's end receives.
        receives: opens what the kernel's end sends.
        send_secret, receive_secret: TLS 1.3 only, for KeyUpdates.
        first_secrets: what they were at the beginning, as the kernel's end names them.
    """

    sock: socket.socket
    sends: PlainRecordLayer
    receives: PlainRecordLayer
    send_secret: TrafficSecret
    receive_secret: TrafficSecret
    first_secrets: TrafficSecrets

    def send(self, data: bytes, content_type: int = 23, **how) -> None:
        """Send one record; ``how`` goes to `PlainRecordLayer.seal`."""
        self.sock.sendall(self.sends.seal(content_type, data, **how))

    def recv(self) -> tuple[int, bytes]:
        """Receive one record; ``(0, b"")`` at the end of the stream."""
        header = self._exactly(5)
        if not header:
            return 0, b""
        return self.receives.open(header + self._exactly(int.from_bytes(header[3:], "big")))

    def rekey_sending(self) -> None:
        """Go on with the next generation's key, as after a KeyUpdate (RFC 8446 7.2)."""
        self.send_secret = self.send_secret.next_generation()
        self.sends.key, self.sends.rec_seq = self.send_secret.derive_key(), 0

    def rekey_receiving(self) -> None:
        """Expect the next generation's key."""
        self.receive_secret = self.receive_secret.next_generation()
        self.receives.key, self.receives.rec_seq = self.receive_secret.derive_key(), 0

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (piece := self.sock.recv(size - len(data))):
            data += piece
        return data


def _random_key(secret: TrafficSecret) -> AeadKey:
    if secret.suite.version is Version.TLS13:
        return secret.derive_key()
    shape = secret.suite.shape
    return AeadKey(key=os.urandom(shape.key), iv=os.urandom(shape.fixed_iv))


def _random_secret(suite: CipherSuite) -> TrafficSecret:
    return TrafficSecret(secret=os.urandom(suite.hash_size), suite=suite)


@contextlib.contextmanager
def ktls_pair(
    suite: CipherSuite = TLS13, *, offload: Offload = Offload.BOTH, rec_seq: int = 0
) -> Iterator[tuple[socket.socket, PlainPeer]]:
    """Give a socket whose keys are in the kernel and the peer that knows them too.

    Both have a timeout of two seconds and are closed afterwards. Skips the test
    where the kernel cannot do it.

    Args:
        suite: version and cipher.
        offload: which directions of the first socket get keys.
        rec_seq: the number of the first record each way.
    """
    require_ktls(suite, offload)
    tx_secret, rx_secret = _random_secret(suite), _random_secret(suite)
    tx_key, rx_key = _random_key(tx_secret), _random_key(rx_secret)
    with loopback_pair() as (sock, far):
        attach_ulp(sock)
        if offload is not Offload.NONE:
            nonce = rec_seq.to_bytes(8, "big")
            info = TxCryptoInfo(suite=suite, key=tx_key, rec_seq=rec_seq, explicit_nonce=nonce)
            install_tx(sock, info)
        if offload is Offload.BOTH:
            install_rx(sock, RxCryptoInfo(suite=suite, key=rx_key, rec_seq=rec_seq))
        yield (
            sock,
            PlainPeer(
                sock=far,
                sends=PlainRecordLayer(suite=suite, key=rx_key, rec_seq=rec_seq),
                receives=PlainRecordLayer(suite=suite, key=tx_key, rec_seq=rec_seq),
                send_secret=rx_secret,
                receive_secret=tx_secret,
                first_secrets=TrafficSecrets(tx=tx_secret, rx=rx_secret),
            ),
        )


def fill(descriptor, step):
    """Write until nothing more is taken, nor a moment later; how many bytes were."""
    taken, poll = 0, select.poll()
    poll.register(descriptor, select.POLLOUT)
    while poll.poll(50):
        with contextlib.suppress(BlockingIOError):
            while True:
                taken += os.write(descriptor, bytes(step))
    return taken


def room_for(step, sndbuf):
    """How many bytes a send buffer takes before EAGAIN, in writes of ``step`` bytes."""
    with ktls_pair(TLS13) as (sock, _):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
        sock.setblocking(False)
        return fill(sock.fileno(), step)
