"""The listener's context: the operator's policy as clients meet it, and its mistakes in words."""

from __future__ import annotations

import re

import pytest
from helpers.identities import Authority, Identity
from helpers.memory_tls import Client, client_context, server_context, shake_hands
from OpenSSL import SSL

from ktlsgate.config import ClientVerify, Tls
from ktlsgate.errors import ConfigError, HandshakeFailed
from ktlsgate.wire.handshake import Handshake
from ktlsgate.wire.keylog import CLIENT_TRAFFIC_SECRET, SERVER_TRAFFIC_SECRET
from ktlsgate.wire.tls_context import OP_ENABLE_KTLS, _keep_traffic_secrets, build_server_context

CA = Authority()
ECDSA = CA.issue("localhost")
RSA = CA.issue("localhost", kind="rsa")
OTHER = Authority("another authority")


def meet(tls=Tls(), identity=ECDSA, client_cas=(), **client):  # noqa: B008 - frozen
    """One handshake: the server's side and the client."""
    handshake = Handshake(server_context(identity, tls, client_cas))
    one = Client(client_context(**client))
    shake_hands(handshake, one)
    return handshake, one


def refusal(*args, **changes):
    with pytest.raises(HandshakeFailed) as info:
        meet(*args, **changes)
    return info.value.reason


# Identities


@pytest.mark.parametrize("identity", [ECDSA, RSA], ids=["ecdsa", "rsa"])
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_client_trusts_the_identity(identity, version):
    _, client = meet(identity=identity, version=version, authority=CA)
    assert client.tls.get_peer_certificate().to_cryptography() == identity.chain[0]


def test_whole_chain_is_sent_leaf_first():
    chain = Identity(chain=(ECDSA.chain[0], CA.certificate), key=ECDSA.key)
    _, client = meet(identity=chain)
    sent = [one.to_cryptography() for one in client.tls.get_peer_cert_chain()]
    assert sent == list(chain.chain)


def test_key_of_another_certificate_is_a_config_error():
    with pytest.raises(ConfigError) as info:
        build_server_context(Tls(), ECDSA.chain, CA.issue("localhost").key)
    assert str(info.value) == (
        "certificate: expected a chain and a key that OpenSSL takes, got 'key values mismatch'"
    )


def test_key_of_another_kind_is_a_config_error():
    with pytest.raises(ConfigError) as info:
        build_server_context(Tls(), ECDSA.chain, RSA.key)
    assert re.fullmatch(
        "certificate: expected a chain and a key that OpenSSL takes, got '(key type mismatch|no "
        "certificate assigned|unknown certificate type|no private key assigned)'",
        str(info.value),
    )


# Versions and suites


@pytest.mark.parametrize(
    ("lowest", "highest", "client", "protocol"),
    [
        ("TLSv1.2", "TLSv1.3", None, "TLSv1.3"),
        ("TLSv1.2", "TLSv1.3", "TLSv1.2", "TLSv1.2"),
        ("TLSv1.2", "TLSv1.2", None, "TLSv1.2"),
        ("TLSv1.3", "TLSv1.3", None, "TLSv1.3"),
    ],
)
def test_version_is_the_best_that_both_allow(lowest, highest, client, protocol):
    tls = Tls(min_version=lowest, max_version=highest)
    handshake, _ = meet(tls, version=client)
    assert handshake.established().facts.protocol == protocol


@pytest.mark.parametrize(
    ("lowest", "highest", "client"),
    [("TLSv1.3", "TLSv1.3", "TLSv1.2"), ("TLSv1.2", "TLSv1.2", "TLSv1.3")],
)
def test_version_outside_of_the_policy_is_refused(lowest, highest, client):
    tls = Tls(min_version=lowest, max_version=highest)
    assert refusal(tls, version=client) == "unsupported_version"


def test_only_the_suites_of_the_policy_are_offered():
    offered = SSL.Connection(server_context(ECDSA), None).get_cipher_list()
    assert set(offered) == {*Tls().ciphers.split(":"), *Tls().ciphersuites.split(":")}


def test_order_of_suites_is_the_operators():
    tls = Tls(ciphersuites="TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256")
    offered = SSL.Connection(server_context(ECDSA, tls), None).get_cipher_list()
    assert offered[:2] == ["TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"]


def test_suite_outside_of_the_policy_is_refused():
    assert refusal(version="TLSv1.2", ciphers="ECDHE-ECDSA-AES128-SHA") == "no_shared_cipher"
    tls = Tls(ciphersuites="TLS_AES_128_GCM_SHA256")
    assert refusal(tls, version="TLSv1.3", suites="TLS_AES_256_GCM_SHA384") == "no_shared_cipher"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ciphers": "nonsense"},
            "tls.ciphers: expected TLS 1.2 suites known to this OpenSSL, got 'nonsense'",
        ),
        (
            {"ciphers": ""},
            "tls.ciphers: expected TLS 1.2 suites known to this OpenSSL, got ''",
        ),
        (
            {"ciphersuites": "nonsense"},
            "tls.ciphersuites: expected TLS 1.3 suites known to this OpenSSL, got 'nonsense'",
        ),
    ],
)
def test_unknown_suites_are_a_config_error(changes, message):
    with pytest.raises(ConfigError) as info:
        server_context(ECDSA, Tls(**changes))
    assert str(info.value) == message


def test_failed_context_leaves_the_next_one_alone():
    """OpenSSL's error queue is per thread, and an old error there fails the next call."""
    for changes in ({"ciphers": "nonsense"}, {"ciphersuites": "nonsense"}):
        with pytest.raises(ConfigError):
            server_context(ECDSA, Tls(**changes))
        meet()


# Options


@pytest.mark.parametrize("option", [SSL.OP_NO_RENEGOTIATION, SSL.OP_NO_COMPRESSION])
@pytest.mark.parametrize("tickets", [True, False])
def test_what_a_handoff_cannot_carry_on_is_off(option, tickets):
    assert server_context(ECDSA, Tls(tickets=tickets)).set_options(0) & option


@pytest.mark.parametrize("tickets", [True, False])
def test_tickets_are_the_operators_choice(tickets):
    options = server_context(ECDSA, Tls(tickets=tickets)).set_options(0)
    assert bool(options & SSL.OP_NO_TICKET) is not tickets


# Client certificates


ALICE = CA.issue("alice")


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_client_is_asked_for_no_certificate_by_default(version):
    server = Handshake(server_context(ECDSA))
    shake_hands(server, Client(client_context(version, identity=ALICE)))
    assert server.established().facts.client_certificate == ()


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_optional_certificate_may_be_absent(version):
    tls = Tls(client_verify=ClientVerify.OPTIONAL)
    handshake, _ = meet(tls, client_cas=(CA.certificate,), version=version)
    assert handshake.established().facts.client_certificate == ()


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("verify", [ClientVerify.OPTIONAL, ClientVerify.REQUIRED])
def test_certificate_of_a_client_ca_is_taken(verify, version):
    cas = (OTHER.certificate, CA.certificate)
    server = Handshake(server_context(ECDSA, Tls(client_verify=verify), cas))
    shake_hands(server, Client(client_context(version, identity=ALICE)))
    names = dict(server.established().facts.client_certificate)
    assert names[b"SSL_CLIENT_S_DN"] == b"CN=alice"
    assert names[b"SSL_CLIENT_VERIFY"] == b"SUCCESS"


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize(
    ("verify", "identity", "reason"),
    [
        (ClientVerify.REQUIRED, None, "no_client_certificate"),
        (ClientVerify.REQUIRED, OTHER.issue("mallory"), "client_certificate_rejected"),
        (ClientVerify.OPTIONAL, OTHER.issue("mallory"), "client_certificate_rejected"),
    ],
)
def test_client_without_a_good_certificate_is_refused(verify, identity, reason, version):
    server = Handshake(server_context(ECDSA, Tls(client_verify=verify), (CA.certificate,)))
    with pytest.raises(HandshakeFailed) as info:
        shake_hands(server, Client(client_context(version, identity=identity)))
    assert info.value.reason == reason


def test_client_is_told_which_authorities_are_good():
    tls = Tls(client_verify=ClientVerify.OPTIONAL)
    _, client = meet(tls, client_cas=(CA.certificate, OTHER.certificate))
    asked = [name.CN for name in client.tls.get_client_ca_list()]
    assert asked == ["ktlsgate test authority", "another authority"]


# Application protocols


@pytest.mark.parametrize(
    ("ours", "theirs", "chosen"),
    [
        (("http/1.1",), (b"http/1.1",), "http/1.1"),
        (("http/1.1",), (b"h2", b"http/1.1"), "http/1.1"),
        (("http/1.1", "http/1.0"), (b"http/1.0", b"http/1.1"), "http/1.1"),
        (("http/1.1",), (), ""),
        ((), (b"h2",), ""),
    ],
)
def test_protocol_is_the_first_of_ours_that_the_client_knows(ours, theirs, chosen):
    handshake, client = meet(Tls(alpn=ours), alpn=theirs)
    assert handshake.established().facts.alpn == chosen
    assert client.tls.get_alpn_proto_negotiated() == chosen.encode()


# The key log


class Logged:
    def __init__(self, secrets):
        self.secrets = secrets

    def get_app_data(self):
        return self.secrets


@pytest.mark.parametrize(
    ("label", "kept"),
    [
        (SERVER_TRAFFIC_SECRET, True),
        (CLIENT_TRAFFIC_SECRET, True),
        (b"SERVER_HANDSHAKE_TRAFFIC_SECRET", False),
        (b"CLIENT_HANDSHAKE_TRAFFIC_SECRET", False),
        (b"EXPORTER_SECRET", False),
        (b"CLIENT_RANDOM", False),
        (b"CLIENT_EARLY_TRAFFIC_SECRET", False),
    ],
)
def test_i5_only_application_secrets_are_kept(label, kept):
    connection = Logged({})
    _keep_traffic_secrets(connection, label + b" 00 c0ffee")
    assert connection.secrets == ({label: b"\xc0\xff\xee"} if kept else {})


@pytest.mark.parametrize("label", [SERVER_TRAFFIC_SECRET + b"0", b"X" + CLIENT_TRAFFIC_SECRET])
def test_i5_label_is_compared_whole(label):
    connection = Logged({})
    _keep_traffic_secrets(connection, label + b" 00 c0ffee")
    assert connection.secrets == {}


def test_i5_connection_that_nobody_watches_keeps_nothing():
    connection = Logged(None)
    _keep_traffic_secrets(connection, SERVER_TRAFFIC_SECRET + b" 00 c0ffee")
    assert connection.secrets is None


@pytest.mark.filterwarnings("error")
def test_context_is_made_without_a_deprecated_call():
    """pyOpenSSL 24.3 and newer warn when they are given their own certificate objects."""
    server_context(ECDSA, Tls(client_verify=ClientVerify.OPTIONAL), (CA.certificate,))


@pytest.mark.parametrize("lets_openssl", [True, False])
def test_i5_openssl_that_moves_its_keys_tells_us_none(lets_openssl):
    context = build_server_context(Tls(), ECDSA.chain, ECDSA.key, lets_openssl_offload=lets_openssl)
    assert bool(context.set_options(0) & OP_ENABLE_KTLS) is lets_openssl
    handshake = Handshake(context)
    shake_hands(handshake, Client(client_context("TLSv1.3")))
    assert bool(handshake._secrets) is not lets_openssl
