"""The check of a running gate: judged from values, and against real gates."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers.descriptors import open_descriptors
from helpers.front import start_front
from helpers.ktls import kernel_table, require_ktls

import ktlsgate
from ktlsgate.config import Offload
from ktlsgate.kernel.tls_stat import CounterChange
from ktlsgate.service.listen_check import (
    CheckResult,
    Target,
    Verdict,
    check_listener,
    is_same_machine,
)
from ktlsgate.service.listen_check_report import render_check_json, render_check_text
from ktlsgate.service.probe_report import main
from ktlsgate.service.probe_text import Look
from ktlsgate.wire.inet_diag import Keys, SocketAnswer

NO_CODE = "this kernel has no TLS code, or nobody loaded it"
SAYS_SOCKET = "says the gate's own socket"
SAY_COUNTERS = "say the counters, which other connections move too"
NOT_TOLD = "this user is not told (it takes CAP_NET_ADMIN)"
NOT_FOUND = "the gate's end of the connection is not in this network namespace"
TARGET = Target(host="127.0.0.1", port=8443)


def seen(tx: Keys | None, rx: Keys | None, ulp="tls") -> SocketAnswer:
    return SocketAnswer(peer_port=50000, is_established=True, ulp=ulp, tx=tx, rx=rx)


def rose(*names: str) -> tuple[CounterChange, ...]:
    return tuple(CounterChange(name=name, by=1) for name in names)


def result(**changes) -> CheckResult:
    values = {
        "target": TARGET,
        "ends": ("127.0.0.1:50000", "127.0.0.1:8443"),
        "is_here": True,
        "version": "TLSv1.3",
        "cipher": "TLS_AES_256_GCM_SHA384",
        "moved": (),
        "answer": "HTTP/1.1 200 OK",
    }
    return CheckResult(**(values | changes))


SOFT = Keys.SOFTWARE


@pytest.mark.parametrize(
    ("found", "verdict", "reason", "code"),
    [
        (result(socket=seen(SOFT, SOFT)), Verdict.BOTH, SAYS_SOCKET, 0),
        (result(socket=seen(Keys.HARDWARE, SOFT)), Verdict.BOTH, SAYS_SOCKET, 0),
        (result(socket=seen(SOFT, Keys.NONE)), Verdict.TX, SAYS_SOCKET, 1),
        (result(socket=seen(Keys.NONE, Keys.NONE)), Verdict.RELAYED, SAYS_SOCKET, 3),
        (result(socket=seen(None, None, ulp="")), Verdict.RELAYED, SAYS_SOCKET, 3),
        (
            result(socket=seen(None, None, ulp=""), moved=rose("TlsTxSw", "TlsRxSw")),
            Verdict.RELAYED,
            SAYS_SOCKET,
            3,
        ),
        (
            result(socket_reason=NOT_TOLD, moved=rose("TlsTxSw", "TlsRxSw")),
            Verdict.BOTH,
            SAY_COUNTERS,
            0,
        ),
        (result(socket_reason=NOT_TOLD, moved=rose("TlsTxSw")), Verdict.TX, SAY_COUNTERS, 1),
        (result(socket_reason=NOT_TOLD), Verdict.RELAYED, SAY_COUNTERS, 3),
        (result(socket_reason=NOT_TOLD, moved=None), Verdict.RELAYED, NO_CODE, 3),
        (result(socket_reason=NOT_FOUND), Verdict.UNKNOWN, NOT_FOUND, 4),
        (
            result(socket=seen(SOFT, SOFT), answer="", answer_reason="no answer: reset"),
            Verdict.UNKNOWN,
            "no answer: reset",
            4,
        ),
        (
            result(socket=seen(SOFT, SOFT), is_own_answer=True),
            Verdict.OWN_ANSWER,
            "its log says why",
            4,
        ),
        (
            result(is_here=False),
            Verdict.ELSEWHERE,
            "run this on the gate's machine, in its network namespace",
            4,
        ),
        (result(failure="Connection refused"), Verdict.FAILED, "Connection refused", 4),
    ],
)
def test_the_verdict_is_the_sockets_before_the_counters(found, verdict, reason, code) -> None:
    assert (found.verdict, found.reason, found.verdict.exit_code) == (verdict, reason, code)


@pytest.mark.parametrize(
    ("ours", "theirs", "is_here"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.8.0.9", True),
        ("::1", "::1", True),
        ("192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::1%eth0", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", False),
    ],
)
def test_the_same_address_on_both_ends_is_this_machine(ours, theirs, is_here) -> None:
    assert is_same_machine(ours, theirs) is is_here


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (TARGET, "127.0.0.1:8443"),
        (Target(host="::1", port=443), "[::1]"),
        (Target(host="::1", port=1, servername="a.example"), "a.example:1"),
    ],
)
def test_the_request_names_the_host_and_lets_the_connection_live(target, host) -> None:
    assert (
        target.request
        == (
            f"GET / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ktlsgate-probe\r\nAccept: */*\r\n\r\n"
        ).encode()
    )


# Text and JSON.


def test_the_text_ends_in_the_verdict() -> None:
    found = result(socket=seen(SOFT, SOFT), moved=rose("TlsTxSw", "TlsRxSw"))
    assert render_check_text(found, Look(has_marks=True)) == (
        "connection         127.0.0.1:50000 to 127.0.0.1:8443\n"
        "handshake          ✓ TLSv1.3 TLS_AES_256_GCM_SHA384 (certificate not verified)\n"
        "the gate's socket  ULP tls, sending keys software, receiving keys software\n"
        "counters           TlsTxSw +1, TlsRxSw +1\n"
        "answer             HTTP/1.1 200 OK\n"
        "verdict            ✓ handed over, both directions in the kernel: says the gate's own"
        " socket\n"
    )


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (result(socket=seen(None, None, ulp="")), "the gate's socket  no upper layer protocol"),
        (result(socket_reason=NOT_TOLD), f"the gate's socket  {NOT_TOLD}"),
        (result(is_here=False), "the gate's socket  not looked for on another machine"),
        (
            result(socket=seen(None, None)),
            "the gate's socket  ULP tls, sending keys not told, receiving keys not told",
        ),
        (result(), "counters           none moved"),
        (result(moved=None), "counters           none: no /proc/net/tls_stat"),
        (result(answer="", answer_reason="no answer: x"), "answer             no answer: x"),
    ],
)
def test_what_was_not_seen_says_so(found, line) -> None:
    assert line in render_check_text(found, Look()).splitlines()


def test_without_a_connection_the_text_is_short() -> None:
    found = CheckResult(target=TARGET, failure="Connection refused")
    assert render_check_text(found, Look()) == (
        "handshake          no Connection refused\n"
        "verdict            -- no TLS connection: Connection refused\n"
    )


def test_the_schema_is_the_documented_one() -> None:
    found = result(socket=seen(SOFT, None), moved=rose("TlsTxSw"))
    assert json.loads(render_check_json(found)) == {
        "schema": 1,
        "exit_code": 1,
        "verdict": "tx",
        "reason": SAYS_SOCKET,
        "target": {"host": "127.0.0.1", "port": 8443, "servername": "", "path": "/"},
        "connection": {
            "client": "127.0.0.1:50000",
            "gate": "127.0.0.1:8443",
            "is_here": True,
            "certificate_verified": False,
        },
        "handshake": {
            "ok": True,
            "version": "TLSv1.3",
            "cipher": "TLS_AES_256_GCM_SHA384",
            "reason": "",
        },
        "socket": {"ulp": "tls", "tx": "software", "rx": None},
        "socket_reason": "",
        "counters": {"TlsTxSw": 1},
        "answer": "HTTP/1.1 200 OK",
        "answer_reason": "",
    }


def test_what_is_not_known_is_null() -> None:
    report = json.loads(render_check_json(result(socket_reason=NOT_TOLD, moved=None)))
    assert (report["socket"], report["counters"]) == (None, None)
    assert report["socket_reason"] == NOT_TOLD


# Without a gate.


@contextlib.contextmanager
def server(serve):
    """One TCP connection, served by a function in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            sock, _ = listener.accept()
            with sock:
                serve(sock)

        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(60)


def test_nobody_there_is_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    found = check_listener(Target(host="127.0.0.1", port=port))
    assert (found.verdict, found.reason) == (Verdict.FAILED, "Connection refused")
    assert found.ends == ("", "")


def test_a_server_without_tls_is_no_connection() -> None:
    def serve(sock):
        sock.recv(1000)
        sock.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    before = open_descriptors()
    with server(serve) as port:
        found = check_listener(Target(host="127.0.0.1", port=port))
    assert (found.verdict, found.reason) == (Verdict.FAILED, "WRONG_VERSION_NUMBER")
    assert found.ends[1] == f"127.0.0.1:{port}"
    assert open_descriptors() == before


def test_a_name_that_is_none_is_no_connection() -> None:
    found = check_listener(Target(host="a..b", port=1))
    assert found.verdict is Verdict.FAILED


def run_check(*arguments: str, user=None) -> subprocess.CompletedProcess[str]:
    root = str(Path(ktlsgate.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, "-m", "ktlsgate", "probe", "--listen-check", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": root},
        user=user,
        group=user,
        check=False,
    )


# Real gates.


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    with start_front(tmp_path_factory.mktemp("check")) as front:
        yield front


def expected() -> Verdict:
    best = kernel_table().best
    return {Offload.BOTH: Verdict.BOTH, Offload.TX: Verdict.TX}.get(best, Verdict.RELAYED)


def test_a_running_gate_is_seen_as_what_it_is(front) -> None:
    found = check_listener(Target(host="127.0.0.1", port=front.port, path="/facts"))
    assert found.verdict is expected()
    assert found.answer == "HTTP/1.1 200 OK"
    assert found.is_here
    assert found.ends[1] == f"127.0.0.1:{front.port}"
    assert (found.version, found.failure) == ("TLSv1.3", "")


def test_the_text_names_both_ends_and_the_exit_status_is_the_verdicts(front) -> None:
    done = run_check(f"localhost:{front.port}", "--path", "/facts", "--servername", "localhost")
    assert done.stderr == ""
    assert f" to 127.0.0.1:{front.port}\n" in done.stdout
    assert done.stdout.splitlines()[-1].partition(":")[0].endswith(expected().value)
    assert done.returncode == expected().exit_code


def test_the_json_agrees_with_the_exit_status(front) -> None:
    done = run_check(f"127.0.0.1:{front.port}", "--json", "--path=/facts")
    report = json.loads(done.stdout)
    assert report["exit_code"] == done.returncode == expected().exit_code
    assert report["verdict"] == expected().name.lower()
    assert report["target"]["path"] == "/facts"


def test_an_absent_backend_is_no_handover(tmp_path) -> None:
    """The gate answers through the kernel's keys too, so keys alone are no handover."""
    with start_front(tmp_path) as front:
        front.backend.kill()
        found = check_listener(Target(host="127.0.0.1", port=front.port))
    assert found.verdict is Verdict.OWN_ANSWER
    assert found.answer == "HTTP/1.1 503 Service Unavailable"


@pytest.mark.ktls
def test_a_handed_over_connection_is_proven_by_its_socket_and_by_the_counters(front) -> None:
    require_ktls()
    found = check_listener(Target(host="127.0.0.1", port=front.port, path="/facts"))
    assert found.socket is not None, found.socket_reason
    assert (found.socket.ulp, found.socket.tx, found.socket.rx) == ("tls", SOFT, SOFT)
    assert [str(change) for change in found.moved] == ["TlsTxSw +1", "TlsRxSw +1"]
    assert found.reason == SAYS_SOCKET


@pytest.mark.ktls
@pytest.mark.parametrize(
    ("listen", "verdict", "moved"),
    [('offload = "tx"', Verdict.TX, ["TlsTxSw +1"]), ('offload = "none"', Verdict.RELAYED, [])],
)
def test_an_operators_choice_is_seen(tmp_path, listen, verdict, moved) -> None:
    require_ktls()
    with start_front(tmp_path, listen=listen) as front:
        found = check_listener(Target(host="127.0.0.1", port=front.port, path="/facts"))
    assert (found.verdict, found.reason) == (verdict, SAYS_SOCKET)
    assert [str(change) for change in found.moved] == moved


@pytest.mark.ktls
def test_whoever_may_not_ask_compares_the_counters(front) -> None:
    require_ktls()
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    done = run_check(f"127.0.0.1:{front.port}", "--json", "--path=/facts", user=65534)
    report = json.loads(done.stdout)
    assert (report["verdict"], done.returncode) == ("both", 0)
    assert report["counters"] == {"TlsTxSw": 1, "TlsRxSw": 1}
    if report["socket"] is None:
        assert report["socket_reason"] == NOT_TOLD
        assert report["reason"] == SAY_COUNTERS


# Usage.


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--listen-check", "x"],
            "argument --listen-check: expected HOST:PORT with a port from 0 to 65535, got 'x'",
        ),
        (
            ["--listen-check", ":443"],
            "argument --listen-check: expected a host and a port to connect to, got ':443'",
        ),
        (
            ["--listen-check", "a:0"],
            "argument --listen-check: expected a host and a port to connect to, got 'a:0'",
        ),
        (["--path", "/"], "argument --path: goes with --listen-check only"),
        (["--servername", "a"], "argument --servername: goes with --listen-check only"),
        (
            ["--listen-check", "a:1", "--path", "x"],
            "argument --path: expected a path that begins with /, got 'x'",
        ),
        (
            ["--listen-check", "a:1", "--path", "/ x"],
            "argument --path: expected printable ASCII without spaces",
        ),
        (
            ["--listen-check", "a:1", "--servername", "a\r\nb: c"],
            "argument --servername: expected printable ASCII without spaces",
        ),
        (
            ["--listen-check", "a:1", "--require", "rx"],
            "argument --require: not allowed with argument --listen-check",
        ),
    ],
)
def test_mistakes_are_usage_errors(capsys, arguments, complaint) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"ktlsgate probe: error: {complaint}"
