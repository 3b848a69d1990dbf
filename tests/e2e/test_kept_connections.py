"""Kept connections between a real gate and a backend that is killed, under load."""

import collections
import concurrent.futures
import contextlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers.clients import PlainClient, TlsClient, request, status_of
from helpers.front import start_front
from helpers.gate_process import WAIT, require_view

_KEPT = 4
_CLIENTS = 6
_REQUESTS = 240
_KILLS = 4

_BACKEND = """
import os, sys
import trio
from ktlsgate.backend.serving import HandoffListener, serve_trio
from ktlsgate.backend.unix_listener import bind_unix_listener

async def serve(connection):
    environ = connection.environ
    os.write(1, (environ["REQUEST_URI"] + "\\n").encode())
    kept = environ.get("KTLSGATE_CONNECTION", "no").encode()
    try:
        await connection.send_all(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n" + kept)
    except trio.BrokenResourceError:
        pass

async def main():
    listener = HandoffListener(bind_unix_listener(sys.argv[1]))
    print("ready", flush=True)
    await serve_trio(serve, listener)

trio.run(main)
"""


class OwnBackend:
    """A process that serves what it is handed, and tells which requests it took."""

    def __init__(self, path):
        self.path, self.served = path, collections.Counter()
        self.is_up = threading.Event()
        self._start()

    def _start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BACKEND, str(self.path)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "ready\n"
        self._reader = threading.Thread(target=self._read, args=[self.process.stdout])
        self._reader.start()
        self.is_up.set()

    def _read(self, stream):
        with stream:
            self.served.update(line.strip() for line in stream)

    def stop(self):
        self.process.kill()
        self.process.wait(WAIT)
        self.is_up.clear()  # late: who comes in between finds nobody
        self._reader.join(WAIT)

    def restart(self):
        self.stop()
        self._start()


_CONFIG = """
log_format = "json"
[[cert]]
file = "{folder}/server.pem"
key = "{folder}/server.key"
[[listen]]
address = "127.0.0.1:0"
tls = false
[[listen]]
address = "127.0.0.1:0"
[[route]]
backend = "app"
[backend.app]
address = "unix:{folder}/own.sock"
kept_connections = KEPT
"""


@pytest.fixture
def front(tmp_path):
    config = _CONFIG.replace("KEPT", str(_KEPT))
    with start_front(tmp_path, config=config, listeners=2) as front:
        yield front


@pytest.fixture
def backend(tmp_path):
    backend = OwnBackend(tmp_path / "own.sock")
    yield backend
    backend.stop()


def unix_sockets(pid):
    require_view(pid)
    count = 0
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += str(path.readlink()).startswith("socket:")
    return count


def test_many_requests_pass_over_one_connection(front, backend):
    before = unix_sockets(front.gate.pid)
    for _ in range(20):
        with PlainClient(front.gate.ports[0]) as client:
            target = front.target("/")
            assert client.ask(request(target)).endswith(b"\r\n\r\nkept")
            assert front.report(target)["event"] == "handoff"
    assert unix_sockets(front.gate.pid) == before + 1


def test_a_connection_that_the_kernel_holds_is_kept_and_a_relay_has_its_own(front, backend):
    with TlsClient(front.gate.ports[1]) as client:
        target = front.target("/")
        answer = client.handshake().ask(request(target))
        word = {"handoff": b"kept", "relay": b"no"}[front.report(target)["event"]]
        assert answer.endswith(b"\r\n\r\n" + word)


def test_a_backend_that_is_killed_under_load_loses_nothing_unsaid_and_serves_nothing_twice(
    front, backend
):
    before = unix_sockets(front.gate.pid)
    targets = [front.target("/") for _ in range(_REQUESTS)]
    started = threading.Semaphore(0)

    def ask(target):
        backend.is_up.wait(WAIT)
        started.release()
        with PlainClient(front.gate.ports[0]) as client:
            try:
                return client.ask(request(target))
            except ConnectionResetError:
                return b""

    with concurrent.futures.ThreadPoolExecutor(_CLIENTS) as pool:
        answers = [pool.submit(ask, target) for target in targets]
        for _ in range(_KILLS):
            for _ in range(_REQUESTS // (_KILLS + 1)):
                started.acquire()
            backend.restart()
        answers = [answer.result(WAIT) for answer in answers]
    backend.stop()

    for target, answer in zip(targets, answers, strict=True):
        report = front.report(target)
        if report["event"] == "handoff":
            assert answer == b"" or status_of(answer) == 200, json.dumps(report)
        else:
            assert (report["event"], status_of(answer)) == ("backend_failed", report["status"])
            assert backend.served[target] == 0
    assert max(backend.served.values()) == 1
    assert len(backend.served) > _REQUESTS // 2
    end = time.monotonic() + WAIT
    while unix_sockets(front.gate.pid) > before:
        assert time.monotonic() < end, "a connection to a backend that is gone stays open"
        time.sleep(0.01)
