"""When a connection's keys move: behind the handshake, or once its route is known.

Routes can ask for less offload than their listener. A route is known only by the
request head, and a key that the kernel has cannot be taken back. So:

* Mostly every route that the client can mean (by the name in its ClientHello) asks
  for the same. Then the keys move at once, and the head is read by the kernel.
* Otherwise OpenSSL reads the head, one exact record at a time, and the keys move
  behind it, as far as the route says. What was decrypted behind the head (a body in
  the same record) has no way into the kernel: then it only sends.

A head whose host is not the name of the ClientHello can ask for a route that allows
less than what was done. That request is refused (421, RFC 9110 section 15.5.20): its
client is to connect again and say the name that it means.
"""

from __future__ import annotations

import socket

from ..config import Offload, Route, RxFallback
from ..wire.counted_records import CountedRecordLayer
from ..wire.handoff import Mode
from ..wire.key_schedule import TrafficSecrets
from .client import KernelClient, RelayedClient
from .engines import Shaken
from .offload import Offloaded

__all__ = ["Client", "Offloading"]

Client = KernelClient | RelayedClient

_LABELS = {Offload.BOTH: "tx+rx", Offload.TX: "tx", Offload.NONE: "none"}
_MODES = {Offload.BOTH: Mode.BOTH, Offload.TX: Mode.TX, Offload.NONE: Mode.RELAY}
_DETAILS = {
    "control_record": "the client sent a record without data before its request was whole",
    "trailing_data": "the request's head came in one record with what follows it",
}


class Offloading:
    """Who does the crypto of one TLS connection.

    Attributes:
        client: the connection in plain bytes; another one after `settle`.
        is_settled: whether all has moved that will.
        offload: what the kernel holds.
        reason: why it is not more, one word; empty when it is all.
        detail: the same in words.
    """

    __slots__ = ("_counted", "_most", "_secrets", "_shaken", "_sock", "client", "detail",
                 "is_settled", "offload", "reason")  # fmt: skip

    def __init__(
        self, sock: socket.socket, shaken: Shaken, *, most: Offload, at_once: Offload | None
    ) -> None:
        """Begin right behind the handshake.

        Args:
            sock: the client's.
            shaken: what the engine made of it.
            most: the listener's bound.
            at_once: the bound, if it is known already; None to wait for the route.
        """
        self._sock = sock
        self._shaken: Shaken | None = shaken
        self._most = most
        self._secrets: TrafficSecrets | None = None
        self._counted: CountedRecordLayer | None = None
        self.is_settled = False
        self.offload, self.reason, self.detail = Offload.NONE, "undecided", ""
        self.client: Client
        if at_once is None:
            self._counted = shaken.count_records()
            self.client = RelayedClient(sock, self._counted, kernel_sends=False)
        else:
            self._take(shaken.offload(at_once))

    def _take(self, offloaded: Offloaded) -> None:
        self.is_settled, self._shaken, self._counted = True, None, None
        self.offload, self._secrets = offloaded.offload, offloaded.secrets
        self.reason, self.detail = offloaded.reason, offloaded.detail
        if offloaded.records is None:
            self.client = KernelClient(self._sock, is_tls=True)
        else:
            sends = offloaded.offload is Offload.TX
            self.client = RelayedClient(self._sock, offloaded.records, kernel_sends=sends)

    def settle(self, route: Route, trailing: bytes) -> bool:
        """Let the route have its say; called once, before its backend gets anything.

        Args:
            route: the one that matched.
            trailing: what was decrypted behind the head.

        Returns:
            Whether the route can have this connection; False when the kernel holds
            more than it allows.
        """
        if self._shaken is None or self._counted is None:
            return self.offload.is_within(route.offload)
        bound = self._most.at_most(route.offload)
        limit, why = self._limit(self._counted, bound, trailing)
        self._take(self._shaken.offload(limit))
        if why and self.offload is limit:
            self.reason, self.detail = why, _DETAILS[why]
        return True

    @staticmethod
    def _limit(counted: CountedRecordLayer, bound: Offload, trailing: bytes) -> tuple[Offload, str]:
        """Say how far keys can still move, and why no farther if that is less than the bound."""
        limits = (
            (counted.has_control_records, Offload.NONE, "control_record"),
            (bool(trailing), Offload.TX, "trailing_data"),
        )
        for applies, limit, why in limits:
            if applies and not bound.is_within(limit):
                return limit, why
        return bound, ""

    @property
    def label(self) -> str:
        """What the kernel holds, as log lines say it."""
        return _LABELS[self.offload]

    def mode_for(self, fallback: RxFallback) -> Mode:
        """What a backend is told that can take so much."""
        mode = _MODES[self.offload]
        return Mode.RELAY if mode is Mode.TX and fallback is RxFallback.PAIR else mode

    def release_secrets(self) -> TrafficSecrets | None:
        """Part from the traffic secrets, for one use (invariant I5)."""
        secrets, self._secrets = self._secrets, None
        return secrets

    def forget(self) -> None:
        """Drop OpenSSL's object if there is still one."""
        if isinstance(self.client, RelayedClient):
            self.client.records.forget()
