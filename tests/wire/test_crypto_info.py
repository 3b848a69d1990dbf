"""The bytes that setsockopt gets, field by field, as linux/tls.h lays them out."""

from __future__ import annotations

import struct
import sys

import pytest

from ktlsgate.wire.ciphers import SUITES
from ktlsgate.wire.crypto_info import (
    CryptoInfo,
    RxCryptoInfo,
    TxCryptoInfo,
    packed_size,
    parse_rec_seq,
)
from ktlsgate.wire.key_schedule import AeadKey

KEY = bytes(range(0x40, 0x60))
IV = bytes(range(0xA0, 0xAC))
NONCE = bytes(range(0xE0, 0xE8))
REC_SEQ = 0x0102030405060708
REC_SEQ_BYTES = bytes(range(1, 9))


def host(number):
    return number.to_bytes(2, sys.byteorder)


def info(name, kind=TxCryptoInfo, **changes):
    suite = SUITES[name]
    iv = IV if suite.version.label == "TLSv1.3" else IV[: suite.shape.fixed_iv]
    key = AeadKey(key=KEY[: suite.shape.key], iv=iv)
    values = {"suite": suite, "key": key, "rec_seq": REC_SEQ, "explicit_nonce": NONCE}
    return kind(**(values | changes))


# iv, key, salt, rec_seq; in TLS 1.2 AES's iv is the explicit nonce and its salt the fixed iv.
LAYOUTS = [
    ("TLS_AES_128_GCM_SHA256", 0x0304, 51, IV[4:], 16, IV[:4], 40),
    ("TLS_AES_256_GCM_SHA384", 0x0304, 52, IV[4:], 32, IV[:4], 56),
    ("TLS_AES_128_CCM_SHA256", 0x0304, 53, IV[4:], 16, IV[:4], 40),
    ("TLS_CHACHA20_POLY1305_SHA256", 0x0304, 54, IV, 32, b"", 56),
    ("ECDHE-RSA-AES128-GCM-SHA256", 0x0303, 51, NONCE, 16, IV[:4], 40),
    ("ECDHE-RSA-AES256-GCM-SHA384", 0x0303, 52, NONCE, 32, IV[:4], 56),
    ("ECDHE-ECDSA-AES128-CCM", 0x0303, 53, NONCE, 16, IV[:4], 40),
    ("ECDHE-RSA-CHACHA20-POLY1305", 0x0303, 54, IV, 32, b"", 56),
]


@pytest.mark.parametrize("kind", [TxCryptoInfo, RxCryptoInfo])
@pytest.mark.parametrize(("name", "version", "cipher", "iv", "key", "salt", "size"), LAYOUTS)
def test_struct_is_laid_out_as_the_kernel_reads_it(
    name, version, cipher, iv, key, salt, size, kind
):
    packed = info(name, kind).pack()
    assert packed == host(version) + host(cipher) + iv + KEY[:key] + salt + REC_SEQ_BYTES
    assert len(packed) == size == packed_size(SUITES[name].shape)


def test_explicit_nonce_is_zero_unless_given():
    """The kernel does not look at it for receiving."""
    suite = SUITES["ECDHE-RSA-AES128-GCM-SHA256"]
    packed = RxCryptoInfo(suite=suite, key=AeadKey(key=KEY[:16], iv=IV[:4]), rec_seq=1).pack()
    assert packed[4:12] == bytes(8)


@pytest.mark.parametrize("rec_seq", [0, 1, 2**32, 2**64 - 1])
def test_sequence_number_is_big_endian_and_read_back(rec_seq):
    packed = info("TLS_AES_128_GCM_SHA256", rec_seq=rec_seq).pack()
    assert packed[-8:] == rec_seq.to_bytes(8, "big")
    assert parse_rec_seq(packed) == rec_seq


def test_sequence_number_beyond_64_bits_is_not_packed():
    with pytest.raises(struct.error):
        info("TLS_AES_128_GCM_SHA256", rec_seq=2**64).pack()


def test_direction_is_a_type():
    assert not isinstance(info("TLS_AES_128_GCM_SHA256", TxCryptoInfo), RxCryptoInfo)
    assert not isinstance(info("TLS_AES_128_GCM_SHA256", RxCryptoInfo), TxCryptoInfo)
    tx, rx = (info("TLS_AES_128_GCM_SHA256", kind) for kind in (TxCryptoInfo, RxCryptoInfo))
    assert isinstance(tx, CryptoInfo)
    assert tx != rx


@pytest.mark.parametrize("kind", [TxCryptoInfo, RxCryptoInfo])
@pytest.mark.parametrize("name", [row[0] for row in LAYOUTS])
def test_i5_no_text_shows_a_key_an_iv_or_a_nonce(kind, name):
    value = info(name, kind)
    expected = f"{kind.__name__}(suite={SUITES[name]!r}, rec_seq={REC_SEQ})"
    assert repr(value) == str(value) == f"{value}" == expected


def test_values_hold_nothing_else():
    """Slots all the way: no dictionary where a key could stay unseen."""
    assert not hasattr(info("TLS_AES_128_GCM_SHA256"), "__dict__")
