"""WHERE KEYS ARE INSTALLED: the ULP and the two setsockopts of Linux kTLS.

Rule: one system call a function. Source: Documentation/networking/tls.rst and
include/uapi/linux/tls.h; the errno table was observed on Linux 6.1, 6.12 and 7.2.

Rekeying is the same two calls once more (TLS 1.3, Linux 6.14 and later; EBUSY
elsewhere). Sending: `install_tx` right behind the KeyUpdate record; what was sent
before it, and what waits in an open record, is sealed with the old key. Receiving:
once the KeyUpdate was read, the kernel decrypts nothing more (EKEYEXPIRED) until
`install_rx`. It takes any key and number of the same cipher, so that what was given
last can be given again.
"""

from __future__ import annotations

import errno
import socket

from ..errors import CipherUnsupported, KtlsUnavailable
from ..wire.ciphers import CipherShape
from ..wire.crypto_info import RxCryptoInfo, TxCryptoInfo, packed_size, parse_rec_seq

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
    "rx_rec_seq",
    "tx_rec_seq",
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


def _explain(error: OSError, what: str, reasons: dict[int, str]) -> tuple[int, str]:
    """Put an error of the kernel into words: its errno and what to say of it."""
    code = error.errno or 0
    name = errno.errorcode.get(code, str(code))
    return code, f"{what}: {reasons.get(code, error.strerror)} ({name})"


def attach_ulp(sock: socket.socket) -> None:
    """Make a TCP socket a TLS socket; it goes on carrying plain bytes until keys are set.

    To be called right after accept(): once the client has sent FIN the kernel
    answers ENOTCONN, and clients do send it right behind their request.

    Raises:
        KtlsUnavailable: with the errno.
    """
    try:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
    except OSError as exc:
        raise KtlsUnavailable(*_explain(exc, "cannot attach the TLS layer", ULP_REASONS)) from exc


def install_tx(sock: socket.socket, info: TxCryptoInfo) -> None:
    """Let the kernel encrypt what is sent from now on; called again, with the next key.

    Raises:
        CipherUnsupported: with the errno; the socket is as it was before.
    """
    try:
        sock.setsockopt(SOL_TLS, TLS_TX, info.pack())
    except OSError as exc:
        raise CipherUnsupported(
            *_explain(exc, "cannot install the sending key", KEY_REASONS)
        ) from exc


def install_rx(sock: socket.socket, info: RxCryptoInfo) -> None:
    """Let the kernel decrypt what is received from now on, queued bytes included.

    Called again it is for what is received behind a KeyUpdate.

    Raises:
        CipherUnsupported: with the errno; the socket is as it was before.
    """
    try:
        sock.setsockopt(SOL_TLS, TLS_RX, info.pack())
    except OSError as exc:
        raise CipherUnsupported(
            *_explain(exc, "cannot install the receiving key", KEY_REASONS)
        ) from exc


def tx_rec_seq(sock: socket.socket, shape: CipherShape) -> int:
    """Read how many records were sent under the current key.

    Args:
        sock: with a sending key.
        shape: of the key's cipher; the kernel answers only to its exact size.

    Raises:
        OSError: it has no such key.
    """
    return parse_rec_seq(sock.getsockopt(SOL_TLS, TLS_TX, packed_size(shape)))


def rx_rec_seq(sock: socket.socket, shape: CipherShape) -> int:
    """Read how many records were decrypted under the current key; see `tx_rec_seq`."""
    return parse_rec_seq(sock.getsockopt(SOL_TLS, TLS_RX, packed_size(shape)))


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
