"""WHERE KEYS ARE INSTALLED: the ULP and the two setsockopts of Linux kTLS.

Rule: one system call a function. Source: Documentation/networking/tls.rst and
include/uapi/linux/tls.h; the errno table was observed on Linux 6.1, 6.12 and 7.2.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

from ..errors import CipherUnsupported, KtlsUnavailable
from ..wire.crypto_info import RxCryptoInfo, TxCryptoInfo

__all__ = [
    "SOL_TLS",
    "TCP_ULP",
    "TLS_RX",
    "TLS_TX",
    "attach_ulp",
    "has_rx",
    "has_tx",
    "install_rx",
    "install_tx",
]

TCP_ULP = 31  # linux/tcp.h; Python's socket module has no name for it before 3.12
SOL_TLS = 282  # linux/socket.h
TLS_TX = 1
TLS_RX = 2

ULP_REASONS = {
    errno.ENOENT: "the kernel has no tls module, or nobody loaded it",
    errno.ENOPROTOOPT: "not a Linux TCP socket that knows upper layer protocols (sandbox, MPTCP)",
    errno.ENOTSUP: "not a TCP socket",
    errno.ENOTCONN: "the socket is not established: the peer is gone or has half closed",
    errno.EPERM: "forbidden by a security policy",
    errno.EACCES: "forbidden by a security policy",
    errno.ENOSYS: "forbidden by a system call filter",
    errno.EEXIST: "the socket has an upper layer protocol already",
}

KEY_REASONS = {
    errno.ENOENT: "the kernel's crypto algorithm for this cipher is not available",
    errno.EINVAL: "the kernel does not know this cipher in this version",
    errno.EBUSY: "keys are set already, and this kernel cannot rekey",
    errno.ENOPROTOOPT: "the socket has no TLS layer",
    errno.ENOMEM: "the kernel has no memory for it",
}


@contextlib.contextmanager
def _refusals(error: type[KtlsUnavailable], what: str, reasons: dict[int, str]) -> Iterator[None]:
    """Turn an OSError of the kernel into ours, with the reason in words."""
    try:
        yield
    except OSError as exc:
        code = exc.errno or 0
        name = errno.errorcode.get(code, str(code))
        raise error(code, f"{what}: {reasons.get(code, exc.strerror)} ({name})") from exc


def attach_ulp(sock: socket.socket) -> None:
    """Make a TCP socket a TLS socket; it goes on carrying plain bytes until keys are set.

    To be called right after accept(): once the client has sent FIN the kernel
    answers ENOTCONN, and clients do send it right behind their request.

    Raises:
        KtlsUnavailable: with the errno.
    """
    with _refusals(KtlsUnavailable, "cannot attach the TLS layer", ULP_REASONS):
        sock.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")


def install_tx(sock: socket.socket, info: TxCryptoInfo) -> None:
    """Let the kernel encrypt what is sent from now on.

    Raises:
        CipherUnsupported: with the errno; the socket is as it was before.
    """
    with _refusals(CipherUnsupported, "cannot install the sending key", KEY_REASONS):
        sock.setsockopt(SOL_TLS, TLS_TX, info.pack())


def install_rx(sock: socket.socket, info: RxCryptoInfo) -> None:
    """Let the kernel decrypt what is received from now on, queued bytes included.

    Raises:
        CipherUnsupported: with the errno; the socket is as it was before.
    """
    with _refusals(CipherUnsupported, "cannot install the receiving key", KEY_REASONS):
        sock.setsockopt(SOL_TLS, TLS_RX, info.pack())


def _is_installed(sock: socket.socket, direction: int) -> bool:
    try:
        # 4 bytes ask for version and cipher only; more would copy the key out.
        return len(sock.getsockopt(SOL_TLS, direction, 4)) == 4
    except OSError:
        return False


def has_tx(sock: socket.socket) -> bool:
    """Whether the kernel encrypts what this socket sends."""
    return _is_installed(sock, TLS_TX)


def has_rx(sock: socket.socket) -> bool:
    """Whether the kernel decrypts what this socket receives."""
    return _is_installed(sock, TLS_RX)
