"""Trials: do a thing for real on a loopback TCP connection and keep the answer as a value.

Rule: nothing here raises for what it tries. Whether a kernel has kTLS can only be
found by doing; headers, version numbers and ``/proc`` all can say yes where the
call says no (containers run on older host kernels). So a trial is a function, and
`attempt` turns its end into an `Outcome`. Every wait is bounded by `TIMEOUT`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

__all__ = [
    "DONE",
    "NOT_TRIED",
    "TIMEOUT",
    "Outcome",
    "attempt",
    "loopback_pair",
    "on_pair",
    "recv_exactly",
]

TIMEOUT = 2.0  # seconds for one wait; loopback needs microseconds, user-mode Linux milliseconds

_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one trial ended.

    Attributes:
        ok: it worked.
        errno: what the system call answered; 0 when it worked or failed without one.
        reason: why not, in words, with the errno's name; empty when it worked.
        is_broken: the trial itself broke, so this says nothing of the kernel.
    """

    ok: bool
    errno: int = 0
    reason: str = ""
    is_broken: bool = False

    @property
    def label(self) -> str:
        """One word: ``ok``, the errno's name, or ``failed``."""
        if self.ok:
            return "ok"
        return errno.errorcode.get(self.errno, "failed")


DONE = Outcome(ok=True)
NOT_TRIED = Outcome(ok=False, reason="not tried")


def attempt(trial: Callable[[], str | None], reasons: Mapping[int, str] | None = None) -> Outcome:
    """Run a trial; whatever becomes of it is a value.

    Args:
        trial: returns nothing when it worked, or what was wrong.
        reasons: errno to words, before the system's own.
    """
    try:
        complaint = trial()
    # The probe promises its callers (a starting gate) never to raise, so here, and
    # only here in this room, everything is caught; what no trial expects is `is_broken`.
    except Exception as exc:  # noqa: BLE001
        return _outcome_of(exc, reasons or {})
    return Outcome(ok=False, reason=complaint) if complaint else DONE


def _outcome_of(exc: Exception, reasons: Mapping[int, str]) -> Outcome:
    if isinstance(exc, TimeoutError) and not exc.errno:
        return Outcome(ok=False, reason=f"nothing came within {TIMEOUT:g} seconds")
    code = getattr(exc, "errno", None)  # OSError has one, and so has our KtlsUnavailable
    if not isinstance(code, int) or not code:
        return Outcome(ok=False, reason=f"{type(exc).__name__}: {exc}", is_broken=True)
    words = reasons.get(code) or os.strerror(code)
    return Outcome(ok=False, errno=code, reason=f"{words} ({errno.errorcode.get(code, code)})")


@contextlib.contextmanager
def loopback_pair(
    family: socket.AddressFamily = socket.AF_INET, protocol: int = 0
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give both ends of a TCP connection over loopback, and close them afterwards.

    The accepted end comes first. Both have `TIMEOUT` and no Nagle delay.

    Args:
        family: AF_INET, or AF_INET6.
        protocol: 0 is plain TCP.

    Raises:
        OSError: there is no loopback interface, or no descriptor left.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM, protocol))
        client = stack.enter_context(socket.socket(family, socket.SOCK_STREAM, protocol))
        for sock in (listener, client):
            sock.settimeout(TIMEOUT)
        listener.bind((_LOOPBACK[family], 0))
        listener.listen(1)
        client.connect(listener.getsockname())
        accepted, address = listener.accept()
        stack.enter_context(accepted)
        listener.close()
        if address != client.getsockname():
            raise OSError(errno.EBUSY, "another process connected to the probe's port")
        for sock in (accepted, client):
            sock.settimeout(TIMEOUT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield accepted, client


def on_pair(body: Callable[[socket.socket, socket.socket], T], broken: Callable[[Outcome], T]) -> T:
    """Run ``body`` on a fresh pair, or ``broken`` when there is none to be had."""
    with contextlib.ExitStack() as stack:
        try:
            pair = stack.enter_context(loopback_pair())
        except OSError as exc:
            reason = f"cannot make a TCP connection over loopback: {exc}"
            return broken(Outcome(ok=False, errno=exc.errno or 0, reason=reason, is_broken=True))
        return body(*pair)


def recv_exactly(sock: socket.socket, size: int) -> bytes:
    """Receive ``size`` bytes, or fewer when the stream ends first.

    Raises:
        TimeoutError: they did not come within `TIMEOUT` altogether.
        OSError: as ``recv``.
    """
    deadline = time.monotonic() + TIMEOUT
    data = b""
    while len(data) < size:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        piece = sock.recv(size - len(data))
        if not piece:
            break
        data += piece
    sock.settimeout(TIMEOUT)
    return data
