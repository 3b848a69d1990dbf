"""Handoffs for code that waits: a listener of client connections."""

from __future__ import annotations

import math
import select
import time
from collections.abc import Collection
from types import TracebackType
from typing import Self

from ..errors import LocalProtocolError
from .blocking_connection import BlockingClientConnection, wait_for
from .receiver import DEFAULT_DEADLINE, Receiver, RefusedCallback
from .unix_listener import UnixListener

__all__ = ["BlockingHandoffListener"]


class BlockingHandoffListener:
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
            listener,
            allowed_uids=allowed_uids,
            deadline=deadline,
            on_refused=on_refused,
            keeps=False,  # who serves one client at a time lets the next one wait for another
        )
        self._timeout: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        """Where handoffs are taken: a path, or ``@NAME``."""
        return self._receiver.listener.address

    def fileno(self) -> int:
        """The descriptor that is readable when `accept` may have something; -1 once closed."""
        return self._receiver.fileno()

    def settimeout(self, seconds: float | None) -> None:
        """Bound every later `accept`, None for no bound; 0 only looks."""
        self._timeout = seconds

    def accept(self) -> BlockingClientConnection:
        """Wait for the next whole handoff; slow senders hold up nobody.

        Raises:
            TimeoutError: none came in time; what came in part goes on at the next call.
            LocalProtocolError: this object was closed.
            OSError: accept() failed in a way that will not pass.
        """
        deadline = math.inf if self._timeout is None else time.monotonic() + self._timeout
        while True:
            if self._receiver.is_closed:
                raise LocalProtocolError("expected an open listener, got a closed one")
            now = time.monotonic()
            received = self._receiver.advance(now)
            if received is not None:
                return BlockingClientConnection(received, record_limit=self._record_limit)
            if now >= deadline:
                raise TimeoutError("timed out")
            due = self._receiver.next_deadline
            until = deadline if due is None else min(due, deadline)
            wait_for(self._receiver.fileno(), select.POLLIN, until - now)

    def close(self) -> None:
        """Stop listening and remove the socket file if it is still ours. Idempotent."""
        self._receiver.close()
