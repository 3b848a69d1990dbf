"""The handshake against pyOpenSSL clients: keys, sequence numbers, borders, and every refusal.

Proof of invariant I3: what `derive_keys` gives is packed as for setsockopt and handed to
`helpers.kernel_records`, which does what Linux does; the live client understands its
records, and it the client's.
"""

from __future__ import annotations

import gc
import shutil
import socket
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from helpers.identities import Authority
from helpers.kernel_records import KernelRecords
from helpers.memory_tls import (
    ALL_SUITES,
    LIB,
    Client,
    client_context,
    server_context,
    shake_hands,
)
from OpenSSL import SSL, crypto

from ktlsgate.config import ClientVerify, Tls
from ktlsgate.errors import HandshakeFailed, LocalProtocolError
from ktlsgate.wire.ciphers import SUITES, Version
from ktlsgate.wire.handshake import Handshake
from ktlsgate.wire.keylog import CLIENT_TRAFFIC_SECRET, SERVER_TRAFFIC_SECRET
from ktlsgate.wire.records import split_records

CA = Authority()
OTHER = Authority("another authority")
IDENTITIES = {kind: CA.issue("localhost", kind=kind) for kind in ("ecdsa", "rsa")}
VERSIONS = ["TLSv1.2", "TLSv1.3"]
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def server(tls=Tls(), kind="ecdsa", client_cas=()):  # noqa: B008 - frozen
    return server_context(IDENTITIES[kind], tls, client_cas)


def only_group(context, name):
    """Leave one group: that is what SSL_CTX_set_tmp_ecdh means since OpenSSL 3."""
    try:
        context.set_tmp_ecdh({"secp256r1": ec.SECP256R1(), "secp384r1": ec.SECP384R1()}[name])
    except AttributeError:  # pyOpenSSL before 24.3 takes its own objects only
        name = {"secp256r1": "prime256v1"}.get(name, name)
        context.set_tmp_ecdh(crypto.get_elliptic_curve(name))
    return context


def kernel(handshake):
    """Both directions as the kernel would have them: TX, RX."""
    suite = handshake.established().suite
    return [KernelRecords(info.pack()) for info in handshake.derive_keys(suite)]


def prove_keys(handshake, client):
    """Exchange two records each way between the live client and the derived keys."""
    tx, rx = kernel(handshake)
    for text in (b"first", b"second"):
        client.send(text)
        assert rx.open(client.take_all()) == (23, text)
        client.step(tx.seal(23, text))
    assert client.received == b"firstsecond"
    client.tls.bio_write(tx.seal(21, b"\1\0"))
    with pytest.raises(SSL.ZeroReturnError):
        client.tls.recv(1)


def numbers(handshake):
    tx, rx = handshake.derive_keys(handshake.established().suite)
    return tx.rec_seq, rx.rec_seq


def established(context, client, **how):
    handshake = Handshake(context)
    shake_hands(handshake, client, **how)
    return handshake


def refused(context, client, **how):
    """The failure of a handshake, its alert delivered."""
    handshake = Handshake(context, **how)
    with pytest.raises(HandshakeFailed) as info:
        shake_hands(handshake, client)
    return info.value, handshake.data_to_send()


def refused_bytes(data, **how):
    """The failure that a client's bytes end in; everything is read as wanted."""
    handshake = Handshake(server(), **how)
    with pytest.raises(HandshakeFailed) as info:
        while True:
            piece, data = data[: handshake.wanted], data[handshake.wanted :]
            handshake.receive_data(piece)
    return info.value, handshake.data_to_send()


# Suites (invariant I3)


def _server_suites():
    names = set()
    for kind in IDENTITIES:
        names |= set(SSL.Connection(server(ALL_SUITES, kind), None).get_cipher_list())
    return names


# DHE needs parameters, which our contexts have none of.
USABLE = [name for name in SUITES if name in _server_suites() and not name.startswith("DHE-")]


TLS13_CASES = [(n, kind) for n in USABLE if n.startswith("TLS_") for kind in IDENTITIES]
TLS12_CASES = [
    (name, "ecdsa" if "ECDSA" in name else "rsa") for name in USABLE if not name.startswith("TLS_")
]


@pytest.mark.parametrize(("name", "kind"), TLS13_CASES + TLS12_CASES)
def test_i3_keys_of_every_suite_are_right_in_both_directions(name, kind):
    suite = SUITES[name]
    if suite.version is Version.TLS13:
        context = client_context("TLSv1.3", suites=name)
    else:
        context = client_context("TLSv1.2", ciphers=name + ":@SECLEVEL=0")
    client = Client(context)
    handshake = established(server(ALL_SUITES, kind), client)
    assert handshake.established().suite is suite
    assert handshake.established().facts.cipher == name
    prove_keys(handshake, client)


def test_suites_of_the_default_policy_were_among_them():
    assert {*Tls().ciphers.split(":"), *Tls().ciphersuites.split(":")} <= set(USABLE)


@pytest.mark.parametrize(
    ("name", "version"),
    [("ECDHE-ECDSA-AES128-SHA256", "TLSv1.2"), ("ECDHE-ECDSA-AES256-CCM8", "TLSv1.2")],
)
def test_suite_that_no_kernel_takes_is_none(name, version):
    tls = Tls(ciphers=name + ":@SECLEVEL=0")
    client = Client(client_context(version, ciphers=name + ":@SECLEVEL=0"))
    found = established(server(tls), client).established()
    assert found.suite is None
    assert found.facts.cipher == name


@pytest.mark.parametrize("name", ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"])
def test_i3_explicit_nonce_goes_on_by_one(name):
    """A nonce must never repeat under one key; OpenSSL began at a random number."""
    client = Client(client_context("TLSv1.2", ciphers=name))
    handshake = Handshake(server())
    last_flight = shake_hands(handshake, client)[-1]
    finished = list(split_records(last_flight))[-1]
    tx, _ = handshake.derive_keys(SUITES[name])
    begun = int.from_bytes(finished[5:13], "big")
    assert int.from_bytes(tx.explicit_nonce, "big") == (begun + 1) % 2**64
    assert KernelRecords(tx.pack()).seal(23, b"x")[5:13] == tx.explicit_nonce


def test_i3_explicit_nonce_wraps_around():
    handshake = established(server(), Client(client_context("TLSv1.2")))
    handshake._last_sent = b"\x16\x03\x03\x00\x28" + b"\xff" * 8
    tx, _ = handshake.derive_keys(SUITES["ECDHE-ECDSA-AES128-GCM-SHA256"])
    assert tx.explicit_nonce == bytes(8)


# Kinds of handshakes


@pytest.mark.parametrize(
    ("version", "tx", "rx"), [("TLSv1.2", 1, 1), ("TLSv1.3", 2, 0)]
)  # Finished is the first record in 1.2; 1.3 sends two tickets
def test_i3_full_handshake(version, tx, rx):
    client = Client(client_context(version))
    handshake = established(server(), client)
    assert numbers(handshake) == (tx, rx)
    assert not handshake.established().facts.is_resumed
    prove_keys(handshake, client)


@pytest.mark.parametrize("tickets", [True, False], ids=["ticket", "session-id"])
@pytest.mark.parametrize(("version", "tx", "rx"), [("TLSv1.2", 1, 1), ("TLSv1.3", 1, 0)])
def test_i3_resumed_handshake(version, tx, rx, tickets):
    context, clients = server(Tls(tickets=tickets)), client_context(version)
    first = Client(clients)
    established(context, first).forget()
    again = Client(clients, session=first.leave())
    handshake = established(context, again)
    assert handshake.established().facts.is_resumed
    assert numbers(handshake) == (tx, rx)
    prove_keys(handshake, again)


def test_i3_hello_retry_request():
    client = Client(client_context("TLSv1.3"))
    handshake = Handshake(only_group(server(), "secp384r1"))
    flights = shake_hands(handshake, client)
    assert [record[0] for record in split_records(flights[0])] == [22, 20]
    assert numbers(handshake) == (2, 0)
    prove_keys(handshake, client)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("verify", [ClientVerify.OPTIONAL, ClientVerify.REQUIRED])
def test_i3_client_certificate(verify, version):
    client = Client(client_context(version, identity=CA.issue("alice")))
    handshake = established(server(Tls(client_verify=verify), client_cas=(CA.certificate,)), client)
    names = dict(handshake.established().facts.client_certificate)
    assert names[b"SSL_CLIENT_S_DN_CN"] == b"alice"
    prove_keys(handshake, client)


@pytest.mark.parametrize("version", VERSIONS)
def test_i3_no_client_certificate_where_it_is_optional(version):
    client = Client(client_context(version))
    tls = Tls(client_verify=ClientVerify.OPTIONAL)
    handshake = established(server(tls, client_cas=(CA.certificate,)), client)
    assert handshake.established().facts.client_certificate == ()
    prove_keys(handshake, client)


BIG = CA.issue(*(f"host-number-{i:05}.example.org" for i in range(1870)))


@pytest.mark.parametrize("version", VERSIONS)
def test_i3_client_certificate_of_56_kilobytes(version):
    """TLS 1.3's tickets hold it: more records than a handshake has otherwise."""
    client = Client(client_context(version, identity=BIG))
    tls = Tls(client_verify=ClientVerify.REQUIRED)
    handshake = established(server(tls, client_cas=(CA.certificate,)), client)
    tx, rx = numbers(handshake)
    assert (tx, rx) == (1, 1) if version == "TLSv1.2" else (tx > 2, rx) == (True, 0)
    assert len(dict(handshake.established().facts.client_certificate)[b"SSL_CLIENT_CERT"]) > 56_000
    prove_keys(handshake, client)


@pytest.mark.parametrize("version", VERSIONS)
def test_i3_resumed_handshake_remembers_the_client_certificate(version):
    tls = Tls(client_verify=ClientVerify.REQUIRED)
    context = server(tls, client_cas=(CA.certificate,))
    clients = client_context(version, identity=CA.issue("alice"))
    first = Client(clients)
    established(context, first)
    again = Client(clients, session=first.leave())
    handshake = established(context, again)
    facts = handshake.established().facts
    assert facts.is_resumed
    assert dict(facts.client_certificate)[b"SSL_CLIENT_S_DN_CN"] == b"alice"
    prove_keys(handshake, again)


needs_early_data = pytest.mark.skipif(
    not hasattr(LIB, "SSL_write_early_data"), reason="these bindings cannot send early data"
)


def allow_early_data(context):
    assert LIB.SSL_CTX_set_max_early_data(context._context, 16_384) == 1
    return context


@needs_early_data
@pytest.mark.parametrize(
    ("is_foreign", "retry"),
    [(False, False), (True, False), (True, True)],
    ids=["own", "foreign", "foreign-and-retry"],
)
@pytest.mark.parametrize("size", [16, 5000, 16_000])
def test_i3_refused_early_data_is_not_counted(size, is_foreign, retry):
    """The ticket allows it, of another server or of ours; we never read it."""
    issuer = allow_early_data(server())
    ours = server() if is_foreign else issuer
    clients = client_context("TLSv1.3")
    first = Client(clients)
    established(issuer, first).forget()
    if retry:
        only_group(ours, "secp384r1")
    again = Client(clients, session=first.leave(), early=b"e" * size)
    handshake = established(ours, again)
    facts = handshake.established().facts
    assert facts.is_resumed is not is_foreign
    assert numbers(handshake) == (2 if is_foreign else 1, 0)
    prove_keys(handshake, again)


# Borders (invariant I2)


def glued(version, *, resumed):
    """A client that sends its request right behind its last handshake record."""
    context, clients = server(), client_context(version)
    session = None
    if resumed:
        first = Client(clients)
        established(context, first).forget()
        session = first.leave()
    return context, Client(clients, session=session, request=REQUEST)


# A TLS 1.2 client that does not resume hears from the server last.
GLUED = [("TLSv1.3", False), ("TLSv1.3", True), ("TLSv1.2", True)]


@pytest.mark.parametrize("piece", [1, 7, 1000, 1 << 20])
@pytest.mark.parametrize(("version", "resumed"), GLUED)
def test_i2_request_glued_to_finished_stays_unread(version, resumed, piece):
    context, client = glued(version, resumed=resumed)
    handshake = established(context, client, piece=piece)
    assert handshake.established().facts.is_resumed is resumed
    assert not handshake.has_pending_data
    _, rx = kernel(handshake)
    unread = client.take_all()
    assert rx.open(unread) == (23, REQUEST)


@pytest.mark.parametrize(("version", "resumed"), GLUED)
def test_i2_nothing_of_48_kilobytes_is_read(version, resumed):
    context, client = glued(version, resumed=resumed)
    client.request = b"x" * 48_000
    handshake = established(context, client)
    _, rx = kernel(handshake)
    plain = b"".join(rx.open(record)[1] for record in split_records(client.take_all()))
    assert plain == client.request


@pytest.mark.parametrize("version", VERSIONS)
def test_i2_handshake_in_one_byte_segments(version):
    client = Client(client_context(version, identity=CA.issue("alice")))
    tls = Tls(client_verify=ClientVerify.REQUIRED)
    handshake = established(server(tls, client_cas=(CA.certificate,)), client, piece=1)
    assert client.take_all() == b""
    prove_keys(handshake, client)


def test_i2_wanted_never_reaches_behind_the_record():
    client = Client(client_context("TLSv1.3"))
    client.step()
    hello = client.take_all()
    handshake = Handshake(server())
    assert handshake.wanted == 5
    assert not handshake.receive_data(hello[:3])
    assert handshake.wanted == 2
    assert not handshake.receive_data(hello[3:5])
    assert handshake.wanted == len(hello) - 5
    assert handshake.receive_data(hello[5:])
    assert handshake.wanted == 5


# Facts


@pytest.mark.parametrize("version", VERSIONS)
def test_facts_are_what_was_agreed_on(version):
    context = server()
    clients = client_context(version, alpn=(b"h2", b"http/1.1"))
    first = Client(clients, name="Shop.Example")
    again = None
    for client, is_resumed in ((first, False), (again, True)):
        one = client or Client(clients, name="Shop.Example", session=first.leave())
        facts = established(context, one).established().facts
        assert facts.protocol == version
        assert facts.cipher == one.tls.get_cipher_name()
        assert facts.sni == "shop.example"  # also of a resumed session, where OpenSSL forgets
        assert facts.alpn == "http/1.1"
        assert facts.is_resumed is is_resumed


def test_facts_of_a_client_that_asks_for_nothing():
    facts = established(server(), Client(client_context())).established().facts
    assert (facts.sni, facts.alpn, facts.client_certificate) == ("", "", ())


def test_max_fragment_length_is_not_asked_for_by_most():
    found = established(server(), Client(client_context())).established()
    assert found.has_max_fragment_length is False


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_max_fragment_length_is_seen(version):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{listener.getsockname()[1]}"]
        with subprocess.Popen(
            [*command, "-maxfraglen", "512", version],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ):
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(20)
                handshake = Handshake(server())
                while not handshake.is_established:
                    handshake.receive_data(sock.recv(handshake.wanted))
                    sock.sendall(handshake.data_to_send())
    assert handshake.established().has_max_fragment_length


# Handmade hellos, for what OpenSSL's client does not say


def extension(number, data):
    return number.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data


def handmade_hello(
    *extensions, version=b"\x03\x03", suites=b"\xc0\x2b\x00\xff", compressions=b"\0"
):
    blocks = b"".join(extensions)
    body = (
        version + bytes(range(32)) + b"\0"
        + len(suites).to_bytes(2, "big") + suites
        + bytes((len(compressions),)) + compressions
        + len(blocks).to_bytes(2, "big") + blocks
    )  # fmt: skip
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


GROUPS = extension(10, b"\x00\x02\x00\x17")
ECDSA_SHA256 = extension(13, b"\x00\x02\x04\x03")


def test_compression_is_never_chosen():
    handshake = Handshake(server())
    hello = handmade_hello(GROUPS, ECDSA_SHA256, compressions=b"\x01\x00")
    assert not handshake.receive_data(hello[:5])
    assert handshake.receive_data(hello[5:])
    answer = handshake.data_to_send()
    assert answer[5] == 2  # ServerHello
    session_id = answer[43]
    assert answer[44 + session_id : 47 + session_id] == b"\xc0\x2b\x00"


# Refusals


@pytest.mark.parametrize(
    ("data", "reason", "message"),
    [
        (b"", "client_gone", "expected a ClientHello, got end of file"),
        (b"GET / HTTP/1.1\r\n", "plain_http", "expected a ClientHello, got plain HTTP"),
        (b"PRI * HTTP/2.0", "plain_http", "expected a ClientHello, got plain HTTP"),
        (b"SSH-2.0", "not_tls", "expected a ClientHello, got b'SSH-2'"),
        (b"\x80\x2e\x01\x03\x01", "not_tls", r"expected a ClientHello, got b'\x80.\x01\x03\x01'"),
        (
            b"\x16\x03\x01\xff\xff",
            "not_tls",
            r"expected a ClientHello, got b'\x16\x03\x01\xff\xff'",
        ),
        (b"\x16\x03\x01\0\0", "not_tls", r"expected a ClientHello, got b'\x16\x03\x01\x00\x00'"),
        (
            b"\x15\x03\x01\0\2\2\0",
            "not_tls",
            r"expected a ClientHello, got b'\x15\x03\x01\x00\x02'",
        ),
        (b"\x16\x03", "client_gone", "expected a handshake record, got end of file"),
        (b"\x16\x03\x01\0\x50\x01", "client_gone", "expected a handshake record, got end of file"),
    ],
)
@pytest.mark.parametrize("piece", [1, 5])
def test_client_that_speaks_no_tls_is_named(data, reason, message, piece):
    handshake = Handshake(server())
    with pytest.raises(HandshakeFailed) as info:
        while True:
            size = min(handshake.wanted, piece)
            data, taken = data[size:], data[:size]
            handshake.receive_data(taken)
    assert info.value.reason == reason
    if piece == 5 or reason != "not_tls":  # one byte at a time it is certain earlier
        assert str(info.value) == message
    assert handshake.data_to_send() == b""


@pytest.mark.parametrize("length", [b"\x00\x00", b"\x48\x01", b"\xff\xff"])
def test_later_record_of_an_absurd_length_is_refused(length):
    client = Client(client_context("TLSv1.2"))
    client.step()
    failure, _ = refused_bytes(client.take_all() + b"\x16\x03\x03" + length)
    assert failure.reason == "bad_record"
    got = int.from_bytes(length, "big")
    assert str(failure) == f"expected a record of 1 to 18432 bytes, got one of {got}"


def test_handshake_is_bounded():
    client = Client(client_context("TLSv1.2", identity=BIG))  # 1.3 may compress it
    context = server(Tls(client_verify=ClientVerify.REQUIRED), client_cas=(CA.certificate,))
    failure, _ = refused(context, client, max_bytes=40_000)
    assert failure.reason == "handshake_too_long"
    assert str(failure) == "expected at most 40000 bytes of handshake"


def test_handshake_at_the_bound_passes():
    probe = Client(client_context("TLSv1.2"))
    context = server()
    handshake = established(context, probe)
    used = handshake._reader.taken
    client = Client(client_context("TLSv1.2"))
    exact = Handshake(context, max_bytes=used)
    shake_hands(exact, client)
    failure, _ = refused(context, Client(client_context("TLSv1.2")), max_bytes=used - 1)
    assert failure.reason == "handshake_too_long"


@pytest.mark.parametrize("version", [b"\x03\x02", b"\x03\x01", b"\x03\x00"])
def test_old_versions_are_refused(version):
    failure, alert = refused_bytes(handmade_hello(GROUPS, ECDSA_SHA256, version=version))
    assert failure.reason == "unsupported_version"
    assert alert[-2:] in (b"\x02\x46", b"\x02\x28")  # protocol_version, for SSLv3 another


@pytest.mark.parametrize("version", VERSIONS)
def test_no_application_protocol_in_common_is_a_fatal_alert(version):
    client = Client(client_context(version, alpn=(b"h2",)))
    failure, alert = refused(server(), client)
    assert failure.reason == "no_application_protocol"
    assert str(failure) == "no application protocol in common"
    assert alert[-2:] == b"\x02\x78"
    with pytest.raises(SSL.Error):
        client.step(alert)


def test_refused_protocol_does_not_stick_to_the_context():
    context = server()
    refused(context, Client(client_context(alpn=(b"h2",))))
    established(context, Client(client_context(alpn=(b"http/1.1",))))


@pytest.mark.parametrize(
    ("version", "how"),
    [
        ("TLSv1.2", {"ciphers": "ECDHE-ECDSA-AES128-SHA"}),
        ("TLSv1.2", {"ciphers": "ECDHE-RSA-AES128-GCM-SHA256"}),  # the certificate is ECDSA
        ("TLSv1.3", {"suites": "TLS_AES_128_CCM_SHA256"}),
    ],
)
def test_no_shared_cipher(version, how):
    failure, alert = refused(server(), Client(client_context(version, **how)))
    assert failure.reason == "no_shared_cipher"
    assert alert[-2:] == b"\x02\x28"  # handshake_failure


def test_no_shared_group():
    client = Client(only_group(client_context("TLSv1.3"), "secp256r1"))
    failure, alert = refused(only_group(server(), "secp384r1"), client)
    assert failure.reason == "no_shared_group"
    assert alert[-2:] == b"\x02\x28"


def test_no_shared_signature_algorithm():
    point = bytes.fromhex(  # the generator of P-256: any point will do
        "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
        "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
    )
    share = b"\x00\x17" + len(point).to_bytes(2, "big") + point
    hello = handmade_hello(
        GROUPS,
        extension(13, b"\x00\x02\x08\x04"),  # RSA-PSS only
        extension(43, b"\x02\x03\x04"),
        extension(51, len(share).to_bytes(2, "big") + share),
        suites=b"\x13\x01",
    )
    failure, alert = refused_bytes(hello)
    assert failure.reason == "no_shared_signature_algorithm"
    assert alert[-2:] == b"\x02\x28"


@pytest.mark.parametrize("version", VERSIONS)
def test_missing_client_certificate(version):
    tls = Tls(client_verify=ClientVerify.REQUIRED)
    client = Client(client_context(version))
    failure, alert = refused(server(tls, client_cas=(CA.certificate,)), client)
    assert failure.reason == "no_client_certificate"
    assert alert
    with pytest.raises(SSL.Error):
        client.step(alert)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("verify", [ClientVerify.OPTIONAL, ClientVerify.REQUIRED])
def test_client_certificate_of_another_authority(verify, version):
    client = Client(client_context(version, identity=OTHER.issue("mallory")))
    failure, _ = refused(server(Tls(client_verify=verify), client_cas=(CA.certificate,)), client)
    assert failure.reason == "client_certificate_rejected"


@pytest.mark.parametrize("version", VERSIONS)
def test_client_that_does_not_trust_us_says_so(version):
    client = Client(client_context(version, authority=OTHER))
    handshake = Handshake(server())
    with pytest.raises(SSL.Error):  # the client's own failure, its alert is on the way
        shake_hands(handshake, client)
    alert = client.take_all()
    with pytest.raises(HandshakeFailed) as info:
        while alert:
            piece, alert = alert[: handshake.wanted], alert[handshake.wanted :]
            handshake.receive_data(piece)
    assert info.value.reason == "client_alert"
    assert "unknown ca" in str(info.value)


@pytest.mark.parametrize("version", VERSIONS)
def test_client_that_says_goodbye_in_the_handshake_is_gone(version):
    client = Client(client_context(version))
    client.step()
    goodbye = b"\x15\x03\x03\x00\x02\x01\x00"
    failure, _ = refused_bytes(client.take_all() + goodbye)
    assert failure.reason == "client_gone"
    assert str(failure) == "expected a handshake record, got close_notify"


@pytest.mark.parametrize("version", VERSIONS)
def test_spoiled_finished_is_a_bad_record(version):
    client = Client(client_context(version))
    handshake = Handshake(server())
    client.step()
    while not (answer := handshake.data_to_send()):
        handshake.receive_data(client.take(handshake.wanted))
    client.step(answer)
    client.sent[-1] ^= 1
    with pytest.raises(HandshakeFailed) as info:
        while True:
            handshake.receive_data(client.take(handshake.wanted))
    assert info.value.reason == "bad_record"
    assert handshake.data_to_send()[:1] in (b"\x15", b"\x17")  # an alert, in 1.3 encrypted


def test_inappropriate_fallback():
    clients = client_context("TLSv1.2")
    clients.set_mode(0x80)  # SSL_MODE_SEND_FALLBACK_SCSV
    failure, alert = refused(server(), Client(clients))
    assert failure.reason == "inappropriate_fallback"
    assert alert[-2:] == b"\x02\x56"


def test_malformed_hello_is_a_protocol_error():
    hello = bytearray(handmade_hello(GROUPS, ECDSA_SHA256))
    hello[-5] ^= 0xFF
    failure, _ = refused_bytes(bytes(hello))
    assert failure.reason == "protocol_error"
    assert str(failure)


def test_wrong_message_is_a_protocol_error():
    failure, _ = refused_bytes(b"\x16\x03\x01\x00\x04\x02\x00\x00\x00")
    assert failure.reason == "protocol_error"


# The contract with the shell


def test_keys_are_not_derived_before_the_end():
    with pytest.raises(LocalProtocolError) as info:
        Handshake(server()).derive_keys(SUITES["TLS_AES_128_GCM_SHA256"])
    assert str(info.value) == "expected an established handshake with all output sent"


@pytest.mark.parametrize("version", VERSIONS)
def test_i3_keys_are_not_derived_before_the_output_is_taken(version):
    """What is not taken is not counted, and the kernel would begin at a used number."""
    client = Client(client_context(version))
    handshake = Handshake(server())
    client.step()
    while True:
        if handshake.receive_data(client.take(handshake.wanted)):
            if handshake.is_established:
                break
            client.step(handshake.data_to_send())
    suite = handshake.established().suite
    with pytest.raises(LocalProtocolError) as info:
        handshake.derive_keys(suite)
    assert str(info.value) == "expected an established handshake with all output sent"
    client.step(handshake.data_to_send())
    prove_keys(handshake, client)


@pytest.mark.parametrize("last", ["forget", "into_record_layer"])
def test_i5_secrets_are_gone_at_the_end(last):
    """Nobody but this test holds them then: as many references as to a fresh object."""
    client = Client(client_context("TLSv1.3"))
    handshake = established(server(), client)
    secrets = list(handshake._secrets.values())
    assert {*secrets} < {*client.secrets.values()}
    assert len(secrets) == 2
    kept = getattr(handshake, last)()
    fresh = [bytes(bytearray(32)), bytes(bytearray(48))]
    assert [sys.getrefcount(one) for one in secrets] == [sys.getrefcount(one) for one in fresh]
    assert (kept is None) is (last == "forget")


def test_i5_text_of_a_handshake_shows_no_secret():
    client = Client(client_context("TLSv1.3"))
    handshake = established(server(), client)
    text = repr(handshake) + repr(handshake.established())
    assert {CLIENT_TRAFFIC_SECRET, SERVER_TRAFFIC_SECRET} <= set(client.secrets)
    for secret in client.secrets.values():
        assert repr(secret)[2:-1] not in text
        assert secret.hex() not in text


@pytest.mark.parametrize("tickets", [True, False])
@pytest.mark.parametrize("version", VERSIONS)
def test_forgotten_connection_can_be_resumed(version, tickets):
    context, clients = server(Tls(tickets=tickets)), client_context(version)
    client = Client(clients)
    handshake = established(context, client)
    session = client.leave()
    handshake.forget()
    del handshake
    gc.collect()
    again = established(context, Client(clients, session=session))
    assert again.established().facts.is_resumed


@pytest.mark.parametrize("version", VERSIONS)
def test_forgetting_sends_nothing(version):
    client = Client(client_context(version))
    handshake = established(server(), client)
    handshake.forget()
    client.step()  # no end, no alert
    assert client.received == b""


@pytest.mark.parametrize("version", VERSIONS)
def test_record_layer_goes_on_where_the_handshake_ended(version):
    client = Client(client_context(version))
    records = established(server(), client).into_record_layer()
    client.send(b"question")
    assert records.receive_data(client.take_all()) == b"question"
    client.step(records.send_data(b"answer"))
    assert client.received == b"answer"


@pytest.mark.parametrize("version", VERSIONS)
def test_i4_record_layer_reads_on_after_the_kernel_began_to_send(version):
    """Mode TX: the kernel has one direction, OpenSSL keeps the other."""
    client = Client(client_context(version))
    handshake = established(server(), client)
    tx, _ = kernel(handshake)
    records = handshake.into_record_layer()
    for text in (b"one", b"two"):
        client.send(text)
        assert records.receive_data(client.take_all()) == text
        client.step(tx.seal(23, text))
    assert client.received == b"onetwo"
    assert records.data_to_send() == b""
