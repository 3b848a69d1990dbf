"""The examples in other languages, behind the real gate, in every mode that this kernel can do.

Go and Rust are built once for all tests, where their compilers are installed. Where they
are not, a folder named by KTLSGATE_EXAMPLES may hold programs built elsewhere, with the
names ``go`` and ``rust``, and ``node`` or ``php``, the interpreters themselves.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import pytest
from helpers.backends import digest, pattern
from helpers.clients import WAIT, PlainClient, TlsClient, request
from helpers.front import (
    FOUR_LISTENERS,
    KTLS_LABELS,
    LISTENERS,
    MODES,
    Front,
    expected_offload,
)
from helpers.gate_process import start_gate, tls_files

from ktlsgate.config import Offload

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
NAMES = {"go": "Go", "node": "Node", "rust": "Rust", "php": "PHP"}
SIZE = 10_000_000
ELSEWHERE = os.environ.get("KTLSGATE_EXAMPLES", os.devnull)

_ROUTES = """
[[route]]
host = "{name}.test"
backend = "{name}"
[[route]]
host = "single.{name}.test"
path = "/single"
backend = "{name}"
[backend.{name}]
address = "unix:{{folder}}/{name}.sock"
"""
_CONFIG = FOUR_LISTENERS + "".join(_ROUTES.format(name=name) for name in NAMES)

EACH_LISTENER = pytest.mark.parametrize("listener", LISTENERS)
TLS_LISTENER = pytest.mark.parametrize("listener", [name for name in LISTENERS if name != "plain"])


def find_program(name):
    """A program from the folder of those built elsewhere, or of this machine."""
    return shutil.which(name, path=ELSEWHERE) or shutil.which(name)


if not any(map(find_program, ["go", "node", "php", "rust", "rustc"])):
    pytest.skip("none of go, node, php and rustc is installed", allow_module_level=True)


def need_program(name):
    return find_program(name) or pytest.skip(f"{name} is not installed")


def build(name, compiler, arguments, folder, **environment):
    """Build an example into a folder, if nobody has built it elsewhere; its command."""
    if found := shutil.which(name, path=ELSEWHERE):
        return [found]
    command = [need_program(compiler), *arguments, "-o", str(folder / name)]
    where, environment = EXAMPLES / name, {**os.environ, **environment}
    done = subprocess.run(command, check=False, cwd=where, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return [str(folder / name)]


def go_command(folder):
    return build("go", "go", ["build"], folder, GOCACHE=str(folder / "cache"), CGO_ENABLED="0")


def rust_command(folder):
    flags = ["--edition", "2021", "-O", "-D", "warnings"]
    return build("rust", "rustc", [*flags, "src/main.rs"], folder)


def node_command(_folder):
    return [need_program("node"), str(EXAMPLES / "node/index.js")]


def php_command(_folder):
    php = need_program("php")
    modules = subprocess.run([php, "-m"], check=True, capture_output=True).stdout.decode().split()
    missing = {"sockets", "pcntl"} - set(modules)
    if missing:
        pytest.skip(f"php has no {', '.join(sorted(missing))}")
    return [php, str(EXAMPLES / "php/server.php")]


COMMANDS = {"go": go_command, "node": node_command, "rust": rust_command, "php": php_command}


class Server:
    """A running example; `lines` are what it said."""

    def __init__(self, name, process):
        self.name = name
        self.process = process
        self.host = f"{name}.test"
        self.lines = []
        self._is_ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.decode().rstrip())
            if "taking handoffs at" in self.lines[-1]:
                self._is_ready.set()
        self._is_ready.set()

    def wait_ready(self):
        assert self._is_ready.wait(WAIT), f"{self.name} says nothing"
        assert self.process.poll() is None, self.lines

    def end(self):
        self.process.kill()
        self.process.wait(WAIT)
        self._reader.join(WAIT)  # Node's helper ends when Node does
        self.process.stderr.close()


@contextlib.contextmanager
def running(name, command, folder):
    process = subprocess.Popen(
        [*command, str(folder / f"{name}.sock"), str(folder / "file")],
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHON": sys.executable},
    )
    server = Server(name, process)
    try:
        server.wait_ready()
        yield server
    finally:
        server.end()


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    authority = tls_files(folder)
    (folder / "file").write_bytes(pattern(SIZE))
    with start_gate(folder, _CONFIG.replace("{folder}", str(folder)), listeners=4) as gate:
        yield Front(folder, gate, None, authority)


@pytest.fixture(scope="module", params=list(NAMES))
def example(request, tmp_path_factory):
    command = COMMANDS[request.param](tmp_path_factory.mktemp(f"build-{request.param}"))
    front = request.getfixturevalue("front")  # no gate for an example that cannot run
    with running(request.param, command, front.folder) as server:
        yield server


def url_of(front, listener):
    scheme = "http" if listener == "plain" else "https"
    return f"{scheme}://localhost:{front.port_of(listener)}"


def run_curl(front, example, *arguments):
    """What came, and for each request whether its connection was new (1), and the status."""
    each = ["-sS", "--ipv4", "--http1.1", "--cacert", str(front.ca), "--max-time", str(WAIT)]
    each += ["-H", f"Host: {example.host}", "-w", "%{stderr}%{num_connects} %{http_code}\n"]
    command = ["curl", *each]
    for word in arguments:
        command += [word, *each] if word == "--next" else [word]
    done = subprocess.run(command, check=False, capture_output=True, timeout=2 * WAIT)
    assert done.returncode == 0, (done.stderr, example.lines)
    return done.stdout, done.stderr.decode().splitlines()


def curl(front, example, listener, *targets):
    """Fetch one target after the other, over one connection if it lasts."""
    return run_curl(front, example, *(url_of(front, listener) + target for target in targets))


def connect(front, listener):
    port = front.port_of(listener)
    return (PlainClient if listener == "plain" else TlsClient)(port).handshake()


def mode_of(front, listener, target):
    """The mode of a request, which has to be what this kernel can do."""
    report = front.report(target)
    if listener == "plain":
        return "plain"
    offload = Offload.NONE if listener == "relay" else expected_offload(report["cipher"])
    if listener == "tx":
        offload = offload.at_most(Offload.TX)
    assert KTLS_LABELS[offload] == report["ktls"], report
    return MODES[offload]


def greeting(example, target, mode):
    return f"Hello 127.0.0.1, this is GET {target} by {NAMES[example.name]}, mode {mode}\n"


@EACH_LISTENER
def test_a_request_is_answered_with_what_the_gate_said(front, example, listener):
    target = front.target("/some%20where?x=1")
    body, _ = curl(front, example, listener, target)
    assert body.decode() == greeting(example, target, mode_of(front, listener, target))


@EACH_LISTENER
def test_ten_megabytes_arrive_whole(front, example, listener):
    body, _ = curl(front, example, listener, "/file")
    assert (len(body), digest(body)) == (SIZE, digest(pattern(SIZE)))


@EACH_LISTENER
def test_later_requests_come_on_the_same_connection(front, example, listener):
    target = front.target("/one")
    body, said = curl(front, example, listener, target, "/file", "/two?x=3")
    mode = mode_of(front, listener, target)
    expected = greeting(example, target, mode).encode() + pattern(SIZE)
    assert digest(body) == digest(expected + greeting(example, "/two?x=3", mode).encode())
    assert said == ["1 200", "0 200", "0 200"]


@EACH_LISTENER
def test_where_one_request_was_handed_over_only_that_is_answered(front, example, listener):
    target = front.target("/single")
    both = request(target) + request("/other")
    with connect(front, listener) as client:
        client.send(both.replace(b"Host: localhost", b"Host: single." + example.host.encode()))
        answer, _ = client.read_all()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close\r\n" in head.lower() + b"\r\n"
    assert body.decode() == greeting(example, target, mode_of(front, listener, target))


# Which example says close_notify itself; in mode relay the gate does, for all of them.
SAYS_GOODBYE = {
    "go": {"both", "tx", "relay"},
    "node": {"tx", "relay"},  # in mode tx its helper does
    "rust": {"both", "tx", "relay"},
    "php": {"relay"},
}


@TLS_LISTENER
def test_the_end_is_said_with_close_notify_by_those_that_can(front, example, listener):
    target = front.target("/last")
    with connect(front, listener) as client:
        last = request(target, "Connection: close").replace(b"localhost", example.host.encode())
        client.send(last)
        answer, was_clean = client.read_all()
    mode = mode_of(front, listener, target)
    assert answer.endswith(greeting(example, target, mode).encode())
    assert was_clean == (mode in SAYS_GOODBYE[example.name])


@TLS_LISTENER
def test_a_client_that_said_close_notify_still_gets_its_answer(front, example, listener):
    target = front.target("/half")
    with connect(front, listener) as client:
        client.send(request(target).replace(b"localhost", example.host.encode()))
        client.close_notify()
        answer, _ = client.read_all()
    mode = mode_of(front, listener, target)
    if (example.name, mode) == ("node", "both"):
        pytest.skip("Node takes the EIO behind which close_notify waits for a broken connection")
    assert answer.endswith(greeting(example, target, mode).encode())


@TLS_LISTENER
def test_a_client_that_says_close_notify_between_requests_is_let_go(front, example, listener):
    target = front.target("/stay")
    with connect(front, listener) as client:
        client.send(request(target).replace(b"localhost", example.host.encode()))
        answer = b""
        while not answer.endswith(b"\n"):
            answer += client.recv()
        client.close_notify()
        assert client.read_all()[0] == b""
    expected = greeting(example, target, mode_of(front, listener, target))
    assert answer.endswith(expected.encode())


@EACH_LISTENER
def test_a_body_is_not_taken_for_a_request(front, example, listener):
    url = f"{url_of(front, listener)}{front.target('/post')}"
    get = f"{url_of(front, listener)}/next"
    body, said = run_curl(front, example, "-d", "GET /body HTTP/1.1\r\n\r\n", url, "--next", get)
    assert body.decode().splitlines()[-1].startswith("Hello 127.0.0.1, this is GET /next by ")
    assert [line[2:] for line in said] == ["200" if example.name == "go" else "405", "200"]


WS_CLIENT = """
const { WebSocket } = require('ws');
const [url, host, ca] = process.argv.slice(1);
const options = { ca: require('fs').readFileSync(ca), headers: { Host: host }, servername: 'localhost' };
const socket = new WebSocket(url, options);
socket.on('open', () => socket.send('one'));
socket.on('message', (data) => {
  process.stdout.write(data + ' ');
  if (data == 'one') socket.send('two'); else socket.close(1000);
});
socket.on('close', (code) => console.log(code));
"""


@TLS_LISTENER
@pytest.mark.parametrize("example", ["node"], indirect=True)
def test_websocket_messages_of_the_package_ws_come_back(front, example, listener):
    node, folder = find_program("node"), EXAMPLES / "node"
    find = [node, "-e", "try { require('ws') } catch { process.exit(1) }"]
    if subprocess.run(find, check=False, cwd=folder).returncode:
        pytest.skip("the package ws is not installed where Node looks (NODE_PATH)")
    url = f"wss://localhost:{front.port_of(listener)}/echo"
    command = [node, "-e", WS_CLIENT, url, example.host, str(front.ca)]
    done = subprocess.run(command, check=False, capture_output=True, cwd=folder, timeout=WAIT)
    assert (done.stdout, done.stderr) == (b"one two 1000\n", b"")
