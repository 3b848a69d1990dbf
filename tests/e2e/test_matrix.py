"""Every version and cipher with curl and s_client: served, and by whom the records are made."""

import json
import os
import shutil
import subprocess
import threading

import pytest
from helpers.backends import digest, pattern
from helpers.clients import WAIT, body_of, request
from helpers.front import ALL_CIPHERS, KTLS_LABELS, assert_offload, expected_offload, start_front

_SMALL = 10_000_000
_LARGE = 100_000_000 if os.environ.get("KTLSGATE_FULL") == "1" else 8_000_000

_SUITES = {
    "TLSv1.2": (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES128-CCM",
    ),
    "TLSv1.3": (
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
        "TLS_AES_128_CCM_SHA256",
    ),
}
_MATRIX = [(version, cipher) for version, row in _SUITES.items() for cipher in row]
_RELAYED = [
    ("TLSv1.2", "ECDHE-ECDSA-AES128-SHA256"),
    ("TLSv1.2", "ECDHE-ECDSA-AES128-CCM8"),
    ("TLSv1.3", "TLS_AES_128_CCM_8_SHA256"),
]


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    with start_front(tmp_path_factory.mktemp("matrix"), tls=ALL_CIPHERS) as front:
        yield front


class Curl:
    """curl bound to one version and cipher."""

    def __init__(self, front, version, cipher):
        self.front = front
        if version == "TLSv1.2":
            self.options = ["--tls-max", "1.2", "--ciphers", f"{cipher}:@SECLEVEL=0"]
        else:
            # With --tlsv1.3 newer curls do not look at --ciphers, and so not at the level.
            self.options = ["--tls13-ciphers", cipher, "--ciphers", "ALL:@SECLEVEL=0"]

    def fetch(self, target, body=b""):
        post = ["--data-binary", "@-", "-H", "Expect:"] if body else []
        done = self.front.curl(target, *self.options, *post, data=body or None)
        assert done.returncode == 0, done.stderr
        return done.stdout


class SClient:
    """`openssl s_client` bound to one version and cipher."""

    def __init__(self, front, version, cipher):
        self.front = front
        name = "-cipher" if version == "TLSv1.2" else "-ciphersuites"
        self.options = ["-tls1_2" if version == "TLSv1.2" else "-tls1_3", name, cipher]
        if version == "TLSv1.3":
            self.options += ["-cipher", "ALL:@SECLEVEL=0"]
        else:
            self.options[-1] += ":@SECLEVEL=0"

    def fetch(self, target, body=b""):
        method = "POST" if body else "GET"
        done = self.front.s_client(request(target, method=method, body=body), *self.options)
        assert done.stdout, done.stderr
        return body_of(done.stdout)


_CLIENTS = pytest.mark.parametrize("client", [Curl, SClient])


@_CLIENTS
@pytest.mark.parametrize(("version", "cipher"), _MATRIX)
def test_kernel_holds_what_its_probe_promised(front, client, version, cipher):
    target = front.target("/facts")
    facts = json.loads(client(front, version, cipher).fetch(target))
    report = front.report(target)
    assert (report["tls"], report["cipher"]) == (version, cipher)
    assert facts["environ"]["SSL_PROTOCOL"] == version
    assert facts["environ"]["SSL_CIPHER"] == cipher
    assert_offload(facts, report)


@_CLIENTS
@pytest.mark.parametrize(("version", "cipher"), _MATRIX)
def test_body_glued_to_its_head_arrives_whole(front, client, version, cipher):
    target, body = front.target("/hash"), pattern(_SMALL)
    seen = json.loads(client(front, version, cipher).fetch(target, body))
    assert seen == {"size": len(body), "sha256": digest(body)}
    front.report(target)


@_CLIENTS
@pytest.mark.parametrize(("version", "cipher"), _MATRIX)
def test_answer_by_sendfile_arrives_whole(front, client, version, cipher):
    target = front.target(f"/big?n={_LARGE}")
    body = client(front, version, cipher).fetch(target)
    assert (len(body), digest(body)) == (_LARGE, digest(pattern(_LARGE)))
    front.report(target)


@_CLIENTS
@pytest.mark.parametrize(("version", "cipher"), _RELAYED)
def test_cipher_that_no_kernel_has_is_relayed(front, client, version, cipher):
    body = pattern(200_000)
    target = front.target("/hash")
    seen = json.loads(client(front, version, cipher).fetch(target, body))
    report = front.report(target)
    assert seen == {"size": len(body), "sha256": digest(body)}
    assert report["event"] == "relay"
    assert (report["cipher"], report["ktls"], report["fallback"]) == (cipher, "none", "cipher")
    assert report["bytes_in"] == len(body)


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_client_with_small_records_is_relayed(front, version):
    """The kernel writes records of 16384 bytes; this client has asked for 512 (RFC 6066)."""
    client = SClient(front, version, _SUITES[version][0])
    client.options += ["-maxfraglen", "512"]
    target = front.target("/big?n=200000")
    body = client.fetch(target)
    report = front.report(target)
    assert body == pattern(200_000)
    assert (report["event"], report["fallback"]) == ("relay", "max_fragment_length")


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_client_with_small_records_can_upload(front, version):
    client = SClient(front, version, _SUITES[version][0])
    client.options += ["-maxfraglen", "512"]
    target, body = front.target("/hash"), pattern(200_000)
    assert json.loads(client.fetch(target, body))["sha256"] == digest(body)
    assert front.report(target)["fallback"] == "max_fragment_length"


_GNUTLS_CIPHERS = ("AES-128-GCM", "AES-256-GCM", "CHACHA20-POLY1305", "AES-128-CCM")


@pytest.mark.skipif(not shutil.which("gnutls-cli"), reason="gnutls-cli is not installed")
@pytest.mark.parametrize("cipher", _GNUTLS_CIPHERS)
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_gnutls_client_is_served(front, version, cipher):
    """Another library's records and handshake; its standard input must stay open."""
    target, body = front.target("/hash"), pattern(100_000)
    priority = f"NORMAL:-VERS-ALL:+VERS-{version.replace('v', '')}:-CIPHER-ALL:+{cipher}"
    command = ["gnutls-cli", "--x509cafile", str(front.ca), "--priority", priority]
    process = subprocess.Popen(
        [*command, "--port", str(front.port), "localhost"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with process:
        bound = threading.Timer(WAIT, process.kill)
        bound.start()
        process.stdin.write(request(target, method="POST", body=body))
        process.stdin.flush()
        said = process.stdout.read()
        bound.cancel()
    assert digest(body).encode() in said, said
    report = front.report(target)
    assert report["tls"] == version
    assert report["ktls"] == KTLS_LABELS[expected_offload(report["cipher"])]
