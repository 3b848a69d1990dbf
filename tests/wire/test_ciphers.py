"""The table of suites against linux/tls.h and against the names that OpenSSL uses."""

from __future__ import annotations

import pytest
from OpenSSL import SSL

from ktlsgate.wire.ciphers import SHAPES, SUITES, CipherShape, KernelCipher, Version

TLS13 = sorted(name for name, suite in SUITES.items() if suite.version is Version.TLS13)
TLS12 = sorted(name for name, suite in SUITES.items() if suite.version is Version.TLS12)


def test_versions_and_ciphers_have_the_numbers_of_the_kernels_header():
    assert {v.name: int(v) for v in Version} == {"TLS12": 0x0303, "TLS13": 0x0304}
    assert {c.name: int(c) for c in KernelCipher} == {
        "AES_GCM_128": 51,
        "AES_GCM_256": 52,
        "AES_CCM_128": 53,
        "CHACHA20_POLY1305": 54,
    }


@pytest.mark.parametrize(
    ("version", "label"), [(Version.TLS12, "TLSv1.2"), (Version.TLS13, "TLSv1.3")]
)
def test_version_label_is_mod_ssls(version, label):
    assert version.label == label


@pytest.mark.parametrize(
    ("cipher", "shape", "fixed_iv"),
    [
        ("AES_GCM_128", CipherShape(key=16, salt=4, iv=8, explicit=8), 4),
        ("AES_GCM_256", CipherShape(key=32, salt=4, iv=8, explicit=8), 4),
        ("AES_CCM_128", CipherShape(key=16, salt=4, iv=8, explicit=8), 4),
        ("CHACHA20_POLY1305", CipherShape(key=32, salt=0, iv=12, explicit=0), 12),
    ],
)
def test_shape_has_the_sizes_of_the_kernels_struct_and_of_the_key_block(cipher, shape, fixed_iv):
    assert SHAPES[KernelCipher[cipher]] == shape
    assert shape.fixed_iv == fixed_iv


def test_every_shape_makes_a_nonce_of_12_bytes():
    assert {shape.salt + shape.iv for shape in SHAPES.values()} == {12}


def test_tls13_suites_are_the_four_that_the_kernel_can_take():
    assert TLS13 == [
        "TLS_AES_128_CCM_SHA256",
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
    ]


def test_tls12_suites_are_every_key_exchange_with_every_aead():
    ciphers = ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305", "AES128-CCM")
    exchanges = ("ECDHE-ECDSA-", "ECDHE-RSA-", "DHE-RSA-", "")
    expected = {exchange + cipher for exchange in exchanges for cipher in ciphers}
    assert set(TLS12) == expected


def test_suites_are_found_by_their_own_name():
    assert all(suite.name == name for name, suite in SUITES.items())


def test_only_aes_256_uses_sha384():
    """RFC 8446 appendix B.4, RFC 5288, RFC 6655, RFC 7905."""
    for suite in SUITES.values():
        is_aes_256 = suite.cipher is KernelCipher.AES_GCM_256
        assert suite.hash_name == ("sha384" if is_aes_256 else "sha256"), suite.name


def test_suite_knows_the_shape_of_its_cipher():
    assert all(suite.shape is SHAPES[suite.cipher] for suite in SUITES.values())


@pytest.mark.parametrize(
    "name",
    ["TLS_AES_128_CCM_8_SHA256", "ECDHE-RSA-AES128-SHA", "AES256-CCM", "ECDHE-ECDSA-AES128-CCM8"],
)
def test_suites_that_no_kernel_takes_are_absent(name):
    assert name not in SUITES


# RFC 7251 gave CCM to ECDSA alone, and not every library is built with DHE and plain RSA.
EVERYWHERE = [
    name for name in TLS12 if name.startswith("ECDHE-") and name != "ECDHE-RSA-AES128-CCM"
]


@pytest.mark.parametrize("name", EVERYWHERE)
def test_tls12_names_are_those_of_openssl(name):
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_cipher_list(name.encode())
    assert name in SSL.Connection(context, None).get_cipher_list()
