"""Both engines as an operator chooses them: what the kernel holds, who says so, what survives.

What the engine ``openssl`` can do depends on OpenSSL's version, which its own loopback
handshake tells (`ktlsgate.kernel.openssl_probe`).
"""

import contextlib
import json
import socket
import subprocess
import sys
import threading

import OpenSSL
import pytest
from cryptography.hazmat.backends.openssl import backend as cryptography_backend
from helpers.backends import digest, pattern
from helpers.clients import body_of, client_context, connect, read_to_end, request, status_of
from helpers.engines import openssl_gives, openssl_report, require_openssl
from helpers.front import ALL_CIPHERS, KTLS_LABELS, MODES, start_front
from helpers.gate_process import WAIT, gate_config, tls_files
from helpers.interactive import gnutls_cli, s_client
from helpers.ktls import TLS13, kernel_table, require_ktls
from OpenSSL import SSL

from ktlsgate.config import Offload
from ktlsgate.kernel.engines import Engine
from ktlsgate.wire.ciphers import SUITES, Version

VERSIONS = {"TLSv1.2": Version.TLS12, "TLSv1.3": Version.TLS13}
BOTH_VERSIONS = pytest.mark.parametrize("version", VERSIONS)


def gives(version):
    """What engine ``openssl`` gives here for a version, by its label."""
    return openssl_gives(VERSIONS[version])


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    require_openssl()
    folder = tmp_path_factory.mktemp("openssl")
    with start_front(folder, listen='engine = "openssl"', tls=ALL_CIPHERS) as front:
        yield front


def fetch(front, context):
    """One request: the facts, the report, the client."""
    target = front.target("/facts")
    with front.client(context) as client:
        facts = front.facts(client.handshake(), target)
    return facts, front.report(target), client


def assert_held(facts, report, offload):
    """The kernel holds so much, says the backend's own socket, and the report agrees."""
    assert report["ktls"] == KTLS_LABELS[offload], report
    assert facts["environ"]["KTLSGATE_MODE"] == MODES[offload]
    assert facts["environ"]["KTLS_RX"] == ("0" if offload is Offload.TX else "1")
    suite = SUITES.get(report["cipher"])
    key = [suite.version, suite.cipher] if suite else []
    assert facts["tx"] == (key if offload is not Offload.NONE else [])
    assert facts["rx"] == (key if offload is Offload.BOTH else [])


@BOTH_VERSIONS
def test_openssl_moves_its_keys_itself(front, version):
    """Both ways, but for TLS 1.3 with OpenSSL 3.0 and 3.1: sending only."""
    facts, report, _ = fetch(front, client_context(version=version))
    assert (report["engine"], report["tls"]) == ("openssl", version)
    assert_held(facts, report, gives(version))
    if gives(version) is Offload.TX:
        assert report["event"] == "relay"
        assert report["fallback"] == "tx_only"
        assert report["fallback_detail"] == (
            "this OpenSSL gives the kernel no receiving key in TLSv1.3"
        )
    else:
        assert report["event"] == "handoff"
        assert "fallback" not in report


@BOTH_VERSIONS
def test_sessions_made_by_openssl_are_resumed(front, version):
    context = client_context(version=version)
    session = fetch(front, context)[2].tls.get_session()
    target = front.target("/facts")
    with front.client(context, session=session) as client:
        facts = front.facts(client.handshake(), target)
    assert client.is_resumed
    report = front.report(target)
    assert report["resumed"] is True
    assert_held(facts, report, gives(version))


@pytest.mark.parametrize("name", ["localhost", "other.example", ""])
@BOTH_VERSIONS
def test_the_name_asked_for_is_told_though_openssl_reads_the_hello(front, version, name):
    """Also when a session is resumed, where OpenSSL would say the first name again."""
    context = client_context(version=version)
    session = fetch(front, context)[2].tls.get_session()
    target = front.target("/facts")
    with front.client(context, session=session, sni=name) as client:
        facts = front.facts(client.handshake(), target)
    assert facts["environ"]["SSL_TLS_SNI"] == name
    assert front.report(target).get("sni", "") == name


@pytest.mark.parametrize(
    ("version", "cipher", "reason"),
    [
        ("TLSv1.2", "ECDHE-ECDSA-AES128-SHA256", "cipher"),
        ("TLSv1.2", "ECDHE-ECDSA-AES128-CCM8", "cipher"),
        ("TLSv1.3", "TLS_AES_128_CCM_8_SHA256", "cipher"),
    ],
)
def test_what_openssl_keeps_is_relayed_whole(front, version, cipher, reason):
    kind = "suites" if version == "TLSv1.3" else "ciphers"
    level = {} if kind == "ciphers" else {"ciphers": "ALL:@SECLEVEL=0"}
    named = cipher if kind == "suites" else f"{cipher}:@SECLEVEL=0"
    context = client_context(version=version, **level, **{kind: named})
    target, body = front.target("/hash"), pattern(200_000)
    with front.client(context) as client:
        client.handshake().send(request(target, method="POST", body=body))
        seen = json.loads(body_of(client.read_all()[0]))
    assert seen == {"size": len(body), "sha256": digest(body)}
    report = front.report(target)
    assert (report["engine"], report["ktls"], report["fallback"]) == ("openssl", "none", reason)


@BOTH_VERSIONS
def test_client_with_small_records_is_relayed(front, version):
    target = front.target("/big?n=200000")
    done = front.s_client(request(target), "-tls" + version[4:].replace(".", "_"),
                          "-maxfraglen", "512")  # fmt: skip
    assert body_of(done.stdout) == pattern(200_000)
    report = front.report(target)
    assert (report["ktls"], report["fallback"]) == ("none", "max_fragment_length")


def test_suite_that_this_openssl_does_not_move_is_relayed(front):
    """AES-CCM in TLS 1.3 with OpenSSL 3.0."""
    context = client_context(
        version="TLSv1.3", suites="TLS_AES_128_CCM_SHA256", ciphers="ALL:@SECLEVEL=0"
    )
    facts, report, _ = fetch(front, context)
    if gives("TLSv1.3") is Offload.BOTH:
        assert_held(facts, report, Offload.BOTH)
    else:
        assert report["fallback"] == "openssl"
        assert report["fallback_detail"] == ("this OpenSSL does not offload TLS_AES_128_CCM_SHA256")
        assert facts["environ"]["KTLSGATE_MODE"] == "relay"


# The edges of a handshake that OpenSSL reads itself.

LARGE_RECORD = b"\x16\x03\x01\x40\x00" + bytes(16_384)


@pytest.mark.parametrize("segment", [1, 40])
@BOTH_VERSIONS
def test_client_in_small_segments_is_served(front, version, segment):
    target = front.target("/facts")
    with front.client(client_context(version=version), segment=segment) as client:
        facts = front.facts(client.handshake(), target)
    assert_held(facts, front.report(target), gives(version))


@pytest.mark.parametrize("length", [0, 48_000])
def test_request_glued_to_finished_arrives_whole(front, length):
    target, body = front.target("/hash"), pattern(length)
    with front.client(client_context(version="TLSv1.3")) as client:
        client.handshake(glued=request(target, method="POST", body=body))
        seen = json.loads(body_of(client.read_all()[0]))
    assert seen == {"size": length, "sha256": digest(body)}
    front.report(target)


def test_plain_http_is_answered_in_plain_words(front):
    with connect(front.port) as sock:
        port = sock.getsockname()[1]
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = read_to_end(sock)
    assert status_of(answer) == 400
    assert b"HTTPS" in answer
    report = front.report(port=port)
    assert (report["event"], report["reason"]) == ("handshake_failed", "plain_http")


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (b"", "client_gone", "expected a ClientHello, got end of file"),
        (b"\x16\x03", "client_gone", "expected a handshake record, got end of file"),
        (b"\x16\x03\x01\x02\x00\x01", "client_gone",
         "expected a handshake record, got end of file"),
        (b"SSH-2.0-x\r\n", "not_tls", "expected a ClientHello, got b'SSH-2'"),
        (b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", "protocol_error", ""),
        (b"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + bytes(16_380) + LARGE_RECORD,
         "handshake_too_long", "expected a ClientHello of less than 32768 bytes"),
        (b"\x16\x03\x01\x00\x04\x01\x00\xff\xff\x16\x03\x01\x00\x00", "bad_record",
         "expected a record of 1 to 18432 bytes, got one of 0"),
    ],
    ids=["nothing", "two bytes", "half a hello", "ssh", "empty hello", "endless hello", "empty record"],
)  # fmt: skip
def test_what_is_no_client_hello_ends_with_its_reason(front, data, reason, detail):
    with connect(front.port) as sock:
        port = sock.getsockname()[1]
        with contextlib.suppress(OSError):  # it may have been refused already
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        read_to_end(sock)
    report = front.report(port=port)
    assert report["reason"] == reason
    assert report["detail"] == detail or not detail  # OpenSSL's words differ by version
    assert report["event"] == ("client_gone" if reason == "client_gone" else "handshake_failed")


def test_client_that_leaves_in_the_middle_is_gone(front):
    with front.client(client_context(version="TLSv1.3")) as client:
        with pytest.raises(SSL.WantReadError):
            client.tls.do_handshake()
        client.flush()
        client.half_close()
        port = client.port
        read_to_end(client.sock)
    report = front.report(port=port)
    assert (report["event"], report["reason"]) == ("client_gone", "client_gone")
    assert report["detail"] == "expected a handshake record, got end of file"


def test_client_without_our_protocol_gets_the_alert(front):
    with (
        front.client(client_context(alpn=("h2",))) as client,
        pytest.raises(SSL.Error, match="no application protocol"),
    ):
        client.handshake()
    report = front.report(port=client.port)
    assert (report["event"], report["reason"]) == ("handshake_failed", "no_application_protocol")


def test_broken_record_of_a_relayed_client_ends_it_alone(front):
    """OpenSSL then wants to send an alert: where the kernel sends it must not (invariant I4)."""
    target = front.target("/hash")
    with front.client(client_context(version="TLSv1.3")) as client:
        client.handshake()
        client.send(b"POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n" % target.encode())
        front.backend.next_event("received", target)
        client.sock.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        read_to_end(client.sock)
    report = front.report(target)
    assert report["event"] == ("relay" if gives("TLSv1.3") is Offload.TX else "handoff")
    fetch(front, client_context())  # the gate lives


# KeyUpdates where the gate decrypts: the backend cannot see them, and the client must live.


LINES = [b"%04d " % number + b"0123456789" * 150 + b"\n" for number in range(30)]
UPGRADE = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
SPLITS = {"openssl": 'engine = "openssl"', "direct": 'engine = "direct"\noffload = "tx"'}
KEY_UPDATES = {
    "k": (s_client, b"k\n"),
    "K": (s_client, b"K\n"),
    "rekey1": (gnutls_cli, b"^rekey1^\n"),
    "rekey": (gnutls_cli, b"^rekey^\n"),
}


@pytest.fixture(scope="module", params=SPLITS)
def split(request, tmp_path_factory):
    """A gate whose kernel only sends TLS 1.3."""
    require_ktls(TLS13)
    if request.param == "openssl":
        require_openssl()
        if gives("TLSv1.3") is Offload.BOTH:
            version = openssl_report().libraries.openssl
            pytest.skip(f"OpenSSL {version} gives the kernel both keys of TLS 1.3")
    folder = tmp_path_factory.mktemp(request.param)
    with start_front(folder, listen=SPLITS[request.param]) as front:
        front.engine = request.param
        yield front


def relayed_report(split):
    report = split.gate.next_report()
    assert (report["engine"], report["ktls"], report["event"]) == (split.engine, "tx", "relay")
    return report


@pytest.mark.parametrize("which", KEY_UPDATES)
def test_key_updates_do_not_reach_the_backend_nor_end_the_connection(split, which):
    client_of, command = KEY_UPDATES[which]
    with client_of(split) as client:
        client.write(UPGRADE)
        client.wait_for(b"Upgrade: echo\r\n\r\n")
        for line in LINES:
            client.wait_read()
            client.write(command)
            client.wait_read()
            client.write(line)
            client.wait_for(line)
        client.end()
    report = relayed_report(split)
    assert report["bytes_in"] == sum(map(len, LINES))
    assert "reason" not in report


@pytest.mark.parametrize("which", KEY_UPDATES)
def test_upload_to_a_slow_backend_survives_a_key_update_in_its_middle(split, which):
    client_of, command = KEY_UPDATES[which]
    body = b"0123456789abcde\n" * (8 << 16)  # 8 MiB, no line of it a command
    half, target = len(body) // 2, split.target("/hash?pace=16384")
    with client_of(split) as client:
        first = request(target, method="POST", body=body)[:-half]
        writer = threading.Thread(target=client.write, args=(first,))
        writer.start()
        split.backend.next_event("received", target)
        writer.join(WAIT)
        client.wait_read()
        client.write(command)
        client.wait_read()
        client.write(body[half:])
        client.wait_for(b'{"size": %d, "sha256": "%s"}' % (len(body), digest(body).encode()))
        client.end()
    assert relayed_report(split)["bytes_in"] == len(body)


# Start.


def test_auto_takes_what_gives_most_and_says_why(tmp_path):
    require_ktls()
    with start_front(tmp_path) as front:
        _, report, _ = fetch(front, client_context())
        said = [m["message"] for m in front.gate.messages if "engine" in m.get("message", "")]
    assert report["engine"] == "direct"
    report = openssl_report()
    own = ", ".join(
        f"{version.label} {'tx+rx' if report.trial(Engine.OPENSSL, version).rx.ok else 'tx'}"
        for version in Version
    )
    than = "no more" if own == "TLSv1.2 tx+rx, TLSv1.3 tx+rx" else own
    than = than if report.has_ktls else "TLSv1.2 nothing, TLSv1.3 nothing"
    gives_all = "listen 127.0.0.1:0: engine direct: TLSv1.2 tx+rx, TLSv1.3 tx+rx"
    assert said == [f"{gives_all}; openssl would give {than}"]


def test_openssl_without_ktls_is_refused_at_start_with_both_ways_out(tmp_path):
    require_ktls()
    if openssl_report().has_ktls:
        pytest.skip(f"OpenSSL {openssl_report().libraries.openssl} has kTLS")
    tls_files(tmp_path)
    config = tmp_path / "k.toml"
    config.write_text(gate_config(tmp_path, backend="/nowhere", listen='engine = "openssl"'))
    command = [sys.executable, "-m", "ktlsgate", "run", "-c", str(config)]
    done = subprocess.run(command, check=False, capture_output=True, timeout=WAIT, cwd=tmp_path)
    assert done.returncode == 1
    library = cryptography_backend.openssl_version_text()
    assert (
        "listen 127.0.0.1:0: engine: expected an OpenSSL with kTLS, got"
        f" {' '.join(library.split()[:2])} of pyOpenSSL {OpenSSL.__version__} without it:"
        ' say engine = "direct", which needs none, or run on a pyOpenSSL whose OpenSSL was'
        " built with enable-ktls, such as Debian's python3-openssl"
    ) in done.stderr.decode()


def test_openssl_on_a_kernel_without_ktls_relays(tmp_path):
    """What fails is the kernel, which the log says; nobody's clients are turned away for it."""
    if not kernel_table().ulp_reason:
        pytest.skip("this kernel has kTLS")
    with start_front(tmp_path, listen='engine = "openssl"') as front:
        facts, report, _ = fetch(front, client_context())
    assert facts["environ"]["KTLSGATE_MODE"] == "relay"
    assert report["fallback"] == "no_ulp"
