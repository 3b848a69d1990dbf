"""A backend of its own process that uses `ktlsgate.backend`, and says how connections ended.

    with start_rekey_backend(folder / "app.sock", "Trio", record_limit=20) as backend:
        ... GET /echo, or /big?n=BYTES, through the gate ...
        ended = backend.next_event("ended")

``/echo`` gives back everything until the end of input; ``/big`` sends `pattern`. What is
told of the end: how many KeyUpdates there were each way, the hash of the input, the
error if there was one, and every text that could show a secret.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import urllib.parse

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import trio
from helpers.backends import WAIT, Backend, pattern

from ktlsgate.backend.blocking_listener import BlockingHandoffListener
from ktlsgate.backend.serving import HandoffListener, serve_trio
from ktlsgate.backend.unix_listener import bind_unix_listener
from ktlsgate.errors import RemoteProtocolError

_UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
_BIG = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"


def _tell(**values):
    os.write(1, (json.dumps(values) + "\n").encode())


def _tell_end(connection, seen, error):
    _tell(
        event="ended",
        uri=connection.environ["REQUEST_URI"],
        generations=connection.generations,
        sha256=seen.hexdigest(),
        error=error,
        texts=repr((connection, connection.head, connection.environ)),
    )


def _size_of(connection):
    query = urllib.parse.urlsplit(connection.environ["REQUEST_URI"]).query
    return int(dict(urllib.parse.parse_qsl(query)).get("n", 0))


def _pieces(size):
    """What to send first; KeyUpdates come between calls."""
    data = pattern(size)
    yield _BIG % size if size else _UPGRADE
    for start in range(0, size, 65_536):
        yield data[start : start + 65_536]


def _serve(connection):
    seen, error, size = hashlib.sha256(), "", _size_of(connection)
    try:
        for piece in _pieces(size):
            connection.sendall(piece)
        while not size and (data := connection.recv(65_536)):
            seen.update(data)
            connection.sendall(data)
    except RemoteProtocolError as exc:
        error = f"{type(exc).__name__}: {exc}"
    connection.close()
    _tell_end(connection, seen, error)


async def _serve_trio(connection):
    seen, error, size = hashlib.sha256(), "", _size_of(connection)
    try:
        for piece in _pieces(size):
            await connection.send_all(piece)
        while not size and (data := await connection.receive_some()):
            seen.update(data)
            await connection.send_all(data)
    except RemoteProtocolError as exc:
        error = f"{type(exc).__name__}: {exc}"
    await connection.aclose()
    _tell_end(connection, seen, error)


async def _main_trio(listener, limit):
    await serve_trio(_serve_trio, HandoffListener(listener, record_limit=limit))


def _main(address, flavour, limit):
    limit = int(limit) or None
    listener = bind_unix_listener(address)
    _tell(event="ready")
    if flavour == "Trio":
        trio.run(_main_trio, listener, limit)
    with BlockingHandoffListener(listener, record_limit=limit) as handoffs:
        while True:
            _serve(handoffs.accept())


@contextlib.contextmanager
def start_rekey_backend(address, flavour, *, record_limit=0):
    """Run it on a Unix socket path; ends it at the end."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(address), flavour, str(record_limit)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=pathlib.Path(address).parent,  # not the checkout: the installed package is what runs
    )
    backend = Backend(process, str(address))
    try:
        backend.next_event("ready")
        yield backend
    finally:
        process.kill()
        process.wait(WAIT)
        process.stdin.close()
        backend.next_event("exited")
        process.stdout.close()


if __name__ == "__main__":
    _main(*sys.argv[1:])
