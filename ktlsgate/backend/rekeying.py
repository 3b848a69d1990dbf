"""KeyUpdates on a connection whose traffic secrets the gate shared: one generation behind another.

Theory of operation (RFC 8446 sections 4.6.3, 5.5 and 7.2)
----------------------------------------------------------

Each direction has a secret, and its keys come from it; a KeyUpdate says that the
next record of its sender is under the keys of the next secret.

* The client's KeyUpdate is read: the kernel decrypts nothing more until the next
  receiving key is installed, which happens at once. If it asked for ours as well, we
  owe one.
* Ours is owed, too, when so many records were sent under one key that the cipher's
  bound is near; and when so many were received, then one that asks for the client's.
* What is owed is sent before the next data: the KeyUpdate as one control record, which
  the kernel seals with the old key behind everything sent so far, and right behind it
  the next sending key is installed. Nothing can come between the two, since nothing
  here waits; while the send buffer is full, neither happens. Data is cut into whole
  records by the kernel at every call, so no record of it is split either.

The kernel keeps the record numbers, and there is no need to ask for them often: no
record is empty, so after as many bytes as a quarter of the bound the number grew by
at most that.

Invariant I5: secrets are hidden from every text; the one before is dropped with each
generation.
"""

from __future__ import annotations

import math
import socket
from typing import Protocol

from ..errors import KtlsUnavailable, RemoteProtocolError
from ..kernel import ktls
from ..kernel.records import send_record
from ..wire.ciphers import CipherShape, KernelCipher
from ..wire.crypto_info import RxCryptoInfo, TxCryptoInfo
from ..wire.key_schedule import TrafficSecrets
from ..wire.messages import KEY_UPDATE, KEY_UPDATE_REQUESTED
from ..wire.records import ContentType

__all__ = ["KeyCalls", "Rekeying", "default_record_limit", "kernel_keys"]

# Records under one key, with room for a quarter more before what the RFCs allow: 2^24.5
# for AES-GCM (RFC 8446 section 5.5; GnuTLS, too, rekeys at 2^24), 2^23 for AES-CCM
# (RFC 9147 section 4.5.3). ChaCha20 wears out behind the last record number.
_LIMITS: dict[KernelCipher, float] = {
    KernelCipher.AES_GCM_128: 1 << 24,
    KernelCipher.AES_GCM_256: 1 << 24,
    KernelCipher.AES_CCM_128: 1 << 22,
    KernelCipher.CHACHA20_POLY1305: math.inf,
}
# KeyUpdates that a client may send in a second; haproxy's bound. Nobody needs two.
_MAX_A_SECOND = 100


def default_record_limit(cipher: KernelCipher) -> float:
    """Say after how many records under one key another is due; math.inf for never."""
    return _LIMITS[cipher]


class KeyCalls(Protocol):
    """What rekeying asks of the kernel; none of it waits."""

    def send_key_update(self, message: bytes) -> None:
        """Send a whole KeyUpdate, or raise OSError: BlockingIOError with a full buffer."""

    def install_tx(self, info: TxCryptoInfo) -> None:
        """Replace the sending key, or raise CipherUnsupported."""

    def install_rx(self, info: RxCryptoInfo) -> None:
        """Replace the receiving key, or raise CipherUnsupported."""

    def tx_rec_seq(self, shape: CipherShape) -> int:
        """Read how many records were sent under the current key."""

    def rx_rec_seq(self, shape: CipherShape) -> int:
        """Read how many records were received under the current key."""


def kernel_keys(sock: socket.socket) -> KeyCalls:
    """Give the calls on a socket that the kernel does TLS for, both ways."""
    return _KernelKeys(sock)


class _KernelKeys:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send_key_update(self, message: bytes) -> None:
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        if send_record(self._sock, ContentType.HANDSHAKE, message, flags) != len(message):
            raise AssertionError("the kernel sends a control record whole, or not at all")

    def install_tx(self, info: TxCryptoInfo) -> None:
        ktls.install_tx(self._sock, info)

    def install_rx(self, info: RxCryptoInfo) -> None:
        ktls.install_rx(self._sock, info)

    def tx_rec_seq(self, shape: CipherShape) -> int:
        return ktls.tx_rec_seq(self._sock, shape)

    def rx_rec_seq(self, shape: CipherShape) -> int:
        return ktls.rx_rec_seq(self._sock, shape)


class Rekeying:
    """Both directions' generations, and the KeyUpdate that we owe.

    Attributes:
        generations: KeyUpdates so far: of ours, and of the client's.
        is_owing: whether `update_sending` has something to send.
    """

    def __init__(
        self, secrets: TrafficSecrets, keys: KeyCalls, *, record_limit: int | None = None
    ) -> None:
        """Begin with what is installed.

        Args:
            secrets: current, of a TLS 1.3 connection.
            keys: the kernel.
            record_limit: records under one key, at least 1; None for the cipher's own.
        """
        if record_limit is not None and record_limit < 1:
            raise ValueError(f"expected a limit of 1 record or more, got {record_limit}")
        self.generations = (0, 0)
        self.is_owing = False
        self._tx, self._rx = secrets.tx, secrets.rx
        self._keys = keys
        self._limit = record_limit or default_record_limit(self._tx.suite.cipher)
        self._unwatched_sent = self._unwatched_received = 0  # bytes since the last look
        self._wants_theirs = False  # our next KeyUpdate asks for the client's
        self._has_asked = False  # it went, and the client's has not come yet
        self._second_began, self._in_second = -math.inf, 0
        self._failure: RemoteProtocolError | None = None

    @property
    def has_failed(self) -> bool:
        """Whether nothing may be sent any more, since a key is missing."""
        return self._failure is not None

    def follow(self, *, is_requested: bool, now: float) -> None:
        """Install the next receiving key: a KeyUpdate was read.

        Args:
            is_requested: whether the client wants ours as well.
            now: seconds on any clock that only goes forward, always the same one.

        Raises:
            RemoteProtocolError: there were too many, or the kernel refused the key.
        """
        self._count(now)
        following = self._rx.next_generation()
        self._install_rx(RxCryptoInfo(suite=following.suite, key=following.derive_key(), rec_seq=0))
        self._rx = following
        self.generations = self.generations[0], self.generations[1] + 1
        self._has_asked = self._wants_theirs = False
        self._unwatched_received = 0
        self.is_owing |= is_requested

    def reopen_receiving(self) -> None:
        """Let the kernel go on under the same key: it took a part of a KeyUpdate for all of it.

        Raises:
            OSError: the kernel does not tell the number of the next record.
            RemoteProtocolError: it refused the key.
        """
        suite = self._rx.suite
        number = self._keys.rx_rec_seq(suite.shape)
        self._install_rx(
            RxCryptoInfo(suite=suite, key=self._rx.derive_key(), rec_seq=number),
        )

    def update_sending(self) -> None:
        """Send the KeyUpdate that we owe, if any, and install the next sending key.

        To be called before all data, and not behind close_notify.

        Raises:
            BlockingIOError: the send buffer is full; it is still owed.
            OSError: the connection is broken.
            RemoteProtocolError: the kernel refused the key; then again at every call.
        """
        if self._failure:
            raise self._failure.with_traceback(None)
        if not self.is_owing:
            return
        self._keys.send_key_update(KEY_UPDATE_REQUESTED if self._wants_theirs else KEY_UPDATE)
        following = self._tx.next_generation()
        info = TxCryptoInfo(suite=following.suite, key=following.derive_key(), rec_seq=0)
        try:
            self._keys.install_tx(info)
        except KtlsUnavailable as exc:
            self._failure = RemoteProtocolError(f"our KeyUpdate was sent, but {exc}")
            raise self._failure from exc
        self._tx = following
        self.generations = self.generations[0] + 1, self.generations[1]
        self._has_asked |= self._wants_theirs
        self._wants_theirs = self.is_owing = False
        self._unwatched_sent = 0

    def note_sent(self, size: int) -> None:
        """Count data that was sent, in bytes; look at the number of records in time.

        Raises:
            OSError: the kernel does not tell it.
        """
        self._unwatched_sent += size
        if self._unwatched_sent * 4 < self._limit:
            return
        self._unwatched_sent = 0
        self.is_owing |= self._keys.tx_rec_seq(self._tx.suite.shape) >= self._limit

    def note_received(self, size: int) -> None:
        """Count data that was received, in bytes, likewise.

        Raises:
            OSError: the kernel does not tell the number of records.
        """
        self._unwatched_received += size
        if self._unwatched_received * 4 < self._limit or self._has_asked:
            return
        self._unwatched_received = 0
        if self._keys.rx_rec_seq(self._rx.suite.shape) >= self._limit:
            self._wants_theirs = self.is_owing = True

    def _count(self, now: float) -> None:
        if now - self._second_began >= 1:
            self._second_began, self._in_second = now, 0
        self._in_second += 1
        if self._in_second > _MAX_A_SECOND:
            raise RemoteProtocolError(
                f"expected at most {_MAX_A_SECOND} KeyUpdates in a second, got more"
            )

    def _install_rx(self, info: RxCryptoInfo) -> None:
        try:
            self._keys.install_rx(info)
        except KtlsUnavailable as exc:
            raise RemoteProtocolError(f"the client sent a KeyUpdate, but {exc}") from exc
