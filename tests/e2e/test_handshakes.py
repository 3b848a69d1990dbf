"""Every shape of handshake that a client may choose, against a gate that serves it."""

import contextlib
import json

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from helpers.backends import digest, pattern
from helpers.cells import OPENSSL_CONFIG
from helpers.clients import body_of, client_context, connect, read_to_end, request, status_of
from helpers.front import assert_offload, start_front
from helpers.identities import Authority
from OpenSSL import SSL

VERSIONS = pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    file = tmp_path_factory.mktemp("openssl") / "openssl.cnf"
    file.write_text(OPENSSL_CONFIG)
    return {"OPENSSL_CONF": str(file)}


@pytest.fixture(scope="module")
def front(tmp_path_factory, environment):
    with start_front(tmp_path_factory.mktemp("default"), env=environment) as front:
        yield front


@pytest.fixture(scope="module")
def optional(tmp_path_factory, environment):
    """Asks for client certificates, and gives no tickets."""
    folder = tmp_path_factory.mktemp("optional")
    tls = f'tickets = false\nclient_verify = "optional"\nclient_ca = "{folder}/ca.pem"'
    with start_front(folder, env=environment, tls=tls) as front:
        yield front


@pytest.fixture(scope="module")
def required(tmp_path_factory, environment):
    folder = tmp_path_factory.mktemp("required")
    tls = f'client_verify = "required"\nclient_ca = "{folder}/ca.pem"'
    with start_front(folder, env=environment, tls=tls) as front:
        yield front


def fetch_facts(front, context=None, **how):
    """One request by a fresh client: the facts, the report, the client for its session."""
    target = front.target("/facts")
    with front.client(context, **how) as client:
        facts = front.facts(client.handshake(), target)
    return facts, front.report(target), client


@VERSIONS
def test_session_is_resumed_by_ticket(front, version):
    context = client_context(version=version)
    _, first, client = fetch_facts(front, context)
    facts, second, again = fetch_facts(front, context, session=client.tls.get_session())
    assert again.is_resumed
    assert "resumed" not in first
    assert second["resumed"] is True
    assert facts["environ"]["SSL_SESSION_RESUMED"] == "Resumed"
    assert_offload(facts, second)


@VERSIONS
def test_session_is_resumed_without_tickets(optional, version):
    context = client_context(version=version)
    facts, _, client = fetch_facts(optional, context)
    assert facts["environ"]["SSL_SESSION_RESUMED"] == "Initial"
    facts, report, again = fetch_facts(optional, context, session=client.tls.get_session())
    assert again.is_resumed
    assert report["resumed"] is True
    assert_offload(facts, report)


@VERSIONS
def test_session_is_resumed_by_s_client(front, version, tmp_path):
    session = tmp_path / "session.pem"
    flag = "-tls" + version[4:].replace(".", "_")
    first, second = front.target("/facts"), front.target("/facts")
    front.s_client(request(first), flag, "-sess_out", str(session))
    done = front.s_client(request(second), flag, "-sess_in", str(session))
    assert "resumed" not in front.report(first)
    report = front.report(second)
    assert report["resumed"] is True
    assert_offload(json.loads(body_of(done.stdout)), report)


def test_client_without_a_group_in_common_is_refused(front):
    done = front.s_client(b"", "-tls1_3", "-groups", "P-521")
    assert b"alert handshake failure" in done.stderr
    while (report := front.gate.next_report())["event"] != "handshake_failed":
        front._reports.append(report)
    assert report["reason"] in ("no_shared_group", "no_shared_cipher")


@VERSIONS
@pytest.mark.parametrize("length", [0, 48_000])
def test_request_glued_to_finished_arrives_whole(front, version, length):
    """In TLS 1.2 the client's Finished is last only in a resumption."""
    context = client_context(version=version)
    session = fetch_facts(front, context)[2].tls.get_session()
    target, body = front.target("/hash"), pattern(length)
    with front.client(context, session=session) as client:
        client.handshake(glued=request(target, method="POST", body=body))
        seen = json.loads(body_of(client.read_all()[0]))
    assert client.is_resumed
    assert seen == {"size": length, "sha256": digest(body)}
    front.report(target)


def test_request_glued_to_first_finished_arrives_whole(front):
    target, body = front.target("/hash"), pattern(48_000)
    with front.client(client_context(version="TLSv1.3")) as client:
        client.handshake(glued=request(target, method="POST", body=body))
        assert json.loads(body_of(client.read_all()[0]))["sha256"] == digest(body)
    assert "resumed" not in front.report(target)


@VERSIONS
def test_client_in_segments_of_one_byte_is_served(front, version):
    facts, report, _ = fetch_facts(front, client_context(version=version), segment=1)
    assert_offload(facts, report)


@VERSIONS
@pytest.mark.parametrize("says_goodbye", [True, False], ids=["close_notify", "fin"])
def test_client_that_ends_its_side_at_once_is_answered(front, version, says_goodbye):
    """A FIN behind the request arrives while the gate still shakes hands (ENOTCONN for a late ULP)."""
    target = front.target("/until-end")
    with front.client(client_context(version=version)) as client:
        client.handshake()
        client.tls.sendall(request(target) + b"abc")
        if says_goodbye:
            client.tls.shutdown()
        client.flush()
        client.half_close()
        seen = json.loads(body_of(client.read_all()[0]))
    report = front.report(target)
    assert (seen["size"], seen["sha256"]) == (3, digest(b"abc"))
    if report["ktls"] == "tx+rx":
        assert seen["how"] == ("EIO" if says_goodbye else "eof")
    else:
        assert seen["how"] == "eof"
        assert report["fallback"] == "no_ulp"
        assert report.get("reason", "") == ("" if says_goodbye else "client_cut")


def test_fin_glued_to_finished_and_request_is_answered(front):
    """Everything that the client will ever send is there before its handshake is read."""
    context = client_context(version="TLSv1.3")
    target = front.target("/facts")
    with front.client(context) as client:
        with contextlib.suppress(SSL.WantReadError):
            client.tls.do_handshake()
        client.flush()
        while True:
            client.feed()
            with contextlib.suppress(SSL.WantReadError):
                client.tls.do_handshake()
                break
        client.tls.sendall(request(target))
        client.close_notify()
        client.half_close()
        facts = json.loads(body_of(client.read_all()[0]))
    assert_offload(facts, front.report(target))


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [((), ""), (("http/1.1",), "http/1.1"), (("h2", "http/1.1"), "http/1.1")],
)
def test_protocol_is_agreed_on(front, offered, agreed):
    facts, report, client = fetch_facts(front, client_context(alpn=offered))
    assert client.tls.get_alpn_proto_negotiated() == agreed.encode()
    assert facts["environ"]["SSL_ALPN"] == agreed
    assert report.get("alpn", "") == agreed


@VERSIONS
def test_client_without_our_protocol_is_refused(front, version):
    with (
        front.client(client_context(version=version, alpn=("h2",))) as client,
        pytest.raises(SSL.Error, match="no application protocol"),
    ):
        client.handshake()
    report = front.report(port=client.port)
    assert (report["event"], report["reason"]) == ("handshake_failed", "no_application_protocol")


@pytest.mark.parametrize("name", ["localhost", "other.example", ""])
def test_name_that_the_client_asked_for_is_told(front, name):
    facts, report, _ = fetch_facts(front, sni=name)
    assert facts["environ"]["SSL_TLS_SNI"] == name
    assert report.get("sni", "") == name


@pytest.mark.parametrize("minor", [1, 2], ids=["TLSv1.0", "TLSv1.1"])
def test_version_that_is_too_old_is_refused(front, minor):
    """By hand: clients' own OpenSSLs may refuse to offer it at all."""
    suites = bytes.fromhex("c009c013002f")
    body = bytes((3, minor)) + bytes(32) + b"\0" + len(suites).to_bytes(2, "big") + suites + b"\1\0"
    message = b"\1" + len(body).to_bytes(3, "big") + body
    with connect(front.port) as sock:
        port = sock.getsockname()[1]
        sock.sendall(b"\x16\3\1" + len(message).to_bytes(2, "big") + message)
        alert = read_to_end(sock)
    assert (alert[0], alert[5:]) == (21, b"\2\x46")  # fatal, protocol_version
    report = front.report(port=port)
    assert (report["event"], report["reason"]) == ("handshake_failed", "unsupported_version")


@pytest.mark.parametrize("when", ["before", "after"])
def test_renegotiation_is_refused(front, when):
    """Before the head the gate must not take part; after it the backend cannot."""
    target = front.target("/echo")
    with front.client(client_context(version="TLSv1.2")) as client:
        client.handshake()
        if when == "after":
            client.send(request(target))
            client.read_exactly(len("HTTP/1.1 101 Switching Protocols\r\n"))
        client.tls.renegotiate()
        with pytest.raises((SSL.Error, ConnectionError)):
            client.handshake()
    if when == "before":
        report = front.report(port=client.port)
        assert report["event"] == "client_gone", report
        assert "target" not in report
        return
    report = front.report(target)
    # The kernel gives the backend a record that plain reads cannot take; the gate refuses itself.
    how = front.backend.next_event("ended", target)["how"]
    assert how == ("EIO" if report["ktls"] == "tx+rx" else "eof")


# Client certificates


@VERSIONS
def test_verified_client_is_described(optional, version):
    identity = optional.authority.issue("alice.example", "alice@example.org", common_name="Alice")
    facts, report, _ = fetch_facts(optional, client_context(version=version, identity=identity))
    environ = facts["environ"]
    assert environ["SSL_CLIENT_VERIFY"] == "SUCCESS"
    assert environ["SSL_CLIENT_S_DN_CN"] == "Alice"
    assert environ["SSL_CLIENT_I_DN_CN"] == "ktlsgate test authority"
    assert environ["SSL_CLIENT_SAN_DNS_0"] == "alice.example"
    assert environ["SSL_CLIENT_SAN_Email_0"] == "alice@example.org"
    assert environ["SSL_CLIENT_M_SERIAL"] == f"{identity.chain[0].serial_number:X}"
    assert environ["SSL_CLIENT_CERT"].encode() == identity.chain_pem
    assert_offload(facts, report)


@VERSIONS
def test_client_without_certificate_is_served_where_it_is_optional(optional, version):
    facts, report, _ = fetch_facts(optional, client_context(version=version))
    assert facts["environ"]["SSL_CLIENT_VERIFY"] == "NONE"
    assert_offload(facts, report)


def test_nobody_is_asked_for_a_certificate_by_default(front):
    identity = front.authority.issue("alice.example")
    facts, _, _ = fetch_facts(front, client_context(identity=identity))
    assert facts["environ"]["SSL_CLIENT_VERIFY"] == "NONE"
    assert "SSL_CLIENT_CERT" not in facts["environ"]


@VERSIONS
def test_client_with_a_huge_certificate_is_served(required, version):
    """56 kB in several records; the gate's tickets hold it and become several records, too."""
    names = [f"host-{number:04}.example" for number in range(3000)]
    identity = required.authority.issue(*names)
    assert len(identity.chain[0].public_bytes(Encoding.DER)) > 56_000
    context = client_context(version=version, identity=identity)
    facts, report, _ = fetch_facts(required, context)
    assert facts["environ"]["SSL_CLIENT_CERT"].encode() == identity.chain_pem
    assert facts["environ"]["SSL_CLIENT_SAN_DNS_7"] == names[7]
    assert_offload(facts, report)


@VERSIONS
def test_verified_session_is_resumed_with_its_certificate(required, version):
    context = client_context(version=version, identity=required.authority.issue("bob.example"))
    client = fetch_facts(required, context)[2]
    facts, report, again = fetch_facts(required, context, session=client.tls.get_session())
    assert again.is_resumed
    assert facts["environ"]["SSL_CLIENT_SAN_DNS_0"] == "bob.example"
    assert_offload(facts, report)


def _refusal(front, context):
    """Connect and wait for the alert; in TLS 1.3 it comes after the client's own end."""
    with front.client(context) as client, pytest.raises(SSL.Error) as caught:
        client.handshake()
        client.recv()
    return front.report(port=client.port), str(caught.value)


@VERSIONS
def test_client_without_certificate_is_refused_where_it_is_required(required, version):
    report, alert = _refusal(required, client_context(version=version))
    assert (report["event"], report["reason"]) == ("handshake_failed", "no_client_certificate")
    assert "alert" in alert


@VERSIONS
def test_client_of_a_strange_authority_is_refused(required, version):
    stranger = Authority("somebody else").issue("mallory.example")
    report, alert = _refusal(required, client_context(version=version, identity=stranger))
    assert report["event"] == "handshake_failed"
    assert report["reason"] == "client_certificate_rejected"
    assert "alert" in alert


def test_plain_http_is_answered_in_plain_words(front):
    with connect(front.port) as sock:
        port = sock.getsockname()[1]
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = read_to_end(sock)
    assert status_of(answer) == 400
    assert b"HTTPS" in answer
    report = front.report(port=port)
    assert (report["event"], report["reason"]) == ("handshake_failed", "plain_http")
