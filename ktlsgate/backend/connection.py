"""The client's connection in a backend's hands: what both flavours share.

`HandedConnection` makes the four modes one. It never waits: what cannot be done
now raises BlockingIOError, and `ktlsgate.backend.trio_connection` or
`ktlsgate.backend.blocking_connection` waits for `read_socket` or `write_socket`
and calls again. Try first, then wait: Linux 6.14 and later hide a KeyUpdate from poll
once they decrypted it, which happens when data before it is read, at a look
(MSG_PEEK), and at a plain recv() that failed with EIO. A read gives it all the same,
so who reads until BlockingIOError has seen it; one that nobody decrypted yet wakes
poll as anything else. For whatever else poll may hide, nobody should wait longer than
`look_again` before the next try.

Ends are told again and again: an error of the input stays, since the kernel says
some of them only once, and so does the end of file.

KeyUpdates are followed where the gate shared its secrets (`ktlsgate.backend.rekeying`):
the input installs the next receiving key, and what we owe is sent here, before data,
and at the latest when the next read is tried and the send buffer has room.
"""

from __future__ import annotations

import contextlib
import errno
import math
import socket
from dataclasses import replace

from ..errors import LocalProtocolError, RemoteProtocolError
from ..kernel import ktls
from ..wire.handoff import Mode
from .arrival import ReceivedHandoff
from .client_input import make_input, peer_error
from .client_output import ClientOutput
from .rekeying import Rekeying, kernel_keys
from .single import SingleExchange
from .verdict import Verdict

__all__ = ["HandedConnection", "SpinGuard"]

# By the number of false alarms in a row, in seconds.
_PAUSES = (0.0, 0.0, 0.01, 0.02, 0.04, 0.08, 0.1)
_LOOK_AGAIN = 15.0  # seconds; costs nothing, and a client that rekeys is not kept for ever


class HandedConnection:
    """One client connection, without waiting.

    Attributes:
        head: what the gate said, its secrets left out.
        look_again: seconds after which to try a read though nothing became readable.
        is_midway: set by the flavours while an application's data is sent or flushed in
            part: its end must not be called complete then.
        is_closed: whether `close` was called.
    """

    def __init__(self, received: ReceivedHandoff, *, record_limit: int | None = None) -> None:
        """Own a handoff; ``record_limit`` is `Rekeying`'s."""
        secrets = received.head.secrets
        self.head = replace(received.head, secrets=None)
        self.look_again = _LOOK_AGAIN if self.head.mode is Mode.BOTH else math.inf
        self.is_midway = False
        self.is_closed = False
        verdict = Verdict(received.unix if self.head.is_ours else None)
        self._rekeying = (
            Rekeying(secrets, kernel_keys(received.descriptor), record_limit=record_limit)
            if secrets
            else None
        )
        self._input = make_input(received, verdict, self._rekeying)
        self._output = ClientOutput(received, verdict)
        self._unix = received.unix
        self._single = SingleExchange(self.head) if self.head.is_single else None
        self._failure: RemoteProtocolError | None = None
        self._has_input_ended = False

    @property
    def keepalive(self) -> str:
        """``own`` or ``single``: whether later requests belong to this backend."""
        return "single" if self._single else "own"

    @property
    def read_socket(self) -> socket.socket:
        """What becomes readable."""
        return self._input.socket

    @property
    def write_socket(self) -> socket.socket:
        """What becomes writable: the descriptor."""
        return self._output.socket

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """Everything that `close` closes."""
        descriptor = self.write_socket
        return (descriptor,) if self._unix is None else (descriptor, self._unix)

    @property
    def is_ktls_tx(self) -> bool:
        """Whether the kernel encrypts what is sent, as the kernel says."""
        return not self.is_closed and ktls.has_tx(self.write_socket)

    @property
    def is_ktls_rx(self) -> bool:
        """Whether the kernel decrypts what is received, as the kernel says."""
        return not self.is_closed and ktls.has_rx(self.write_socket)

    @property
    def generations(self) -> tuple[int, int] | None:
        """KeyUpdates so far, ours and the client's; None where they cannot be followed."""
        return self._rekeying.generations if self._rekeying else None

    def receive(self, size: int, now: float) -> bytes:
        """Read 1 to ``size`` bytes, or none at the end; a clean end, or the request's.

        Args:
            size: in bytes, 1 or more.
            now: seconds on any clock that only goes forward, always the same one.

        Raises:
            BlockingIOError: nothing is there.
            ConnectionCut: the client or the gate went away without a clean end.
            FatalAlert: the client ended the connection with an alert.
            BadRecord: the kernel refused a record.
            RemoteProtocolError: a control record that cannot be followed.
            LocalProtocolError: the connection is closed.
        """
        self._expect_open()
        if size < 1:
            raise ValueError(f"expected a size of 1 or more, got {size}")
        if self._failure:
            raise self._failure.with_traceback(None)
        if self._has_input_ended:
            return b""
        try:
            if self._single:
                data = self._read_single(self._single, size, now)
            else:
                data = self._input.read(size, now)
        except RemoteProtocolError as exc:
            self._failure = exc
            raise
        finally:
            self._answer_key_update()
        if self._rekeying and data:
            self._rekeying.note_received(len(data))
        # Behind the body of an only request an upgrade can still open the input again.
        self._has_input_ended = not data and not (self._single and self._single.is_held)
        return data

    def _read_single(self, single: SingleExchange, size: int, now: float) -> bytes:
        """Read no byte behind the body; there, wait for the client's end.

        A server that watches the connection while it answers must not take our
        limit for the client's leaving, so an end comes only when there is one, or
        when the client sends more although the answer has begun.
        """
        allowed = single.clamp(size)
        single.is_held = not allowed and self._input.has_data()
        if single.is_held:
            if single.has_answered:
                return b""
            raise BlockingIOError(errno.EAGAIN, "the next request is not for us")
        data = self._input.read(allowed or 1, now)
        if not allowed:
            return b""
        single.note_read(data)
        return data

    def check_writable(self) -> None:
        """Refuse to go on when nothing can be sent any more, be it nothing that is to be sent.

        Raises:
            LocalProtocolError: the connection is closed, or its output was ended.
        """
        self._expect_open()
        self._output.check_open()

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Send the beginning of ``data``; see `ClientOutput.send`."""
        self._expect_open()
        self._update_sending_key()
        sent = self._output.send(data)
        if self._rekeying:
            self._rekeying.note_sent(sent)
        if self._single:
            self._single.note_written(data[:sent])
        return sent

    def send_file(self, fd: int, offset: int, count: int | None) -> int:
        """Send the next piece of a file; see `ClientOutput.send_file`."""
        self._expect_open()
        if self._single:
            self._single.note_file_sent()
        self._update_sending_key()
        sent = self._output.send_file(fd, offset, count)
        if self._rekeying:
            self._rekeying.note_sent(sent)
        return sent

    def flush(self) -> None:
        """Make sure that an end loses nothing of what was sent; see `ClientOutput.flush`."""
        self._expect_open()
        self._output.flush()

    def end_output(self) -> None:
        """Say the end of our data, and shut the sending side down; see `ClientOutput.end`."""
        self._expect_open()
        self._update_sending_key()
        self._output.end()

    def close(self, *, is_complete: bool) -> None:
        """Close all of it; see `ClientOutput.close`. Idempotent.

        The descriptor goes first: the Unix connection, where there is one, tells
        the gate that everything was said.
        """
        if self.is_closed:
            return
        self.is_closed = True
        is_broken = self._rekeying is not None and self._rekeying.has_failed
        self._output.close(is_complete=is_complete and not self.is_midway and not is_broken)
        if self._unix is not None:
            self._unix.close()

    def _update_sending_key(self) -> None:
        """Do before data what a KeyUpdate obliges us to.

        Raises:
            BlockingIOError: the send buffer is full.
            RemoteProtocolError: the connection is broken, or a key is missing.
        """
        if self._rekeying is None or self._output.has_ended:
            return
        try:
            self._rekeying.update_sending()
        except BlockingIOError:
            raise
        except OSError as exc:
            raise peer_error(exc) from exc

    def _answer_key_update(self) -> None:
        """Do it behind a read, too, for a side that only reads; what fails here fails there."""
        if self._rekeying and self._rekeying.is_owing:
            with contextlib.suppress(BlockingIOError, RemoteProtocolError):
                self._update_sending_key()

    def _expect_open(self) -> None:
        if self.is_closed:
            raise LocalProtocolError("expected an open connection, got a closed one")


class SpinGuard:
    """Slow down a reader that is told "readable" and then finds nothing.

    Linux before 6.12 says so for as long as a TLS record is there in part, and a
    client can do that on purpose. The first false alarm is free (an empty record).
    """

    def __init__(self) -> None:
        self._alarms = 0

    def pause_after(self, *, was_readable: bool) -> float:
        """Seconds to sleep before the next try: 0, then 10 ms doubling up to 100 ms."""
        self._alarms += was_readable
        return _PAUSES[min(self._alarms, len(_PAUSES) - 1)]
