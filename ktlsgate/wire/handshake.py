"""A server's TLS handshake over OpenSSL's memory BIOs, fed record by record.

Theory of operation
-------------------

The shell looks at a flight (MSG_PEEK) and hands it to `receive_data` in the pieces
that `cut` says, a whole record at most, until there is something to send or
`is_established`. Then it takes from the socket exactly what was used, and sends all
of `data_to_send` before it looks again. So nothing behind the last handshake record
ever leaves the socket (invariant I2): "stop when OpenSSL says that the handshake is
done" is the only right end, since TLS 1.3's handshake records look like application
data and the number of records varies with chains, tickets, HelloRetryRequest and
refused early data. The first flight alone may be taken as it comes, and all of it be
used: before our own has left, nobody can have sealed data for us. A shell that would
rather read than look reads at most `wanted` bytes at a time.

Sequence numbers (invariant I3) are counted on the wire, never assumed:

* TLS 1.3, TX: records written after the flight in which the key log named
  SERVER_TRAFFIC_SECRET_0. These are session tickets: 2 as a rule, 1 after a
  resumption, 8 with a client certificate of 56 kB. RX: none, always 0.
* TLS 1.2, both: records behind the ChangeCipherSpec of that direction: Finished.

TLS 1.2 with AES also carries on the explicit nonce: OpenSSL starts at a random
64-bit number, which stands in the server's Finished record; the kernel
increments what it is given, so it is given that number plus one. Starting
elsewhere could repeat a nonce under one key, which breaks GCM.

Keys exist only between `derive_keys` and the kernel's setsockopt, and secrets only
until `forget` (invariant I5); who shares them with a backend takes them before that,
by `traffic_secrets`.
"""

from __future__ import annotations

from dataclasses import dataclass

from OpenSSL import SSL

from ..errors import HandshakeFailed, LocalProtocolError, RemoteProtocolError
from .ciphers import LABELS, SUITES, CipherSuite, Version
from .client_certificate import describe_client_certificate
from .client_hello import FirstBytes, HelloReader, classify_first_bytes
from .counted_records import CountedRecordLayer
from .crypto_info import RxCryptoInfo, TxCryptoInfo
from .handoff import TlsFacts
from .key_schedule import TrafficSecret, TrafficSecrets, derive_key_block
from .keylog import CLIENT_TRAFFIC_SECRET, SERVER_TRAFFIC_SECRET
from .openssl_extra import is_session_reused
from .record_layer import BOTH_ENDS, RecordLayer, drain_output, openssl_reason
from .records import HEADER_SIZE, ContentType, RecordReader, split_records

__all__ = [
    "Established",
    "Handshake",
    "check_first_bytes",
    "collect_established",
    "sort_failure",
]

# OpenSSL's reason texts, in one place; several versions spell some of them differently.
_REASONS = {
    "no shared cipher": "no_shared_cipher",
    "no suitable key share": "no_shared_group",
    "no shared groups": "no_shared_group",
    "no suitable signature algorithm": "no_shared_signature_algorithm",
    "unsupported protocol": "unsupported_version",
    "version too low": "unsupported_version",
    "peer did not return a certificate": "no_client_certificate",
    "certificate verify failed": "client_certificate_rejected",
    "decryption failed or bad record mac": "bad_record",
    "bad record mac": "bad_record",
    "no application protocol": "no_application_protocol",
    "inappropriate fallback": "inappropriate_fallback",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Established:
    """What came of the handshake.

    Attributes:
        facts: for the backend and the log.
        suite: None when the kernel can have no cipher for it.
        has_max_fragment_length: the client limits records below what the kernel writes.
    """

    facts: TlsFacts
    suite: CipherSuite | None
    has_max_fragment_length: bool


class Handshake:
    """One connection's handshake.

    After `is_established` exactly one of these follows: `derive_keys` and then
    `forget` (both directions go to the kernel), or `into_record_layer` (OpenSSL
    goes on, perhaps for receiving only: then `derive_keys` came before it). Before
    that `count_records` lets OpenSSL go on for a while.
    """

    __slots__ = (
        "_connection",
        "_has_output",
        "_hello",
        "_kept",
        "_last_sent",
        "_max_bytes",
        "_reader",
        "_received_since",
        "_received_under_key",
        "_secrets",
        "_sent_under_key",
        "is_established",
    )

    def __init__(self, context: SSL.Context, *, max_bytes: int = 131_072) -> None:
        """Start a handshake.

        Args:
            context: made by `ktlsgate.wire.tls_context.build_server_context`.
            max_bytes: how much a client may send before the handshake is done.
        """
        self._secrets: dict[bytes, bytes] = {}
        self._connection = SSL.Connection(context, None)
        self._connection.set_accept_state()
        self._connection.set_app_data(self._secrets)
        self._reader = RecordReader()
        self._hello = HelloReader()
        self._max_bytes = max_bytes
        self._sent_under_key: int | None = None
        self._received_under_key: int | None = None
        self._received_since = 0  # records behind the handshake
        self._last_sent = b""
        self._kept = b""  # ChangeCipherSpecs on their way to OpenSSL
        self._has_output = False  # perhaps: a record was taken and nobody looked since
        self.is_established = False

    @property
    def wanted(self) -> int:
        """How many bytes to read next, at most, where they are not looked at first."""
        return self._reader.wanted

    def cut(self, data: bytes, start: int) -> int:
        """Say where the piece ends that `receive_data` takes next: a whole record at most."""
        return self._reader.cut(data, start)

    def receive_data(self, data: bytes) -> bool:
        """Take bytes of the client, at most `wanted` or one record; ``b""`` is its end.

        Returns:
            Whether a record became whole, so that there may be something to send.

        Raises:
            HandshakeFailed: it cannot go on; `data_to_send` may hold an alert.
        """
        if not data:
            raise HandshakeFailed("client_gone", f"expected a {self._expected()}, got end of file")
        if not self._reader.taken:
            check_first_bytes(data)
        elif self._reader.taken < HEADER_SIZE:
            check_first_bytes(self._reader.peek() + data)
        try:
            record = self._reader.receive_data(data)
        except RemoteProtocolError as exc:
            raise HandshakeFailed("bad_record", str(exc)) from exc
        if self._reader.taken > self._max_bytes:
            raise HandshakeFailed(
                "handshake_too_long", f"expected at most {self._max_bytes} bytes of handshake"
            )
        if record is None:
            return False
        return self._receive_record(record)

    def _expected(self) -> str:
        return "handshake record" if self._reader.taken else "ClientHello"

    def _receive_record(self, record: bytes) -> bool:
        if not self._hello.is_complete:
            self._hello.receive_record(record)
        if self._received_under_key is not None:
            self._received_under_key += 1
        elif record[0] == ContentType.CHANGE_CIPHER_SPEC:
            self._received_under_key = 0
        if record[0] == ContentType.CHANGE_CIPHER_SPEC:
            # No handshake ends with it, and nobody answers it: spare OpenSSL two calls.
            self._kept += record
            return False
        self._connection.bio_write(self._kept + record if self._kept else record)
        self._kept = b""
        self._has_output = True
        try:
            self._connection.do_handshake()
            self.is_established = True
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError as exc:
            message = f"expected a {self._expected()}, got close_notify"
            raise HandshakeFailed("client_gone", message) from exc
        except SSL.Error as exc:
            raise sort_failure(exc) from exc
        return True

    def data_to_send(self) -> bytes:
        """Whole records for the client; send all of them before the next read."""
        output = drain_output(self._connection)
        self._has_output = False
        if output:
            self._count_sent(output)
        return output

    def _count_sent(self, output: bytes) -> None:
        if self._sent_under_key is None and self._is_tls13:
            # The flight in which this secret appears still goes out under handshake keys.
            if SERVER_TRAFFIC_SECRET in self._secrets:
                self._sent_under_key = 0
            return
        for record in split_records(output):
            if self._sent_under_key is not None:
                self._sent_under_key += 1
                self._last_sent = record
            elif record[0] == ContentType.CHANGE_CIPHER_SPEC:
                self._sent_under_key = 0

    @property
    def _is_tls13(self) -> bool:
        return self._connection.get_protocol_version() == Version.TLS13

    def established(self) -> Established:
        """Collect what the handshake agreed on."""
        return collect_established(self._connection, self._hello)

    @property
    def has_pending_data(self) -> bool:
        """Whether OpenSSL holds bytes that the kernel would miss; never so far."""
        return self._connection.pending() > 0

    def derive_keys(self, suite: CipherSuite) -> tuple[TxCryptoInfo, RxCryptoInfo]:
        """Compute what the kernel needs, sequence numbers included.

        Raises:
            LocalProtocolError: the handshake is not done, or output was not taken.
        """
        if not self.is_established or self._has_output or self._sent_under_key is None:
            raise LocalProtocolError("expected an established handshake with all output sent")
        if suite.version is Version.TLS13:
            return self._derive_tls13(suite)
        return self._derive_tls12(suite)

    def _derive_tls13(self, suite: CipherSuite) -> tuple[TxCryptoInfo, RxCryptoInfo]:
        secrets = self.traffic_secrets(suite)
        tx, rx = secrets.tx.derive_key(), secrets.rx.derive_key()
        return (
            TxCryptoInfo(suite=suite, key=tx, rec_seq=self._sent_under_key or 0),
            RxCryptoInfo(suite=suite, key=rx, rec_seq=self._received_since),
        )

    def traffic_secrets(self, suite: CipherSuite) -> TrafficSecrets:
        """Give the application traffic secrets of an established TLS 1.3 handshake."""
        return TrafficSecrets(
            tx=TrafficSecret(secret=self._secrets[SERVER_TRAFFIC_SECRET], suite=suite),
            rx=TrafficSecret(secret=self._secrets[CLIENT_TRAFFIC_SECRET], suite=suite),
        )

    def _derive_tls12(self, suite: CipherSuite) -> tuple[TxCryptoInfo, RxCryptoInfo]:
        connection = self._connection
        client_key, server_key = derive_key_block(
            connection.master_key() or b"",
            server_random=connection.server_random() or b"",
            client_random=connection.client_random() or b"",
            suite=suite,
        )
        nonce = bytes(8)
        if suite.shape.explicit:
            last = int.from_bytes(self._last_sent[HEADER_SIZE : HEADER_SIZE + 8], "big")
            nonce = ((last + 1) % (1 << 64)).to_bytes(8, "big")
        received = (self._received_under_key or 0) + self._received_since
        return (
            TxCryptoInfo(
                suite=suite,
                key=server_key,
                rec_seq=self._sent_under_key or 0,
                explicit_nonce=nonce,
            ),
            RxCryptoInfo(suite=suite, key=client_key, rec_seq=received),
        )

    def forget(self) -> None:
        """Drop OpenSSL's object and our secrets; the kernel has the keys now.

        Marked shut down first, or OpenSSL would drop the session from its cache,
        and a client without ticket support could not resume. Nothing is sent.
        """
        self._connection.set_shutdown(BOTH_ENDS)
        self._secrets.clear()
        del self._connection

    def count_records(self) -> CountedRecordLayer:
        """Let OpenSSL go on for now, so that `derive_keys` is still right afterwards."""
        return CountedRecordLayer(self, RecordLayer(self._connection, is_between_records=True))

    def count_received(self) -> None:
        """One more record was received behind the handshake."""
        self._received_since += 1

    def into_record_layer(self) -> RecordLayer:
        """Let OpenSSL go on protecting the records that the kernel does not."""
        self._secrets.clear()
        return RecordLayer(self._connection, is_between_records=True)


def check_first_bytes(data: bytes) -> None:
    """Look at the first 1 to 5 bytes of a connection.

    Raises:
        HandshakeFailed: they cannot begin a ClientHello.
    """
    kind = classify_first_bytes(data[:HEADER_SIZE])
    if kind is FirstBytes.PLAIN_HTTP:
        raise HandshakeFailed("plain_http", "expected a ClientHello, got plain HTTP")
    if kind is FirstBytes.NOT_TLS:
        raise HandshakeFailed("not_tls", f"expected a ClientHello, got {data[:5]!r}")


def collect_established(connection: SSL.Connection, hello: HelloReader) -> Established:
    """Collect what an established connection agreed on.

    Args:
        connection: OpenSSL's object.
        hello: what its ClientHello said.
    """
    name = connection.get_cipher_name() or ""
    certificate = connection.get_peer_certificate()
    described: tuple[tuple[bytes, bytes], ...] = ()
    if certificate is not None:
        described = describe_client_certificate(certificate.to_cryptography())
    facts = TlsFacts(
        protocol=LABELS[connection.get_protocol_version()],
        cipher=name,
        sni=hello.server_name,
        alpn=connection.get_alpn_proto_negotiated().decode("ascii", "backslashreplace"),
        is_resumed=is_session_reused(connection),
        client_certificate=described,
    )
    return Established(
        facts=facts,
        suite=SUITES.get(name),
        has_max_fragment_length=hello.has_max_fragment_length,
    )


def sort_failure(error: SSL.Error) -> HandshakeFailed:
    """Sort an OpenSSL failure into a reason class."""
    reason = openssl_reason(error)
    if reason in _REASONS:
        return HandshakeFailed(_REASONS[reason], reason)
    kind = "client_alert" if "alert" in reason else "protocol_error"
    return HandshakeFailed(kind, reason)
