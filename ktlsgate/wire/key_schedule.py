"""From secrets to the key and iv of each direction: TLS 1.3's labels, TLS 1.2's key block.

TLS 1.3 (RFC 8446 sections 7.2 and 7.3)::

    traffic secret ──HKDF-Expand-Label("key", "")──► key
                   ──HKDF-Expand-Label("iv", "")───► iv (12 bytes)
                   ──HKDF-Expand-Label("traffic upd", "")──► the next generation's secret

TLS 1.2 (RFC 5246 section 6.3; ivs as in RFC 5288, 6655 and 7905)::

    master secret, "key expansion", server random + client random ──PRF──►
        client key | server key | client iv | server iv      (AEAD: no MAC keys)

The extended master secret (RFC 7627) changes how the master secret came to be,
not what follows from it. HMAC is written out over ``hashlib``: with these short messages
a call takes 0.7 µs, while ``hmac.digest``, which has OpenSSL 3 look for the hash each time,
takes 1.2 µs, and an HKDF object 1.2 (cryptography 50) to 5 µs (38); measured.

Invariant I5: secrets and keys are in no ``repr``, log line or exception. They are
dropped when the keys are in the kernel, with one exception, which the operator asks
for by ``share_secrets``: `TrafficSecrets` goes to a backend, so that it can follow
KeyUpdates.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field

from .ciphers import CipherShape, CipherSuite

__all__ = ["AeadKey", "TrafficSecret", "TrafficSecrets", "derive_key_block", "expand_label"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AeadKey:
    """What one direction needs: ``key`` (16 or 32 bytes) and static ``iv``.

    ``iv`` has 12 bytes in TLS 1.3 and for ChaCha20 (RFC 7905), else the 4 fixed bytes of
    TLS 1.2 (RFC 5288 section 3, the same for CCM in RFC 6655).
    """

    key: bytes = field(repr=False)
    iv: bytes = field(repr=False)


_HASHES = {"sha256": (hashlib.sha256, 64), "sha384": (hashlib.sha384, 128)}  # and block sizes
_INNER_PAD = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD = bytes(byte ^ 0x5C for byte in range(256))


def _hmac(secret: bytes, message: bytes, hash_name: str) -> bytes:
    """HMAC (RFC 2104) with a secret of at most the hash's block, 64 or 128 bytes."""
    new_hash, block_size = _HASHES[hash_name]
    padded = secret.ljust(block_size, b"\0")
    inner = new_hash(padded.translate(_INNER_PAD) + message).digest()
    return new_hash(padded.translate(_OUTER_PAD) + inner).digest()


def expand_label(secret: bytes, label: bytes, length: int, hash_name: str) -> bytes:
    """HKDF-Expand-Label with an empty context (RFC 8446 section 7.1, RFC 5869 section 2.3).

    Args:
        secret: a traffic secret as long as the hash, in bytes 32 or 48.
        label: without the ``tls13 `` prefix.
        length: bytes wanted, at most the hash's size: one block of HKDF-Expand. Nobody
            needs more, and who asks gets no more.
        hash_name: ``sha256`` or ``sha384``.

    Raises:
        KeyError: another hash; no suite of ours has one.
    """
    return _hmac(secret, _expand_info(label, length), hash_name)[:length]


@functools.cache  # by a handful of constants, for every connection
def _expand_info(label: bytes, length: int) -> bytes:
    """Build the HkdfLabel and the counter of HKDF-Expand's only block."""
    label = b"tls13 " + label
    return length.to_bytes(2, "big") + bytes((len(label),)) + label + b"\x00\x01"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSecret:
    """A TLS 1.3 application traffic secret of one direction (RFC 8446 section 7.1).

    ``secret`` is as long as the hash of ``suite``: 32 or 48 bytes.
    """

    secret: bytes = field(repr=False)
    suite: CipherSuite

    def derive_key(self) -> AeadKey:
        """Compute the key and the 12-byte iv of this generation (RFC 8446 section 7.3)."""
        hash_name = self.suite.hash_name
        return AeadKey(
            key=expand_label(self.secret, b"key", self.suite.shape.key, hash_name),
            iv=expand_label(self.secret, b"iv", 12, hash_name),
        )

    def next_generation(self) -> TrafficSecret:
        """Compute the secret that follows a KeyUpdate (RFC 8446 section 7.2)."""
        secret = expand_label(self.secret, b"traffic upd", len(self.secret), self.suite.hash_name)
        return TrafficSecret(secret=secret, suite=self.suite)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSecrets:
    """Both directions' current secrets of one TLS 1.3 connection, as a server sees them.

    Attributes:
        tx: of what we send, the server's.
        rx: of what we receive, the client's.
    """

    tx: TrafficSecret = field(repr=False)
    rx: TrafficSecret = field(repr=False)


def _prf(secret: bytes, seed: bytes, length: int, hash_name: str) -> bytes:
    """P_hash of RFC 5246 section 5, ``length`` bytes of it; ``seed`` starts with the label."""
    output, a = b"", seed
    while len(output) < length:
        a = _hmac(secret, a, hash_name)
        output += _hmac(secret, a + seed, hash_name)
    return output[:length]


def derive_key_block(
    master_secret: bytes, *, server_random: bytes, client_random: bytes, suite: CipherSuite
) -> tuple[AeadKey, AeadKey]:
    """Compute TLS 1.2's keys (RFC 5246 section 6.3).

    Args:
        master_secret: 48 bytes (RFC 5246 section 8.1, or RFC 7627).
        server_random: 32 bytes.
        client_random: 32 bytes.
        suite: an AEAD suite of TLS 1.2.

    Returns:
        The client's write key and the server's write key.
    """
    shape = suite.shape
    seed = b"key expansion" + server_random + client_random
    block = _prf(master_secret, seed, 2 * (shape.key + shape.fixed_iv), suite.hash_name)
    return _slice_key_block(block, shape)


def _slice_key_block(block: bytes, shape: CipherShape) -> tuple[AeadKey, AeadKey]:
    key, iv = shape.key, shape.fixed_iv
    ivs = block[2 * key :]
    return (
        AeadKey(key=block[:key], iv=ivs[:iv]),
        AeadKey(key=block[key : 2 * key], iv=ivs[iv:]),
    )
