"""Handoffs for Trio: a listener of client connections, and a loop that serves them."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Collection

import trio

from .receiver import DEFAULT_DEADLINE, Receiver, RefusedCallback
from .trio_connection import ClientConnection
from .unix_listener import UnixListener

__all__ = ["CrashCallback", "Handler", "HandoffListener", "serve_trio"]

Handler = Callable[[ClientConnection], Awaitable[object]]
CrashCallback = Callable[[ClientConnection, Exception], None]

_log = logging.getLogger("ktlsgate.backend")


class HandoffListener(trio.abc.Listener[ClientConnection]):
    """Give client connections as they are handed over.

    Args (of the constructor):
        listener: from `bind_unix_listener`; ours to close from now on.
        allowed_uids: users that may hand off, None for all that can connect.
        deadline: seconds that a sender has for one handoff.
        on_refused: told of each handoff that was refused; logged by default.
        record_limit: where the gate shares secrets, after how many records under one key
            another is due; None for what the cipher takes (2^24 with AES-GCM).
    """

    def __init__(
        self,
        listener: UnixListener,
        *,
        allowed_uids: Collection[int] | None = None,
        deadline: float = DEFAULT_DEADLINE,
        on_refused: RefusedCallback | None = None,
        record_limit: int | None = None,
    ) -> None:
        self._record_limit = record_limit
        self._receiver = Receiver(
            listener, allowed_uids=allowed_uids, deadline=deadline, on_refused=on_refused
        )

    @property
    def address(self) -> str:
        """Where handoffs are taken: a path, or ``@NAME``."""
        return self._receiver.listener.address

    async def accept(self) -> ClientConnection:
        """Wait for the next whole handoff; slow senders hold up nobody.

        Cancellation loses nothing: what was received in part goes on at the next call.

        Raises:
            trio.ClosedResourceError: this object was closed.
            trio.BusyResourceError: another task is accepting.
            OSError: accept() failed in a way that will not pass.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            if self._receiver.is_closed:
                raise trio.ClosedResourceError("expected an open listener, got a closed one")
            received = self._receiver.advance(trio.current_time())
            if received is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return ClientConnection(received, record_limit=self._record_limit)
            due = self._receiver.next_deadline
            with trio.move_on_at(math.inf if due is None else due):
                await trio.lowlevel.wait_readable(self._receiver.fileno())

    async def aclose(self) -> None:
        """Stop listening and remove the socket file if it is still ours. Idempotent."""
        if not self._receiver.is_closed:
            trio.lowlevel.notify_closing(self._receiver.fileno())
            self._receiver.close()
        await trio.lowlevel.checkpoint()


def _log_crash(connection: ClientConnection, exc: Exception) -> None:
    _log.error("the handler of %r failed", connection, exc_info=exc)


async def serve_trio(
    handler: Handler,
    listener: HandoffListener,
    *,
    on_crash: CrashCallback | None = None,
    task_status: trio.TaskStatus[HandoffListener] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run ``handler`` for every connection, each in a task of its own.

    The connection is closed behind the handler: in order when it returns, as a cut
    when it raises. An exception ends that connection only. Returns once the listener
    was closed and the last handler is done; cancelled, it cancels all handlers.

    Args:
        handler: called with each `ClientConnection`.
        listener: not closed by this function.
        on_crash: told of each exception of a handler; logged by default.
        task_status: for ``nursery.start``.

    Raises:
        OSError: accept() failed in a way that will not pass.
    """
    report = on_crash or _log_crash
    async with trio.open_nursery() as nursery:
        task_status.started(listener)
        while True:
            try:
                connection = await listener.accept()
            except trio.ClosedResourceError:
                return
            nursery.start_soon(_handle, handler, connection, report)


async def _handle(handler: Handler, connection: ClientConnection, report: CrashCallback) -> None:
    try:
        async with connection:
            await handler(connection)
    except Exception as exc:  # noqa: BLE001 - the crash barrier: one connection, one fate
        report(connection, exc)
