"""What the sessions of one listener share.

Rule: whatever can be made once per listener is made here, and not per connection.
"""

from __future__ import annotations

from dataclasses import dataclass

from OpenSSL import SSL

from ..config import KtlsPolicy, Limits, Listener, Offload, Route
from ..kernel.engines import Engine
from ..metrics import Metrics
from ..wire.http_head import HeadLimits
from ..wire.routes import RouteTable
from .disposal import Disposal
from .offload import OffloadTable
from .report import Report

__all__ = ["SessionContext"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionContext:
    """What the sessions of one listener share; everything that can be made once.

    Attributes:
        listener: its configuration.
        tls: the OpenSSL context; None on a plain-HTTP listener.
        engine: who puts keys into the kernel; ``tls`` is made for it.
        table: what the kernel can offload.
        most: the most that the operator allows it to.
        routes: compiled with that bound.
        keeps_secrets: whether any route shares them, so that they outlive the handshake.
        limits: bounds in seconds and bytes.
        head_limits: the part of them that the head scanner takes.
        metrics: counters of the process.
        disposal: gives requests away.
        report: where the one line of each connection goes.
    """

    listener: Listener
    tls: SSL.Context | None
    engine: Engine
    table: OffloadTable
    most: Offload
    routes: RouteTable
    keeps_secrets: bool
    limits: Limits
    head_limits: HeadLimits
    metrics: Metrics
    disposal: Disposal
    report: Report

    @classmethod
    def make(
        cls,
        *,
        listener: Listener,
        tls: SSL.Context | None,
        engine: Engine = Engine.DIRECT,
        table: OffloadTable,
        routes: tuple[Route, ...],
        limits: Limits,
        metrics: Metrics,
        disposal: Disposal,
        report: Report,
    ) -> SessionContext:
        """Compute what follows from the configuration."""
        most = Offload.NONE if listener.ktls is KtlsPolicy.OFF else listener.offload
        return cls(
            listener=listener,
            tls=tls,
            engine=engine,
            table=table,
            most=most,
            routes=RouteTable(routes, most),
            keeps_secrets=any(route.share_secrets for route in routes),
            limits=limits,
            head_limits=HeadLimits(
                max_bytes=limits.max_header_bytes, max_count=limits.max_header_count
            ),
            metrics=metrics,
            disposal=disposal,
            report=report,
        )
