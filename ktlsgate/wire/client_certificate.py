"""A client's certificate in mod_ssl's names: what CGI applications already read.

Names: https://httpd.apache.org/docs/2.4/mod/mod_ssl.html#envvars.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

__all__ = ["describe_client_certificate"]

_Names = list[tuple[bytes, bytes]]

# What cryptography raises for extensions that are absent or that it cannot read. OpenSSL let
# the certificate pass, so the client is who it says; it just has no alternative names for us.
_UNREADABLE = (
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    ValueError,
)


def describe_client_certificate(certificate: x509.Certificate) -> tuple[tuple[bytes, bytes], ...]:
    """Build ``SSL_CLIENT_*`` names and values of a certificate that was verified."""
    names = [
        (b"SSL_CLIENT_VERIFY", b"SUCCESS"),
        (b"SSL_CLIENT_M_VERSION", b"%d" % (certificate.version.value + 1)),
        (b"SSL_CLIENT_M_SERIAL", b"%X" % certificate.serial_number),
        *_names(b"SSL_CLIENT_S_DN", lambda: certificate.subject),
        *_names(b"SSL_CLIENT_I_DN", lambda: certificate.issuer),
        (b"SSL_CLIENT_V_START", _openssl_time(_not_before(certificate))),
        (b"SSL_CLIENT_V_END", _openssl_time(_not_after(certificate))),
        *_alternative_names(certificate),
        (b"SSL_CLIENT_CERT", certificate.public_bytes(Encoding.PEM)),
    ]
    return tuple((name, value.replace(b"\0", b"")) for name, value in names)


def _names(prefix: bytes, read: Callable[[], x509.Name]) -> _Names:
    """Name and common name of a party, empty where cryptography cannot read them."""
    try:
        name = read()
        return [(prefix, name.rfc4514_string().encode()), (prefix + b"_CN", _common_name(name))]
    except ValueError:
        return [(prefix, b""), (prefix + b"_CN", b"")]


def _common_name(name: x509.Name) -> bytes:
    found = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    value = found[0].value if found else ""
    return value if isinstance(value, bytes) else value.encode()


def _alternative_names(certificate: x509.Certificate) -> _Names:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except _UNREADABLE:
        return []
    found: _Names = []
    for prefix, kind in (
        (b"SSL_CLIENT_SAN_Email", x509.RFC822Name),
        (b"SSL_CLIENT_SAN_DNS", x509.DNSName),
        (b"SSL_CLIENT_SAN_URI", x509.UniformResourceIdentifier),
    ):
        values = extension.value.get_values_for_type(kind)
        # The PEM itself has them all; a head must stay small whatever the client sends.
        found += [(b"%b_%d" % (prefix, i), v.encode()) for i, v in enumerate(values[:8])]
    return found


def _not_before(certificate: x509.Certificate) -> datetime.datetime:
    if hasattr(certificate, "not_valid_before_utc"):  # cryptography 42 and newer
        return certificate.not_valid_before_utc
    return certificate.not_valid_before


def _not_after(certificate: x509.Certificate) -> datetime.datetime:
    if hasattr(certificate, "not_valid_after_utc"):
        return certificate.not_valid_after_utc
    return certificate.not_valid_after


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _openssl_time(when: datetime.datetime) -> bytes:
    """``Nov  9 12:00:00 2026 GMT``, whatever the locale."""
    month = _MONTHS[when.month - 1]
    return f"{month} {when.day:2d} {when:%H:%M:%S} {when.year} GMT".encode()
