"""Real clients: curl and `openssl s_client` as processes, pyOpenSSL byte by byte.

`TlsClient` keeps TLS in memory and gives the test the socket: what goes into which
segment, what is glued to the Finished, when a FIN or a reset comes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading

from OpenSSL import SSL, crypto

from ktlsgate.wire.openssl_extra import is_session_reused, set_ciphersuites

WAIT = 60.0
VERSIONS = {"TLSv1.2": SSL.TLS1_2_VERSION, "TLSv1.3": SSL.TLS1_3_VERSION}


def _run(command, data):
    return subprocess.run(command, check=False, input=data, capture_output=True, timeout=WAIT)


def run_curl(port, target, *arguments, ca, data=None):
    """Fetch ``https://localhost:PORT/TARGET``; the finished process, standard output as bytes."""
    options = ["-sS", "--ipv4", "--cacert", str(ca), "--max-time", str(WAIT)]
    return _run(["curl", *options, *arguments, f"https://localhost:{port}{target}"], data)


def run_s_client(port, data, *arguments, ca):
    """Send bytes in one write by `openssl s_client` and read to the end of the connection."""
    return _run([*_s_client(port, ca), "-quiet", *arguments], data)


def _s_client(port, ca):
    where = ["-connect", f"127.0.0.1:{port}", "-servername", "localhost"]
    return ["openssl", "s_client", *where, "-CAfile", str(ca), "-verify_return_error"]


def request(target, *headers, method="GET", body=b""):
    """A request head, with its body glued to it."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def body_of(answer):
    """The body of an answer that ended with its connection; checks its length."""
    head, found, body = answer.partition(b"\r\n\r\n")
    assert found, answer
    assert f"content-length: {len(body)}\r\n" in head.decode().lower() + "\r\n", (head, len(body))
    return body


def status_of(answer):
    assert answer[:9] == b"HTTP/1.1 ", answer
    return int(answer[9:12])


def connect(port, **options):
    """A plain TCP connection to the gate, with a bound on every wait."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=WAIT, **options)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def reset(sock):
    """Close with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def read_to_end(sock):
    """Everything until the end of file or a reset."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(65_536):
            data += piece
    return data


def _wrapped(kind, value):
    """What pyOpenSSL before 24.3 wants instead of cryptography's objects."""
    if kind == "certificate":
        return crypto.X509.from_cryptography(value)
    return crypto.PKey.from_cryptography_key(value)


def client_context(
    *, version=None, ciphers=None, suites=None, alpn=(), identity=None, tickets=True
):
    """An OpenSSL context; ``identity`` is a client certificate with its key."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if version:
        context.set_min_proto_version(VERSIONS[version])
        context.set_max_proto_version(VERSIONS[version])
    if ciphers:
        context.set_cipher_list(ciphers.encode())
    if suites:
        assert set_ciphersuites(context, suites)
    if alpn:
        context.set_alpn_protos([name.encode() for name in alpn])
    if not tickets:
        context.set_options(SSL.OP_NO_TICKET)
    if identity:
        leaf, key = identity.chain[0], identity.key
        try:
            context.use_certificate(leaf)
            context.use_privatekey(key)
        except TypeError:
            context.use_certificate(_wrapped("certificate", leaf))
            context.use_privatekey(_wrapped("key", key))
    return context


class _Reader:
    """Reads plain bytes by ``recv``, which returns nothing at a clean end."""

    def read_exactly(self, size):
        data = b""
        while len(data) < size:
            piece = self.recv()
            assert piece, f"end after {len(data)} of {size} bytes: {data[:100]}"
            data += piece
        return data

    def read_all(self):
        """All plain bytes to the end, and whether that end was a clean one."""
        chunks = []
        try:
            while data := self.recv():
                chunks.append(data)
        except ConnectionError:
            return b"".join(chunks), False
        return b"".join(chunks), True

    def ask(self, data):
        """Send a request and read the answer to the end."""
        self.send(data)
        return self.read_all()[0]

    def half_close(self):
        """FIN, whatever was said before it."""
        self.sock.shutdown(socket.SHUT_WR)


class PlainClient(_Reader):
    """The same calls without TLS."""

    def __init__(self, port):
        self.sock = connect(port)
        self.port = self.sock.getsockname()[1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def handshake(self):
        return self

    def send(self, data):
        self.sock.sendall(data)

    def recv(self):
        return self.sock.recv(65_536)

    def close_notify(self):
        """There is no such thing here."""


class SClient(_Reader):
    """`openssl s_client` in a conversation, for what pyOpenSSL has no method for."""

    def __init__(self, port, *arguments, ca):
        """Start it; it shakes hands at once."""
        command = [*_s_client(port, ca), "-ign_eof", "-nocommands", *arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, **pipes)
        self._bound = threading.Timer(WAIT, self.process.kill)
        self._bound.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bound.cancel()
        self.process.kill()
        self.process.communicate()

    def send(self, data):
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def recv(self):
        """What it says next, in plain bytes; without ``-quiet`` that is more than its peer's."""
        return os.read(self.process.stdout.fileno(), 65_536)


class TlsClient(_Reader):
    """A TLS client whose every segment the test decides."""

    def __init__(self, port, context=None, *, sni="localhost", session=None, segment=0, sock=None):
        """Connect; ``segment`` bytes at most go into each send (0: all at once)."""
        self.sock = sock or connect(port)
        self.port = self.sock.getsockname()[1]
        self.segment = segment
        self.tls = SSL.Connection(context or client_context(), None)
        self.tls.set_connect_state()
        if sni:
            self.tls.set_tlsext_host_name(sni.encode())
        if session:
            self.tls.set_session(session)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Freed without a word, OpenSSL would not let its session be resumed.
        self.tls.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
        self.sock.close()

    def handshake(self, glued=b""):
        """Shake hands; ``glued`` goes out in one send with our last flight."""
        while True:
            try:
                self.tls.do_handshake()
            except SSL.WantReadError:
                self.flush()
                self.feed()
            else:
                break
        if glued:
            self.tls.sendall(glued)
        self.flush()
        return self

    def flush(self):
        """Send what OpenSSL has to send."""
        data = b""
        with contextlib.suppress(SSL.WantReadError):
            while True:
                data += self.tls.bio_read(1 << 20)
        self.send_raw(data)

    def send_raw(self, data):
        """Send bytes as they are, in segments."""
        step = self.segment or max(len(data), 1)
        for start in range(0, len(data), step):
            self.sock.sendall(data[start : start + step])

    def feed(self):
        """Give OpenSSL what comes next; raises ConnectionError at the end of the stream."""
        data = self.sock.recv(65_536)
        if not data:
            raise ConnectionAbortedError("end of file without close_notify")
        self.tls.bio_write(data)

    def send(self, data, *, records=0):
        """Encrypt and send; ``records`` bytes at most go into each record (0: 16384)."""
        step = records or max(len(data), 1)
        for start in range(0, len(data), step):
            self.tls.sendall(data[start : start + step])
        self.flush()

    def recv(self):
        """Receive plain bytes; nothing after close_notify.

        Raises ConnectionAbortedError at an end without it.
        """
        while True:
            try:
                return self.tls.recv(65_536)
            except SSL.WantReadError:
                self.flush()
                self.feed()
            except SSL.ZeroReturnError:
                return b""

    def close_notify(self):
        self.tls.shutdown()
        self.flush()

    @property
    def is_resumed(self):
        return is_session_reused(self.tls)
