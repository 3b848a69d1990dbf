"""The one table of cipher suites that the kernel can take over.

Rule: whatever is to be known of a suite stands here, once. A suite that is not
in `SUITES` is relayed; a new one is one row. Names are OpenSSL's, as
``Connection.get_cipher_name()`` says them; numbers and sizes are those of
``include/uapi/linux/tls.h``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["LABELS", "SHAPES", "SUITES", "CipherShape", "CipherSuite", "KernelCipher", "Version"]


class Version(enum.IntEnum):
    """TLS versions as they stand on the wire and in ``tls_crypto_info.version``."""

    TLS12 = 0x0303
    TLS13 = 0x0304

    @property
    def label(self) -> str:
        """The name that mod_ssl gives it in ``SSL_PROTOCOL``: ``TLSv1.2``, ``TLSv1.3``."""
        return LABELS[self]


LABELS: dict[int, str] = {Version.TLS12: "TLSv1.2", Version.TLS13: "TLSv1.3"}


class KernelCipher(enum.IntEnum):
    """``tls_crypto_info.cipher_type`` (linux/tls.h)."""

    AES_GCM_128 = 51
    AES_GCM_256 = 52
    AES_CCM_128 = 53
    CHACHA20_POLY1305 = 54


@dataclass(frozen=True, slots=True, kw_only=True)
class CipherShape:
    """Field sizes, in bytes, of one ``struct tls12_crypto_info_*``.

    ``salt`` is the fixed part of the nonce and ``iv`` the rest; ChaCha20 has no
    salt in the kernel's struct. ``explicit`` is how much of the nonce TLS 1.2
    sends with every record (RFC 5288 section 3); TLS 1.3 sends none.
    """

    key: int
    salt: int
    iv: int
    explicit: int

    @property
    def fixed_iv(self) -> int:
        """Bytes of iv per direction in TLS 1.2's key block (RFC 5288, RFC 7905)."""
        return self.salt + self.iv - self.explicit


SHAPES = {
    KernelCipher.AES_GCM_128: CipherShape(key=16, salt=4, iv=8, explicit=8),
    KernelCipher.AES_GCM_256: CipherShape(key=32, salt=4, iv=8, explicit=8),
    KernelCipher.AES_CCM_128: CipherShape(key=16, salt=4, iv=8, explicit=8),
    KernelCipher.CHACHA20_POLY1305: CipherShape(key=32, salt=0, iv=12, explicit=0),
}


_HASH_SIZES = {"sha256": 32, "sha384": 48}


@dataclass(frozen=True, slots=True, kw_only=True)
class CipherSuite:
    """A suite: its name, its version, the kernel's cipher, the hash of its key schedule."""

    name: str
    version: Version
    cipher: KernelCipher
    hash_name: str

    @property
    def shape(self) -> CipherShape:
        """The sizes of its cipher."""
        return SHAPES[self.cipher]

    @property
    def hash_size(self) -> int:
        """Bytes of its hash, and so of TLS 1.3's traffic secrets."""
        return _HASH_SIZES[self.hash_name]


_TLS13 = (
    ("TLS_AES_128_GCM_SHA256", KernelCipher.AES_GCM_128, "sha256"),
    ("TLS_AES_256_GCM_SHA384", KernelCipher.AES_GCM_256, "sha384"),
    ("TLS_CHACHA20_POLY1305_SHA256", KernelCipher.CHACHA20_POLY1305, "sha256"),
    ("TLS_AES_128_CCM_SHA256", KernelCipher.AES_CCM_128, "sha256"),
)

_TLS12 = (
    ("AES128-GCM-SHA256", KernelCipher.AES_GCM_128, "sha256"),
    ("AES256-GCM-SHA384", KernelCipher.AES_GCM_256, "sha384"),
    ("CHACHA20-POLY1305", KernelCipher.CHACHA20_POLY1305, "sha256"),
    ("AES128-CCM", KernelCipher.AES_CCM_128, "sha256"),
)

# How the keys were exchanged does not matter once there are keys; "" is plain RSA.
_KEY_EXCHANGES = ("ECDHE-ECDSA-", "ECDHE-RSA-", "DHE-RSA-", "")

SUITES = {
    name: CipherSuite(name=name, version=Version.TLS13, cipher=cipher, hash_name=hash_name)
    for name, cipher, hash_name in _TLS13
} | {
    exchange + name: CipherSuite(
        name=exchange + name, version=Version.TLS12, cipher=cipher, hash_name=hash_name
    )
    for exchange in _KEY_EXCHANGES
    for name, cipher, hash_name in _TLS12
}
