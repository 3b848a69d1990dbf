"""Mode TX: the kernel encrypts, we decrypt; input goes on over the Unix connection.

Unlike in mode RELAY, that connection stands for the stream and for the verdict on it.
"""

from __future__ import annotations

import contextlib
import math
import socket

from ..kernel.sockets import has_only_sent_end, is_hung_up
from ..wire.handoff import RECEIVED
from .flow import Flow
from .relay import Relay

__all__ = ["InputRelay"]


class InputRelay(Relay):
    """The client's input on its way, and the other end of the Unix connection.

    The kernel encrypts what the backend sends on the client's socket.
    """

    __slots__ = ()

    def _make_flow(self) -> Flow:
        unix = self._verdict.sock
        return Flow(self._client, self._records, unix, encrypts=False, reads_output=False)

    def _is_to_linger(self, flow: Flow) -> bool:
        return flow.reads_output

    def _is_over(self, flow: Flow) -> bool:
        return self._is_backend_over(flow) or self._is_input_over(flow) or self._is_idle(flow)

    def _is_backend_over(self, flow: Flow) -> bool:
        """Whether it has closed the Unix connection, if need be behind an answer on it.

        fd_pass lets a backend that cannot use the descriptor answer on the Unix
        connection: those bytes go to the client. RECEIVED must stay unread.
        """
        if not flow.reads_output:
            said = b""
            with contextlib.suppress(OSError):
                said = self._verdict.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            if not said or said == RECEIVED:
                return flow.is_hung_up
            flow.read_output()
        if flow.client_fault:
            self._blame_client(flow.client_fault)
            return True
        if flow.has_output_ended:
            flow.send_close_notify()
            return not flow.has_unsent
        return False

    def _is_input_over(self, flow: Flow) -> bool:
        """Whether the backend needs no more of us than to know that."""
        fault = flow.input_fault
        if self._is_told or not flow.has_input_ended:
            return False
        if flow.is_refused:  # the backend closed its end: it wants no more input
            return not flow.reads_output
        if fault:
            if self._is_backend_done():
                return True
            self._blame(f"client_{fault.reason}", str(fault))
        if self._verdict.is_open():
            self._patience_ends = self._verdict.patience_ends
            return False
        self._is_told, self._patience_ends = True, math.inf
        if self._verdict.tell(is_clean=not fault):
            return True
        # All that this backend knows is an end, and it may still answer here.
        with contextlib.suppress(OSError):
            self._verdict.sock.shutdown(socket.SHUT_WR)
        return False

    def _is_backend_done(self) -> bool:
        """A backend that shut the shared socket down looks like a client that did."""
        return is_hung_up(self._verdict.sock) or has_only_sent_end(self._client)
