"""Servers that know nothing of handoffs, behind a real gate: what `helpers.unmodified` says works.

Each server is a process of its own (`helpers.server_programs`), and so is the gate. A server
that is not installed is skipped, and so are modes BOTH and TX where this kernel has no kTLS.
"""

import contextlib
import hashlib
import pathlib
import queue
import subprocess
import sys
import threading

import pytest
from helpers import server_programs
from helpers.clients import PlainClient, TlsClient, client_context, request, status_of
from helpers.front import mode_of
from helpers.gate_process import start_gate, tls_files
from helpers.ktls import kernel_table, require_ktls
from helpers.unmodified import CHECKS, SERVERS

WAIT = 60.0  # seconds; a guest of the lab is slow
# A system call of a guest with kTLS costs two hundred times what one costs here.
SIZE = 1_000_000 if kernel_table().ulp.ok else 10_000_000
MODES = ["plain", "relay", "both", "tx"]
CONFIG = """
log_format = "json"
[[cert]]
file = "{folder}/server.pem"
key = "{folder}/server.key"
[[listen]]
address = "127.0.0.1:0"
tls = false
[[listen]]
address = "127.0.0.1:0"
ktls = "off"
[[listen]]
address = "127.0.0.1:0"
[[listen]]
address = "127.0.0.1:0"
offload = "tx"
[[route]]
backend = "app"
[backend.app]
address = "unix:{folder}/app.sock"
"""


class Running:
    """A server behind a gate, and what it has said."""

    def __init__(self, process, gate):
        self.gate = gate
        self._said = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self._reader.start()

    def join(self):
        """Read to the end of what the server says; it has ended."""
        self._reader.join(WAIT)

    def _read(self, stream):
        for line in stream:
            self._said.put(line.decode().strip())

    def wait_said(self, text):
        """Wait for a line; others (a server's log) are passed over."""
        while self._said.get(timeout=WAIT) != text:
            pass

    def connect(self, mode):
        port = self.gate.ports[MODES.index(mode)]
        if mode == "plain":
            return PlainClient(port)
        return TlsClient(port, client_context(version="TLSv1.3")).handshake()

    def report(self):
        return self.gate.next_report()


@contextlib.contextmanager
def start_server(server, folder):
    tls_files(folder)
    socket_path = folder / "app.sock"
    program = pathlib.Path(server_programs.__file__)
    command = [sys.executable, str(program), server.name, str(socket_path)]
    log = (folder / "log").open("wb")
    running = None
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, cwd=folder
    )
    try:
        assert process.stdout.readline() == b"ready\n", (folder / "log").read_text()
        config = CONFIG.replace("{folder}", str(folder))
        with start_gate(folder, config, listeners=4) as gate:
            running = Running(process, gate)
            yield running
    finally:
        process.terminate()
        try:
            process.wait(WAIT)
        finally:
            process.kill()
            process.wait()
            if running:
                running.join()
            log.close()
            process.stdout.close()


@pytest.fixture(scope="module", params=SERVERS, ids=lambda server: server.name)
def served(request, tmp_path_factory):
    server = request.param
    if server.missing:
        pytest.skip(f"{server.name}: {server.missing} is not installed")
    with start_server(server, tmp_path_factory.mktemp(server.name)) as running:
        running.server = server
        yield running


def read_answer(client):
    """One answer with a length, or in chunks: head and body."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv()
        assert piece, data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    if b"content-length" in fields:
        while len(body) < int(fields[b"content-length"]):
            piece = client.recv()
            assert piece, f"end after {len(body)} bytes"
            body += piece
    else:
        while not body.endswith(b"0\r\n\r\n"):
            body += client.recv()
    return head, body


def check_get(served, mode):
    with served.connect(mode) as client:
        own = client.sock.getsockname()
        client.send(request("/"))
        head, body = read_answer(client)
    assert head[:13] in (b"HTTP/1.1 200 ", b"HTTP/1.0 200 ")
    address = body.decode().splitlines()[1].split()
    assert address in (["127.0.0.1", str(own[1])], ["127.0.0.1", "None"]), body
    assert address[1] != "None" or served.server.name in {"wsgiref", "django"}


def check_post(served, mode):
    body = b"y" * SIZE
    with served.connect(mode) as client:
        client.send(request("/hash", method="POST", body=body))
        _, answer = read_answer(client)
    assert f"{SIZE} {hashlib.sha256(body).hexdigest()}".encode() in answer


def check_answer(served, mode):
    """All of it, and under TLS a close_notify behind it."""
    with served.connect(mode) as client:
        client.send(request(f"/big?n={SIZE}", "Connection: close"))
        _, body = read_answer(client)
        assert body.count(b"x") >= SIZE
        if served.server.name != "asyncio-streams":  # which ends when the client does
            assert client.read_all() == (b"", True)


def check_keepalive(served, mode):
    with served.connect(mode) as client:
        for _ in range(3):
            client.send(request("/"))
            assert status_of(read_answer(client)[0]) == 200


def open_websocket(client):
    """An open WebSocket: the connection, and a function that waits for a kind of event."""
    wsproto = pytest.importorskip("wsproto", reason="wsproto is not installed")
    websocket = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)

    def wait_for(kind):
        while True:
            for event in websocket.events():
                if isinstance(event, kind):
                    return event
            websocket.receive_data(client.recv() or None)

    client.send(websocket.send(wsproto.events.Request(host="localhost", target="/echo")))
    wait_for(wsproto.events.AcceptConnection)
    return wsproto.events, websocket, wait_for


def check_websocket(served, mode):
    with served.connect(mode) as client:
        events, websocket, wait_for = open_websocket(client)
        for text in (b"hello", b"x" * 70_000):
            client.send(websocket.send(events.BytesMessage(text)))
            data = b""
            while len(data) < len(text):
                data += bytes(wait_for(events.BytesMessage).data)
            assert data == text
        client.send(websocket.send(events.CloseConnection(1000)))
        assert wait_for(events.CloseConnection).code == 1000
    served.wait_said("disconnected")


def check_disconnect(served, mode):
    with served.connect(mode) as client:
        if served.server.name == "websockets":
            open_websocket(client)
        else:
            client.send(request("/hold"))
    served.wait_said("disconnected")


def check_tls(served, mode):
    with served.connect(mode) as client:
        client.send(request("/"))
        scheme, _, version = read_answer(client)[1].decode().splitlines()[:3]
    expected = {"http"} if mode == "plain" else {"https"}
    assert {scheme} == expected
    assert version in ({"None"} if mode == "plain" else {"TLSv1.3", str(0x0304)})


def do(served, mode, check):
    reason = served.server.cannot.get(check)
    if reason:
        pytest.skip(f"{served.server.name} has no {check}: {reason}")
    globals()[f"check_{check}"](served, mode)
    assert mode_of(served.report()) == mode


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("mode", ["plain", "relay"])
def test_server_does_what_the_table_says(served, mode, check):
    do(served, mode, check)


@pytest.mark.ktls
@pytest.mark.parametrize("check", CHECKS)
def test_server_does_so_when_the_kernel_does_tls(served, check):
    require_ktls()
    do(served, "both", check)


@pytest.mark.ktls
@pytest.mark.parametrize("check", CHECKS)
def test_server_on_trio_does_so_when_input_is_elsewhere(served, check):
    require_ktls()
    if not served.server.takes_tx:
        pytest.skip(f"{served.server.name} takes no mode tx")
    do(served, "tx", check)


@pytest.mark.ktls
def test_server_that_cannot_take_mode_tx_answers_so(served):
    require_ktls()
    if served.server.takes_tx:
        pytest.skip(f"{served.server.name} takes mode tx")
    with served.connect("tx") as client:
        client.send(request("/"))
        head, body = read_answer(client)
        assert status_of(head) == 502
        assert body == b"This server cannot take a connection in mode tx.\n"
        assert client.read_all() == (b"", True)
    assert mode_of(served.report()) == "tx"
