"""One client connection: the steps from accept to the end of our part in it.

The states are named for what they wait for; `ktlsgate.gate.states` is the machine.

A session is a fiber (`ktlsgate.gate.fibers`): handshake, keys, head, handoff, or an
answer of our own. A relay goes on without it, as a fiber of its own.

Deadlines: one per session, moved from step to step. What times out is known from the
state. It is lifted before what follows a step's verdict (an answer), which it does not
reach, not even if it passes in the very moment of the verdict.

Invariants kept here: I1 (one owner: `finish` runs once for every session, and
never calls shutdown() on a socket that was acknowledged) and I6 (cancellation: a
session that is cancelled closes its descriptor and reports; while a backend may
still take that descriptor out of its queue, it is shut down first, so that nobody
owns a connection that the gate gave up).

This module holds the one crash barrier per connection (`run_session`): whatever
goes wrong in here ends this connection, with its one log line, and no other.
"""

from __future__ import annotations

import contextlib
import functools
import math
import socket
from collections.abc import Awaitable, Callable

from OpenSSL import SSL

from ..config import KtlsPolicy, Offload, Route, RxFallback
from ..errors import (
    HandoffError,
    HandshakeFailed,
    HeadRejected,
    KtlsUnavailable,
    ResourceShortage,
)
from ..kernel.ktls import attach_ulp
from ..kernel.sockets import format_address, unmap_address
from ..wire.handoff import Handoff, Mode, TlsFacts
from ..wire.http_head import RequestHead
from ..wire.routes import RouteMatch
from .answers import (
    MISDIRECTED,
    NO_ROUTE,
    RX_REFUSED,
    SHORTAGES,
    SILENT_FAILURES,
    TIMEOUTS,
    answer,
)
from .client import ClientGone, KernelClient, linger
from .context import SessionContext
from .engines import shake_hands
from .fibers import DeadlinePassed, now, set_deadline, stop_watching
from .offloading import Client, Offloading
from .relay import Relay, RelayEnd
from .report import ConnectionReport, Event
from .states import State, Step, advance

__all__ = ["run_session"]

# By whether all has moved that will, and whether the kernel holds it all.
_OFFLOAD_STEPS = {
    (True, True): Step.KEYS_INSTALLED,
    (True, False): Step.OFFLOAD_REFUSED,
    (False, False): Step.OFFLOAD_DEFERRED,
}


async def run_session(
    context: SessionContext,
    sock: socket.socket,
    remote: tuple[str, int],
    number: int,
    on_end: Callable[[], None],
) -> None:
    """Serve one accepted connection until it is somebody else's, over, or left to a relay.

    Runs as a fiber, and never raises but for its `Stopped`. Reports exactly once, and
    calls ``on_end`` just before; where there is a relay that is after the return.
    """
    session = _Session(context, sock, remote, number, on_end)
    try:
        await session.run()
    except Exception as exc:  # noqa: BLE001 - the crash barrier
        session.report.crash(exc)
    except BaseException:
        session.report.end(Event.SHUTDOWN, "shutdown")
        raise
    finally:
        if not session.relay:
            session.finish()


class _Session:
    """The life of one connection in the gate."""

    __slots__ = ("_accepted", "_client", "_context", "_ending", "_is_head_request",
                 "_offloading", "_on_end", "_remote", "_sock", "_stage_began", "_state",
                 "_tls", "_ulp_reason", "relay", "report")  # fmt: skip

    def __init__(
        self,
        context: SessionContext,
        sock: socket.socket,
        remote: tuple[str, int],
        number: int,
        on_end: Callable[[], None],
    ) -> None:
        self._context = context
        self._on_end = on_end
        self._sock = sock
        self._remote = remote
        self._state = State.EXPECT_HANDSHAKE if context.tls else State.EXPECT_HEAD
        self._client: Client | None = None
        self._tls: TlsFacts | None = None
        self._offloading: Offloading | None = None
        self._ulp_reason = context.table.ulp_reason
        self._ending: Callable[[], Awaitable[None]] | None = None
        self.relay: Relay | None = None
        self._is_head_request = False
        self._accepted = self._stage_began = now()
        self.report = ConnectionReport(
            id=number,
            listener=context.listener.address,
            client=format_address(remote),
        )

    def _advance(self, step: Step) -> None:
        self._state = advance(self._state, step)

    def _end_stage(self) -> float:
        """Start the next stage; how many milliseconds the last one took."""
        began, self._stage_began = self._stage_began, now()
        return (self._stage_began - began) * 1000

    async def run(self) -> None:
        """Take the steps; then do what has no deadline of theirs."""
        try:
            await self._shake_hands()
            if self._state is State.EXPECT_HEAD:
                await self._exchange()
        except DeadlinePassed:
            self._time_out()
        except ResourceShortage as exc:
            self._run_short(exc)
        if self.relay:
            # It may last for days: keep what its end needs, and no more.
            self._client = self._tls = self._offloading = None
            self.relay.start(self._end_relay)
        elif self._ending:
            set_deadline(math.inf)
            await self._ending()

    async def _shake_hands(self) -> None:
        if not self._context.tls:
            self._client = KernelClient(self._sock, is_tls=False)
            return
        set_deadline(self._accepted + self._context.limits.handshake_timeout)
        await self._handshake(self._context.tls)

    async def _exchange(self) -> None:
        """Read a head and find somebody for it."""
        limits = self._context.limits
        client = self._client
        if client is None:
            raise AssertionError("who expects a head has a client")
        set_deadline(self._stage_began + limits.header_timeout)
        head_and_trailing = await self._read_head(client)
        if head_and_trailing:
            set_deadline(self._stage_began + limits.handoff_timeout)
            await self._dispose(*head_and_trailing)

    def _time_out(self) -> None:
        status, reason, detail = TIMEOUTS[self._state]
        is_contested = self._state is State.EXPECT_DISPOSAL
        self.report.end(Event.BACKEND_FAILED if is_contested else Event.TIMEOUT, reason, detail)
        self._break_off(Step.DEADLINE_PASSED, status)

    def _run_short(self, shortage: ResourceShortage) -> None:
        status, event = SHORTAGES[self._state]
        self.report.end(event, shortage.reason, str(shortage))
        self._break_off(Step.RESOURCES_EXHAUSTED, status)

    def _break_off(self, step: Step, status: int) -> None:
        """Leave a step undone; a backend may be just about to take the connection."""
        is_contested = self._state is State.EXPECT_DISPOSAL
        self._advance(step)
        if status:
            self._ending = functools.partial(self._answer, status, is_contested=is_contested)

    async def _handshake(self, tls: SSL.Context) -> None:
        """Steps 3 to 6: handshake and keys."""
        context = self._context
        if context.most is not Offload.NONE and not self._ulp_reason:
            self._attach_ulp()
        try:
            shaken = await shake_hands(self._sock, tls, context, self._ulp_reason)
        except HandshakeFailed as exc:
            self._advance(Step.HANDSHAKE_FAILED)
            self._refuse_handshake(exc)
            return
        self._advance(Step.ESTABLISHED)
        self._tls = facts = shaken.established.facts
        report = self.report
        report.tls, report.cipher, report.sni = facts.protocol, facts.cipher, facts.sni
        report.alpn, report.is_resumed = facts.alpn, facts.is_resumed
        report.engine = context.engine.value
        offloading = self._offloading = Offloading(
            self._sock, shaken, most=context.most, at_once=context.routes.offload_of(facts.sni)
        )
        self._client = offloading.client
        self._advance(_OFFLOAD_STEPS[offloading.is_settled, offloading.offload is Offload.BOTH])
        self._report_offload(offloading)
        report.handshake_ms = self._end_stage()

    def _attach_ulp(self) -> None:
        """Right after accept: once the client has sent FIN it is too late."""
        try:
            attach_ulp(self._sock)
        except KtlsUnavailable as exc:
            self._ulp_reason = str(exc)

    def _report_offload(self, offloading: Offloading) -> None:
        report = self.report
        report.ktls = offloading.label
        report.fallback, report.fallback_detail = offloading.reason, offloading.detail
        if offloading.is_settled and offloading.reason:
            self._context.metrics.relays[offloading.reason] += 1

    def _refuse_handshake(self, failure: HandshakeFailed) -> None:
        gone = failure.reason == "client_gone"
        self.report.end(
            Event.CLIENT_GONE if gone else Event.HANDSHAKE_FAILED, failure.reason, str(failure)
        )
        if failure.reason == "plain_http":
            self._ending = self._answer_plain_http
        elif failure.reason not in SILENT_FAILURES:
            # The alert, too, is lost if we close with bytes unread.
            self._ending = functools.partial(linger, self._sock)

    async def _answer_plain_http(self) -> None:
        self._client = KernelClient(self._sock, is_tls=False)
        await self._answer(400, detail="This port speaks HTTPS.")

    async def _read_head(self, client: Client) -> tuple[RequestHead, bytes] | None:
        """Step 7: one head, not one byte more."""
        try:
            head, trailing = await client.read_head(self._context.head_limits)
        except HeadRejected as exc:
            self._advance(Step.HEAD_REJECTED)
            self.report.end(Event.REFUSED, "bad_head", exc.reason)
            self._ending = functools.partial(self._answer, exc.status)
            return None
        except ClientGone as exc:
            self._advance(Step.PEER_CLOSED)
            self.report.end(Event.CLIENT_GONE, exc.reason, str(exc))
            return None
        self._advance(Step.HEAD_RECEIVED)
        self._is_head_request = head.method == b"HEAD"
        report = self.report
        report.method = head.method.decode("latin-1")
        report.target = head.target.decode("latin-1")
        report.host = head.host
        report.header_ms = self._end_stage()
        return head, trailing

    async def _dispose(self, head: RequestHead, trailing: bytes) -> None:
        """Steps 8 to 11: route, hand off, and relay where the kernel holds less."""
        found = self._context.routes.match(head)
        refusal = self._refusal(found.route, trailing) if found else NO_ROUTE
        if refusal or not found:
            status, reason, detail = refusal or NO_ROUTE
            self._advance(Step.REJECTED)
            self.report.end(Event.REFUSED, reason, detail)
            self._ending = functools.partial(self._answer, status)
            return
        self.report.backend = found.route.backend.name
        try:
            await self._give_away(head, trailing, found)
        except HandoffError as exc:
            self._advance(Step.HANDOFF_FAILED)
            self.report.end(Event.BACKEND_FAILED, exc.reason, str(exc))
            # What was taken back may still be in a backend's queue, and keep the client waiting.
            is_contested = exc.reason == "handoff_timeout"
            self._ending = functools.partial(self._answer, exc.status, is_contested=is_contested)

    def _refusal(self, route: Route, trailing: bytes) -> tuple[int, str, str] | None:
        """Settle who does the crypto; what of it forbids this request."""
        offloading = self._offloading
        if offloading is None:
            return None
        was_settled = offloading.is_settled
        is_allowed = offloading.settle(route, trailing)
        if not was_settled:
            self._client = offloading.client
            self._report_offload(offloading)
        if not is_allowed:
            return MISDIRECTED
        if offloading.offload is Offload.TX and route.backend.rx_fallback is RxFallback.REFUSE:
            return RX_REFUSED
        listener = self._context.listener
        wanted = listener.offload.at_most(route.offload)
        if listener.ktls is KtlsPolicy.REQUIRE and not wanted.is_within(offloading.offload):
            reason = offloading.detail or f"not offloaded: {offloading.reason}"
            return 503, "ktls_required", reason
        return None

    async def _give_away(self, head: RequestHead, trailing: bytes, found: RouteMatch) -> None:
        client = self._client
        if client is None:
            raise AssertionError("a head was read from somebody")
        relay = await self._context.disposal.give_away(
            self._make_handoff(head, found),
            found.route.backend,
            client,
            trailing,
            idle_timeout=self._context.limits.relay_idle_timeout,
        )
        self._acknowledge(Step.RELAY_STARTED if relay else Step.HANDOFF_ACKNOWLEDGED)
        self.relay = relay

    def _make_handoff(self, head: RequestHead, found: RouteMatch) -> Handoff:
        """Collect what the backend is told; it takes our copy of the secrets with it."""
        offloading, fallback = self._offloading, found.route.backend.rx_fallback
        secrets = offloading.release_secrets() if offloading else None
        return Handoff(
            head=head,
            mode=offloading.mode_for(fallback) if offloading else Mode.PLAIN,
            tls=self._tls,
            remote=self._remote,
            local=unmap_address(self._sock.getsockname()),
            is_single=found.is_single,
            secrets=secrets if found.route.share_secrets else None,
        )

    def _acknowledge(self, step: Step) -> None:
        """The backend has it (invariant I1): no deadline of ours counts any more."""
        self._advance(step)
        self.report.event = Event.HANDOFF if step is Step.HANDOFF_ACKNOWLEDGED else Event.RELAY
        self.report.handoff_ms = self._end_stage()
        key = (self.report.tls, self.report.cipher, self.report.ktls)
        self._context.metrics.handoffs[key] += 1

    def _end_relay(self, end: RelayEnd, error: BaseException | None) -> None:
        if isinstance(error, Exception):
            self.report.crash(error)
        elif error:
            self.report.end(Event.SHUTDOWN, "shutdown")
        else:
            self._advance(Step.BOTH_SIDES_CLOSED)
            self.report.bytes_in, self.report.bytes_out = end.bytes_in, end.bytes_out
            self.report.reason, self.report.detail = end.reason, end.detail
        self.finish()

    async def _answer(self, status: int, *, detail: str = "", is_contested: bool = False) -> None:
        """Answer in the backend's place and end the connection.

        ``is_contested``: a backend may still take the descriptor out of its queue;
        shutting the socket down both ways makes it useless to it.
        """
        client = self._client
        if client is None:
            raise AssertionError("there is nobody to answer before the handshake")
        self.report.status = status
        try:
            await answer(client, status, is_head_request=self._is_head_request, detail=detail)
        finally:
            if is_contested:
                self._give_up()

    def _give_up(self) -> None:
        """Make the connection useless to a backend that takes it too late."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def finish(self) -> None:
        """Close our copy of the descriptor and report; once per session.

        In state HANDED_OFF closing sends nothing: the backend holds the socket.
        """
        stop_watching(self._sock)
        if self._state is State.EXPECT_DISPOSAL:  # cancelled, or crashed, in the middle
            self._give_up()
        self._sock.close()
        if self._offloading:
            self._offloading.forget()
        report, metrics = self.report, self._context.metrics
        report.duration_ms = (now() - self._accepted) * 1000
        metrics.outcomes[report.event.value] += 1
        if report.reason:
            metrics.failures[report.reason] += 1
        self._on_end()
        self._context.report(report)
