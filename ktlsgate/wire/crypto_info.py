"""Keys and sequence number as the kernel wants them: ``struct tls12_crypto_info_*``.

Layout (linux/tls.h), no padding: version u16 and cipher_type u16 in host order,
then iv, key, salt and the 8-byte big-endian rec_seq. The kernel uses these
structs for TLS 1.3 too. The direction is a type, so that keys cannot go in the
wrong way round.

Invariant I5: the packed bytes hold the key, so ``repr`` shows none of them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from .ciphers import CipherShape, CipherSuite, Version
from .key_schedule import AeadKey

__all__ = ["CryptoInfo", "RxCryptoInfo", "TxCryptoInfo", "packed_size", "parse_rec_seq"]

_pack_head = struct.Struct("=HH").pack  # version, cipher_type
_pack_rec_seq = struct.Struct(">Q").pack


@dataclass(frozen=True, slots=True, kw_only=True)
class CryptoInfo:
    """One direction, ready for ``setsockopt(SOL_TLS, ...)``.

    Attributes:
        suite: which cipher and version.
        key: the AEAD key with its static iv.
        rec_seq: records already protected under this key (invariant I3).
        explicit_nonce: TLS 1.2 with AES only: the 8 nonce bytes of the next record.
    """

    suite: CipherSuite
    key: AeadKey = field(repr=False)
    rec_seq: int
    explicit_nonce: bytes = field(default=bytes(8), repr=False)

    def pack(self) -> bytes:
        """Build the struct: 40 bytes (AES-128), 56 (AES-256) or 56 (ChaCha20)."""
        shape = self.suite.shape
        iv = self.key.iv
        if self.suite.version is Version.TLS12 and shape.explicit:
            iv += self.explicit_nonce
        salt, iv = iv[: shape.salt], iv[shape.salt :]
        head = _pack_head(self.suite.version, self.suite.cipher)
        return head + iv + self.key.key + salt + _pack_rec_seq(self.rec_seq)


class TxCryptoInfo(CryptoInfo):
    """What we send."""

    __slots__ = ()


class RxCryptoInfo(CryptoInfo):
    """What we receive."""

    __slots__ = ()


def packed_size(shape: CipherShape) -> int:
    """Compute the size of a cipher's struct in bytes; getsockopt wants it exactly."""
    return 4 + shape.iv + shape.key + shape.salt + 8


def parse_rec_seq(packed: bytes) -> int:
    """Read the sequence number out of a struct that getsockopt returned."""
    (rec_seq,) = struct.unpack(">Q", packed[-8:])
    return int(rec_seq)
