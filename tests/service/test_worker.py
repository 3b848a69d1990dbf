"""The process that serves: what it refuses to start with, how it drains, how it ends.

Each in a process of its own: run() forbids dumps, raises limits and takes signals.
"""

import contextlib
import json
import pathlib
import resource
import signal
import socket
import ssl
import subprocess
import sys

import pytest
from helpers.identities import Authority

from ktlsgate.kernel.ancillary import recv_fds
from ktlsgate.kernel.probe import probe_offload
from ktlsgate.service.worker import _warn_of_few_files

SCRIPT = """
import json, sys
from ktlsgate.config import *
from ktlsgate.errors import ConfigError
from ktlsgate.service.worker import run
def ready(addresses):
    print(json.dumps(addresses), flush=True)
try:
    sys.exit(run(eval(sys.argv[1]), ready))
except ConfigError as exc:
    print(exc, flush=True)
    sys.exit(9)
"""
ROUTES = 'routes=(Route(backend=Backend(name="app", addresses=("/nowhere",))),)'
WAIT = 30


class Worker:
    """A process in which run() serves."""

    def __init__(self, process):
        self.process = process
        self.first_line = process.stdout.readline()
        self.lines = []

    @property
    def addresses(self):
        return [tuple(address) for address in json.loads(self.first_line)]

    def signal(self, number):
        self.process.send_signal(number)

    def wait_line(self, beginning):
        """Read the log up to a message."""
        self._read_until(lambda line: line.get("message", "").startswith(beginning))

    def wait_report(self):
        """Read the log up to a connection's line."""
        self._read_until(lambda line: "client" in line)

    def _read_until(self, is_wanted):
        while not self.lines or not is_wanted(self.lines[-1]):
            line = self.process.stderr.readline()
            assert line, f"expected another line, got {self.lines}"
            self.lines.append(json.loads(line))

    def end(self):
        """Wait; exit status and log lines."""
        _, errors = self.process.communicate(timeout=WAIT)
        self.lines += [json.loads(line) for line in errors.splitlines()]
        return self.process.returncode, self.lines


@contextlib.contextmanager
def start(config):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, config],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield Worker(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(WAIT)
        process.stdout.close()
        process.stderr.close()


def plain(*, address="127.0.0.1:0", limits="", routes=ROUTES):
    return (
        f'Config(listeners=(Listener(address="{address}", tls=False),), {routes},'
        f" limits=Limits({limits}), logging=Logging(format=LogFormat.JSON))"
    )


@pytest.fixture
def certificate(tmp_path):
    chain, key = Authority().issue("localhost").write(tmp_path, "server")
    return f'certificate=Certificate(file="{chain}", key="{key}")'


def messages(lines):
    return [line["message"] for line in lines if "client" not in line]


def reports(lines):
    return [line for line in lines if "client" in line]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_gate_ends_at_once_with_status_0(number):
    with start(plain()) as worker:
        ((host, port),) = worker.addresses
        worker.signal(number)
        status, lines = worker.end()
    assert status == 0
    assert messages(lines)[-3:] == [
        f"listening on http://{host}:{port}",
        f"{number.name}: no longer accepting, 0 connections held",
        "ended",
    ]


def test_an_idle_gate_without_any_drain_time_ends_with_status_0():
    with start(plain(limits="drain_timeout=0")) as worker:
        assert worker.addresses
        worker.signal(signal.SIGTERM)
        assert worker.end()[0] == 0


def test_what_is_held_may_finish():
    with start(plain()) as worker:
        (address,) = worker.addresses
        client = socket.create_connection(address)
        client.sendall(b"GET / ")
        _wait_accepted(worker, address)
        worker.signal(signal.SIGTERM)
        worker.wait_line("SIGTERM")
        client.sendall(b"HTTP/1.1\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")
        client.close()
        status, lines = worker.end()
    assert status == 0
    assert messages(lines)[-2:] == ["SIGTERM: no longer accepting, 1 connections held", "ended"]
    assert [report["event"] for report in reports(lines)] == ["client_gone", "refused"]


def test_a_drain_that_takes_too_long_ends_with_status_3():
    with start(plain(limits="drain_timeout=0.1")) as worker:
        (address,) = worker.addresses
        with socket.create_connection(address) as client:
            client.sendall(b"GET / ")
            _wait_accepted(worker, address)
            worker.signal(signal.SIGTERM)
            status, lines = worker.end()
            assert client.recv(1) == b""
    assert status == 3
    assert messages(lines)[-1] == "ended with 1 connections held"
    assert "shutdown" in [report["event"] for report in reports(lines)]


def _wait_accepted(worker, address):
    """A later connection's report shows that the earlier one was accepted."""
    socket.create_connection(address).close()
    worker.wait_report()


def test_a_second_signal_ends_the_drain():
    with start(plain(limits="drain_timeout=600")) as worker:
        (address,) = worker.addresses
        with socket.create_connection(address) as client:
            client.sendall(b"GET / ")
            _wait_accepted(worker, address)
            worker.signal(signal.SIGTERM)
            worker.wait_line("SIGTERM")
            worker.signal(signal.SIGINT)
            status, lines = worker.end()
    assert status == 3
    assert messages(lines)[-1] == "ended with 1 connections held"


def test_a_connection_that_was_handed_over_survives_the_gate(tmp_path):
    path = tmp_path / "backend.sock"
    routes = f'routes=(Route(backend=Backend(name="app", addresses=("{path}",))),)'
    with socket.socket(socket.AF_UNIX) as backend, start(plain(routes=routes)) as worker:
        backend.bind(str(path))
        backend.listen()
        with socket.create_connection(worker.addresses[0]) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            unix, _ = backend.accept()
            head, fds, _ = recv_fds(unix, 65536, 1)
            assert b"SCGI" in head
            unix.close()
            worker.signal(signal.SIGTERM)
            status, lines = worker.end()
            assert (status, [report["event"] for report in reports(lines)]) == (0, ["handoff"])
            with socket.socket(fileno=fds[0]) as owned:
                owned.sendall(b"still here")
                assert client.recv(100) == b"still here"
                client.sendall(b"and here")
                assert owned.recv(100) == b"and here"


def test_a_tls_listener_says_so_and_serves(certificate, tmp_path):
    config = (
        f'Config(listeners=(Listener(address="127.0.0.1:0"),), {ROUTES}, {certificate},'
        " logging=Logging(format=LogFormat.JSON))"
    )
    with start(config) as worker:
        (address,) = worker.addresses
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(socket.create_connection(address)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 503 ")
        worker.signal(signal.SIGTERM)
        status, lines = worker.end()
    assert status == 0
    assert f"listening on https://127.0.0.1:{address[1]}" in messages(lines)
    assert probe_offload().summary() in messages(lines)


def test_an_engine_that_nothing_can_use_is_no_reason_not_to_serve(certificate):
    """On a kernel without kTLS every engine relays; the log says what the kernel lacks."""
    if not probe_offload().ulp_reason:
        pytest.skip("this kernel has kTLS: tests/e2e/test_engines.py")
    listener = 'Listener(address="127.0.0.1:0", engine=EngineChoice.OPENSSL)'
    config = (
        f"Config(listeners=({listener},), {ROUTES}, {certificate},"
        " logging=Logging(format=LogFormat.JSON))"
    )
    with start(config) as worker:
        assert worker.addresses
        worker.signal(signal.SIGTERM)
        status, lines = worker.end()
    assert status == 0
    assert probe_offload().summary() in messages(lines)
    assert not [text for text in messages(lines) if "engine" in text]


def refused(config):
    with start(config) as worker:
        worker.process.wait(WAIT)
        assert worker.process.returncode == 9
        return worker.first_line.rstrip("\n")


def test_an_address_in_use_is_the_operators_error():
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        assert refused(plain(address=address)) == (
            f"listen {address}: expected an address to bind, got Address already in use"
        )


def test_an_address_without_port_is_the_operators_error():
    assert refused(plain(address="localhost")) == (
        "listen localhost: expected an address to bind, got "
        "expected HOST:PORT with a port from 0 to 65535, got 'localhost'"
    )


def test_the_second_listener_that_fails_closes_the_first():
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        config = plain().replace(
            "tls=False),)", f'tls=False), Listener(address="{address}", tls=False))'
        )
        assert refused(config).startswith(f"listen {address}: ")


def test_required_ktls_on_a_kernel_without_it_is_the_operators_error(certificate):
    reason = probe_offload().ulp_reason
    if not reason:
        pytest.skip("this kernel has kTLS")
    config = (
        'Config(listeners=(Listener(address="127.0.0.1:0", ktls=KtlsPolicy.REQUIRE),),'
        f" {ROUTES}, {certificate})"
    )
    assert refused(config) == (
        'listen 127.0.0.1:0: ktls = "require": expected a kernel with kTLS, '
        f"got one without: {reason}"
    )


@pytest.mark.parametrize("change", ["tls=False", "offload=Offload.NONE"])
def test_required_ktls_concerns_listeners_that_can_use_it_alone(certificate, change):
    config = (
        f'Config(listeners=(Listener(address="127.0.0.1:0", ktls=KtlsPolicy.REQUIRE, {change}),),'
        f" {ROUTES}, {certificate})"
    )
    with start(config) as worker:
        assert worker.addresses
        worker.signal(signal.SIGTERM)
        worker.process.wait(WAIT)
        assert worker.process.returncode == 0


def test_a_missing_certificate_is_the_operators_error(tmp_path):
    missing = tmp_path / "none.pem"
    config = (
        f'Config(listeners=(Listener(address="127.0.0.1:0"),), {ROUTES},'
        f' certificate=Certificate(file="{missing}"))'
    )
    assert str(missing) in refused(config)


def test_few_open_files_are_warned_about():
    with start(plain(limits="max_connections=100_000_000")) as worker:
        assert worker.addresses
        worker.signal(signal.SIGTERM)
        _, lines = worker.end()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert [text for text in messages(lines) if text.startswith("the limit of open")] == [
        f"the limit of open files is {most}: at most {most // 3} connections can be relayed at once"
    ]


@pytest.mark.parametrize(
    ("open_files", "expected"),
    [
        (30_000, []),
        (
            29_999,
            ["the limit of open files is 29999: at most 9999 connections can be relayed at once"],
        ),
    ],
)
def test_open_files_are_enough_for_a_relay_of_three_each(caplog, open_files, expected):
    _warn_of_few_files(open_files, 10_000)
    assert caplog.messages == expected


@pytest.mark.parametrize("is_shared", [True, False])
def test_secrets_that_nobody_can_use_are_warned_about(is_shared):
    routes = ROUTES.replace(")),)", f"), share_secrets={is_shared}),)")
    with start(plain(routes=routes)) as worker:
        assert worker.addresses
        worker.signal(signal.SIGTERM)
        _, lines = worker.end()
    table = probe_offload()
    expected = []
    if is_shared and not table.can_rekey:
        expected = [f"share_secrets shares none here: {table.ulp_reason or table.rekey.reason}"]
    assert [text for text in messages(lines) if "secrets" in text] == expected


@pytest.mark.parametrize(
    ("cells", "offload", "expected"),
    [
        ("tx", "BOTH", 'that can do offload = "both", got one that can do "tx" only'),
        ("tx", "TX", None),
        ("both", "BOTH", None),
        ("both", "TX", None),
    ],
)
def test_a_kernel_that_only_sends_does_not_do_what_both_requires(cells, offload, expected):
    import dataclasses

    from ktlsgate.config import KtlsPolicy, Listener, Offload
    from ktlsgate.errors import ConfigError
    from ktlsgate.kernel.probe import OffloadTable
    from ktlsgate.kernel.trials import DONE, NOT_TRIED
    from ktlsgate.service.worker import _require

    rx = DONE if cells == "both" else NOT_TRIED
    table = OffloadTable.all()
    table = OffloadTable(
        ulp=DONE, cells=tuple(dataclasses.replace(cell, rx=rx) for cell in table.cells)
    )
    listener = Listener(address="a:1", ktls=KtlsPolicy.REQUIRE, offload=Offload[offload])
    if expected is None:
        _require(listener, table)
        return
    with pytest.raises(ConfigError) as caught:
        _require(listener, table)
    assert str(caught.value) == f'listen a:1: ktls = "require": expected a kernel {expected}'


def test_the_log_of_a_run_is_json_alone(tmp_path):
    log = pathlib.Path(tmp_path) / "log"
    config = plain().replace("LogFormat.JSON", f'LogFormat.JSON, file="{log}"')
    with start(config) as worker:
        assert worker.addresses
        worker.signal(signal.SIGTERM)
        assert worker.end() == (0, [])
    assert messages([json.loads(line) for line in log.read_text().splitlines()])[-1] == "ended"
