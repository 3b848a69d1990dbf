"""What the gate says to clients itself: statuses, their reasons, and how they are sent.

Rule: an answer of ours is the last thing on its connection.
"""

from __future__ import annotations

import contextlib

from ..errors import ResourceShortage
from ..wire.error_response import build_error_response
from .client import KernelClient, RelayedClient
from .patience import give_up_after
from .report import Event
from .states import State

__all__ = [
    "MISDIRECTED",
    "NO_ROUTE",
    "RX_REFUSED",
    "SHORTAGES",
    "SILENT_FAILURES",
    "TIMEOUTS",
    "answer",
]

# What to tell a client whose time ran out: HTTP status (0: nothing), reason, words.
TIMEOUTS = {
    State.EXPECT_HANDSHAKE: (0, "handshake_timeout", "the handshake took too long"),
    State.EXPECT_HEAD: (408, "header_timeout", "the request head took too long"),
    State.EXPECT_DISPOSAL: (503, "handoff_timeout", "the backend did not take the connection"),
}

# What becomes of a client for whom this machine has no room: HTTP status (0: nothing), event.
SHORTAGES = {
    State.EXPECT_HANDSHAKE: (0, Event.HANDSHAKE_FAILED),
    State.EXPECT_HEAD: (503, Event.REFUSED),
    State.EXPECT_DISPOSAL: (503, Event.BACKEND_FAILED),
}

NO_ROUTE = (404, "no_route", "no route for this host and path")
MISDIRECTED = (421, "misdirected", "the route allows less offload than the name asked for in TLS")
RX_REFUSED = (503, "rx_refused", "the kernel does not decrypt, and the backend cannot do without")

# Failed handshakes after which there is nobody to hear anything.
SILENT_FAILURES = frozenset(("client_gone", "not_tls"))

# How long an answer may take to leave; it fits into any send buffer.
_SECONDS = 5.0


async def answer(
    client: KernelClient | RelayedClient, status: int, *, is_head_request: bool, detail: str
) -> None:
    """Answer in the backend's place, say goodbye, and see that the client can read it.

    A deadline of the fiber's would cut it short: its caller lifts that before.

    Args:
        client: who gets it; its socket stays the caller's to close.
        status: of the response, with its usual words.
        is_head_request: whether the body is left out.
        detail: words for the body in place of the usual ones.
    """
    response = build_error_response(status, is_head_request=is_head_request, detail=detail)

    async def say() -> None:
        await client.send_all(response)
        await client.say_goodbye()

    with contextlib.suppress(OSError, ResourceShortage):
        await give_up_after(_SECONDS, say)
