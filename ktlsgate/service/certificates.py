"""PEM files to certificates and keys that a TLS handshake can use, or what is wrong with them.

Every mistake is found here, where a file name and a plain sentence can be given;
OpenSSL would say ``no start line`` or ``key values mismatch`` at best. What OpenSSL
would serve although clients will not like it (expired, wrong order) is a warning: a
gate that refuses to restart because of the date makes a bad day worse.

Works from cryptography 38 (Debian 12) on, which has only naive dates.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from .. import config
from ..errors import ConfigError

__all__ = ["Identity", "PrivateKey", "load_client_ca", "load_identity"]

PrivateKey = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)
"""The kinds of keys that a TLS 1.2 or 1.3 server can sign with."""

_MAX_FILE = 4 * 1024 * 1024  # the bundle of all public authorities is 220 kB
_MIN_RSA_BITS = 2048
# TLS 1.3 names signatures by curve, and has these three (RFC 8446 section 4.2.3).
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_KEY_FORMS = "an RSA, EC (P-256, P-384, P-521), Ed25519 or Ed448 key"

_BLOCK = re.compile(
    rb"-----BEGIN (?P<label>[A-Z0-9 ]+)-----\s.*?-----END (?P=label)-----", re.DOTALL
)
_KEY_LABELS = ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a server shows and signs with.

    Attributes:
        chain: the leaf first.
        key: the leaf's private key; not part of the repr.
        certificate_file: where the chain was read.
        key_file: where the key was read; the same unless it has its own file.
        warnings: what will work and should be looked at, each ``path: sentence``.
    """

    chain: tuple[x509.Certificate, ...]
    key: PrivateKey = field(repr=False)
    certificate_file: str
    key_file: str
    warnings: tuple[str, ...] = ()


def load_identity(certificate: config.Certificate, *, now: datetime | None = None) -> Identity:
    """Read a certificate chain and its key.

    Args:
        certificate: the names of the PEM files.
        now: the moment that certificates are to be valid at, with a time zone;
            the current one by default.

    Raises:
        ConfigError: a file cannot be read, or what is in it cannot be served;
            each complaint is ``path: what was expected, what came``.
    """
    key_file = certificate.key or certificate.file
    errors: list[str] = []
    chain: tuple[x509.Certificate, ...] = ()
    key: PrivateKey | None = None
    warnings: list[str] = []
    try:
        chain = _certificates(certificate.file, _read_pem(certificate.file).blocks)
    except ConfigError as exc:
        errors.extend(exc.errors)
    try:
        # Read again even if it is the same file: its complaint may be the same too.
        key_pem = _read_pem(key_file)
        key = _key(key_file, key_pem.blocks)
        warnings += _mode_warnings(key_file, key_pem.mode)
    except ConfigError as exc:
        errors.extend(exc.errors)
    if chain and key is not None:
        errors += _mismatch(certificate.file, chain, key_file, key)
    if errors or key is None:
        raise ConfigError(*dict.fromkeys(errors))
    warnings += _chain_warnings(certificate.file, chain, now or datetime.now(UTC))
    return Identity(
        chain=chain,
        key=key,
        certificate_file=certificate.file,
        key_file=key_file,
        warnings=tuple(warnings),
    )


def load_client_ca(path: str) -> tuple[x509.Certificate, ...]:
    """Read the authorities that client certificates must come from.

    Raises:
        ConfigError: the file cannot be read or holds no certificate.
    """
    return _certificates(path, _read_pem(path).blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pem:
    blocks: tuple[tuple[str, bytes], ...]  # label and the whole block, in order
    mode: int  # of the file


def _read_pem(path: str) -> _Pem:
    try:
        # Path.read_bytes would read all of /dev/zero.
        with open(path, "rb") as file:  # noqa: PTH123
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(_MAX_FILE + 1)
    except OSError as exc:
        why = exc.strerror or str(exc)
        raise ConfigError(f"{path}: expected a readable PEM file, got: {why}") from exc
    if len(data) > _MAX_FILE:
        raise ConfigError(f"{path}: expected a PEM file of at most {_MAX_FILE} bytes, got more")
    blocks = tuple((found["label"].decode(), found[0]) for found in _BLOCK.finditer(data))
    if not blocks:
        is_der = data[:1] == b"\x30"  # an ASN.1 SEQUENCE
        got = "DER" if is_der else "something else" if data else "an empty file"
        raise ConfigError(f"{path}: expected PEM (-----BEGIN ...), got {got}")
    return _Pem(blocks=blocks, mode=mode)


def _certificates(path: str, blocks: Sequence[tuple[str, bytes]]) -> tuple[x509.Certificate, ...]:
    chain: list[x509.Certificate] = []
    for block in (block for label, block in blocks if label == "CERTIFICATE"):
        try:
            chain.append(x509.load_pem_x509_certificate(block))
        except ValueError as exc:
            raise ConfigError(
                f"{path}: expected an X.509 certificate, got one that cannot be read"
                f" (number {len(chain) + 1})"
            ) from exc
    if not chain:
        raise ConfigError(f"{path}: expected a certificate, got {_labels(blocks)}")
    return tuple(chain)


def _labels(blocks: Sequence[tuple[str, bytes]]) -> str:
    return "only " + ", ".join(dict.fromkeys(label for label, _ in blocks))


def _key(path: str, blocks: Sequence[tuple[str, bytes]]) -> PrivateKey:
    keys = [(label, block) for label, block in blocks if label in _KEY_LABELS]
    if not keys:
        other = [label for label, _ in blocks if label.endswith("PRIVATE KEY")]
        if other:
            raise ConfigError(f"{path}: expected {_KEY_FORMS}, got {other[0]}")
        raise ConfigError(f"{path}: expected a private key, got {_labels(blocks)}")
    if len(keys) > 1:
        raise ConfigError(f"{path}: expected one private key, got {len(keys)}")
    label, block = keys[0]
    # The old form says it in a header inside the block (RFC 1421 section 4.6.1.1).
    if label.startswith("ENCRYPTED") or b"Proc-Type: 4,ENCRYPTED" in block:
        raise ConfigError(
            f"{path}: expected a private key without a passphrase, got an encrypted one:"
            " passphrases are not supported yet"
        )
    return _usable(path, block)


def _usable(path: str, block: bytes) -> PrivateKey:
    try:
        key = load_pem_private_key(block, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise ConfigError(f"{path}: expected {_KEY_FORMS}, got one that cannot be read") from exc
    if not isinstance(key, PrivateKey):
        kind = type(key).__name__.strip("_").removesuffix("PrivateKey")
        raise ConfigError(f"{path}: expected {_KEY_FORMS}, got a key of type {kind}")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < _MIN_RSA_BITS:
        raise ConfigError(
            f"{path}: expected an RSA key of at least {_MIN_RSA_BITS} bits"
            f" (OpenSSL's security level 2), got {key.key_size} bits"
        )
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name not in _CURVES:
        raise ConfigError(f"{path}: expected {_KEY_FORMS}, got an EC key on {key.curve.name}")
    return key


def _mismatch(
    path: str, chain: Sequence[x509.Certificate], key_path: str, key: PrivateKey
) -> Iterator[str]:
    """Say that the key is not the leaf's; yields nothing if it is."""
    wanted = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    owners = [number for number, each in enumerate(chain, 1) if _public_bytes(each) == wanted]
    if 1 in owners:
        return
    if owners:
        yield (
            f"{path}: expected the leaf certificate first,"
            f" got the one that belongs to the key as number {owners[0]}"
        )
    else:
        yield (
            f"{key_path}: expected the key of the first certificate in {path}"
            f" ({_name(chain[0])}), got another key"
        )


def _public_bytes(certificate: x509.Certificate) -> bytes:
    """Return the certificate's public key as DER; empty for a kind that cryptography lacks."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return b""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _mode_warnings(path: str, mode: int) -> Iterator[str]:
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        who = "everybody" if mode & stat.S_IROTH else "its group"
        yield (
            f"{path}: expected a private key that only its owner can read, got mode {mode:04o}"
            f" ({who} can)"
        )


def _chain_warnings(path: str, chain: Sequence[x509.Certificate], now: datetime) -> Iterator[str]:
    for number, certificate in enumerate(chain, 1):
        begin, end = _validity(certificate)
        which = f"certificate {number} ({_name(certificate)})"
        if now < begin:
            yield f"{path}: {which} is not valid before {_date(begin)}"
        if now > end:
            yield f"{path}: {which} expired on {_date(end)}"
    for number, (below, above) in enumerate(itertools.pairwise(chain), 1):
        if below.issuer != above.subject:
            yield (
                f"{path}: certificate {number + 1} ({_name(above)})"
                f" did not issue certificate {number} before it"
            )


def _validity(certificate: x509.Certificate) -> tuple[datetime, datetime]:
    # cryptography 42 brought the dates with a zone and began to warn about the others.
    if hasattr(certificate, "not_valid_after_utc"):
        return certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return (
        certificate.not_valid_before.replace(tzinfo=UTC),
        certificate.not_valid_after.replace(tzinfo=UTC),
    )


def _date(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _name(certificate: x509.Certificate) -> str:
    """Name a certificate in a message; its maker is not always trusted, so visible signs only."""
    text = certificate.subject.rfc4514_string() or f"serial {certificate.serial_number:x}"
    return "".join(sign if sign.isprintable() else "?" for sign in text)[:200]
