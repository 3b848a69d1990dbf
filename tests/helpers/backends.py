"""Backends as processes of their own, written from nginx's fd_pass alone.

Nothing here knows ktlsgate, and the process imports nothing but the standard library:
what serves here is what a stranger's backend can count on. It reads one netstring to
its comma, takes one descriptor, and answers on it with blocking calls; of TLS it knows
``KTLS_RX`` (0: the input follows on the Unix socket) and that EIO ends the input.

    with start_backend(folder / "app.sock") as backend:
        ... GET /facts through the gate ...
        arrival = backend.next_event("received")

Commands, by path (all numbers are bytes):

    /facts          JSON: what arrived, and what the kernel says of the descriptor
    /cell?n=        JSON on one line: the environment and what the kernel says of the
                    descriptor; then reads HTTP_CONTENT_LENGTH; then, on one line, size and
                    SHA-256; then n bytes of `pattern`
    /hash           reads HTTP_CONTENT_LENGTH; answers size and SHA-256 (?delay=SECONDS first;
                    &pace=n reads n bytes at a time and rests 2 ms behind each)
    /rest?n=        reads n behind the head (fewer at the end of input) and answers with them
    /until-end      reads to the end of input; answers size, SHA-256 and how it ended
    /big?n=         sends n bytes of `pattern` by sendfile; with &at= it stops there, reports
                    "paused" and goes on after `Backend.go`; with &drop=1 it closes the
                    Unix socket before it answers
    /echo           101, then everything back until the end of input
    /hold           holds the descriptor for ever, without a word
    /unix           answers on the Unix socket instead of the descriptor
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

WAIT = 60.0
_BLOCK = b"".join(hashlib.sha512(b"%d" % i).digest() for i in range(1024))[:65_521]
_SOL_TLS, _TLS_TX, _TLS_RX, _TCP_ULP = 282, 1, 2, 31
# linux/tls.h: the sizes of struct tls12_crypto_info_*; the kernel answers to no other.
_INFO_SIZES = {51: 40, 52: 56, 53: 40, 54: 56}


def pattern(size: int) -> bytes:
    """The same bytes in every process; no two of its 64 kB blocks begin alike."""
    return (_BLOCK * (size // len(_BLOCK) + 1))[:size]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# The process ---------------------------------------------------------------------------


def _tell(event, **values):
    line = json.dumps({"event": event, **values}) + "\n"
    with contextlib.suppress(BrokenPipeError):
        os.write(1, line.encode())  # one write: threads do not mix their lines


class _Stopped(threading.Event):
    """Says when the test wrote a line on our standard input; its end ends us."""

    def watch(self):
        for _ in sys.stdin:
            self.set()
        os._exit(0)


_go = _Stopped()
_held = []


class _Client:
    """One connection as fd_pass gives it."""

    def __init__(self, unix):
        self.unix = unix
        first, ancillary, _, _ = unix.recvmsg(1, socket.CMSG_SPACE(16))
        rights = [row for row in ancillary if row[1] == socket.SCM_RIGHTS]
        assert first, "end of file, and no head"
        assert [len(row[2]) for row in rights] == [4], f"expected one descriptor: {ancillary}"
        number = int.from_bytes(rights[0][2], sys.byteorder)
        self.flags = fcntl.fcntl(number, fcntl.F_GETFL), fcntl.fcntl(number, fcntl.F_GETFD)
        self.sock = socket.socket(fileno=number)
        self.sock.setblocking(True)  # shared with nobody who minds
        digits = first
        while not digits.endswith(b":"):
            digits += unix.recv(1)
        body = self._exactly(int(digits[:-1]) + 1)
        self.raw = digits + body
        words = body[:-1].decode("latin-1").split("\0")
        self.pairs = list(zip(words[:-1:2], words[1::2], strict=True))
        self.environ = dict(self.pairs)
        self.source = unix if self.environ.get("KTLS_RX") == "0" else self.sock
        if self.source is not unix:
            unix.close()
        self.ending = ""
        uri = urllib.parse.urlsplit(self.environ["REQUEST_URI"])
        self.path, self.query = uri.path, dict(urllib.parse.parse_qsl(uri.query))

    def _exactly(self, size):
        data = bytearray()
        while len(data) < size:
            piece = self.unix.recv(size - len(data))
            assert piece, "end of file inside the head"
            data += piece
        return bytes(data)

    def read(self, size):
        """Read 1 to ``size`` bytes; nothing at the end of input, however it came."""
        if self.ending:
            return b""
        try:
            data = self.source.recv(size)
        except OSError as exc:
            self.ending = errno.errorcode[exc.errno]
            return b""
        if not data:
            self.ending = "eof"
        return data

    def read_digest(self, size, pace=0):
        """Read that many bytes, or all that come: the count and the hash."""
        seen, left = hashlib.sha256(), size
        while left and (data := self.read(min(left, pace or 262_144))):
            seen.update(data)
            left -= len(data)
            if pace:
                time.sleep(0.002)
        return size - left, seen.hexdigest()

    def answer(self, body, sock=None):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        (sock or self.sock).sendall(self.head(len(body)) + body)

    def head(self, size):
        return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size

    def end(self):
        """End as a server should: half close, read on to the end, close."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        count = 0
        while data := self.read(65_536):
            count += len(data)
        _tell("ended", uri=self.environ["REQUEST_URI"], how=self.ending, unread=count)
        self.close()

    def close(self):
        self.sock.close()
        self.unix.close()


def _facts(client):
    sock = client.sock
    facts = {
        "raw": client.raw.decode("latin-1"),
        "pairs": client.pairs,
        "is_nonblocking": bool(client.flags[0] & os.O_NONBLOCK),
        "is_close_on_exec": bool(client.flags[1] & fcntl.FD_CLOEXEC),
        "ulp": "",
        "ss": "",
        **_kernel_facts(client),
    }
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            name = sock.getsockopt(socket.IPPROTO_TCP, _TCP_ULP, 16)
            facts["ulp"] = name.rstrip(b"\0").decode()
        ours, theirs = sock.getsockname()[1], sock.getpeername()[1]
        which = f"sport = :{ours} and dport = :{theirs}"
        command = ["ss", "-tieHn", which]
        shown = subprocess.run(command, check=False, capture_output=True, timeout=WAIT)
        facts["ss"] = " ".join(shown.stdout.decode().split())
    return facts


def _kernel_facts(client):
    """What the descriptor is and who has its keys; ``*_seq`` counts records so far."""
    sock = client.sock
    facts = {"environ": client.environ, "family": socket.AddressFamily(sock.family).name}
    for name, which in (("tx", _TLS_TX), ("rx", _TLS_RX)):
        facts[name] = key = _key_facts(sock, which)
        facts[f"{name}_seq"] = _rec_seq(sock, which, key[1]) if key else None
    return facts


def _rec_seq(sock, which, cipher):
    return int.from_bytes(sock.getsockopt(_SOL_TLS, which, _INFO_SIZES[cipher])[-8:], "big")


def _key_facts(sock, which):
    """Version and cipher of one direction's key; empty if the kernel has none."""
    try:
        raw = sock.getsockopt(_SOL_TLS, which, 4)
    except OSError:
        return []
    return [int.from_bytes(raw[:2], sys.byteorder), int.from_bytes(raw[2:], sys.byteorder)]


def _do_facts(client):
    client.answer(_facts(client))


def _do_cell(client):
    if client.source is client.unix:
        # Our own dialect's "I have the head". A stranger never says it, and is waited for.
        client.unix.sendall(b"\x06")
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    client.sock.sendall(head + json.dumps(_kernel_facts(client)).encode() + b"\n")
    size, seen = client.read_digest(int(client.environ.get("HTTP_CONTENT_LENGTH", "0")))
    line = json.dumps({"size": size, "sha256": seen}).encode() + b"\n"
    client.sock.sendall(line + pattern(int(client.query["n"])))


def _do_hash(client):
    if "delay" in client.query:
        _go.wait(float(client.query["delay"]))
    pace = int(client.query.get("pace", "0"))
    size, seen = client.read_digest(int(client.environ.get("HTTP_CONTENT_LENGTH", "0")), pace)
    client.answer({"size": size, "sha256": seen})


def _do_rest(client):
    data, wanted = b"", int(client.query["n"])
    while len(data) < wanted and (piece := client.read(wanted - len(data))):
        data += piece
    client.answer(data)


def _do_until_end(client):
    size, seen = client.read_digest(1 << 40)
    _tell("input-ended", uri=client.environ["REQUEST_URI"], how=client.ending, size=size)
    client.answer({"size": size, "sha256": seen, "how": client.ending})


def _do_big(client):
    size = int(client.query["n"])
    stop = int(client.query.get("at", size))
    if "drop" in client.query:
        client.unix.close()
        client.ending = "dropped"
    client.sock.sendall(client.head(size))
    with tempfile.TemporaryFile() as file:
        file.write(pattern(size))
        file.flush()
        _send_file(client.sock, file, 0, stop)
        if stop < size:
            _tell("paused", uri=client.environ["REQUEST_URI"])
            _go.wait()
            _send_file(client.sock, file, stop, size)


def _send_file(sock, file, start, end):
    while start < end:
        start += os.sendfile(sock.fileno(), file.fileno(), start, end - start)


def _do_echo(client):
    head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
    client.sock.sendall(head)
    while data := client.read(65_536):
        client.sock.sendall(data)


def _do_unix(client):
    client.sock.close()  # who answers here has no use for it
    client.answer(b"by the unix socket", client.unix)
    client.unix.shutdown(socket.SHUT_WR)


_COMMANDS = {
    "/facts": _do_facts,
    "/cell": _do_cell,
    "/hash": _do_hash,
    "/rest": _do_rest,
    "/until-end": _do_until_end,
    "/big": _do_big,
    "/echo": _do_echo,
    "/unix": _do_unix,
}


def _serve(unix):
    try:
        client = _Client(unix)
    except (AssertionError, OSError) as exc:
        _tell("bad", what=str(exc))
        unix.close()
        return
    _tell("received", uri=client.environ["REQUEST_URI"])
    if client.path == "/hold":
        _held.append(client)
        return
    try:
        _COMMANDS.get(client.path, _do_hash)(client)
    except OSError as exc:
        _tell("failed", uri=client.environ["REQUEST_URI"], how=errno.errorcode[exc.errno or 0])
        client.close()
    else:
        client.end()


def _half_head(unix):
    """Read a piece of the head, descriptor included, and stop."""
    unix.recvmsg(20, socket.CMSG_SPACE(16))


def _play(listener, behaviour):
    """Wait for a connection, then behave badly; what dies takes its listener along."""
    if behaviour == "die-before-accept":
        select.select([listener], [], [])
        os._exit(1)
    if behaviour == "never-accept":
        _go.wait()
    while True:
        unix, _ = listener.accept()
        if behaviour.endswith("in-head"):
            _half_head(unix)
        if behaviour.startswith("die-"):
            os._exit(1)
        if behaviour.startswith("hang-"):
            threading.Thread(target=lambda held: _go.wait() and held.close(), args=(unix,)).start()
            continue
        unix.close()


def _main(address, behaviour, backlog):
    listener = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(address)
    listener.bind("\0" + address[1:] if address.startswith("@") else address)
    listener.listen(backlog)
    threading.Thread(target=_go.watch, daemon=True).start()
    _tell("ready")
    if behaviour != "serve":
        _play(listener, behaviour)
    while True:
        unix, _ = listener.accept()
        threading.Thread(target=_serve, args=(unix,), daemon=True).start()


# The test's side -----------------------------------------------------------------------


class Backend:
    """A running backend."""

    def __init__(self, process, address):
        self.process = process
        self.address = address
        self._seen = []
        self._ready = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            with self._ready:
                self._seen.append(json.loads(line))
                self._ready.notify_all()
        with self._ready:
            self._seen.append({"event": "exited"})
            self._ready.notify_all()

    def next_event(self, event, uri=None):
        """Wait for an event and take it; others stay for who asks for them."""

        def find():
            for each in self._seen:
                if each["event"] == event and uri in (None, each.get("uri")):
                    return each
            return None

        with self._ready:
            found = self._ready.wait_for(find, WAIT)
            assert found, f"expected {event} {uri or ''}, got {self._seen}"
            self._seen.remove(found)
            return found

    def go(self):
        """Let what waits in the backend go on (and everything after it)."""
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

    def kill(self):
        """End it as the kernel would: nothing is said, everything is closed."""
        self.process.kill()
        self.process.wait(WAIT)


@contextlib.contextmanager
def start_backend(address, behaviour="serve", *, backlog=128, user=None):
    """Run a backend on a Unix socket path or ``@NAME``; ends it at the end.

    Behaviours: serve; die-before-accept, die-after-accept, die-in-head (with its listener);
    close-after-accept, close-in-head, hang-after-accept, hang-in-head; never-accept.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(address), behaviour, str(backlog)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        user=user,
    )
    backend = Backend(process, str(address))
    try:
        backend.next_event("ready")
        yield backend
    finally:
        process.kill()
        process.wait(WAIT)
        with contextlib.suppress(OSError):
            process.stdin.close()
        backend.next_event("exited")
        process.stdout.close()


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
