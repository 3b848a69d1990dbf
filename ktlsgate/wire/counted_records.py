"""OpenSSL's record layer one exact record at a time, for keys that may move later.

Invariants I2 and I3 behind the handshake: nothing is read past the record that is
wanted, and every record is counted, so that the kernel can take over at any border
between two records with the right sequence numbers. After a record that carried no
data (a KeyUpdate, as far as anybody outside OpenSSL can tell) the keys may be other
ones; then OpenSSL has to keep them.
"""

from __future__ import annotations

from typing import Protocol

from .record_layer import RecordLayer
from .records import RecordReader

__all__ = ["CountedRecordLayer", "RecordCounter"]


class RecordCounter(Protocol):
    """Who must know: `ktlsgate.wire.handshake.Handshake`."""

    def count_received(self) -> None:
        """One more record was received under the application key."""

    def data_to_send(self) -> bytes:
        """Whole records for the client, counted."""


class CountedRecordLayer:
    """As `RecordLayer`, for who reads no more than `wanted`.

    Attributes:
        has_control_records: whether a record came that carried no data.
    """

    __slots__ = ("_counter", "_layer", "_reader", "has_control_records")

    def __init__(self, counter: RecordCounter, layer: RecordLayer) -> None:
        """Count for a handshake what goes through its record layer."""
        self._counter = counter
        self._layer = layer
        self._reader = RecordReader()
        self.has_control_records = False

    @property
    def wanted(self) -> int:
        """How many bytes to read next, at most."""
        return self._reader.wanted

    @property
    def is_closed(self) -> bool:
        """Whether the peer's close_notify came."""
        return self._layer.is_closed

    def receive_data(self, data: bytes) -> bytes:
        """Decrypt a record once it is whole; ``b""`` before that, and if it has no data.

        Raises:
            RemoteProtocolError: a bad record or a fatal alert.
        """
        record = self._reader.receive_data(data)
        if record is None:
            return b""
        self._counter.count_received()
        plain = self._layer.receive_data(record)
        if not plain:
            self.has_control_records = True
        return plain

    def raise_failure(self) -> None:
        """Raise what was kept back; nothing is, with one record at a time."""
        self._layer.raise_failure()

    def data_to_send(self) -> bytes:
        """What OpenSSL wants to send by itself."""
        return self._counter.data_to_send()

    def send_data(self, data: bytes) -> bytes:
        """Encrypt; the keys stay with OpenSSL then.

        Raises:
            RemoteProtocolError: the connection failed before.
            LocalProtocolError: close_notify was sent already.
        """
        self.has_control_records = True
        return self._layer.send_data(data)

    def send_close_notify(self) -> bytes:
        """Say goodbye; nothing may be sent after it."""
        return self._layer.send_close_notify()

    def forget(self) -> None:
        """Drop OpenSSL's object."""
        self._layer.forget()
