r"""The SCGI codec: a handoff as a netstring of names and values, and back.

Format (https://python.ca/scgi/protocol.txt): ``<length>:`` then ``NAME\0VALUE\0``
pairs, then ``,``. The block of nginx's fd_pass module comes first, name by name
and in its order; a backend written for it reads us unchanged. Dialect `NGINX`
is that block byte for byte: repeated header names stay repeated there, and none
of our names follow.

In our dialect every name is unique, as SCGI demands: a repeated header is
joined (RFC 9110 section 5.3: ", "; Cookie by "; ", RFC 6265 section 5.4). The
header ``Proxy`` is left out, since ``HTTP_PROXY`` means something else to most
HTTP clients that a backend may contain (httpoxy, CVE-2016-5385).

Invariant I5: secrets are never among the names and values that a reader gives on, in
no ``repr`` and no message; what the reader took is dropped when the head is whole.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..config import Dialect
from ..errors import HandoffMalformed
from .ciphers import SUITES, CipherSuite, Version
from .handoff import Handoff, Mode, TlsFacts
from .key_schedule import TrafficSecret, TrafficSecrets

__all__ = ["MAX_HEAD", "HandoffReader", "ReceivedHead", "encode"]

PROTOCOL_VERSION = b"1"
MAX_HEAD = 1 << 20  # no gate sends more: its head limit and a client chain fit often over
_MAX_DIGITS = 7
_PORT = re.compile(r"[0-9]{1,5}")
# As the receiver uses them: it sends under the server's, and receives under the client's.
_TX_SECRET = "KTLSGATE_TX_SECRET"  # noqa: S105 - a field's name
_RX_SECRET = "KTLSGATE_RX_SECRET"  # noqa: S105

_AS_VARIABLE = bytes(range(256)).upper().replace(b"-", b"_")  # for bytes.translate

_Words = list[bytes]  # names and values in turn, as they stand between the zeros
_Pairs = list[tuple[bytes, bytes]]


def encode(handoff: Handoff, dialect: Dialect, *, is_kept: bool = False) -> bytes:
    """Build the netstring of a handoff.

    Args:
        handoff: what to tell.
        dialect: ours, or nginx's exact bytes.
        is_kept: whether other handoffs may follow on the same connection; in our dialect.
    """
    words, headers = _fd_pass_block(handoff), _http_names(handoff)
    if dialect is Dialect.NGINX:
        words += itertools.chain.from_iterable(headers)
    else:
        merged = _merge(headers)
        words += _our_block(handoff, has_content_type=b"HTTP_CONTENT_TYPE" in merged)
        if is_kept:
            words += (b"KTLSGATE_CONNECTION", b"kept")
        words += itertools.chain.from_iterable(merged.items())
    body = b"\0".join(words)
    return b"%d:%b\0," % (len(body) + 1, body)


def _fd_pass_block(handoff: Handoff) -> _Words:
    head, remote, local = handoff.head, handoff.remote, handoff.local
    words = [b"CONTENT_LENGTH", b"0", b"SCGI", b"1+fd_pass"]
    if handoff.tls:
        reads_descriptor = handoff.mode is not Mode.TX
        words += (b"HTTPS", b"on", b"KTLS_RX", b"1" if reads_descriptor else b"0")
    words += (
        b"REMOTE_ADDR", remote[0].encode(),
        b"REMOTE_PORT", b"%d" % remote[1],
        b"REQUEST_METHOD", head.method,
        b"REQUEST_URI", head.target,
        b"SERVER_ADDR", local[0].encode(),
        b"SERVER_PORT", b"%d" % local[1],
        b"QUERY_STRING", head.query,
    )  # fmt: skip
    return words


def _our_block(handoff: Handoff, *, has_content_type: bool) -> _Words:
    head, tls = handoff.head, handoff.tls
    words = [
        b"SERVER_PROTOCOL", head.version,
        b"SERVER_NAME", (head.host or handoff.local[0]).encode(),
        b"REQUEST_SCHEME", b"https" if tls else b"http",
    ]  # fmt: skip
    if has_content_type:  # the first one, however many were merged
        words += (b"CONTENT_TYPE", head.header(b"content-type") or b"")
    if tls:
        words += _tls_names(tls)
    words += (
        b"KTLSGATE", PROTOCOL_VERSION,
        b"KTLSGATE_MODE", handoff.mode.value.encode(),
        b"KTLSGATE_KEEPALIVE", b"single" if handoff.is_single else b"own",
    )  # fmt: skip
    if handoff.secrets:
        words += (
            _TX_SECRET.encode(), handoff.secrets.tx.secret.hex().encode(),
            _RX_SECRET.encode(), handoff.secrets.rx.secret.hex().encode(),
        )  # fmt: skip
    return words


def _tls_names(tls: TlsFacts) -> _Words:
    words = [
        b"SSL_PROTOCOL", tls.protocol.encode(),
        b"SSL_CIPHER", tls.cipher.encode(),
        b"SSL_TLS_SNI", tls.sni.encode(),
        b"SSL_ALPN", tls.alpn.encode(),
        b"SSL_SESSION_RESUMED", b"Resumed" if tls.is_resumed else b"Initial",
    ]  # fmt: skip
    if tls.client_certificate:
        words += itertools.chain.from_iterable(tls.client_certificate)
    else:
        words += (b"SSL_CLIENT_VERIFY", b"NONE")
    return words


def _http_names(handoff: Handoff) -> _Pairs:
    return [
        (b"HTTP_" + name.translate(_AS_VARIABLE), value)
        for name, value in handoff.head.headers
        # X_Y would become the same name as X-Y; nginx drops it by default, too.
        if b"_" not in name
    ]


def _merge(pairs: _Pairs) -> dict[bytes, bytes]:
    merged = dict(pairs)
    if len(merged) < len(pairs):  # some name came twice
        merged = _join_repeated(pairs)
    merged.pop(b"HTTP_PROXY", None)
    return merged


def _join_repeated(pairs: _Pairs) -> dict[bytes, bytes]:
    merged: dict[bytes, bytes] = {}
    for name, value in pairs:
        if name in merged:
            separator = b"; " if name == b"HTTP_COOKIE" else b", "
            merged[name] += separator + value
        else:
            merged[name] = value
    return merged


@dataclass(frozen=True, slots=True)
class ReceivedHead:
    """A handoff's head as the receiving side reads it.

    Attributes:
        environ: every name and value, decoded as Latin-1 so that no byte is lost
            (WSGI's rule, PEP 3333). A repeated name keeps its last value.
        secrets: what following KeyUpdates takes, if the gate shares it; not in ``environ``.
    """

    environ: Mapping[str, str]
    secrets: TrafficSecrets | None = field(default=None, repr=False)

    @property
    def mode(self) -> Mode:
        """Who does the crypto; for a sender that does not say, what fd_pass means."""
        named = self.environ.get("KTLSGATE_MODE")
        if named is not None:
            return Mode(named)
        if "HTTPS" not in self.environ:
            return Mode.PLAIN
        return Mode.TX if self.environ.get("KTLS_RX") == "0" else Mode.BOTH

    @property
    def is_ours(self) -> bool:
        """Whether the sender speaks our dialect, verdicts included."""
        return "KTLSGATE" in self.environ

    @property
    def is_single(self) -> bool:
        """Whether the connection must end after one response."""
        return self.environ.get("KTLSGATE_KEEPALIVE") == "single"

    @property
    def is_kept(self) -> bool:
        """Whether the sender waits for `RECEIVED`, and other handoffs may follow."""
        return self.environ.get("KTLSGATE_CONNECTION") == "kept"

    @property
    def remote(self) -> tuple[str, int]:
        """The client's address and port."""
        return self.environ["REMOTE_ADDR"], int(self.environ["REMOTE_PORT"])


class HandoffReader:
    """Read one netstring, in pieces of any size.

    Attributes:
        wanted: how many bytes may be read next without going past the netstring.
    """

    __slots__ = ("_buffer", "_end", "wanted")

    def __init__(self) -> None:
        self._buffer = b""
        self._end = 0  # position behind the comma, once the length is known
        # "N:" is shorter than any head that can follow it, so this overshoots none.
        self.wanted = _MAX_DIGITS + 1

    def receive_data(self, data: bytes) -> ReceivedHead | None:
        """Take at most `wanted` bytes; the head once it is whole.

        Raises:
            HandoffMalformed: it is no netstring of pairs, or longer than `MAX_HEAD`.
        """
        self._buffer += data
        if not self._end and not self._read_length():
            return None
        self.wanted = self._end - len(self._buffer)
        if self.wanted > 0:
            return None
        return self._parse()

    def _read_length(self) -> bool:
        digits, colon, _ = self._buffer.partition(b":")
        if not digits.isdigit() or len(digits) > _MAX_DIGITS or digits[:1] == b"0":
            raise HandoffMalformed(f"expected the length of a netstring, got {digits[:16]!r}")
        if not colon:
            self.wanted = _MAX_DIGITS + 1 - len(self._buffer)
            return False
        if int(digits) > MAX_HEAD:
            raise HandoffMalformed(
                f"expected a head of at most {MAX_HEAD} bytes, got {int(digits)}"
            )
        self._end = len(digits) + 1 + int(digits) + 1
        if len(self._buffer) > self._end:
            raise HandoffMalformed(f"expected a head, got a netstring of {int(digits)} bytes")
        return True

    def _parse(self) -> ReceivedHead:
        start = self._buffer.index(b":") + 1
        if self._buffer[-1:] != b",":
            raise HandoffMalformed(f"expected a comma behind the head, got {self._buffer[-1:]!r}")
        words = self._buffer[start:-1].decode("latin-1").split("\0")
        if len(words) % 2 == 0 or words.pop() != "":
            raise HandoffMalformed("expected pairs of name and value, got an odd number of words")
        self._buffer = b""
        environ = dict(zip(words[::2], words[1::2], strict=True))
        shared = environ.pop(_TX_SECRET, None), environ.pop(_RX_SECRET, None)
        head = ReceivedHead(environ)
        _check(head, first=words[0] if words else "")
        return ReceivedHead(environ, _read_secrets(head, *shared))


def _check(head: ReceivedHead, *, first: str) -> None:
    """Refuse what no gate sends, so that nobody further in has to."""
    if first != "CONTENT_LENGTH":
        raise HandoffMalformed(f"expected CONTENT_LENGTH first, got {first[:32]!r}")
    if head.environ.get("SCGI") != "1+fd_pass":
        named = head.environ.get("SCGI", "")
        raise HandoffMalformed(f"expected SCGI 1+fd_pass, got {named[:32]!r}")
    missing = [name for name in _REQUIRED if name not in head.environ]
    if missing:
        raise HandoffMalformed(f"expected {missing[0]}, got a head without it")
    for name in ("REMOTE_PORT", "SERVER_PORT"):
        if not _PORT.fullmatch(head.environ[name]):
            raise HandoffMalformed(f"expected a number as {name}, got {head.environ[name][:32]!r}")
    version = head.environ.get("KTLSGATE", "1")
    if version != "1":
        raise HandoffMalformed(f"expected KTLSGATE 1, got {version[:32]!r}")
    _check_mode(head)


def _check_mode(head: ReceivedHead) -> None:
    try:
        mode = head.mode
    except ValueError:
        named = head.environ["KTLSGATE_MODE"]
        raise HandoffMalformed(f"expected a known KTLSGATE_MODE, got {named[:32]!r}") from None
    if head.is_kept and mode not in (Mode.PLAIN, Mode.BOTH):
        raise HandoffMalformed(
            f"expected a connection of its own, got mode {mode.value} on a kept one"
        )


def _read_secrets(head: ReceivedHead, tx: str | None, rx: str | None) -> TrafficSecrets | None:
    """Take the secrets, which no message may show."""
    if tx is None and rx is None:
        return None
    suite = SUITES.get(head.environ.get("SSL_CIPHER", ""))
    if suite is None or suite.version is not Version.TLS13 or head.mode is not Mode.BOTH:
        raise HandoffMalformed(
            f"expected secrets with TLS 1.3 in mode both, got some in mode {head.mode.value}"
            f" with {head.environ.get('SSL_CIPHER', 'no SSL_CIPHER')[:64]!r}"
        )
    return TrafficSecrets(
        tx=_read_secret(_TX_SECRET, tx, suite), rx=_read_secret(_RX_SECRET, rx, suite)
    )


def _read_secret(name: str, text: str | None, suite: CipherSuite) -> TrafficSecret:
    size = suite.hash_size
    if text is None or not re.fullmatch(rf"[0-9a-f]{{{2 * size}}}", text):
        what = "a head without it" if text is None else "another text, which is not shown"
        raise HandoffMalformed(f"expected {size} bytes in hexadecimal as {name}, got {what}")
    return TrafficSecret(secret=bytes.fromhex(text), suite=suite)


_REQUIRED = (
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "REQUEST_METHOD",
    "REQUEST_URI",
    "SERVER_ADDR",
    "SERVER_PORT",
    "QUERY_STRING",
)
