"""PEM files become an identity, or a sentence that says which file is wrong and why."""

import datetime
import os
import subprocess
import sys

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from cryptography.x509.oid import NameOID

from ktlsgate import config
from ktlsgate.errors import ConfigError
from ktlsgate.service.certificates import load_client_ca, load_identity

NOW = datetime.datetime(2026, 11, 20, 12, 0, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
KEY_FORMS = "an RSA, EC (P-256, P-384, P-521), Ed25519 or Ed448 key"


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate_of(key, subject="leaf", issuer=None, signer=None, begin=NOW - DAY, end=NOW + DAY):
    """A certificate for ``key``, self-signed unless told otherwise."""
    signer = signer or key
    plain = (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)
    return (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer or subject))
        .public_key(key.public_key())
        .serial_number(77)
        .not_valid_before(begin)
        .not_valid_after(end)
        .sign(signer, None if isinstance(signer, plain) else hashes.SHA256())
    )


def pem(thing, key_format=serialization.PrivateFormat.PKCS8, passphrase=None):
    if isinstance(thing, x509.Certificate):
        return thing.public_bytes(serialization.Encoding.PEM)
    encryption = (
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption()
    )
    return thing.private_bytes(serialization.Encoding.PEM, key_format, encryption)


KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
LEAF = certificate_of(KEY)


@pytest.fixture
def put(tmp_path):
    """Write PEM objects (or bytes) to a file that only the owner can read; returns its name."""

    def write(file, *things, mode=0o600):
        path = tmp_path / file
        path.write_bytes(b"".join(it if isinstance(it, bytes) else pem(it) for it in things))
        path.chmod(mode)
        return str(path)

    return write


def load(file, key=""):
    return load_identity(config.Certificate(file=file, key=key), now=NOW)


def errors_of(file, key=""):
    with pytest.raises(ConfigError) as caught:
        load(file, key)
    return list(caught.value.errors)


# --- what can be served


def test_chain_and_key_may_share_a_file(put):
    file = put("all.pem", LEAF, KEY)
    identity = load(file)
    assert identity.chain == (LEAF,)
    assert identity.key.private_numbers() == KEY.private_numbers()
    assert (identity.certificate_file, identity.key_file) == (file, file)
    assert identity.warnings == ()


def test_chain_and_key_may_have_their_own_files(put):
    file, key = put("c.pem", LEAF, mode=0o644), put("k.pem", KEY)
    identity = load(file, key)
    assert (identity.certificate_file, identity.key_file) == (file, key)
    assert identity.warnings == ()


def test_text_and_parameters_between_blocks_are_passed_over(put):
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    windows = pem(LEAF).replace(b"\n", b"\r\n")
    assert load(put("a.pem", b"subject=leaf\n", parameters, KEY, b"# x\n", windows)).chain == (
        LEAF,
    )


def test_identity_shows_no_key(put):
    assert "key=" not in repr(load(put("all.pem", LEAF, KEY)))


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
        ed448.Ed448PrivateKey.generate(),
    ],
    ids=["rsa", "p384", "p521", "ed25519", "ed448"],
)
def test_every_kind_of_key_that_tls_can_sign_with_is_taken(put, key):
    assert load(put("a.pem", certificate_of(key), key)).warnings == ()


@pytest.mark.parametrize("key", [KEY, rsa.generate_private_key(65537, 2048)], ids=["ec", "rsa"])
def test_old_form_of_a_key_is_taken(put, key):
    old = pem(key, serialization.PrivateFormat.TraditionalOpenSSL)
    assert b"PRIVATE KEY" in old
    assert load(put("a.pem", certificate_of(key), old)).key.key_size == key.key_size


def test_certificates_of_trustme_are_taken(put):
    authority = trustme.CA()
    issued = authority.issue_cert("a.example")
    file = put("a.pem", issued.private_key_and_cert_chain_pem.bytes())
    assert load_identity(config.Certificate(file=file)).warnings == ()


# --- what cannot


def test_missing_files_are_all_named(tmp_path):
    assert errors_of(f"{tmp_path}/c", f"{tmp_path}/k") == [
        f"{tmp_path}/c: expected a readable PEM file, got: No such file or directory",
        f"{tmp_path}/k: expected a readable PEM file, got: No such file or directory",
    ]


def test_file_that_is_both_is_complained_of_once(tmp_path):
    assert errors_of(str(tmp_path)) == [
        f"{tmp_path}: expected a readable PEM file, got: Is a directory"
    ]


def test_file_that_may_not_be_read_is_named(put):
    file = put("a.pem", LEAF, KEY, mode=0)
    if os.access(file, os.R_OK):
        pytest.skip("this user may read everything")
    assert errors_of(file) == [f"{file}: expected a readable PEM file, got: Permission denied"]


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (b"", "an empty file"),
        (b"hello", "something else"),
        (LEAF.public_bytes(serialization.Encoding.DER), "DER"),
        (pem(LEAF)[:-20], "something else"),
    ],
)
def test_file_that_is_no_pem_is_named(put, data, got):
    file = put("a.pem", data)
    assert errors_of(file) == [f"{file}: expected PEM (-----BEGIN ...), got {got}"]


def test_endless_file_is_refused():
    assert errors_of("/dev/zero") == [
        "/dev/zero: expected a PEM file of at most 4194304 bytes, got more"
    ]


def test_file_without_a_certificate_is_named(put):
    file = put("a.pem", KEY)
    assert errors_of(file) == [f"{file}: expected a certificate, got only PRIVATE KEY"]


def test_file_without_a_key_is_named(put):
    file = put("a.pem", LEAF)
    assert errors_of(file) == [f"{file}: expected a private key, got only CERTIFICATE"]


def test_certificate_that_cannot_be_parsed_has_its_number(put):
    bad = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
    file = put("a.pem", LEAF, bad, KEY)
    assert errors_of(file) == [
        f"{file}: expected an X.509 certificate, got one that cannot be read (number 2)"
    ]


def test_key_that_cannot_be_parsed_is_named(put):
    bad = b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"
    file = put("a.pem", LEAF, bad)
    assert errors_of(file) == [f"{file}: expected {KEY_FORMS}, got one that cannot be read"]


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
def test_encrypted_key_is_not_supported_yet(put, form):
    secret = pem(KEY, getattr(serialization.PrivateFormat, form), b"secret")
    file = put("a.pem", LEAF, secret)
    assert errors_of(file) == [
        (
            f"{file}: expected a private key without a passphrase, got an encrypted one:"
            " passphrases are not supported yet"
        )
    ]


def test_several_keys_are_ambiguous(put):
    file = put("a.pem", LEAF, KEY, OTHER_KEY)
    assert errors_of(file) == [f"{file}: expected one private key, got 2"]


def test_key_of_another_certificate_is_refused(put):
    file, key = put("c.pem", LEAF), put("k.pem", OTHER_KEY)
    assert errors_of(file, key) == [
        f"{key}: expected the key of the first certificate in {file} (CN=leaf), got another key"
    ]


def test_leaf_must_come_first(put):
    issuer = certificate_of(OTHER_KEY, "ca")
    file = put("a.pem", issuer, certificate_of(KEY, "leaf", "ca", OTHER_KEY), KEY)
    assert errors_of(file) == [
        (
            f"{file}: expected the leaf certificate first,"
            " got the one that belongs to the key as number 2"
        )
    ]


def test_short_rsa_key_is_refused(put):
    key = rsa.generate_private_key(65537, 1024)
    file = put("a.pem", certificate_of(key), key)
    assert errors_of(file) == [
        (
            f"{file}: expected an RSA key of at least 2048 bits (OpenSSL's security level 2),"
            " got 1024 bits"
        )
    ]


@pytest.mark.parametrize(
    ("key", "got"),
    [
        (ec.generate_private_key(ec.SECP256K1()), "an EC key on secp256k1"),
        (x25519.X25519PrivateKey.generate(), "a key of type X25519"),
        (dsa.generate_private_key(2048), "a key of type DSA"),
    ],
    ids=["secp256k1", "x25519", "dsa"],
)
def test_key_that_tls_cannot_sign_with_is_refused(put, key, got):
    file, key_file = put("c.pem", LEAF), put("k.pem", key)
    assert errors_of(file, key_file) == [f"{key_file}: expected {KEY_FORMS}, got {got}"]


def test_key_of_openssh_is_refused_by_name(put):
    key_file = put("k.pem", pem(KEY, serialization.PrivateFormat.OpenSSH))
    assert errors_of(put("c.pem", LEAF), key_file) == [
        f"{key_file}: expected {KEY_FORMS}, got OPENSSH PRIVATE KEY"
    ]


# --- warnings


def test_expired_certificate_is_a_warning(put):
    leaf = certificate_of(KEY, end=NOW - datetime.timedelta(minutes=1))
    file = put("a.pem", leaf, KEY)
    assert load(file).warnings == (
        f"{file}: certificate 1 (CN=leaf) expired on 2026-11-20 11:59 UTC",
    )


def test_certificate_of_the_future_is_a_warning(put):
    file = put("a.pem", certificate_of(KEY, begin=NOW + DAY / 2), KEY)
    assert load(file).warnings == (
        f"{file}: certificate 1 (CN=leaf) is not valid before 2026-11-21 00:00 UTC",
    )


def test_chain_in_the_wrong_order_is_a_warning(put):
    root = certificate_of(OTHER_KEY, "root")
    middle = certificate_of(OTHER_KEY, "middle", "root", OTHER_KEY)
    leaf = certificate_of(KEY, "leaf", "middle", OTHER_KEY)
    assert load(put("good.pem", leaf, middle, root, KEY)).warnings == ()
    file = put("a.pem", leaf, root, middle, KEY)
    assert load(file).warnings == (
        f"{file}: certificate 2 (CN=root) did not issue certificate 1 before it",
        f"{file}: certificate 3 (CN=middle) did not issue certificate 2 before it",
    )


@pytest.mark.parametrize(
    ("mode", "who"), [(0o640, "its group"), (0o644, "everybody"), (0o604, "everybody")]
)
def test_key_that_others_can_read_is_a_warning(put, mode, who):
    key = put("k.pem", KEY, mode=mode)
    assert load(put("c.pem", LEAF, mode=0o644), key).warnings == (
        (
            f"{key}: expected a private key that only its owner can read, got mode {mode:04o}"
            f" ({who} can)"
        ),
    )


def test_name_in_a_message_has_no_control_characters(put):
    leaf = certificate_of(KEY, "a\n\x1b[31mb", end=NOW - DAY / 2)
    [warning] = load(put("a.pem", leaf, KEY)).warnings
    assert warning.isprintable()


# --- client authorities


def test_client_authorities_are_all_read(put):
    others = [certificate_of(OTHER_KEY, text) for text in ("a", "b")]
    assert load_client_ca(put("ca.pem", *others)) == tuple(others)


def test_client_authorities_without_a_certificate_are_refused(put):
    file = put("ca.pem", KEY)
    with pytest.raises(ConfigError) as caught:
        load_client_ca(file)
    assert caught.value.errors == (f"{file}: expected a certificate, got only PRIVATE KEY",)


def test_no_deprecated_call_is_made(put):
    """In a fresh process: pytest's filter hides the warnings of cryptography itself."""
    file = put("a.pem", certificate_of(KEY, end=NOW + 9999 * DAY), KEY)
    program = (
        "from ktlsgate import config; from ktlsgate.service.certificates import load_identity;"
        f"load_identity(config.Certificate(file={file!r}))"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
