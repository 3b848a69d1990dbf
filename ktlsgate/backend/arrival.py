"""One handoff on its way in: bytes and a descriptor of one Unix connection.

`Arrival.advance` does what can be done without waiting and says when the
handoff is whole; both flavours of receiver call it whenever there is something
to read. What it takes care of:

- exactly one descriptor, on the first byte; anything else is refused;
- not one byte is read behind the head: in mode TX the client's input follows it;
- the descriptor is what the mode says: a backend that believed a wrong mode would
  write plaintext where ciphertext belongs;
- whatever is refused is closed, descriptors included. The sender then sees the
  connection reset, or closed with its head unread, and still owns the client.

The acknowledgement (`ktlsgate.wire.handoff`): in our dialect's modes TX and RELAY
`RECEIVED` is written and the connection stays open, for it carries the verdict;
in PLAIN and BOTH it is closed, unless the sender keeps it: then `RECEIVED` is written and
the next handoff may follow. A sender of nginx's dialect is never written to.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import HandoffMalformed
from ..kernel import ktls
from ..kernel.ancillary import close_all, recv_fds
from ..wire.handoff import RECEIVED, Mode
from ..wire.handoff_scgi import HandoffReader, ReceivedHead

__all__ = ["Arrival", "ReceivedHandoff"]

_MAX_FDS = 4  # one is right; room for more lets us see and close a surplus

_TCP = (socket.AF_INET, socket.AF_INET6)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedHandoff:
    """A handoff that was taken and acknowledged; both sockets are the holder's to close.

    Attributes:
        head: what the gate said about the connection.
        descriptor: what to write to, and but for mode TX to read from.
        unix: the Unix connection where it goes on: input in mode TX, verdicts in
            our dialect's TX and RELAY; None where the handoff ended it.
    """

    head: ReceivedHead
    descriptor: socket.socket
    unix: socket.socket | None

    def close(self) -> None:
        """Drop it: for a receiver that cannot take it after all."""
        self.descriptor.close()
        if self.unix is not None:
            self.unix.close()


class Arrival:
    """Receive one handoff from one Unix connection, without ever waiting.

    Args (of the constructor):
        unix: the accepted connection; ours from now on.
        deadline: when it is too late, by the caller's clock.

    Attributes:
        is_kept: whether the handoff was taken and the connection is for another one:
            who drives this makes another `Arrival` of ``unix``, or closes it.
    """

    def __init__(self, unix: socket.socket, deadline: float) -> None:
        self.unix = unix
        self.deadline = deadline
        self._reader = HandoffReader()
        self._fds: list[int] = []
        self._taken = 0
        self.is_kept = False

    def advance(self) -> ReceivedHandoff | None:
        """Read what is there; the handoff once it is whole and acknowledged.

        Raises:
            HandoffMalformed: it is no handoff, or not one that can be taken. Everything
                received is closed then.
        """
        try:
            while True:
                try:
                    head = self._read()
                except BlockingIOError:
                    return None
                if head is not None:
                    return self._take(head)
        except OSError as exc:
            self.discard()
            raise HandoffMalformed(f"the sender went away: {exc.strerror}") from exc
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Close the connection and every descriptor that came over it."""
        self.unix.close()
        fds, self._fds = self._fds, []
        close_all(fds)

    def describe_lateness(self) -> HandoffMalformed:
        """The error for a sender that the deadline caught."""
        return HandoffMalformed(f"expected the whole head in time, got {self._taken} bytes of it")

    def _read(self) -> ReceivedHead | None:
        data, fds, is_cut = recv_fds(self.unix, self._reader.wanted, _MAX_FDS, socket.MSG_DONTWAIT)
        is_first = not self._taken
        self._taken += len(data)
        self._fds += fds
        if not data:
            raise HandoffMalformed(f"expected a head, got end of file after {self._taken} bytes")
        if is_cut:
            raise HandoffMalformed("expected one descriptor, got some that there was no room for")
        if len(self._fds) != 1 or bool(fds) != is_first:
            raise HandoffMalformed(
                "expected one descriptor on the first byte, "
                f"got {len(fds)} with bytes {self._taken - len(data) + 1} to {self._taken}"
            )
        return self._reader.receive_data(data)

    def _take(self, head: ReceivedHead) -> ReceivedHandoff:
        descriptor = _as_socket(self._fds[0])
        self._fds.clear()
        try:
            _check(descriptor, head.mode)
            if _keeps_unix(head):
                if head.is_ours:
                    self.unix.send(RECEIVED, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                return ReceivedHandoff(head=head, descriptor=descriptor, unix=self.unix)
            if head.is_kept:
                # A gate that does not hear it may have asked somebody else meanwhile.
                self.unix.send(RECEIVED, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                self.is_kept = True
        except BaseException:
            descriptor.close()
            raise
        if not self.is_kept:
            self.unix.close()
        return ReceivedHandoff(head=head, descriptor=descriptor, unix=None)


def _keeps_unix(head: ReceivedHead) -> bool:
    """Whether the Unix connection outlives the handoff: for input, or for verdicts."""
    return head.mode is Mode.TX or (head.mode is Mode.RELAY and head.is_ours)


def _as_socket(fd: int) -> socket.socket:
    try:
        return socket.socket(fileno=fd)
    except OSError:
        raise HandoffMalformed("expected a socket, got another kind of descriptor") from None


_FAMILIES: dict[Mode, tuple[int, ...]] = {
    Mode.PLAIN: _TCP,
    Mode.BOTH: _TCP,
    Mode.TX: _TCP,
    Mode.RELAY: (socket.AF_UNIX,),
}
_OFFLOADS: dict[Mode, tuple[tuple[str, Callable[[socket.socket], bool]], ...]] = {
    Mode.BOTH: (("encrypts", ktls.has_tx), ("decrypts", ktls.has_rx)),
    Mode.TX: (("encrypts", ktls.has_tx),),
}


def _check(descriptor: socket.socket, mode: Mode) -> None:
    """Refuse a descriptor that is not what its mode says."""
    if descriptor.type != socket.SOCK_STREAM or descriptor.family not in _FAMILIES[mode]:
        raise HandoffMalformed(
            f"expected a stream socket for mode {mode.value}, "
            f"got family {int(descriptor.family)}, type {int(descriptor.type)}"
        )
    if descriptor.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise HandoffMalformed("expected a connection, got a listening socket")
    for verb, is_offloaded in _OFFLOADS.get(mode, ()):
        if not is_offloaded(descriptor):
            raise HandoffMalformed(
                f"expected a socket that the kernel {verb} for mode {mode.value}, got one without"
            )
