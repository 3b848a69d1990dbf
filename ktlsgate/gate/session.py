"""One client connection: the steps from accept to the end of our part in it.

The states are named for what they wait for; `TRANSITIONS` is the whole machine.
A pair that is missing there is a bug and is raised.

Deadlines: one cancel scope per session, whose deadline is moved from step to
step. What times out is known from the state (`_TIMEOUTS`).

Invariants kept here: I1 (the descriptor has one owner: `_close` runs once for
every session, and never calls shutdown() on a socket that was acknowledged) and
I6 (cancellation: every step says what it leaves; a cancelled session closes).

This module holds the one crash barrier per connection (`run_session`): whatever
goes wrong in here ends this connection, with its one log line, and no other.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import math
import socket
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypedDict

import trio
from OpenSSL import SSL

from ..config import Dialect, KtlsPolicy, Limits, Listener, Offload, Route
from ..errors import (
    BackendFailed,
    BackendUnavailable,
    HandoffError,
    HandshakeFailed,
    HeadRejected,
    KtlsUnavailable,
)
from ..kernel.ktls import attach_ulp
from ..kernel.sockets import format_address, unmap_address
from ..metrics import Metrics
from ..wire.error_response import build_error_response
from ..wire.handoff import Handoff, Mode, TlsFacts
from ..wire.handoff_scgi import encode
from ..wire.handshake import Handshake
from ..wire.http_head import HeadLimits, RequestHead
from ..wire.routes import is_single, match_route
from .client import ClientGone, KernelClient, RelayedClient, linger
from .handoff import hand_off
from .handshake import perform_handshake
from .offload import Offloaded, OffloadTable, offload
from .relay import RelayEnd, relay_both, relay_input
from .report import ConnectionReport, Event, Report
from .stream import send_all

__all__ = ["TRANSITIONS", "SessionContext", "State", "Step", "run_session"]


class State(enum.Enum):
    """What a session waits for."""

    EXPECT_HANDSHAKE = "handshake"
    EXPECT_OFFLOAD = "offload"
    EXPECT_HEAD = "head"
    EXPECT_DISPOSAL = "disposal"
    RELAYING = "relaying"
    HANDED_OFF = "handed_off"
    CLOSED = "closed"


class Step(enum.Enum):
    """What happened."""

    ESTABLISHED = "established"
    HANDSHAKE_FAILED = "handshake_failed"
    KEYS_INSTALLED = "keys_installed"
    OFFLOAD_REFUSED = "offload_refused"
    HEAD_RECEIVED = "head_received"
    HEAD_REJECTED = "head_rejected"
    PEER_CLOSED = "peer_closed"
    HANDOFF_ACKNOWLEDGED = "handoff_acknowledged"
    RELAY_STARTED = "relay_started"
    HANDOFF_FAILED = "handoff_failed"
    REJECTED = "rejected"
    BOTH_SIDES_CLOSED = "both_sides_closed"
    DEADLINE_PASSED = "deadline_passed"


TRANSITIONS: dict[State, dict[Step, State]] = {
    State.EXPECT_HANDSHAKE: {
        Step.ESTABLISHED: State.EXPECT_OFFLOAD,
        Step.HANDSHAKE_FAILED: State.CLOSED,
        Step.DEADLINE_PASSED: State.CLOSED,
    },
    State.EXPECT_OFFLOAD: {
        Step.KEYS_INSTALLED: State.EXPECT_HEAD,
        Step.OFFLOAD_REFUSED: State.EXPECT_HEAD,
    },
    State.EXPECT_HEAD: {
        Step.HEAD_RECEIVED: State.EXPECT_DISPOSAL,
        Step.HEAD_REJECTED: State.CLOSED,
        Step.PEER_CLOSED: State.CLOSED,
        Step.DEADLINE_PASSED: State.CLOSED,
    },
    State.EXPECT_DISPOSAL: {
        Step.HANDOFF_ACKNOWLEDGED: State.HANDED_OFF,
        Step.RELAY_STARTED: State.RELAYING,
        Step.HANDOFF_FAILED: State.CLOSED,
        Step.REJECTED: State.CLOSED,
        Step.DEADLINE_PASSED: State.CLOSED,
    },
    State.RELAYING: {
        Step.BOTH_SIDES_CLOSED: State.CLOSED,
        Step.DEADLINE_PASSED: State.CLOSED,
    },
    State.HANDED_OFF: {},
    State.CLOSED: {},
}

# What to tell a client whose time ran out: HTTP status (0: nothing), reason, words.
_TIMEOUTS = {
    State.EXPECT_HANDSHAKE: (0, "handshake_timeout", "the handshake took too long"),
    State.EXPECT_HEAD: (408, "header_timeout", "the request head took too long"),
    State.EXPECT_DISPOSAL: (503, "handoff_timeout", "the backend did not take the connection"),
}

# How long an answer of our own may take to leave; it fits into any send buffer.
_ANSWER_SECONDS = 5.0


class _RelayTerms(TypedDict):
    idle_timeout: float
    has_verdicts: bool


_KTLS_LABELS = {Offload.BOTH: "tx+rx", Offload.TX: "tx", Offload.NONE: "none"}
_MODES = {Offload.BOTH: Mode.BOTH, Offload.TX: Mode.TX, Offload.NONE: Mode.RELAY}


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionContext:
    """What the sessions of one listener share; everything that can be made once.

    Attributes:
        listener: its configuration.
        tls: the OpenSSL context; None on a plain-HTTP listener.
        table: what the kernel can offload.
        most: the most that the operator allows it to.
        routes: in the order of matching.
        singles: by route, whether its connections end after one response.
        limits: bounds in seconds and bytes.
        head_limits: the part of them that the head scanner takes.
        metrics: counters of the process.
        report: where the one line of each connection goes.
    """

    listener: Listener
    tls: SSL.Context | None
    table: OffloadTable
    most: Offload
    routes: tuple[Route, ...]
    singles: tuple[bool, ...]
    limits: Limits
    head_limits: HeadLimits
    metrics: Metrics
    report: Report

    @classmethod
    def make(
        cls,
        *,
        listener: Listener,
        tls: SSL.Context | None,
        table: OffloadTable,
        routes: tuple[Route, ...],
        limits: Limits,
        metrics: Metrics,
        report: Report,
    ) -> SessionContext:
        """Compute what follows from the configuration."""
        return cls(
            listener=listener,
            tls=tls,
            table=table,
            most=Offload.NONE if listener.ktls is KtlsPolicy.OFF else listener.offload,
            routes=routes,
            singles=tuple(is_single(route, routes) for route in routes),
            limits=limits,
            head_limits=HeadLimits(
                max_bytes=limits.max_header_bytes, max_count=limits.max_header_count
            ),
            metrics=metrics,
            report=report,
        )


async def run_session(
    context: SessionContext, sock: socket.socket, remote: tuple[str, int], number: int
) -> None:
    """Serve one accepted connection until it is somebody else's, or over.

    Never raises but for Trio's Cancelled. Reports exactly once.
    """
    session = _Session(context, sock, remote, number)
    try:
        await session.run()
    except Exception as exc:  # noqa: BLE001 - the crash barrier
        session.report.event = Event.CRASHED
        session.report.reason = "crashed"
        session.report.detail = f"{type(exc).__name__}: {exc}"
        session.report.traceback = traceback.format_exc()
    except BaseException:
        session.report.event = Event.SHUTDOWN
        session.report.reason = "shutdown"
        raise
    finally:
        session.finish()


class _Session:
    """The life of one connection in the gate."""

    __slots__ = (
        "_accepted",
        "_client",
        "_context",
        "_offloaded",
        "_relay",
        "_remote",
        "_scope",
        "_sock",
        "_stage_began",
        "_state",
        "_tls",
        "_ulp_reason",
        "report",
    )

    def __init__(
        self,
        context: SessionContext,
        sock: socket.socket,
        remote: tuple[str, int],
        number: int,
    ) -> None:
        self._context = context
        self._sock = sock
        self._remote = remote
        self._state = State.EXPECT_HANDSHAKE if context.tls else State.EXPECT_HEAD
        self._client: KernelClient | RelayedClient | None = None
        self._tls: TlsFacts | None = None
        self._offloaded = Offloaded(offload=Offload.NONE)
        self._ulp_reason = context.table.ulp_reason
        self._relay: Callable[[], Awaitable[RelayEnd]] | None = None
        self._accepted = self._stage_began = trio.current_time()
        self._scope = trio.CancelScope()
        self.report = ConnectionReport(
            id=number,
            listener=context.listener.address,
            client=format_address(remote),
        )

    def _advance(self, step: Step) -> None:
        try:
            self._state = TRANSITIONS[self._state][step]
        except KeyError:
            raise AssertionError(f"{step} is not legal in {self._state}") from None

    def _stage_ms(self) -> float:
        """Milliseconds since the last stage ended; starts the next one."""
        began, self._stage_began = self._stage_began, trio.current_time()
        return round((self._stage_began - began) * 1000, 3)

    async def run(self) -> None:
        """Take the steps; answer a client whose time ran out."""
        with self._scope:
            await self._serve()
        if self._relay:
            # Outside the scope: a deadline that passed in the very moment of the
            # acknowledgement must not reach what follows it.
            self._end_relay(await self._relay())
        elif self._scope.cancelled_caught and self._state in _TIMEOUTS:
            await self._time_out()

    async def _serve(self) -> None:
        limits = self._context.limits
        if self._context.tls:
            self._scope.deadline = self._accepted + limits.handshake_timeout
            if not await self._handshake(self._context.tls):
                return
        client = self._client or KernelClient(self._sock, is_tls=False)
        self._client = client
        self._scope.deadline = trio.current_time() + limits.header_timeout
        head_and_trailing = await self._read_head(client)
        if head_and_trailing:
            self._scope.deadline = trio.current_time() + limits.handoff_timeout
            await self._dispose(*head_and_trailing)

    async def _time_out(self) -> None:
        status, reason, detail = _TIMEOUTS[self._state]
        is_contested = self._state is State.EXPECT_DISPOSAL
        self._advance(Step.DEADLINE_PASSED)
        self._end(Event.BACKEND_FAILED if is_contested else Event.TIMEOUT, reason, detail)
        if status:
            await self._answer(status, is_contested=is_contested)

    async def _handshake(self, tls: SSL.Context) -> bool:
        """Steps 3 to 6: handshake and keys; whether a client came of it."""
        context = self._context
        if context.most is not Offload.NONE and not self._ulp_reason:
            self._attach_ulp()
        handshake = Handshake(tls, max_bytes=context.limits.max_handshake_bytes)
        try:
            await perform_handshake(self._sock, handshake)
        except HandshakeFailed as exc:
            self._advance(Step.HANDSHAKE_FAILED)
            await self._refuse_handshake(exc)
            return False
        established = handshake.established()
        self._advance(Step.ESTABLISHED)
        self._tls = facts = established.facts
        report = self.report
        report.tls, report.cipher, report.sni = facts.protocol, facts.cipher, facts.sni
        report.alpn, report.is_resumed = facts.alpn, facts.is_resumed
        offloaded = self._offloaded = offload(
            self._sock,
            handshake,
            established,
            table=context.table,
            most=context.most,
            ulp_reason=self._ulp_reason,
        )
        self._take_offloaded(offloaded)
        return True

    def _attach_ulp(self) -> None:
        """Right after accept: once the client has sent FIN it is too late."""
        try:
            attach_ulp(self._sock)
        except KtlsUnavailable as exc:
            self._ulp_reason = str(exc)

    def _take_offloaded(self, offloaded: Offloaded) -> None:
        report = self.report
        report.ktls = _KTLS_LABELS[offloaded.offload]
        if offloaded.records is None:
            self._client = KernelClient(self._sock, is_tls=True)
            self._advance(Step.KEYS_INSTALLED)
        else:
            self._client = RelayedClient(
                self._sock, offloaded.records, kernel_sends=offloaded.offload is Offload.TX
            )
            self._advance(Step.OFFLOAD_REFUSED)
            report.reason, report.detail = offloaded.reason, offloaded.detail
            self._context.metrics.relays[offloaded.reason] += 1
        report.handshake_ms = self._stage_ms()

    async def _refuse_handshake(self, failure: HandshakeFailed) -> None:
        gone = failure.reason == "client_gone"
        self._end(
            Event.CLIENT_GONE if gone else Event.HANDSHAKE_FAILED, failure.reason, str(failure)
        )
        if failure.reason == "plain_http":
            self.report.status = 400
            answer = build_error_response(400, detail="This port speaks HTTPS.")
            with contextlib.suppress(OSError), trio.move_on_after(_ANSWER_SECONDS):
                await send_all(self._sock, answer)
        if not gone:
            # The alert, too, is lost if we close with bytes unread.
            await linger(self._sock)

    async def _read_head(
        self, client: KernelClient | RelayedClient
    ) -> tuple[RequestHead, bytes] | None:
        """Step 7: one head, not one byte more."""
        try:
            head, trailing = await client.read_head(self._context.head_limits)
        except HeadRejected as exc:
            self._advance(Step.HEAD_REJECTED)
            self._end(Event.REFUSED, "bad_head", exc.reason)
            await self._answer(exc.status)
            return None
        except ClientGone as exc:
            self._advance(Step.PEER_CLOSED)
            self._end(Event.CLIENT_GONE, exc.reason, str(exc))
            return None
        self._advance(Step.HEAD_RECEIVED)
        report = self.report
        report.method = head.method.decode("latin-1")
        report.target = head.target.decode("latin-1")
        report.host = head.host
        report.header_ms = self._stage_ms()
        return head, trailing

    async def _dispose(self, head: RequestHead, trailing: bytes) -> None:
        """Steps 8 to 11: route, hand off, and relay where the kernel holds less."""
        refusal = self._refusal()
        route = match_route(self._context.routes, head)
        if refusal is None and route is None:
            refusal = (404, "no_route", "no route for this host and path")
        if refusal is not None or route is None:
            status, reason, detail = refusal or (500, "", "")
            self._advance(Step.REJECTED)
            self._end(Event.REFUSED, reason, detail)
            await self._answer(status, is_head_request=head.method == b"HEAD")
            return
        self.report.backend = route.backend.name
        try:
            await self._give_away(head, trailing, route)
        except HandoffError as exc:
            self._advance(Step.HANDOFF_FAILED)
            self._end(Event.BACKEND_FAILED, exc.reason, str(exc))
            status = exc.status if isinstance(exc, BackendFailed | BackendUnavailable) else 502
            await self._answer(status, is_head_request=head.method == b"HEAD")

    def _refusal(self) -> tuple[int, str, str] | None:
        """What forbids a request before any route is asked."""
        listener = self._context.listener
        if (
            listener.ktls is KtlsPolicy.REQUIRE
            and self._tls is not None
            and self._offloaded.offload is not listener.offload
        ):
            offloaded = self._offloaded
            return 503, "ktls_required", offloaded.detail or f"not offloaded: {offloaded.reason}"
        return None

    async def _give_away(self, head: RequestHead, trailing: bytes, route: Route) -> None:
        context = self._context
        mode = _MODES[self._offloaded.offload] if self._tls else Mode.PLAIN
        handoff = Handoff(
            head=head,
            mode=mode,
            tls=self._tls,
            remote=self._remote,
            local=unmap_address(self._sock.getsockname()),
            is_single=context.singles[context.routes.index(route)],
        )
        encoded = encode(handoff, route.backend.dialect)
        if mode in (Mode.PLAIN, Mode.BOTH):
            await self._pass_client(encoded, route)
        elif mode is Mode.TX:
            await self._relay_input(encoded, trailing, route)
        else:
            await self._relay_both(encoded, trailing, route)

    async def _pass_client(self, encoded: bytes, route: Route) -> None:
        """The kernel holds all: the client's socket leaves the gate."""
        # While the file description lives on in the backend, epoll would keep a dead
        # entry of ours and wake on every packet.
        trio.lowlevel.notify_closing(self._sock)
        unix = await hand_off(route.backend, encoded, self._sock, keeps_open=False)
        self._acknowledge(Step.HANDOFF_ACKNOWLEDGED)
        trio.lowlevel.notify_closing(unix)
        unix.close()

    async def _relay_input(self, encoded: bytes, trailing: bytes, route: Route) -> None:
        """The kernel sends: the backend has the socket, and its input through us."""
        unix = await hand_off(route.backend, encoded, self._sock, keeps_open=True)
        self._acknowledge(Step.RELAY_STARTED)
        self._relay = functools.partial(
            relay_input, self._relayed_client(), unix, trailing, **self._relay_terms(route)
        )

    async def _relay_both(self, encoded: bytes, trailing: bytes, route: Route) -> None:
        """The kernel holds nothing: the backend has one end of a socketpair."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            unix = await hand_off(route.backend, encoded, theirs, keeps_open=False)
            undo.pop_all()
        self._acknowledge(Step.RELAY_STARTED)
        self._relay = functools.partial(
            relay_both, self._relayed_client(), ours, unix, trailing, **self._relay_terms(route)
        )

    def _relayed_client(self) -> RelayedClient:
        if not isinstance(self._client, RelayedClient):
            raise AssertionError("only OpenSSL receives what the kernel does not")
        return self._client

    def _relay_terms(self, route: Route) -> _RelayTerms:
        return {
            "idle_timeout": self._context.limits.relay_idle_timeout,
            "has_verdicts": route.backend.dialect is Dialect.KTLSGATE,
        }

    def _acknowledge(self, step: Step) -> None:
        """The backend has it (invariant I1): no deadline of ours counts any more."""
        self._advance(step)
        self.report.event = Event.HANDOFF if step is Step.HANDOFF_ACKNOWLEDGED else Event.RELAY
        self.report.handoff_ms = self._stage_ms()
        key = (self.report.tls, self.report.cipher, self.report.ktls)
        self._context.metrics.handoffs[key] += 1

    def _end_relay(self, end: RelayEnd) -> None:
        self._advance(Step.BOTH_SIDES_CLOSED)
        report = self.report
        report.bytes_in, report.bytes_out = end.bytes_in, end.bytes_out
        if end.reason:
            report.reason, report.detail = end.reason, end.detail

    def _end(self, event: Event, reason: str, detail: str) -> None:
        self._scope.deadline = math.inf  # what is still to be said has its own limit
        self.report.event, self.report.reason, self.report.detail = event, reason, detail

    async def _answer(
        self, status: int, *, is_head_request: bool = False, is_contested: bool = False
    ) -> None:
        """Answer in the backend's place and end the connection.

        ``is_contested``: a backend may still take the descriptor out of its queue;
        shutting the socket down both ways makes it useless to it.
        """
        client = self._client
        if client is None:
            raise AssertionError("there is nobody to answer before the handshake")
        self.report.status = status
        answer = build_error_response(status, is_head_request=is_head_request)
        with contextlib.suppress(OSError), trio.move_on_after(_ANSWER_SECONDS):
            await client.send_all(answer)
            await client.say_goodbye()
        if is_contested:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    def finish(self) -> None:
        """Close our copy of the descriptor and report; once per session.

        In state HANDED_OFF closing sends nothing: the backend holds the socket.
        """
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()
        report = self.report
        report.duration_ms = round((trio.current_time() - self._accepted) * 1000, 3)
        metrics = self._context.metrics
        metrics.outcomes[report.event.value] += 1
        if report.reason:
            metrics.failures[report.reason] += 1
        self._context.report(report)
