"""Bytes through us, for connections that the kernel does not hold in full.

`ktlsgate.gate.relay_input` (mode TX): the backend writes to the client's socket itself;
what the client sends is decrypted here and goes on over the Unix connection.
`ktlsgate.gate.relay_both` (mode RELAY): the backend has one end of a socketpair, we have
the other. `ktlsgate.wire.handoff` defines the verdict on how each stream ended.

A relay sleeps while its `Flow` moves the bytes, and looks at every end that comes into
sight. It is a job for a fiber, but written out by hand: a coroutine that awaits another,
and so on down to what sleeps, would keep the frames of all of them for as long as the
relay lasts. So the session's own fiber ends when its relay begins.

Idle limit: a relay in which no byte moved for so long ends; in mode TX the client's
acknowledgements of what the backend sends count as movement, or a long download would
look idle. It is looked at when it may have passed, and no earlier.

A relay that is stopped ends at once, as a cut in both directions.
"""

from __future__ import annotations

import abc
import math
import socket
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, NoReturn

from ..errors import ResourceShortage
from ..kernel.sockets import bytes_acked
from ..wire.record_layer import RecordLayer
from .client import RelayedClient, linger
from .fibers import DeadlinePassed, now, set_deadline, stop_watching, this_fiber
from .flow import Flow
from .verdict import Verdict

__all__ = ["Relay", "RelayEnd"]

# An idle limit passes up to this part of itself late, so that many relays are looked at
# together: a look at one is a look at all.
_GRAIN = 1 / 64


@dataclass(slots=True)
class RelayEnd:
    """How a relay went.

    Attributes:
        reason: empty when both sides ended on purpose, else one word for counters.
        detail: the same in words.
        bytes_in: from the client to the backend.
        bytes_out: from the backend to the client, in mode RELAY.
    """

    reason: str = ""
    detail: str = ""
    bytes_in: int = 0
    bytes_out: int = 0


_OnEnd = Callable[[RelayEnd, BaseException | None], None]


def _tell_nobody(_end: RelayEnd, _error: BaseException | None) -> None:
    """Stand for who was told already."""


class Relay(Coroutine[Any, Any, None]):
    """What both kinds share: a beginning, when to look again, one end."""

    __slots__ = ("_acked", "_client", "_detail", "_flow", "_idle_at", "_is_told",
                 "_kernel_sends", "_limit",
                 "_on_end", "_patience_ends", "_reason", "_records", "_trailing",
                 "_verdict")  # fmt: skip

    def __init__(
        self,
        client: RelayedClient,
        unix: socket.socket,
        trailing: bytes,
        *,
        idle_timeout: float,
        has_verdicts: bool,
    ) -> None:
        """Make a relay that `start` begins.

        Args:
            client: where OpenSSL decrypts; the socket stays the caller's to close.
            unix: the handoff's Unix connection, acknowledged; closed by the relay.
            trailing: decrypted behind the head already; goes first.
            idle_timeout: seconds.
            has_verdicts: whether the dialect has them.
        """
        if not isinstance(client.records, RecordLayer):
            raise AssertionError("what will be offloaded is settled before a relay begins")
        self._client, self._records = client.sock, client.records
        self._kernel_sends = client.kernel_sends
        self._verdict = Verdict(unix, is_spoken=has_verdicts)
        self._trailing = trailing
        self._limit = idle_timeout
        self._on_end: _OnEnd = _tell_nobody
        self._flow: Flow | None = None
        self._acked = 0
        self._idle_at = self._patience_ends = math.inf
        self._reason = self._detail = ""
        self._is_told = False  # whether the backend knows how input ended, or does not care

    def start(self, on_end: _OnEnd) -> None:
        """Begin, from a fiber; that one may end then.

        Args:
            on_end: called once, perhaps before this returns, when all that is ours to
                close is closed: how it went, and what else than its ends ended it.
        """
        self._on_end = on_end
        stop_watching(self._client)
        stop_watching(self._verdict.sock)
        this_fiber().fibers.start(self)

    # --- a coroutine by hand ---

    def send(self, _value: object) -> None:
        """Look at what there is, and sleep on.

        Raises:
            StopIteration: it is over.
        """
        error = None
        try:
            flow = self._flow or self._begin()
            flow.be_looked_at()
            while not self._is_over(flow):
                if not flow.has_news():
                    set_deadline(self._look_again_at())
                    return
        except ResourceShortage as exc:
            self._blame(exc.reason, str(exc))
        except Exception as exc:  # noqa: BLE001 - told to who started it
            error = exc
        self._end(error)
        raise StopIteration

    def throw(self, error: Any, _value: object = None, _traceback: object = None) -> None:
        """Look again when the time has come; end for whatever else is thrown."""
        if isinstance(error, DeadlinePassed):
            self.send(None)
            return
        self._end(error)
        raise error

    def close(self) -> None:
        """Do nothing: `Fibers` throws what ends a job."""

    def __await__(self) -> Generator[Any, Any, NoReturn]:
        """Refuse: a fiber of its own runs it."""
        raise AssertionError("a relay is started, not awaited")

    # --- the parts ---

    @abc.abstractmethod
    def _make_flow(self) -> Flow:
        """Say who is connected with whom."""

    @abc.abstractmethod
    def _is_over(self, flow: Flow) -> bool:
        """Look at every end; whether the relay ends with it."""

    @abc.abstractmethod
    def _is_to_linger(self, flow: Flow) -> bool:
        """Whether the client must still read what was sent last."""

    def _begin(self) -> Flow:
        self._flow = flow = self._make_flow()
        self._idle_at = flow.moved + self._limit
        self._acked = bytes_acked(self._client)
        trailing, self._trailing = self._trailing, b""
        flow.start(trailing)
        return flow

    def _look_again_at(self) -> float:
        """When, by Trio's clock, if nothing happens before."""
        grain = self._limit * _GRAIN
        return min(math.ceil(self._idle_at / grain) * grain, self._patience_ends)

    def _is_idle(self, flow: Flow) -> bool:
        """Whether nothing moved for too long."""
        time = now()
        if time < self._idle_at:
            return False
        acked = bytes_acked(self._client)
        if acked != self._acked:
            self._acked, flow.moved = acked, time
        self._idle_at = flow.moved + self._limit
        if time < self._idle_at:
            return False
        self._blame("idle_timeout", f"no byte moved for {self._limit:g} seconds")
        return True

    def _blame(self, reason: str, detail: str) -> None:
        """Keep the first fault; later ones follow from it."""
        if not self._reason:
            self._reason, self._detail = reason, detail

    def _blame_client(self, error: OSError) -> None:
        self._blame("client_reset", f"the client is gone: {error.strerror}")

    def _end(self, error: BaseException | None) -> None:
        """Stop, and see that the client can read the last of it; raises nothing."""
        lingers = False
        try:
            self._stop()
            lingers = not error and self._flow is not None and self._is_to_linger(self._flow)
        except Exception as exc:  # noqa: BLE001 - told to who started it
            error = error or exc
        if lingers:
            this_fiber().fibers.start(self._linger())
        else:
            self._finish(error)

    async def _linger(self) -> None:
        error: BaseException | None = None
        try:
            await linger(self._client)
        except BaseException as exc:
            error = exc
            if not isinstance(exc, Exception):
                raise
        finally:
            self._finish(error)

    def _stop(self) -> None:
        """Let nothing move any more."""
        if self._flow:
            self._flow.stop()

    def _close(self) -> None:
        """Close what is ours."""
        self._verdict.close()
        self._records.forget()

    def _finish(self, error: BaseException | None) -> None:
        """Close what is ours and say how it went, whatever goes wrong in that."""
        end = RelayEnd(self._reason, self._detail)
        flow, self._flow = self._flow, None  # it knows the fiber that knows us
        if flow:
            end.bytes_in, end.bytes_out = flow.bytes_in, flow.bytes_out
        on_end, self._on_end = self._on_end, _tell_nobody
        try:
            self._close()
        except Exception as exc:  # noqa: BLE001 - told to who started it
            error = error or exc
        on_end(end, error)
