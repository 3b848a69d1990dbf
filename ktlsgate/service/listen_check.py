"""``--listen-check``: does a running gate hand over? Seen from a client and from the kernel.

Theory: one ordinary TLS connection of our own. Between its handshake and its request the
gate installs the keys, so then the kernel is asked about the far end of this very
connection (netlink, as ``ss -tie`` does), and once more when the answer has come: a
backend may close at once, and a closed socket has no keys. Who may not ask (before Linux
6.15 that takes CAP_NET_ADMIN) compares ``/proc/net/tls_stat`` before and after, which
other connections move too. Both work only on the machine, and in the network namespace,
of the gate.

Rules: it connects to the one address that it is given, every wait is bounded, nothing
raises. The certificate is not verified: the question is who has the keys, and the report
says so. Our own end must not use kTLS, or it would be counted.
"""

from __future__ import annotations

import enum
import ipaddress
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..kernel.socket_diag import find_socket
from ..kernel.sockets import format_address, unmap_address
from ..kernel.system import read_system_facts
from ..kernel.tls_stat import (
    RX_KEYS,
    TX_KEYS,
    CounterChange,
    changes_between,
    read_tls_stat,
    rise_of,
)
from ..wire.error_response import is_own_answer
from ..wire.inet_diag import Keys, SocketAnswer

if TYPE_CHECKING:
    import ssl

__all__ = ["CheckResult", "Target", "Verdict", "check_listener"]

_STEP = 5.0  # seconds for connecting and for the handshake, each
_ANSWER = 10.0  # seconds for the answer: more than the gate's own patience with a backend
_PATIENCE = 0.5  # seconds in which a gate has installed the keys; it needs a millisecond
_PAUSE = 0.005  # seconds between two questions
_MAX_HEAD = 16_384  # bytes of the answer's head; more is not read
_HTTPS = 443  # the port that Host leaves out
_OP_ENABLE_KTLS = 1 << 3  # openssl/ssl.h; a system's openssl.cnf may switch it on

Address = tuple[str, int]


class Verdict(enum.Enum):
    """What becomes of connections; the value is the report's line."""

    BOTH = "handed over, both directions in the kernel"
    TX = "sending only"
    RELAYED = "relayed"
    OWN_ANSWER = "not handed over: the gate answered itself"
    ELSEWHERE = "cannot tell from here (another machine)"
    UNKNOWN = "cannot tell from here"
    FAILED = "no TLS connection"

    @property
    def exit_code(self) -> int:
        """0 both directions, 1 one, 3 none, 4 there is no answer to the question."""
        return {Verdict.BOTH: 0, Verdict.TX: 1, Verdict.RELAYED: 3}.get(self, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the user names.

    Attributes:
        host: a name or an address.
        port: where the gate listens.
        servername: for SNI and for Host.
        path: the request's target; routes go by it.
    """

    host: str
    port: int
    servername: str = ""
    path: str = "/"

    @property
    def name(self) -> str:
        """What the certificate would be for."""
        return self.servername or self.host

    @property
    def request(self) -> bytes:
        """A request that lets the connection live on, so that it can be looked at."""
        host = f"[{self.name}]" if ":" in self.name else self.name
        if self.port != _HTTPS:
            host = f"{host}:{self.port}"  # RFC 9110 section 7.2
        return (
            f"GET {self.path} HTTP/1.1\r\nHost: {host}\r\n"
            "User-Agent: ktlsgate-probe\r\nAccept: */*\r\n\r\n"
        ).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What was seen.

    Attributes:
        target: what was asked for.
        ends: ours and the gate's, as text; empty without a connection.
        is_here: the gate's end is on this machine.
        failure: why there is no TLS connection; empty when there is one.
        version, cipher: what was agreed on.
        socket: the gate's end, as the kernel tells; ``None`` when it does not.
        socket_reason: why it does not.
        moved: the counters; ``None`` where there are none.
        answer: the status line; empty when none came.
        answer_reason: why none came.
        is_own_answer: the gate answered without a backend.
    """

    target: Target
    ends: tuple[str, str] = ("", "")
    is_here: bool = False
    failure: str = ""
    version: str = ""
    cipher: str = ""
    socket: SocketAnswer | None = None
    socket_reason: str = ""
    moved: tuple[CounterChange, ...] | None = None
    answer: str = ""
    answer_reason: str = ""
    is_own_answer: bool = False

    @property
    def verdict(self) -> Verdict:
        """The answer to the question."""
        return self._judgement[0]

    @property
    def reason(self) -> str:
        """What the verdict rests on."""
        return self._judgement[1]

    @property
    def _judgement(self) -> tuple[Verdict, str]:
        if self.failure:
            return Verdict.FAILED, self.failure
        if not self.is_here:
            return Verdict.ELSEWHERE, "run this on the gate's machine, in its network namespace"
        verdict, reason = self._by_socket() if self.socket else self._by_counters()
        if self.is_own_answer:
            return Verdict.OWN_ANSWER, "its log says why"
        if not self.answer:
            return Verdict.UNKNOWN, self.answer_reason
        return verdict, reason

    def _by_socket(self) -> tuple[Verdict, str]:
        if self.socket is None:
            raise AssertionError("asked for only when there is one")
        tx, rx = ((keys or Keys.NONE) is not Keys.NONE for keys in (self.socket.tx, self.socket.rx))
        return _verdict_of(tx=tx, rx=rx), "says the gate's own socket"

    def _by_counters(self) -> tuple[Verdict, str]:
        if self.moved is None:
            return Verdict.RELAYED, "this kernel has no TLS code, or nobody loaded it"
        if self.socket_reason == _NOT_FOUND:
            return Verdict.UNKNOWN, _NOT_FOUND
        tx, rx = (rise_of(self.moved, name) > 0 for name in (TX_KEYS, RX_KEYS))
        return _verdict_of(tx=tx, rx=rx), "say the counters, which other connections move too"


def _verdict_of(*, tx: bool, rx: bool) -> Verdict:
    if not tx:
        return Verdict.RELAYED
    return Verdict.BOTH if rx else Verdict.TX


_NOT_FOUND = "the gate's end of the connection is not in this network namespace"
_NOT_TOLD = "this user is not told (it takes CAP_NET_ADMIN)"


def is_same_machine(ours: str, theirs: str) -> bool:
    """Whether a connection between these addresses never left the machine."""
    address = ipaddress.ip_address(theirs.partition("%")[0])
    return address.is_loopback or ours == theirs


def check_listener(target: Target) -> CheckResult:
    """Connect, shake hands, ask once, look; never raises, and ends within half a minute."""
    check = _Check(target)
    try:
        if failure := _problem(check.connect) or _problem(check.shake_hands):
            return replace(check.result, failure=failure)
        check.look()
        if reason := _problem(check.ask):
            check.result = replace(check.result, answer_reason=f"no answer: {reason}")
        check.look_again()
        return check.result
    finally:
        check.close()


def _problem(step: Callable[[], str | None]) -> str:
    """Why a step did not work; empty when it did."""
    try:
        return step() or ""
    except TimeoutError as exc:
        return exc.strerror or "nothing came in time"
    # SSLError is an OSError with a number of its own, and a reason that is a name.
    except OSError as exc:
        return str(getattr(exc, "reason", None) or exc.strerror or exc)
    except (ValueError, ImportError) as exc:
        return str(exc)


class _Check:
    """One connection; what it finds is put into ``result``."""

    def __init__(self, target: Target) -> None:
        self.result = CheckResult(target=target)
        self._target = target
        self._before = read_tls_stat()
        self._sock: socket.socket | ssl.SSLSocket | None = None
        self._ends: tuple[Address, Address] | None = None

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._sock is not None:
            self._sock.close()

    def connect(self) -> None:
        """Make the TCP connection."""
        sock = socket.create_connection((self._target.host, self._target.port), timeout=_STEP)
        self._sock = sock
        ours, theirs = unmap_address(sock.getsockname()), unmap_address(sock.getpeername())
        self._ends = ours, theirs
        self.result = replace(
            self.result,
            ends=(format_address(ours), format_address(theirs)),
            is_here=is_same_machine(ours[0], theirs[0]),
        )

    def shake_hands(self) -> None:
        """Make it a TLS connection, whoever the other end is."""
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.options &= ~_OP_ENABLE_KTLS
        context.set_alpn_protocols(["http/1.1"])
        if self._sock is None:
            raise AssertionError("connected before")
        name = None if _is_address(self._target.name) else self._target.name
        secure = context.wrap_socket(self._sock, server_hostname=name)
        self._sock = secure
        cipher = secure.cipher()
        self.result = replace(
            self.result, version=secure.version() or "", cipher=cipher[0] if cipher else ""
        )

    def look(self) -> None:
        """Look at the gate's end until it has both keys, or for a while."""
        self._look(time.monotonic() + _PATIENCE)

    def look_again(self) -> None:
        """Look once more, behind the answer, and read the counters."""
        if self.result.socket and not _has_both(self.result.socket):
            self._look(0)
        moved = changes_between(self._before, read_tls_stat())
        self.result = replace(self.result, moved=moved)

    def _look(self, deadline: float) -> None:
        if self._ends is None or not self.result.is_here:
            return
        ours, theirs = self._ends
        found = _watch(lambda: find_socket(theirs, ours), deadline)
        if isinstance(found, SocketAnswer):
            self.result = replace(self.result, socket=found)
        elif self.result.socket is None:
            self.result = replace(self.result, socket_reason=found)

    def ask(self) -> str | None:
        """Send the request and read the head of the answer."""
        if self._sock is None:
            raise AssertionError("connected before")
        self._sock.sendall(self._target.request)
        head = _read_head(self._sock)
        line, found, _ = head.partition(b"\r\n")
        if not found:
            return "the gate or its backend closed the connection"
        text = line[:200].decode("latin-1").encode("unicode_escape").decode("ascii")
        self.result = replace(self.result, answer=text, is_own_answer=is_own_answer(head))
        return None


def _watch(look: Callable[[], SocketAnswer | None], deadline: float) -> SocketAnswer | str:
    """Look until both keys are there or the deadline has come; the last view, or why none."""
    while True:
        try:
            found = look()
        except (OSError, ValueError) as exc:
            return f"the kernel does not answer: {exc}"
        if found is None:
            return _NOT_FOUND
        # Nothing to wait for where the kernel cannot have keys, or does not tell.
        if _has_both(found) or time.monotonic() >= deadline or read_tls_stat() is None:
            break
        time.sleep(_PAUSE)
    return found if _is_told(found) else _NOT_TOLD


def _is_told(found: SocketAnswer) -> bool:
    """Whether the answer is all there is, and not what is left of it for this user."""
    if found.ulp:
        return found.ulp != "tls" or found.tx is not None
    # Root of a container may have the right in its own user namespace only.
    facts = read_system_facts()
    return bool(facts.has_net_admin and facts.is_first_user_namespace)


def _has_both(found: SocketAnswer) -> bool:
    return all(keys not in {None, Keys.NONE} for keys in (found.tx, found.rx))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _read_head(sock: socket.socket) -> bytes:
    """Read to the empty line, the end, or the bound; what came, when time is up.

    Raises:
        TimeoutError: no line came.
        OSError: as ``recv``.
    """
    deadline = time.monotonic() + _ANSWER
    data = b""
    while b"\r\n\r\n" not in data and len(data) < _MAX_HEAD:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        piece = sock.recv(4096)
        if not piece:
            break
        data += piece
    return data.partition(b"\r\n\r\n")[0] + b"\r\n" if b"\r\n" in data else data
