"""Routes that ask for less than their listener: at once by name, behind the head by path."""

import json

import pytest
from helpers.backends import digest, pattern
from helpers.clients import body_of, client_context, connect, request
from helpers.front import KTLS_LABELS, MODES, expected_offload, start_front
from helpers.interactive import s_client

from ktlsgate.config import Offload

CONFIG = """
log_format = "json"
[[cert]]
file = "{folder}/server.pem"
key = "{folder}/server.key"
[[listen]]
address = "127.0.0.1:0"
[[route]]
host = "tx.example"
offload = "tx"
backend = "app"
[[route]]
host = "both.example"
backend = "app"
[[route]]
path = "/echo"
backend = "app"
[[route]]
path = "/hash"
offload = "tx"
backend = "app"
[[route]]
offload = "none"
backend = "app"
[backend.app]
address = "{backend}"
"""
BOTH, TX, NONE = Offload.BOTH, Offload.TX, Offload.NONE
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
VERSIONS = pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    with start_front(tmp_path_factory.mktemp("routes"), config=CONFIG) as front:
        yield front


def expected(report, bound):
    """What the kernel holds where it is allowed so much."""
    return expected_offload(report["cipher"]).at_most(bound)


def assert_held(report, bound):
    offload = expected(report, bound)
    assert report["ktls"] == KTLS_LABELS[offload], report
    assert report["event"] == ("handoff" if offload is BOTH else "relay"), report


def ask(front, target, version, *, sni="localhost", host="localhost", body=b"", split=0):
    """One request whose head is sent in records of ``split`` bytes; the answer's body."""
    method = "POST" if body else "GET"
    data = request(target, method=method, body=body).replace(b"localhost", host.encode())
    with front.client(client_context(version=version), sni=sni) as client:
        client.handshake()
        for start in range(0, len(data), split or len(data)):
            client.send(data[start : start + (split or len(data))])
        return client.read_all()[0]


@pytest.mark.parametrize(("host", "bound"), [("tx.example", TX), ("both.example", BOTH)])
@VERSIONS
def test_the_name_decides_before_the_head(front, version, host, bound):
    target = front.target("/facts")
    facts = json.loads(body_of(ask(front, target, version, sni=host, host=host)))
    report = front.report(target)
    assert_held(report, bound)
    assert facts["environ"]["KTLSGATE_MODE"] == MODES[expected(report, bound)]


@pytest.mark.parametrize("split", [0, 7], ids=["whole", "in pieces"])
@VERSIONS
def test_the_path_decides_behind_the_head(front, version, split):
    """/facts is relayed, /hash sends by the kernel, /echo is handed over, on one listener."""
    target = front.target("/facts")
    facts = json.loads(body_of(ask(front, target, version, split=split)))
    report = front.report(target)
    assert_held(report, NONE)
    assert report["fallback"] == "policy"
    assert facts["environ"]["KTLSGATE_MODE"] == "relay"

    target, body = front.target("/hash"), pattern(100_000)
    seen = json.loads(body_of(ask(front, target, version, body=body, split=split)))
    assert seen == {"size": len(body), "sha256": digest(body)}
    assert_held(front.report(target), TX)


@pytest.mark.parametrize("split", [0, 7], ids=["whole", "in pieces"])
@VERSIONS
def test_i3_keys_that_move_behind_the_head_have_the_right_numbers(front, version, split):
    target = front.target("/echo")
    data = request(target)
    with front.client(client_context(version=version)) as client:
        client.handshake()
        for start in range(0, len(data), split or len(data)):
            client.send(data[start : start + (split or len(data))])
        assert client.read_exactly(len(UPGRADED)) == UPGRADED
        for number in range(5):
            client.send(b"%04d" % number * 3000)
        seen = client.read_exactly(60_000)
        client.close_notify()
    assert seen == b"".join(b"%04d" % number * 3000 for number in range(5))
    assert_held(front.report(target), BOTH)


@VERSIONS
def test_a_body_in_the_same_record_is_not_lost(front, version):
    target = front.target("/echo")
    with front.client(client_context(version=version)) as client:
        client.handshake()
        client.send(request(target) + b"early words")
        assert client.read_exactly(len(UPGRADED) + 11) == UPGRADED + b"early words"
        client.send(b"later words")
        assert client.read_exactly(11) == b"later words"
        client.close_notify()
    report = front.report(target)
    assert_held(report, TX)
    if expected(report, BOTH) is BOTH:
        assert report["fallback"] == "trailing_data"


@VERSIONS
def test_a_host_that_is_not_the_name_asked_for_cannot_get_less(front, version):
    """421: the kernel has keys already that the other host's route would have kept out of it."""
    target = front.target("/facts")
    answer = ask(front, target, version, sni="both.example", host="tx.example")
    report = front.report(target)
    if expected(report, BOTH) is BOTH:
        assert answer.startswith(b"HTTP/1.1 421 Misdirected Request\r\n")
        assert (report["event"], report["status"]) == ("refused", 421)
        assert report["reason"] == "misdirected"
    else:
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@VERSIONS
def test_a_host_that_is_not_the_name_asked_for_may_get_more(front, version):
    """What the kernel does not hold is relayed; no route forbids that."""
    target = front.target("/facts")
    answer = ask(front, target, version, sni="tx.example", host="both.example")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert_held(front.report(target), TX)


def test_a_key_update_before_the_head_keeps_the_keys_with_openssl(front):
    target = front.target("/echo")
    with s_client(front.gate) as client:
        client.wait_for(b"Verify return code")
        client.write(b"K\n")
        client.wait_read()
        client.write(request(target))
        client.wait_for(b"Upgrade: echo\r\n\r\n")
        client.write(b"words\n")
        client.wait_for(b"words\n")
        client.end()
    report = front.report(target)
    assert_held(report, NONE)
    if expected(report, BOTH) is BOTH:
        assert report["fallback"] == "control_record"


def test_a_client_that_leaves_before_its_route_is_known_is_reported(front):
    with front.client(client_context()) as client:
        port = client.handshake().port
        client.close_notify()
        client.half_close()
        client.read_all()
    report = front.report(port=port)
    assert (report["event"], report["fallback"]) == ("client_gone", "undecided")


def test_the_gate_lives_through_bad_records_before_the_route(front):
    with front.client(client_context()) as client:
        port = client.handshake().port
        client.sock.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    report = front.report(port=port)
    assert (report["event"], report["reason"]) == ("client_gone", "bad_record")
    with connect(front.port):
        pass
