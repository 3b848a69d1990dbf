"""What Linux does with a ``struct tls12_crypto_info_*``, in Python and on its own.

Written from ``net/tls`` and the RFCs, not from `ktlsgate.wire`: it gets the packed
bytes and nothing else, so whoever understands its records proves key, iv, salt,
nonce and sequence number right (invariant I3) without a kernel.
"""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.ciphers import aead

TLS12, TLS13 = 0x0303, 0x0304
# cipher_type: AEAD, key, salt, iv (include/uapi/linux/tls.h)
_CIPHERS = {
    51: (aead.AESGCM, 16, 4, 8),
    52: (aead.AESGCM, 32, 4, 8),
    53: (aead.AESCCM, 16, 4, 8),
    54: (aead.ChaCha20Poly1305, 32, 0, 12),
}


class KernelRecords:
    """One direction of a socket after ``setsockopt(SOL_TLS, ...)``."""

    def __init__(self, packed: bytes):
        self.version, cipher = struct.unpack_from("=HH", packed)
        make, key, salt, iv = _CIPHERS[cipher]
        assert len(packed) == 4 + iv + key + salt + 8
        fields = packed[4:]
        self.iv, fields = fields[:iv], fields[iv:]
        self._aead, fields = make(fields[:key]), fields[key:]
        self.salt, fields = fields[:salt], fields[salt:]
        self.rec_seq = int.from_bytes(fields, "big")
        self._has_explicit = self.version == TLS12 and salt > 0

    def seal(self, content_type: int, data: bytes) -> bytes:
        """Build the next record, as sendmsg does."""
        if self.version == TLS13:
            inner = data + bytes((content_type,))
            header = b"\x17\x03\x03" + struct.pack(">H", len(inner) + 16)
            body = self._aead.encrypt(self._xored(), inner, header)
        else:
            explicit = self.iv if self._has_explicit else b""
            nonce = self.salt + explicit if explicit else self._xored()
            body = explicit + self._aead.encrypt(nonce, data, self._extra(content_type, len(data)))
            header = bytes((content_type, 3, 3)) + struct.pack(">H", len(body))
        self._advance()
        return header + body

    def open(self, record: bytes) -> tuple[int, bytes]:
        """Take the next record apart, as recvmsg does; InvalidTag is the kernel's EBADMSG."""
        header, body = record[:5], record[5:]
        assert len(body) == int.from_bytes(header[3:], "big")
        if self.version == TLS13:
            inner = self._aead.decrypt(self._xored(), body, header).rstrip(b"\0")
            content_type, data = inner[-1], inner[:-1]
        else:
            explicit, body = (body[:8], body[8:]) if self._has_explicit else (b"", body)
            nonce = self.salt + explicit if explicit else self._xored()
            content_type = header[0]
            data = self._aead.decrypt(nonce, body, self._extra(content_type, len(body) - 16))
        self._advance()
        return content_type, data

    def _xored(self) -> bytes:
        static = self.salt + self.iv
        number = self.rec_seq.to_bytes(len(static), "big")
        return bytes(a ^ b for a, b in zip(static, number, strict=True))

    def _extra(self, content_type: int, length: int) -> bytes:
        return struct.pack(">QBHH", self.rec_seq, content_type, TLS12, length)

    def _advance(self) -> None:
        self.rec_seq += 1
        if self._has_explicit:  # tls_advance_record_sn: a counter of its own
            self.iv = ((int.from_bytes(self.iv, "big") + 1) % (1 << 64)).to_bytes(8, "big")
