"""Mode RELAY: both directions through us, between the client and a socketpair.

Where the kernel holds the sending key, for a backend that cannot use that, it encrypts.
The verdicts travel on the Unix connection beside it.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket

from .client import RelayedClient
from .fibers import now, this_fiber
from .flow import Flow
from .relay import Relay

__all__ = ["BothRelay"]

# How long a client may take to read the alert that says why its relay ends.
_ALERT_SECONDS = 1.0


class BothRelay(Relay):
    """The two directions of a relay and how each of them ends."""

    __slots__ = ("_has_output_ended", "_has_spoken", "_is_ending_output", "_is_listening",
                 "_ours")  # fmt: skip

    def __init__(
        self,
        client: RelayedClient,
        ours: socket.socket,
        unix: socket.socket,
        trailing: bytes,
        *,
        idle_timeout: float,
        has_verdicts: bool,
    ) -> None:
        """As the base says; ``ours``: our end of the socketpair, closed by the relay."""
        super().__init__(
            client, unix, trailing, idle_timeout=idle_timeout, has_verdicts=has_verdicts
        )
        self._ours = ours
        self._has_spoken = self._is_listening = False
        self._is_ending_output = self._has_output_ended = False

    def _make_flow(self) -> Flow:
        we_encrypt = not self._kernel_sends
        return Flow(self._client, self._records, self._ours, encrypts=we_encrypt, reads_output=True)

    def _is_to_linger(self, flow: Flow) -> bool:
        """Whether output ended before the client's input did: it may still be sending."""
        return self._has_output_ended and (flow.is_refused or not self._is_told)

    def _stop(self) -> None:
        super()._stop()
        self._stop_listening()

    def _close(self) -> None:
        self._verdict.close()  # before the data ends: the verdict must be there by then
        self._ours.close()
        super()._close()

    def _is_over(self, flow: Flow) -> bool:
        if flow.has_input_ended and not self._is_told:
            self._end_input(flow)
        if self._is_told and self._is_broken(flow):
            return now() >= self._patience_ends or not flow.has_unsent
        if flow.client_fault:
            self._blame_client(flow.client_fault)
            return True
        return self._has_nothing_left(flow) or self._is_idle(flow)

    def _has_nothing_left(self, flow: Flow) -> bool:
        """Whether output has ended, and nobody is left to read input."""
        if flow.has_output_ended and not self._has_output_ended:
            self._end_output(flow)
        return self._has_output_ended and (self._is_told or flow.is_hung_up)

    @staticmethod
    def _is_broken(flow: Flow) -> bool:
        """Whether the client's end is worth no more words; who half closed may still read."""
        return flow.input_fault is not None and flow.input_fault.reason != "cut"

    def _end_input(self, flow: Flow) -> None:
        """Tell the backend how the client's input ended: a verdict, then an end of stream."""
        fault = flow.input_fault
        if flow.is_refused:
            self._is_told = True  # the backend reads no more; its output goes on
            return
        if fault:
            self._blame(f"client_{fault.reason}", str(fault))
        if self._verdict.is_open() and not self._has_spoken:
            self._listen()
            return
        self._stop_listening()
        self._is_told = True
        self._patience_ends = math.inf
        if fault and self._is_broken(flow):
            self._patience_ends = now() + _ALERT_SECONDS * (fault.reason == "bad_record")
        if self._verdict.tell(is_clean=not fault) and fault:
            self._verdict.close()  # before the data ends: the verdict must be there by then
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_WR)

    def _end_output(self, flow: Flow) -> None:
        """End the client's stream, with close_notify if the backend meant to end."""
        if not self._is_ending_output:
            self._is_ending_output = True
            if flow.output_fault:
                detail = f"the backend is gone: {flow.output_fault.strerror}"
                self._blame("backend_reset", detail)
            if self._verdict.is_output_finished():
                flow.send_close_notify()
            else:
                self._blame("backend_cut", "the backend ended without saying that it was done")
        if not flow.has_unsent:
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_WR)
            self._has_output_ended = True

    def _listen(self) -> None:
        """Have news when the receiver says that it understands verdicts."""
        if not self._is_listening:
            self._is_listening = True
            self._patience_ends = self._verdict.patience_ends
            handlers = this_fiber().fibers.handlers
            handlers.add(self._verdict.sock.fileno(), select.EPOLLIN, self._on_said)

    def _on_said(self, _events: int) -> None:
        self._has_spoken = True
        if self._flow:
            self._flow.poke()

    def _stop_listening(self) -> None:
        if self._is_listening:
            self._is_listening = False
            this_fiber().fibers.handlers.remove(self._verdict.sock.fileno())
