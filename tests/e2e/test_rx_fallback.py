"""What a backend gets where the kernel encrypts and does not decrypt."""

import json

import pytest
from helpers.backends import digest, pattern
from helpers.clients import body_of, client_context, request, status_of
from helpers.engines import openssl_gives, require_openssl
from helpers.front import start_front
from helpers.ktls import TLS13, require_ktls

from ktlsgate.config import Offload
from ktlsgate.wire.ciphers import Version

_CONFIG = """
log_format = "json"
[[cert]]
file = "{folder}/server.pem"
key = "{folder}/server.key"
[[listen]]
address = "127.0.0.1:0"
LISTEN
[[route]]
host = "refuse.localhost"
backend = "refuse"
[[route]]
backend = "pair"
[backend.refuse]
address = "{backend}"
rx_fallback = "refuse"
[backend.pair]
address = "{backend}"
rx_fallback = "pair"
"""
_LISTENS = {"direct": 'offload = "tx"', "openssl": 'engine = "openssl"'}
_SIZE = 8 << 20


@pytest.fixture(scope="module", params=_LISTENS)
def front(request, tmp_path_factory):
    """A gate whose kernel only sends TLS 1.3."""
    require_ktls(TLS13)
    if request.param == "openssl":
        require_openssl()
        if openssl_gives(Version.TLS13) is not Offload.TX:
            pytest.skip("this OpenSSL gives the kernel both keys of TLS 1.3")
    folder = tmp_path_factory.mktemp("fallback")
    config = _CONFIG.replace("LISTEN", _LISTENS[request.param])
    with start_front(folder, config=config) as front:
        yield front


def client_of(front):
    return front.client(client_context(version="TLSv1.3"))


def test_pair_is_a_socketpair_for_both_directions(front):
    target = front.target("/facts")
    with client_of(front) as client:
        facts = front.facts(client.handshake(), target)
    assert facts["family"] == "AF_UNIX"
    assert (facts["environ"]["KTLSGATE_MODE"], facts["environ"]["KTLS_RX"]) == ("relay", "1")
    report = front.report(target)
    assert (report["event"], report["ktls"]) == ("relay", "tx")


def test_an_upload_through_a_pair_arrives_whole(front):
    body = pattern(_SIZE)
    target = front.target("/hash?pace=65536")
    with client_of(front) as client:
        answer = client.handshake().ask(request(target, method="POST", body=body))
    assert json.loads(body_of(answer)) == {"size": _SIZE, "sha256": digest(body)}
    assert front.report(target)["bytes_in"] == _SIZE


def test_a_download_through_a_pair_arrives_whole_and_ends_with_close_notify(front):
    target = front.target(f"/big?n={_SIZE}")
    with client_of(front) as client:
        client.handshake().send(request(target))
        data, is_clean = client.read_all()
        client.close_notify()
    assert digest(body_of(data)) == digest(pattern(_SIZE))
    assert is_clean
    report = front.report(target)
    assert (report["event"], "reason" in report) == ("relay", False)
    assert report["bytes_out"] > _SIZE


def test_refuse_is_answered_by_the_gate(front):
    target = front.target("/facts")
    data = request(target).replace(b"Host: localhost", b"Host: refuse.localhost")
    with client_of(front) as client:
        assert status_of(client.handshake().ask(data)) == 503
    report = front.report(target)
    assert (report["event"], report["reason"]) == ("refused", "rx_refused")
    assert report["detail"] == "the kernel does not decrypt, and the backend cannot do without"
