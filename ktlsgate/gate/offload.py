"""Established → keys → kernel, and what to do where the kernel holds less.

Decides per connection how much goes to the kernel and does it. Keeps invariant
I4 (no second writer): once the sending key is installed OpenSSL never writes
again; with both installed its object is gone.

Order: all output sent (the handshake saw to it), TX, then RX. TX is checked by
getsockopt, since without it we would send in clear; without RX we would receive
ciphertext, which no head scanner takes for a request. If TX is refused nothing has
changed and OpenSSL carries on. If RX is refused after TX, OpenSSL goes on receiving
and the kernel sends.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Protocol

from ..config import Offload
from ..errors import KtlsUnavailable
from ..kernel.ktls import has_tx, install_rx, install_tx
from ..wire.ciphers import CipherSuite, Version
from ..wire.crypto_info import RxCryptoInfo
from ..wire.handshake import Established, Handshake
from ..wire.key_schedule import TrafficSecrets
from ..wire.record_layer import RecordLayer

__all__ = ["OffloadTable", "Offloaded", "offload"]


class OffloadTable(Protocol):
    """What the start-up probe found: `ktlsgate.kernel.probe.OffloadTable`."""

    @property
    def ulp_reason(self) -> str:
        """Why nothing can be offloaded here, in words; empty when something can."""

    @property
    def can_rekey(self) -> bool:
        """Whether this kernel can follow KeyUpdates."""

    def supports(self, suite: CipherSuite) -> Offload:
        """Which directions this kernel does for a suite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offloaded:
    """Who does the crypto now.

    Attributes:
        offload: what the kernel holds.
        reason: why it is not more, one word for counters; empty when it is all.
        detail: the same in words.
        records: OpenSSL's record layer for what the kernel does not hold; None for BOTH.
        secrets: kept for a backend that can rekey, by wish only (invariant I5).
    """

    offload: Offload
    reason: str = ""
    detail: str = ""
    records: RecordLayer | None = None
    secrets: TrafficSecrets | None = field(default=None, repr=False)


def _refusal(
    handshake: Handshake,
    established: Established,
    table: OffloadTable,
    most: Offload,
    ulp_reason: str,
) -> str:
    """The reason why nothing can be offloaded, empty when something can."""
    suite = established.suite
    reasons = (
        (most is Offload.NONE, "policy"),
        (suite is None, "cipher"),
        # The kernel writes records of 16384 bytes whatever the client can take (RFC 6066 4).
        (established.has_max_fragment_length, "max_fragment_length"),
        (bool(ulp_reason), "no_ulp"),
        (suite is not None and table.supports(suite) is Offload.NONE, "kernel"),
        (handshake.has_pending_data, "pending_data"),
    )
    for is_refused, reason in reasons:
        if is_refused:
            return reason
    return ""


def offload(
    sock: socket.socket,
    handshake: Handshake,
    established: Established,
    *,
    table: OffloadTable,
    most: Offload,
    ulp_reason: str = "",
    keeps_secrets: bool = False,
) -> Offloaded:
    """Move as much of a connection into the kernel as kernel, client and operator allow.

    Args:
        sock: the client's socket, ULP attached unless ``ulp_reason`` says otherwise.
        handshake: established, its output sent; used up by this call.
        established: what it agreed on.
        table: what the kernel can do.
        most: the operator's bound.
        ulp_reason: why the ULP could not be attached to this socket.
        keeps_secrets: whether some backend may be given them: kept then for TLS 1.3 in
            both directions on a kernel that can rekey.
    """
    reason = _refusal(handshake, established, table, most, ulp_reason)
    if reason:
        return _keep_all(handshake, reason, ulp_reason if reason == "no_ulp" else "")
    suite = established.suite
    if suite is None:
        raise AssertionError("a suite without a kernel cipher is refused above")
    tx, rx = handshake.derive_keys(suite)
    can_rekey = suite.version is Version.TLS13 and table.can_rekey
    secrets = handshake.traffic_secrets(suite) if keeps_secrets and can_rekey else None
    try:
        install_tx(sock, tx)
    except KtlsUnavailable as exc:
        return _keep_all(handshake, "key_refused", str(exc))
    if not has_tx(sock):
        raise AssertionError("the kernel took the sending key and does not have it")
    if not Offload.BOTH.is_within(table.supports(suite).at_most(most)):
        return _keep_rx(handshake, "tx_only", "")
    return _offload_rx(sock, handshake, rx, secrets)


def _offload_rx(
    sock: socket.socket, handshake: Handshake, rx: RxCryptoInfo, secrets: TrafficSecrets | None
) -> Offloaded:
    try:
        install_rx(sock, rx)
    except KtlsUnavailable as exc:
        return _keep_rx(handshake, "key_refused", str(exc))
    handshake.forget()
    return Offloaded(offload=Offload.BOTH, secrets=secrets)


def _keep_rx(handshake: Handshake, reason: str, detail: str) -> Offloaded:
    records = handshake.into_record_layer()
    return Offloaded(offload=Offload.TX, reason=reason, detail=detail, records=records)


def _keep_all(handshake: Handshake, reason: str, detail: str) -> Offloaded:
    records = handshake.into_record_layer()
    return Offloaded(offload=Offload.NONE, reason=reason, detail=detail, records=records)
