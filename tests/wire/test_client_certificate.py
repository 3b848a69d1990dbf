"""Client certificates in mod_ssl's names: exact values, and no certificate that breaks us."""

from __future__ import annotations

import datetime
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ktlsgate.wire.client_certificate import describe_client_certificate

OID = x509.NameOID
KEY = ec.generate_private_key(ec.SECP256R1())
START = datetime.datetime(2026, 1, 9, 3, 4, 5, tzinfo=datetime.UTC)
END = datetime.datetime(2031, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


def name(**parts):
    return x509.Name([x509.NameAttribute(getattr(OID, key), value) for key, value in parts.items()])


def certificate(*extensions, subject=None, issuer=None, serial=0xABC):
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject or name(ORGANIZATION_NAME="Acme", COMMON_NAME="alice"))
        .issuer_name(issuer or name(COMMON_NAME="root"))
        .public_key(KEY.public_key())
        .serial_number(serial)
        .not_valid_before(START)
        .not_valid_after(END)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(KEY, hashes.SHA256())


def described(*extensions, **changes):
    return dict(describe_client_certificate(certificate(*extensions, **changes)))


def alternative_names(*names):
    return x509.SubjectAlternativeName(names)


def test_names_and_values_are_mod_ssls_in_a_fixed_order():
    one = certificate(alternative_names(x509.RFC822Name("a@example"), x509.DNSName("a.example")))
    assert describe_client_certificate(one) == (
        (b"SSL_CLIENT_VERIFY", b"SUCCESS"),
        (b"SSL_CLIENT_M_VERSION", b"3"),
        (b"SSL_CLIENT_M_SERIAL", b"ABC"),
        (b"SSL_CLIENT_S_DN", b"CN=alice,O=Acme"),
        (b"SSL_CLIENT_S_DN_CN", b"alice"),
        (b"SSL_CLIENT_I_DN", b"CN=root"),
        (b"SSL_CLIENT_I_DN_CN", b"root"),
        (b"SSL_CLIENT_V_START", b"Jan  9 03:04:05 2026 GMT"),
        (b"SSL_CLIENT_V_END", b"Dec 31 23:59:59 2031 GMT"),
        (b"SSL_CLIENT_SAN_Email_0", b"a@example"),
        (b"SSL_CLIENT_SAN_DNS_0", b"a.example"),
        (b"SSL_CLIENT_CERT", one.public_bytes(serialization.Encoding.PEM)),
    )


@pytest.mark.parametrize("month", range(1, 13))
def test_months_are_english_whatever_the_locale(month):
    from ktlsgate.wire.client_certificate import _openssl_time

    when = datetime.datetime(2026, month, 10, tzinfo=datetime.UTC)
    abbreviation = [
        "Jan",
        "Feb",
        "Mar",
        "Apr",
        "May",
        "Jun",
        "Jul",
        "Aug",
        "Sep",
        "Oct",
        "Nov",
        "Dec",
    ][month - 1]
    assert _openssl_time(when) == f"{abbreviation} 10 00:00:00 2026 GMT".encode()


def test_serial_number_is_hexadecimal_and_may_be_long():
    assert described(serial=2**150 + 15)[b"SSL_CLIENT_M_SERIAL"] == b"%X" % (2**150 + 15)


def test_name_without_common_name_has_an_empty_one():
    found = described(subject=name(ORGANIZATION_NAME="Acme"))
    assert found[b"SSL_CLIENT_S_DN"] == b"O=Acme"
    assert found[b"SSL_CLIENT_S_DN_CN"] == b""


def test_text_beyond_ascii_is_utf_8():
    found = described(subject=name(COMMON_NAME="Zo\u00eb"))
    assert found[b"SSL_CLIENT_S_DN_CN"] == b"Zo\xc3\xab"
    assert found[b"SSL_CLIENT_S_DN"] == b"CN=Zo\xc3\xab"


def test_no_value_holds_a_zero_byte():
    """It would end the value on the wire, and what follows would be a name."""
    found = described(subject=name(COMMON_NAME="a\0SSL_CLIENT_VERIFY\0x"))
    assert not any(b"\0" in value for value in found.values())
    assert found[b"SSL_CLIENT_S_DN_CN"] == b"aSSL_CLIENT_VERIFYx"


def test_at_most_eight_alternative_names_of_a_kind():
    many = [x509.DNSName(f"n{i}.example") for i in range(20)]
    uris = [x509.UniformResourceIdentifier(f"https://x/{i}") for i in range(9)]
    found = described(alternative_names(*many, *uris))
    dns = [value for key, value in found.items() if key.startswith(b"SSL_CLIENT_SAN_DNS_")]
    assert dns == [b"n%d.example" % i for i in range(8)]
    assert found[b"SSL_CLIENT_SAN_URI_7"] == b"https://x/7"
    assert b"SSL_CLIENT_SAN_URI_8" not in found


def test_other_kinds_of_alternative_names_are_left_to_the_pem():
    address = x509.IPAddress(ipaddress.ip_address("192.0.2.1"))
    found = described(alternative_names(address, x509.DNSName("a")))
    assert [key for key in found if b"_SAN_" in key] == [b"SSL_CLIENT_SAN_DNS_0"]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x30",
        b"\x04\x02hi",
        b"\x30\x02\xa3\x00",  # x400Address, which cryptography does not know
        b"\x30\x03\x82\x01\xff",  # a DNS name that is no ASCII
    ],
)
def test_alternative_names_that_cannot_be_parsed_are_none(value):
    """OpenSSL verified the chain; it did not look into every extension."""
    odd = x509.UnrecognizedExtension(x509.ExtensionOID.SUBJECT_ALTERNATIVE_NAME, value)
    found = described(odd)
    assert not any(b"_SAN_" in key for key in found)
    assert found[b"SSL_CLIENT_S_DN_CN"] == b"alice"


def test_repeated_extension_is_survived():
    """RFC 5280 section 4.2 forbids it; an authority may not care."""
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    other = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.5"), b"\x05\x00")
    der = certificate(odd, other).public_bytes(serialization.Encoding.DER)
    first, second = b"\x06\x03\x2a\x03\x04", b"\x06\x03\x2a\x03\x05"
    assert second in der
    repeated = x509.load_der_x509_certificate(der.replace(second, first))
    assert dict(describe_client_certificate(repeated))[b"SSL_CLIENT_S_DN_CN"] == b"alice"


def test_a_name_that_cannot_be_read_is_empty_and_nothing_raises():
    class Unreadable:
        """A certificate whose subject is no text; one cannot be built on purpose."""

        def __getattr__(self, attribute):
            if attribute == "subject":
                raise ValueError("error parsing asn1 value")
            return getattr(real, attribute)

    real = certificate()
    names = dict(describe_client_certificate(Unreadable()))
    assert names[b"SSL_CLIENT_S_DN"] == names[b"SSL_CLIENT_S_DN_CN"] == b""
    assert names[b"SSL_CLIENT_I_DN"] == b"CN=root"
