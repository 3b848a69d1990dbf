"""An OpenSSL context from certificate and key objects and the operator's TLS policy.

Rule: everything about a context is set here, before its first connection;
pyOpenSSL 26 refuses later changes. What a handoff cannot carry on is switched
off: renegotiation and compression by option; 0-RTT by never offering early data.
"""

from __future__ import annotations

from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto

from ..config import ClientVerify, Tls
from ..errors import ConfigError, HandshakeFailed
from .keylog import CLIENT_TRAFFIC_SECRET, SERVER_TRAFFIC_SECRET, parse_keylog_line
from .openssl_extra import set_ciphersuites

__all__ = ["OP_ENABLE_KTLS", "build_server_context"]

OP_ENABLE_KTLS = 1 << 3  # openssl/ssl.h; pyOpenSSL has no name for it

_VERSIONS = {"TLSv1.2": SSL.TLS1_2_VERSION, "TLSv1.3": SSL.TLS1_3_VERSION}
_VERIFY_MODES = {
    ClientVerify.NONE: SSL.VERIFY_NONE,
    ClientVerify.OPTIONAL: SSL.VERIFY_PEER,
    ClientVerify.REQUIRED: SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
}
_OPTIONS = SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION
_WANTED_LINES = (CLIENT_TRAFFIC_SECRET + b" ", SERVER_TRAFFIC_SECRET + b" ")


def build_server_context(
    tls: Tls,
    chain: tuple[x509.Certificate, ...],
    key: Any,
    client_cas: tuple[x509.Certificate, ...] = (),
    *,
    lets_openssl_offload: bool = False,
) -> SSL.Context:
    """Make the context of a listener.

    Args:
        tls: the policy.
        chain: leaf first.
        key: the leaf's private key (a cryptography object).
        client_cas: authorities for client certificates.
        lets_openssl_offload: for connections that are bound to their sockets: OpenSSL
            moves the keys into the kernel, and no secret is told to us.

    Raises:
        ConfigError: OpenSSL does not take a certificate, the key or a cipher name.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(_VERSIONS[tls.min_version])
    context.set_max_proto_version(_VERSIONS[tls.max_version])
    context.set_options(_OPTIONS if tls.tickets else _OPTIONS | SSL.OP_NO_TICKET)
    # An idle relayed connection then holds half as much (measured).
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_id(b"ktlsgate")  # without it client certificates forbid resumption
    _set_ciphers(context, tls)
    _set_identity(context, chain, key)
    _set_client_verification(context, tls, client_cas)
    if tls.alpn:
        context.set_alpn_select_callback(_alpn_selector(tuple(p.encode() for p in tls.alpn)))
    if lets_openssl_offload:
        context.set_options(OP_ENABLE_KTLS)
    else:
        context.set_keylog_callback(_keep_traffic_secrets)
    return context


def _set_ciphers(context: SSL.Context, tls: Tls) -> None:
    try:
        context.set_cipher_list(tls.ciphers.encode())
    except SSL.Error:
        raise ConfigError(
            f"tls.ciphers: expected TLS 1.2 suites known to this OpenSSL, got {tls.ciphers!r}"
        ) from None
    if not set_ciphersuites(context, tls.ciphersuites):
        raise ConfigError(
            "tls.ciphersuites: expected TLS 1.3 suites known to this OpenSSL, "
            f"got {tls.ciphersuites!r}"
        )


def _set_identity(context: SSL.Context, chain: tuple[x509.Certificate, ...], key: Any) -> None:
    try:
        try:
            context.use_certificate(chain[0])  # type: ignore[arg-type,unused-ignore]
            context.use_privatekey(key)
            for certificate in chain[1:]:
                context.add_extra_chain_cert(certificate)  # type: ignore[arg-type,unused-ignore]
        except TypeError:  # pyOpenSSL before 24.3 takes its own wrappers only
            context.use_certificate(crypto.X509.from_cryptography(chain[0]))
            context.use_privatekey(crypto.PKey.from_cryptography_key(key))
            for certificate in chain[1:]:
                context.add_extra_chain_cert(crypto.X509.from_cryptography(certificate))
        context.check_privatekey()
    except SSL.Error as exc:
        raise ConfigError(
            f"certificate: expected a chain and a key that OpenSSL takes, got {_reason(exc)!r}"
        ) from exc


def _set_client_verification(
    context: SSL.Context, tls: Tls, client_cas: tuple[x509.Certificate, ...]
) -> None:
    context.set_verify(_VERIFY_MODES[tls.client_verify])
    store = context.get_cert_store()
    for certificate in client_cas:
        wrapped = crypto.X509.from_cryptography(certificate)
        if store is not None:
            store.add_cert(wrapped)
        try:
            context.add_client_ca(certificate)  # type: ignore[arg-type,unused-ignore]
        except TypeError:  # pyOpenSSL before 24.3, as above
            context.add_client_ca(wrapped)


def _alpn_selector(ours: tuple[bytes, ...]) -> Any:
    def select(_connection: SSL.Connection, theirs: list[bytes]) -> bytes:
        for protocol in ours:
            if protocol in theirs:
                return protocol
        # RFC 7301 section 3.2: fatal, where nginx and haproxy agree. To go on would let
        # an h2-only client send us frames that no head scanner understands.
        raise HandshakeFailed("no_application_protocol", "no application protocol in common")

    return select


def _keep_traffic_secrets(connection: SSL.Connection, line: bytes) -> None:
    """Leave TLS 1.3 application secrets where `Handshake` finds them; keep no other line."""
    if not line.startswith(_WANTED_LINES):  # three of the five lines of a handshake
        return
    label, secret = parse_keylog_line(line)
    secrets = connection.get_app_data()
    if secrets is not None:
        secrets[label] = secret


def _reason(error: SSL.Error) -> str:
    """The last reason text of an OpenSSL error queue."""
    queue = error.args[0] if error.args else ()
    return str(queue[-1][-1]) if queue else "unknown"
