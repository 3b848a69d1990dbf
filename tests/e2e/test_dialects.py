"""What reaches a backend, byte for byte, in nginx's dialect and in ours, in all four modes."""

import fcntl
import json
import subprocess
import termios
import threading
import time

import pytest
from helpers.backends import digest, pattern
from helpers.clients import WAIT, body_of, request, reset
from helpers.front import FOUR_LISTENERS, LISTENERS, expected_offload, mode_of, start_front
from helpers.ktls import require_ktls

from ktlsgate.config import Offload

_CONFIG = (
    FOUR_LISTENERS
    + """
[[route]]
host = "nginx.localhost"
backend = "nginx"
[[route]]
backend = "ours"
[backend.nginx]
address = "{backend}"
dialect = "nginx"
[backend.ours]
address = "{backend}"
"""
)
_HOSTS = {"nginx": "nginx.localhost", "ours": "localhost"}

EACH_LISTENER = pytest.mark.parametrize("listener", LISTENERS)
DIALECTS = pytest.mark.parametrize("dialect", ["nginx", "ours"])


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    with start_front(tmp_path_factory.mktemp("dialects"), config=_CONFIG, listeners=4) as front:
        yield front


def lines(dialect, target, *headers, method="GET", body=b""):
    """A request for one dialect's host."""
    data = request(target, *headers, method=method, body=body)
    return data.replace(b"Host: localhost", b"Host: " + _HOSTS[dialect].encode())


def netstring(pairs):
    body = b"".join(b"%b\0%b\0" % (name.encode(), value.encode()) for name, value in pairs)
    return b"%d:%b," % (len(body), body)


@EACH_LISTENER
def test_nginx_dialect_is_the_block_of_fd_pass_and_nothing_else(front, listener):
    target = front.target("/facts?x=1&y=%2f")
    headers = ["User-Agent: t/1", "X-Dup: one", "X-Dup: two", "Cookie: a=1", "Cookie: b=2"]
    headers += ["Content-Type: text/plain", "Accept: */*"]
    with front.connect_to(listener) as client:
        port = client.port
        facts = json.loads(body_of(client.ask(lines("nginx", target, *headers))))
    mode = mode_of(front.report(target))
    tls = [("HTTPS", "on"), ("KTLS_RX", "0" if mode == "tx" else "1")]
    expected = netstring(
        [
            ("CONTENT_LENGTH", "0"),
            ("SCGI", "1+fd_pass"),
            *([] if mode == "plain" else tls),
            ("REMOTE_ADDR", "127.0.0.1"),
            ("REMOTE_PORT", str(port)),
            ("REQUEST_METHOD", "GET"),
            ("REQUEST_URI", target),
            ("SERVER_ADDR", "127.0.0.1"),
            ("SERVER_PORT", str(front.port_of(listener))),
            ("QUERY_STRING", target.partition("?")[2]),
            ("HTTP_HOST", "nginx.localhost"),
            ("HTTP_USER_AGENT", "t/1"),
            ("HTTP_X_DUP", "one"),
            ("HTTP_X_DUP", "two"),
            ("HTTP_COOKIE", "a=1"),
            ("HTTP_COOKIE", "b=2"),
            ("HTTP_CONTENT_TYPE", "text/plain"),
            ("HTTP_ACCEPT", "*/*"),
        ]
    )
    assert facts["raw"].encode("latin-1") == expected


@EACH_LISTENER
def test_our_dialect_has_each_name_once(front, listener):
    target = front.target("/facts")
    headers = ["X-Dup: one", "X-Dup: two", "Cookie: a=1", "Cookie: b=2", "Proxy: evil:1"]
    headers += ["Content-Type: text/plain"]
    with front.connect_to(listener) as client:
        facts = json.loads(body_of(client.ask(lines("ours", target, *headers))))
    mode = mode_of(front.report(target))
    environ = facts["environ"]
    assert len(environ) == len(facts["pairs"])
    assert environ["KTLSGATE"] == "1"
    assert environ["KTLSGATE_MODE"] == mode
    assert environ["HTTP_X_DUP"] == "one, two"
    assert environ["HTTP_COOKIE"] == "a=1; b=2"
    assert environ["CONTENT_TYPE"] == "text/plain"
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert environ["REQUEST_SCHEME"] == ("http" if mode == "plain" else "https")
    assert "HTTP_PROXY" not in environ
    assert ("HTTPS" in environ) == (mode != "plain")
    assert facts["is_nonblocking"]


@EACH_LISTENER
@DIALECTS
def test_body_in_the_record_of_its_head_reaches_the_backend(front, listener, dialect):
    target, body = front.target("/hash"), b"abcde"
    with front.connect_to(listener) as client:
        seen = client.ask(lines(dialect, target, method="POST", body=body))
    assert json.loads(body_of(seen)) == {"size": 5, "sha256": digest(body)}
    front.report(target)


@EACH_LISTENER
@DIALECTS
def test_pipelined_request_is_there_for_the_backend(front, listener, dialect):
    second = lines(dialect, "/second", "X-Long: " + "x" * 12_000)
    target = front.target(f"/rest?n={len(second)}")
    with front.connect_to(listener) as client:
        assert body_of(client.ask(lines(dialect, target) + second)) == second
    front.report(target)


@EACH_LISTENER
@DIALECTS
def test_websocket_frame_sent_with_the_upgrade_is_there_for_the_backend(front, listener, dialect):
    frame = b"\x81\x85" + b"mask" + bytes(a ^ b for a, b in zip(b"hello", b"maskm", strict=True))
    upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    target = front.target("/echo")
    with front.connect_to(listener) as client:
        client.send(lines(dialect, target, *upgrade) + frame)
        answer = b""
        while not answer.endswith(frame):
            answer += client.recv()
        assert answer.startswith(b"HTTP/1.1 101 ")
        for size in (1, 125, 20_000):  # and so is what is sent after the handoff
            client.send(pattern(size))
            assert client.read_exactly(size) == pattern(size)
        client.close_notify()
        client.half_close()
        client.read_all()
    front.report(target)


@EACH_LISTENER
@DIALECTS
@pytest.mark.parametrize(("count", "length"), [(25, 10), (80, 300)])
def test_many_headers_reach_the_backend(front, listener, dialect, count, length):
    headers = [f"X-Number-{number}: {'v' * length}" for number in range(count)]
    target = front.target("/facts")
    with front.connect_to(listener) as client:
        facts = json.loads(body_of(client.ask(lines(dialect, target, *headers))))
    names = [name for name, value in facts["pairs"] if value == "v" * length]
    assert names == [f"HTTP_X_NUMBER_{number}" for number in range(count)]
    front.report(target)


@EACH_LISTENER
def test_head_in_many_records_reaches_the_backend(front, listener):
    if listener == "plain":
        pytest.skip("there are no records without TLS")
    target, body = front.target("/hash"), pattern(5_000)
    data = lines("ours", target, *[f"X-{n}: {n}" for n in range(40)], method="POST", body=body)
    with front.connect_to(listener) as client:
        client.send(data, records=7)
        assert json.loads(body_of(client.read_all()[0]))["sha256"] == digest(body)
    front.report(target)


@EACH_LISTENER
@DIALECTS
def test_reset_by_the_client_reaches_the_backend(front, listener, dialect):
    target = front.target("/until-end")
    with front.connect_to(listener) as client:
        client.send(lines(dialect, target))
        front.backend.next_event("received", target)
        reset(client.sock)
        ended = front.backend.next_event("input-ended", target)
    mode = mode_of(front.report(target))
    assert ended["how"] == ("ECONNRESET" if mode in ("plain", "both") else "eof")


@EACH_LISTENER
@DIALECTS
def test_end_by_the_client_reaches_the_backend(front, listener, dialect):
    target = front.target("/until-end")
    with front.connect_to(listener) as client:
        client.send(lines(dialect, target) + b"abc")
        front.backend.next_event("received", target)
        client.close_notify()
        client.half_close()
        answer = json.loads(body_of(client.read_all()[0]))
    mode = mode_of(front.report(target))
    assert (answer["size"], answer["sha256"]) == (3, digest(b"abc"))
    assert answer["how"] == ("EIO" if mode == "both" else "eof")


@DIALECTS
def test_relayed_answer_ends_with_close_notify(front, dialect):
    """The gate says it; a naive backend that has the socket itself does not know how."""
    target = front.target("/big?n=100000")
    with front.connect_to("relay") as client:
        client.send(lines(dialect, target))
        answer, is_clean = client.read_all()
    assert is_clean
    assert body_of(answer) == pattern(100_000)
    front.report(target)


def test_backend_without_verdicts_is_not_waited_for_at_the_end(front):
    """The gate waits a second for the first word of who just read the head, and not again."""
    require_ktls()
    target = front.target("/until-end")
    with front.connect_to("tx") as client:
        client.send(lines("ours", target))
        front.backend.next_event("received", target)
        time.sleep(1.1)  # longer than the gate's patience
        client.close_notify()
        began = time.monotonic()
        front.backend.next_event("input-ended", target)
        assert time.monotonic() - began < 0.5
    front.report(target)


# KTLS_RX=0: the kernel sends, the gate decrypts what comes in


def tx_only(front, version, data):
    """A client of the listener with ``offload = "tx"`` that has sent its request."""
    require_ktls()
    client = front.connect_to("tx", version)
    assert expected_offload(client.tls.get_cipher_name()) is Offload.BOTH
    client.send(data)
    return client


VERSIONS = pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])


@VERSIONS
@DIALECTS
def test_kernel_that_only_sends_is_told(front, version, dialect):
    target = front.target("/facts")
    with tx_only(front, version, lines(dialect, target)) as client:
        facts = json.loads(body_of(client.read_all()[0]))
        client.close_notify()
    report = front.report(target)
    assert facts["environ"]["KTLS_RX"] == "0"
    assert facts["ulp"] == "tls"
    assert (bool(facts["tx"]), bool(facts["rx"])) == (True, False)
    assert "txconf: sw" in facts["ss"]
    assert (report["event"], report["ktls"], report["fallback"]) == ("relay", "tx", "tx_only")


@VERSIONS
@DIALECTS
def test_input_is_relayed_whole_to_a_slow_backend(front, version, dialect):
    target, body = front.target("/hash?delay=1"), pattern(8 << 20)
    head = lines(dialect, target, "Content-Length: 8388608", method="POST")
    with tx_only(front, version, head) as client:
        client.send(body)
        seen = json.loads(body_of(client.read_all()[0]))
    assert seen == {"size": len(body), "sha256": digest(body)}
    assert front.report(target)["bytes_in"] == len(body)


@VERSIONS
@DIALECTS
@pytest.mark.parametrize("ending", ["close_notify", "cut", "reset"])
def test_end_of_relayed_input_is_the_end_of_the_unix_connection(front, version, dialect, ending):
    """In nginx's dialect, and for who does not know ours, the three look alike."""
    target = front.target("/until-end")
    with tx_only(front, version, lines(dialect, target) + b"abc") as client:
        front.backend.next_event("received", target)
        if ending == "reset":
            reset(client.sock)
        else:
            if ending == "close_notify":
                client.close_notify()
            client.half_close()
        ended = front.backend.next_event("input-ended", target)
    assert (ended["how"], ended["size"]) == ("eof", 3)
    reason = {"close_notify": "", "cut": "client_cut", "reset": "client_reset"}[ending]
    report = front.report(target)
    assert report["fallback"] == "tx_only"
    assert report.get("reason", "") == reason


@VERSIONS
@DIALECTS
def test_backend_may_answer_on_the_unix_socket(front, version, dialect):
    target = front.target("/unix")
    with tx_only(front, version, lines(dialect, target)) as client:
        answer, is_clean = client.read_all()
    assert body_of(answer) == b"by the unix socket"
    assert is_clean
    assert front.report(target)["bytes_out"] == len(answer)


@VERSIONS
@DIALECTS
def test_backend_may_send_after_it_closed_the_unix_socket(front, version, dialect):
    target = front.target("/big?n=3000000&drop=1")
    with tx_only(front, version, lines(dialect, target)) as client:
        assert body_of(client.read_all()[0]) == pattern(3_000_000)
    front.report(target)


@pytest.mark.parametrize("listener", ["tx", "relay"])
def test_key_update_by_the_client_is_absorbed(front, listener):
    """OpenSSL still receives here, so it can follow; with K the client asks for ours as well."""
    if listener == "tx":
        require_ktls()
    port = front.port_of(listener)
    target = front.target("/rest?n=10")
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **pipes) as client:
        bound = threading.Timer(WAIT, client.kill)
        bound.start()
        _type_in(client, lines("ours", target))
        front.backend.next_event("received", target)
        for letter in (b"k", b"K"):
            _type_in(client, letter + b"\n")
            while b"KEYUPDATE" not in (line := client.stderr.readline()):
                assert line, "s_client ended"
            _type_in(client, b"12345")
        answer = client.stdout.read()
        bound.cancel()
    assert b"\r\n\r\n1234512345" in answer
    front.report(target)


def _type_in(process, data):
    """Write, and wait until it was read: s_client takes a letter for a command only alone."""
    process.stdin.write(data)
    process.stdin.flush()
    unread = bytearray(4)
    while True:
        # In this order: having read what was its last, it may have ended by now.
        has_ended = process.poll() is not None
        fcntl.ioctl(process.stdin.fileno(), termios.FIONREAD, unread)
        if not any(unread):
            return
        assert not has_ended, "s_client ended"
        time.sleep(0.001)
