"""The key schedule against RFC 8448, the TLS 1.2 PRF's published vectors, and cryptography."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from helpers.properties import given, st

from ktlsgate.wire.ciphers import SUITES, Version
from ktlsgate.wire.key_schedule import (
    AeadKey,
    TrafficSecret,
    _prf,
    derive_key_block,
    expand_label,
)

HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384()}
TLS12 = [suite for suite in SUITES.values() if suite.version is Version.TLS12]
TLS13 = [suite for suite in SUITES.values() if suite.version is Version.TLS13]
AES_128 = SUITES["TLS_AES_128_GCM_SHA256"]

# RFC 8448 section 3, "Simple 1-RTT Handshake": {server}/{client} derive write traffic keys
# for application data: secret, key, iv.
RFC8448 = {
    "server": (
        "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643",
        "9f02283b6c9c07efc26bb9f2ac92e356",
        "cf782b88dd83549aadf1e984",
    ),
    "client": (
        "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5",
        "17422dda596ed5d9acd890e3c63f5051",
        "5b78923dee08579033e523d9",
    ),
}
# The same section: {client} send application data, the complete record.
RFC8448_RECORD = bytes.fromhex(
    "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a2044"
    "1e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4"
)

# https://mailarchive.ietf.org/arch/msg/tls/fzVCzk-z3FShgGJ6DOXqM1ydxms/: label "test label".
PRF = {
    "sha256": (
        "9bbe436ba940f017b17652849a71db35",
        "a0ba9f936cda311827a6f796ffd5198c",
        (
            "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791e90d35c9c9a46b4e14ba"
            "f9af0fa022f7077def17abfd3797c0564bab4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a51"
            "10fff70187347b66"
        ),
    ),
    "sha384": (
        "b80b733d6ceefcdc71566ea48e5567df",
        "cd665cf6a8447dd6ff8b27555edb7465",
        (
            "7b0c18e9ced410ed1804f2cfa34a336a1c14dffb4900bb5fd7942107e81c83cde9ca0faa60be9fe34f82b1233c91"
            "46a0e534cb400fed2700884f9dc236f80edd8bfa961144c9e8d792eca722a7b32fc3d416d473ebc2c5fd4abfdad0"
            "5d9184259b5bf8cd4d90fa0d31e2dec479e4f1a26066f2eea9a69236a3e52655c9e9aee691c8f3a26854308d5eaa"
            "3be85e0990703d73e56f"
        ),
    ),
}


def reference_expand(secret, label, length, hash_name):
    """HKDF-Expand-Label written from RFC 8446 section 7.1 over cryptography's HKDF."""
    label = b"tls13 " + label
    info = bytes((length >> 8, length & 255, len(label))) + label + bytes((0,))
    return HKDFExpand(algorithm=HASHES[hash_name], length=length, info=info).derive(secret)


def hash_size(suite):
    return HASHES[suite.hash_name].digest_size


@pytest.mark.parametrize("side", ["server", "client"])
def test_application_keys_are_those_of_rfc_8448(side):
    secret, key, iv = (bytes.fromhex(text) for text in RFC8448[side])
    assert TrafficSecret(secret=secret, suite=AES_128).derive_key() == AeadKey(key=key, iv=iv)


def test_derived_key_opens_the_record_of_rfc_8448():
    secret = TrafficSecret(secret=bytes.fromhex(RFC8448["client"][0]), suite=AES_128)
    key = secret.derive_key()
    plain = AESGCM(key.key).decrypt(key.iv, RFC8448_RECORD[5:], RFC8448_RECORD[:5])
    assert plain == bytes(range(50)) + b"\x17"


@pytest.mark.parametrize(
    ("side", "following"),
    [
        ("server", "51921b8aa3001976eb401d0a4319a8516416a6c56001a357e5d162031e84f916"),
        ("client", "fcdfcc72725aaee48bf64e4fd8b749cdbdbab39d90da0b26e2245ca6ea167207"),
    ],
)
def test_next_generation_continues_the_secrets_of_rfc_8448(side, following):
    """RFC 8448 has no KeyUpdate: the values were computed with cryptography's HKDFExpand."""
    secret = TrafficSecret(secret=bytes.fromhex(RFC8448[side][0]), suite=AES_128)
    update = secret.next_generation()
    assert update == TrafficSecret(secret=bytes.fromhex(following), suite=AES_128)
    assert update.secret == reference_expand(secret.secret, b"traffic upd", 32, "sha256")


@pytest.mark.parametrize("suite", TLS13, ids=lambda suite: suite.name)
def test_tls13_keys_are_those_of_an_independent_hkdf(suite):
    size = hash_size(suite)
    secret = TrafficSecret(secret=bytes(range(size)), suite=suite)
    for _generation in range(3):
        assert secret.derive_key() == AeadKey(
            key=reference_expand(secret.secret, b"key", suite.shape.key, suite.hash_name),
            iv=reference_expand(secret.secret, b"iv", 12, suite.hash_name),
        )
        expected = reference_expand(secret.secret, b"traffic upd", size, suite.hash_name)
        secret = secret.next_generation()
        assert secret == TrafficSecret(secret=expected, suite=suite)


@given(
    secret=st.binary(min_size=32, max_size=48),
    label=st.binary(max_size=20),
    length=st.integers(1, 32),
    hash_name=st.sampled_from(["sha256", "sha384"]),
)
def test_expand_label_is_hkdf_expand_up_to_one_block(secret, label, length, hash_name):
    expected = reference_expand(secret, label, length, hash_name)
    assert expand_label(secret, label, length, hash_name) == expected


@pytest.mark.parametrize("hash_name", ["sha256", "sha384"])
def test_prf_gives_the_published_bytes(hash_name):
    secret, seed, output = (bytes.fromhex(text) for text in PRF[hash_name])
    assert _prf(secret, b"test label" + seed, len(output), hash_name) == output


@pytest.mark.parametrize("suite", TLS12, ids=lambda suite: suite.name)
def test_key_block_is_sliced_as_rfc_5246_orders_it(suite):
    """client key, server key, client iv, server iv; no MAC keys (section 6.3)."""
    key_size, iv_size = {
        "AES_GCM_128": (16, 4),
        "AES_GCM_256": (32, 4),
        "AES_CCM_128": (16, 4),
        "CHACHA20_POLY1305": (32, 12),
    }[suite.cipher.name]
    master, server, client = b"m" * 48, b"s" * 32, b"c" * 32
    size = 2 * (key_size + iv_size)
    block = _prf(master, b"key expansion" + server + client, size, suite.hash_name)
    client_key, server_key = derive_key_block(
        master, server_random=server, client_random=client, suite=suite
    )
    assert client_key.key + server_key.key + client_key.iv + server_key.iv == block
    assert {len(client_key.key), len(server_key.key)} == {key_size}
    assert {len(client_key.iv), len(server_key.iv)} == {iv_size}


def test_i5_no_repr_shows_a_secret_or_a_key():
    key = AeadKey(key=b"K" * 16, iv=b"I" * 12)
    secret = TrafficSecret(secret=b"S" * 32, suite=AES_128)
    assert repr(key) == str(key) == "AeadKey()"
    assert repr(secret) == str(secret) == f"TrafficSecret(suite={AES_128!r})"
