"""What goes to the client, and how its end is said, by mode.

Data goes to the descriptor in every mode, and the kernel (or the gate behind a
socketpair) does the rest. The end is close_notify where the kernel encrypts,
`FINISHED` on the verdict connection where the gate does, and always a shutdown of
the sending side behind it.

No call waits: each has MSG_DONTWAIT, which also keeps clear of a bug in Linux 6.1
and before 6.12.105 (a signal during a blocking send kills a kTLS connection).
`os.sendfile` knows no such flag: on a blocking descriptor, whose O_NONBLOCK is not
ours to set, the file is read and sent instead.

What the kernel's TLS layer takes is not what TCP has. Two things follow (observed on
Linux 6.1, 6.12 and 7.2), and both are seen by a poll behind each send:

* With a full send buffer TCP has a part of the last record, the layer the rest, and
  both `shutdown` and `close` throw that away. Once poll says POLLOUT there is room
  for all of it, and close_notify, sent then, takes it along: so `flush` before the end.
* On a connection that was reset, once a read has told so, and so on a connection that was
  shut down, every send succeeds, until the TCP memory of the whole system is used up. Poll
  says POLLHUP then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from collections.abc import Callable

from ..errors import LocalProtocolError
from ..kernel.records import recv_record, send_record
from ..wire.handoff import Mode
from ..wire.messages import CLOSE_NOTIFY
from ..wire.records import ContentType
from .arrival import ReceivedHandoff
from .client_input import peer_error
from .verdict import Verdict

__all__ = ["ClientOutput"]

_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
# One call's share of a file: long enough to cost little, short enough to let others run.
_FILE_STEP = 1 << 20
_COPY_STEP = 1 << 16
# What is read away before the close: as much as a client can be expected to have
# sent while our last answer was on its way.
_LINGER_BYTES = 1 << 16


class ClientOutput:
    """Send to the client, end the sending, and close; nothing here waits.

    Attributes:
        socket: what becomes writable.
        has_ended: whether the end was said; nothing may be sent then.
    """

    def __init__(self, received: ReceivedHandoff, verdict: Verdict) -> None:
        self.socket = received.descriptor
        self.has_ended = False
        self._mode = received.head.mode
        ends: dict[Mode, Callable[[], None]] = {
            Mode.PLAIN: lambda: None,
            Mode.BOTH: self._send_close_notify,
            Mode.TX: self._send_close_notify,
            Mode.RELAY: verdict.send_finished,
        }
        self._say_end = ends[self._mode]
        self._is_tight = False  # the TLS layer may hold what TCP had no room for
        self._poll: select.poll | None = None
        if self._mode in {Mode.BOTH, Mode.TX}:
            self._poll = select.poll()
            self._poll.register(self.socket, select.POLLOUT)

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Send the beginning of ``data``.

        Returns:
            How many bytes went, at least 1.

        Raises:
            BlockingIOError: none did.
            RemoteProtocolError: the connection is broken.
        """
        self.check_open()
        try:
            sent = self.socket.send(data, _FLAGS)
        except BlockingIOError:
            raise
        except OSError as exc:
            raise peer_error(exc) from exc
        self._look()
        return sent

    def send_file(self, fd: int, offset: int, count: int | None) -> int:
        """Send the next piece of a file; 0 at its end.

        Args:
            fd: a regular file; its own position is neither used nor moved.
            offset: where in the file, in bytes.
            count: at most so many bytes, None for all.

        Raises:
            BlockingIOError: nothing went.
            RemoteProtocolError: the connection is broken.
            OSError: the file cannot be read.
        """
        self.check_open()
        size = _FILE_STEP if count is None else min(count, _FILE_STEP)
        if os.get_blocking(self.socket.fileno()):
            data = os.pread(fd, min(size, _COPY_STEP), offset)
            return self.send(data) if data else 0
        # A directory, a closed or a write-only file: the file's fault, told as it is.
        os.pread(fd, 0, offset)
        try:
            sent = os.sendfile(self.socket.fileno(), fd, offset, size)
        except BlockingIOError:
            raise
        except OSError as exc:
            raise peer_error(exc) from exc
        self._look()
        return sent

    def flush(self) -> None:
        """Make sure that nothing of what was sent is lost by an end that follows.

        Raises:
            BlockingIOError: something may be; wait until the socket is writable.
            RemoteProtocolError: the connection is broken.
        """
        if self._is_tight:
            self._look()
        if self._is_tight:
            raise BlockingIOError(errno.EAGAIN, "the TLS layer may hold a part of a record")

    def end(self) -> None:
        """Say the end and shut the sending side down. Idempotent.

        Raises:
            BlockingIOError: the send buffer is full; nothing happened.
            RemoteProtocolError: the connection is broken.
        """
        if self.has_ended:
            return
        self._look()
        self.flush()
        try:
            self._say_end()
            self.has_ended = True
            self.socket.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            raise
        except OSError as exc:
            raise peer_error(exc) from exc

    def close(self, *, is_complete: bool) -> None:
        """Close the descriptor, without waiting and without errors.

        Args:
            is_complete: whether to say the end first, in one try: with a full send
                buffer the client gets no close_notify. If not, the client sees a cut.
        """
        if is_complete and not self.has_ended:
            with contextlib.suppress(OSError):
                self._say_end()
        self.has_ended = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        self._drain()
        # In mode TX the gate holds this socket, too, and must learn that it is over.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def check_open(self) -> None:
        """Refuse to go on behind the end.

        Raises:
            LocalProtocolError: it was said.
        """
        if self.has_ended:
            raise LocalProtocolError("expected no more data after the end of the output")

    def _look(self) -> None:
        """Ask poll what the TLS layer does not say: whether TCP has room, and is there at all."""
        if self._poll is None:
            return
        events = dict(self._poll.poll(0)).get(self.socket.fileno(), 0)
        if events & select.POLLHUP:
            raise peer_error(OSError(errno.EPIPE, os.strerror(errno.EPIPE)))
        self._is_tight = not events & select.POLLOUT

    def _drain(self) -> None:
        """Read away what is there.

        Closing over unread bytes makes Linux send a reset, and a reset can destroy
        the last answer in the client's own buffers.
        """
        if self._mode is Mode.TX:
            return  # the input is the gate's to read
        taken = 0
        with contextlib.suppress(OSError):
            while taken < _LINGER_BYTES:
                _, data = recv_record(self.socket, _LINGER_BYTES, socket.MSG_DONTWAIT)
                if not data:
                    return
                taken += len(data)

    def _send_close_notify(self) -> None:
        send_record(self.socket, ContentType.ALERT, CLOSE_NOTIFY, _FLAGS)
