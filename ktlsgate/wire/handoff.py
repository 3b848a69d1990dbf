"""A handoff as a value: everything a backend is told beside the descriptor.

Theory of operation
-------------------

One Unix stream connection carries one handoff, unless it is kept (below). The gate
sends the encoded head (`ktlsgate.wire.handoff_scgi`) with exactly one descriptor on its
first byte.
What happens next depends on the mode:

======== ========================= ======================= ======================
mode     descriptor                client's input          the Unix connection
======== ========================= ======================= ======================
PLAIN    the client's socket       on the descriptor       ends after the head
BOTH     the client's socket       on the descriptor       ends after the head
TX       the client's socket,      decrypted, unframed,    carries the input;
         for writing               behind the head         backend ends it last
RELAY    one end of a socketpair   on the descriptor       ends after the head
======== ========================= ======================= ======================

"Ends" is seen from the gate: it shuts down its sending side, so a reader gets
end of file right behind the head, as with nginx's fd_pass.

Acknowledgement (invariant I1: ownership moves at the acknowledgement). The gate
asks the kernel whether the backend has read every byte of the head (SIOCOUTQ),
or sees the backend close the connection in an orderly way, which is the same.
A backend that closes or dies with the head unread resets the connection, and
the descriptor in flight dies with it: the gate still owns the client and
answers 502. So every reader acknowledges by reading; none needs to know.

Kept connections. Where the operator says so, our dialect's handoffs in PLAIN and BOTH
come one after another on one connection; each head says ``KTLSGATE_CONNECTION=kept``.
There the receiver acknowledges by writing `RECEIVED` once for each head, nothing else
counts, and the gate sends the next head only after it. A receiver may end a kept
connection whenever it likes: what it did not acknowledge, or could not (EPIPE: the gate
took it back), it did not take and must not answer; the gate hands it over on another one.

The verdict. How input ended (close_notify, or a cut) is known only to the gate
in the modes TX and RELAY. In our dialect the receiver writes `RECEIVED`, one
byte, when it has the head, and keeps the Unix connection open. The gate leaves
that byte unread. When the input ends cleanly it reads the byte away first: the
receiver sees an ordinary end. When the input was cut, or the gate dies, the
connection is closed with the byte unread, and Linux turns that into ECONNRESET
at the receiver, behind all data. In mode RELAY the gate does so before it ends
the data stream, so that the verdict (SO_ERROR) is there when the end is read.
The other way round a receiver that is done writes `FINISHED` before it ends its
output in mode RELAY; without it the gate, too, calls the end a cut and sends no
close_notify. A backend that never writes `RECEIVED` (nginx's dialect) has no
verdict in either direction: all ends are plain ends.

The secrets (invariant I5, amended). A receiver that is to follow KeyUpdates needs
both current traffic secrets; keys are not enough, for the next ones come from the
secrets. On a route with ``share_secrets``, for TLS 1.3 in mode BOTH on a kernel that
can rekey, our dialect carries them in hexadecimal: ``KTLSGATE_TX_SECRET``, which a
backend sends under (the server's), and ``KTLSGATE_RX_SECRET`` (the client's). They are
written into the head and forgotten: here `Handoff` hides them from its ``repr``, and
there they are split off at decoding, before applications see the names and values.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .http_head import RequestHead
    from .key_schedule import TrafficSecrets

__all__ = ["FINISHED", "RECEIVED", "Address", "Handoff", "Mode", "TlsFacts"]

RECEIVED = b"\x06"  # ASCII ACK: receiver to gate, once, when it has the whole head
FINISHED = b"\x04"  # ASCII EOT: receiver to gate, before it ends its output on purpose

Address = tuple[str, int]


class Mode(enum.Enum):
    """Who decrypts and encrypts after the handoff; the value is what the wire says."""

    PLAIN = "plain"  # no TLS at all
    BOTH = "both"  # the kernel, both directions
    TX = "tx"  # the kernel sends, the gate receives and relays
    RELAY = "relay"  # the gate, both directions


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFacts:
    """What the handshake established, in mod_ssl's terms.

    Attributes:
        protocol: ``TLSv1.2`` or ``TLSv1.3``.
        cipher: OpenSSL's name of the suite.
        sni: the name that the client asked for, empty for none.
        alpn: the protocol agreed on, empty for none.
        is_resumed: whether an earlier session was continued.
        client_certificate: ``SSL_CLIENT_*`` names and values, see
            `ktlsgate.wire.client_certificate`; empty when none was sent.
    """

    protocol: str
    cipher: str
    sni: str = ""
    alpn: str = ""
    is_resumed: bool = False
    client_certificate: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handoff:
    """One connection on its way to a backend.

    Attributes:
        head: the request head, already taken from the stream.
        mode: who does the crypto, and so what the descriptor is.
        tls: None on a plain-HTTP listener.
        remote: the client's address and port.
        local: the address and port that the client connected to.
        is_single: whether the connection must end after one response, because a
            later request could be meant for another route.
        secrets: for a backend that is trusted with them, in our dialect only.
    """

    head: RequestHead
    mode: Mode
    tls: TlsFacts | None
    remote: Address
    local: Address
    is_single: bool
    secrets: TrafficSecrets | None = field(default=None, repr=False)
