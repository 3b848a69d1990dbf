"""OpenSSL's own kTLS: a connection that is bound to its socket and moves its keys itself.

Theory of operation
-------------------

With SSL_OP_ENABLE_KTLS OpenSSL gives each application key to the kernel in the moment
in which it would begin to use it, if the kernel takes it and the socket's BIO is its
own. No call tells what came of it, so the socket is asked (getsockopt). OpenSSL 3.0 and
3.1 never give the receiving key of TLS 1.3; suites that are not AEAD, and connections
with max_fragment_length, stay in user space in every version.

Nothing is read ahead (invariant I2): OpenSSL reads a record's header, then its body,
and stops when the handshake is done.

What the kernel does not hold must not stay with an OpenSSL that knows of kTLS: a
KeyUpdate would make it give the next key to the kernel, which then seals a second time
what OpenSSL sealed (seen with 3.0: the client gets "bad record mac"), or has it give up
(3.5: "no suitable record layer"). So `into_record_layer` takes the socket away from it:
over memory BIOs it can reach no kernel, follows the client's KeyUpdates, and what it
wants to send where the kernel sends is dropped by the caller (invariant I4).

The ClientHello is looked at (MSG_PEEK) before OpenSSL sees the socket: that is how
plain HTTP is told from TLS, and where the name and the extensions come from that
OpenSSL keeps to itself. Not one byte is taken by us.
"""

from __future__ import annotations

import enum
import errno
import socket
from collections.abc import Awaitable, Callable

from OpenSSL import SSL

from ..config import Offload
from ..errors import HandshakeFailed
from ..kernel.ktls import has_rx, has_tx
from ..kernel.sockets import bytes_taken, is_established
from ..wire.client_hello import HelloReader
from ..wire.handshake import Established, collect_established, sort_failure
from ..wire.hello_peek import MAX_HELLO, look_at_hello
from ..wire.openssl_extra import rebind_to_memory
from ..wire.record_layer import BOTH_ENDS, RecordLayer
from .fibers import sleep, wait_readable, wait_writable
from .stream import peek

__all__ = ["BoundHandshake", "Progress", "perform_bound_handshake"]


class Progress(enum.Enum):
    """What a handshake waits for."""

    WANTS_READ = "read"
    WANTS_WRITE = "write"
    DONE = "done"


# By whether the kernel has TX and RX. It cannot have the receiving key alone and be of use.
_OFFLOADS = {
    (True, True): Offload.BOTH,
    (True, False): Offload.TX,
    (False, False): Offload.NONE,
}


class BoundHandshake:
    """One connection's handshake, by OpenSSL alone.

    After `Progress.DONE` exactly one of these follows: `forget` (the kernel holds
    both directions) or `into_record_layer`.
    """

    __slots__ = ("_connection", "_sock")

    def __init__(self, context: SSL.Context, sock: socket.socket) -> None:
        """Start a handshake.

        Args:
            context: made with ``lets_openssl_offload``.
            sock: non-blocking; OpenSSL reads and writes it until one of the two ends.
        """
        self._sock = sock
        self._connection = SSL.Connection(context, sock)
        self._connection.set_accept_state()

    def advance(self) -> Progress:
        """Go as far as the socket allows without waiting.

        Raises:
            HandshakeFailed: it cannot go on; OpenSSL has sent its alert if there was room.
        """
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return Progress.WANTS_READ
        except SSL.WantWriteError:
            return Progress.WANTS_WRITE
        except SSL.ZeroReturnError as exc:
            message = "expected a handshake record, got close_notify"
            raise HandshakeFailed("client_gone", message) from exc
        except SSL.SysCallError as exc:
            raise _gone(exc) from exc
        except SSL.Error as exc:
            raise sort_failure(exc) from exc
        return Progress.DONE

    def established(self, hello: HelloReader) -> Established:
        """Collect what the handshake agreed on; ``hello`` is the client's, looked at before."""
        return collect_established(self._connection, hello)

    @property
    def has_pending_data(self) -> bool:
        """Whether OpenSSL holds bytes that the kernel would miss; never so far."""
        return self._connection.pending() > 0

    def offload(self) -> Offload:
        """Ask the socket which keys the kernel has.

        Raises:
            HandshakeFailed: ``key_refused``: it opens and does not seal; nobody can use that.
        """
        held = has_tx(self._sock), has_rx(self._sock)
        if held not in _OFFLOADS:
            raise HandshakeFailed(
                "key_refused", "the kernel took the receiving key and refused the sending key"
            )
        return _OFFLOADS[held]

    def forget(self) -> None:
        """Drop OpenSSL's object; sends nothing, and leaves the socket open.

        Marked shut down first, or OpenSSL would drop the session from its cache.
        """
        self._connection.set_shutdown(BOTH_ENDS)
        del self._connection

    def into_record_layer(self) -> RecordLayer:
        """Let OpenSSL go on with what the kernel does not hold, away from the socket."""
        rebind_to_memory(self._connection)
        return RecordLayer(self._connection)


def _gone(error: SSL.SysCallError) -> HandshakeFailed:
    """Say why the transport ended; pyOpenSSL's -1 is an end of file."""
    code = error.args[0] if error.args else -1
    if code in (-1, 0):
        return HandshakeFailed("client_gone", "expected a handshake record, got end of file")
    name = errno.errorcode.get(code, str(code))
    return HandshakeFailed("client_gone", f"the client is gone: {name}")


# What was looked at is there at the next look, and each look at a hello reads all of it
# again: sleep between them, longer each time that nothing is new. Behind the hello, too,
# a client that sends what OpenSSL does not take yet must not wake us as it likes.
_FIRST_PAUSE = 0.001
_FREE_WAITS = 2  # as many as an ordinary handshake has; what is read is not asked for before
_LAST_PAUSE = 0.1

_WAITS: dict[Progress, Callable[[socket.socket], Awaitable[None]]] = {
    Progress.WANTS_READ: wait_readable,
    Progress.WANTS_WRITE: wait_writable,
}


class _Patience:
    """Pauses that grow while a measure of progress stands still."""

    def __init__(self) -> None:
        self._seen = -1
        self._pause = _FIRST_PAUSE

    async def after(self, measure: int) -> None:
        """Sleep if the measure is what it was last time."""
        if measure != self._seen:
            self._seen, self._pause = measure, _FIRST_PAUSE
            return
        await sleep(self._pause)
        self._pause = min(2 * self._pause, _LAST_PAUSE)


async def perform_bound_handshake(
    sock: socket.socket, handshake: BoundHandshake, *, max_bytes: int
) -> HelloReader:
    """Run until established.

    Args:
        sock: the client's.
        handshake: bound to it.
        max_bytes: how much a client may send before the handshake is done.

    Returns:
        What the ClientHello said.

    Raises:
        HandshakeFailed: with the reason class; the client got OpenSSL's alert, if
            there was one and room for it.

    Cancellation leaves the handshake where it was; the socket is of no use to anybody
    else then and must be closed.
    """
    try:
        hello = await _see_hello(sock, max_bytes)
        patience, waits = _Patience(), 0
        while (progress := handshake.advance()) is not Progress.DONE:
            taken, waits = 0, waits + 1
            if waits > _FREE_WAITS:
                taken = bytes_taken(sock)
                _check_size(taken, max_bytes)
            await _WAITS[progress](sock)
            if waits > _FREE_WAITS:
                await patience.after(taken)
    except OSError as exc:
        raise HandshakeFailed("client_gone", f"the client is gone: {exc.strerror}") from exc
    return hello


def _check_size(taken: int, max_bytes: int) -> None:
    if taken > max_bytes:
        raise HandshakeFailed(
            "handshake_too_long", f"expected at most {max_bytes} bytes of handshake"
        )


async def _see_hello(sock: socket.socket, max_bytes: int) -> HelloReader:
    """Look until the ClientHello is whole."""
    await wait_readable(sock)  # a client that has just connected has not said anything yet
    patience, may_grow = _Patience(), True
    while True:
        data = await peek(sock, MAX_HELLO)
        if not data:
            raise HandshakeFailed("client_gone", "expected a ClientHello, got end of file")
        _check_size(len(data), max_bytes)
        if hello := look_at_hello(data):
            return hello
        if not may_grow:
            raise HandshakeFailed("client_gone", "expected a handshake record, got end of file")
        # Bytes that came in front of the end are looked at once more.
        may_grow = is_established(sock)
        await patience.after(0)
