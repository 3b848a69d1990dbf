"""The few OpenSSL functions that pyOpenSSL has no method for.

Rule: the only module that touches pyOpenSSL's and cryptography's private parts.
Every function asks whether the thing is there and has an answer for when it is
not; nothing else in the package may depend on more than these answers.
"""

from __future__ import annotations

import functools
from typing import Any

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL

__all__ = ["can_rebind_to_memory", "is_session_reused", "rebind_to_memory", "set_ciphersuites"]

_lib: Any = Binding().lib


def set_ciphersuites(context: SSL.Context, names: str) -> bool:
    """Choose TLS 1.3 suites (pyOpenSSL has a method for it since 25.2).

    Returns:
        Whether OpenSSL took them; False also where no way leads to the function.
    """
    method = getattr(context, "set_tls13_ciphersuites", None)
    if method is not None:
        try:
            method(names.encode())
        except SSL.Error:
            return False
        return True
    function = getattr(_lib, "SSL_CTX_set_ciphersuites", None)
    if function is None:
        return False
    taken = bool(function(context._context, names.encode()) == 1)  # noqa: SLF001
    if not taken:
        _lib.ERR_clear_error()
    return taken


def is_session_reused(connection: SSL.Connection) -> bool:
    """Whether the handshake continued an earlier session; False where unknown."""
    function = getattr(_lib, "SSL_session_reused", None)
    if function is None:
        return False
    return bool(function(connection._ssl))  # noqa: SLF001


_REBINDING = ("BIO_new", "BIO_s_mem", "SSL_set_bio")


@functools.cache  # a fact of the versions, asked for every relay
def can_rebind_to_memory() -> bool:
    """Whether `rebind_to_memory` works with these versions."""
    return all(hasattr(_lib, name) for name in _REBINDING) and hasattr(SSL.Connection, "bio_write")


def rebind_to_memory(connection: SSL.Connection) -> None:
    """Let a connection that is bound to a socket go on over memory BIOs.

    From then on it is as if made with ``SSL.Connection(context, None)``: `bio_write`,
    `bio_read`. OpenSSL frees the BIO of the socket, and leaves the socket open. What it
    holds of an unfinished record stays in it. Keys that it gave to the kernel stay
    there; it can replace none of them any more, since KeyUpdates now meet memory only.
    """
    into, out = _lib.BIO_new(_lib.BIO_s_mem()), _lib.BIO_new(_lib.BIO_s_mem())
    _lib.SSL_set_bio(connection._ssl, into, out)  # noqa: SLF001 - owns both BIOs now
    connection._into_ssl, connection._from_ssl = into, out  # noqa: SLF001
    connection._socket = None  # noqa: SLF001
