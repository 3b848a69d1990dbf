"""How each cell of the matrix is made: the gates, the client's part, what came of it.

    with start_bench(folder) as bench:
        seen = bench.observe(cell)

One connection says everything: a head that announces a body, the backend's answer about
its socket, then the body, then its hash and bytes to hash here. Wrong keys or numbers in
either direction could not pass that. Each shape proves that it took place.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from dataclasses import dataclass

from helpers.backends import digest, pattern
from helpers.clients import WAIT, SClient, TlsClient, client_context, request
from helpers.front import ALL_CIPHERS, start_front
from helpers.matrix import SMALL_RECORDS, TLS12

_UP, _DOWN = 20_000, 40_000
_GLUED = 12_000  # with its head still one record, so that the numbers do not depend on time

# Without P-521, so that a client whose key share is for P-521 is asked again.
OPENSSL_CONFIG = """
openssl_conf = top
[top]
ssl_conf = ssl
[ssl]
system_default = tls
[tls]
Groups = X25519:P-256:P-384
"""

# One listener for each engine, in this order.
_GATE = """
log_format = "json"
[tls]
{tls}
[[cert]]
file = "{folder}/server.pem"
key = "{folder}/server.key"
{listeners}
[[route]]
backend = "app"
[backend.app]
address = "{backend}"
"""
_LISTENER = """
[[listen]]
address = "127.0.0.1:0"
engine = "{engine}"
"""

# What the gates differ in.
_GATES = {
    "plain": "",
    "stateful": "tickets = false",
    "verifying": 'client_verify = "required"\nclient_ca = "{folder}/ca.pem"',
}


def gate_text(engines, tls=""):
    """A gate's configuration, for `start_front` to complete."""
    listeners = (_LISTENER.replace("{engine}", engine) for engine in engines)
    text = _GATE.replace("{listeners}", "".join(listeners))
    return text.replace("{tls}", ALL_CIPHERS + tls)


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a connection turned out to be.

    Attributes:
        facts: the backend's answer about its socket.
        report: the gate's.
        up: what the backend read, as size and hash.
        sent: the body that it was to read.
        down: what was behind.
    """

    facts: dict
    report: dict
    sent: bytes
    up: dict
    down: bytes

    @property
    def label(self):
        """The mode that the backend was told, and the gate's reason where it has one."""
        mode, fallback = self.facts["environ"]["KTLSGATE_MODE"], self.report.get("fallback", "")
        return f"{mode} {fallback}".strip()

    @property
    def sequences(self):
        """The kernel's numbers when the head had arrived: sending, receiving."""
        return self.facts["tx_seq"], self.facts["rx_seq"]

    def check_data(self):
        """Every byte arrived, both ways."""
        assert self.up == {"size": len(self.sent), "sha256": digest(self.sent)}
        assert (len(self.down), digest(self.down)) == (_DOWN, digest(pattern(_DOWN)))


class _Attempt:
    """One cell in the making: its gate and the ways to connect to it."""

    def __init__(self, bench, cell):
        self.bench = bench
        self.cell = cell
        self.gate = SHAPES[cell.shape].gate
        self.front = bench.fronts[self.gate]
        self.port = bench.port(self.gate, cell.engine)
        self.target = self.front.target(f"/cell?n={_DOWN}")
        self.context = self._context()

    def _context(self):
        version, level = self.cell.version, "@SECLEVEL=0"
        how = {"version": f"TLSv{version}", "identity": self.bench.identity(self.cell.shape)}
        if version == TLS12:
            return client_context(ciphers=f"{self.cell.suite}:{level}", **how)
        return client_context(ciphers=f"ALL:{level}", suites=self.cell.suite, **how)

    def client(self, **how):
        return TlsClient(self.port, self.context, **how)

    def session(self):
        """A session, from a connection that is over."""
        target = self.front.target("/cell?n=0")
        with self.client() as client:
            client.handshake().ask(request(target))
        self.front.report(target)
        return client.tls.get_session()

    def s_client(self, *arguments):
        return SClient(self.port, *self.options(), *arguments, ca=self.front.ca)

    def options(self):
        """The version and the cipher as s_client wants them."""
        if self.cell.version == TLS12:
            return ["-tls1_2", "-cipher", f"{self.cell.suite}:@SECLEVEL=0"]
        return ["-tls1_3", "-cipher", "ALL:@SECLEVEL=0", "-ciphersuites", self.cell.suite]

    def request(self, body):
        """The request: its head, and the body that it announces."""
        length = f"Content-Length: {len(body)}"
        return request(self.target, length, method="POST")

    def converse(self, client):
        """The head, the backend's facts, and only then the body; the parts of an answer."""
        body = pattern(_UP)
        client.send(self.request(body))
        answer = _read_until(client, rb"\n\{.*\}\n")
        client.segment = 0
        client.send(body)
        return body, _read_rest(client, answer)

    def hear(self, client, body):
        """The parts of an answer to all that was sent already."""
        return body, _read_rest(client, b"")


_PARTS = re.compile(rb"\r?\n(\{[^\n]*\})\n(\{[^\n]*\})\n", re.DOTALL)


def _read_until(client, wanted):
    data = b""
    while not re.search(wanted, data):
        piece = client.recv()
        assert piece, f"the connection ended behind {data[-1000:]}"
        data += piece
    return data


def _read_rest(client, data):
    """Read to the last byte announced: facts, size and hash, bytes."""
    while not (found := _PARTS.search(data)) or len(data) - found.end() < _DOWN:
        piece = client.recv()
        assert piece, f"the connection ended behind {data[-1000:]}"
        data += piece
    facts, up = (json.loads(line) for line in found.groups())
    return facts, up, data[found.end() :][:_DOWN], data[: found.start()]


def _full(attempt, **how):
    with attempt.client(**how) as client:
        return attempt.converse(client.handshake())


def _resumed(attempt):
    with attempt.client(session=attempt.session()) as client:
        client.handshake()
        assert client.is_resumed
        return attempt.converse(client)


def _segments(attempt):
    """Every byte of the handshake and of the head comes alone."""
    return _full(attempt, segment=1)


def _hello_retry(attempt):
    """Two ClientHellos in one handshake (RFC 8446 4.1.4)."""
    messages = attempt.front.folder / "messages"
    what = ["-quiet", "-groups", "P-521:P-256", "-msg", "-msgfile", str(messages)]
    with attempt.s_client(*what) as client:
        seen = attempt.converse(client)
    assert len(re.findall(r"^>>> .*ClientHello", messages.read_text(), re.MULTILINE)) == 2
    return seen


def _early_data(attempt):
    """The ticket is another server's and promises 0-RTT; what came early is skipped."""
    early = attempt.front.folder / "early"
    early.write_bytes(b"E" * 5000)
    session = attempt.bench.tickets.take(attempt.options())
    # Without -quiet: s_client says what became of the early data.
    with attempt.s_client("-sess_in", str(session), "-early_data", str(early)) as client:
        body, parts = attempt.converse(client)
    assert b"Early data was rejected" in parts[-1]
    return body, parts


def _small_records(attempt):
    with attempt.s_client("-quiet", "-maxfraglen", "512") as client:
        return attempt.converse(client)


def _glued(attempt):
    """Finished and request in one segment; in TLS 1.2 the client's is last when it resumes."""
    body = pattern(_GLUED)
    session = attempt.session() if attempt.cell.version == TLS12 else None
    with attempt.client(session=session) as client:
        client.handshake(glued=attempt.request(body) + body)
        return attempt.hear(client, body)


def _fin(attempt):
    """All that the client will ever send, and its end, without waiting for anything."""
    body = pattern(_GLUED)
    with attempt.client() as client:
        client.handshake()
        client.send(attempt.request(body) + body)
        client.half_close()
        return attempt.hear(client, body)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a client behaves, and before which gate."""

    make: object
    gate: str = "plain"


SHAPES = {
    "full": Shape(make=_full),
    "ticket": Shape(make=_resumed),
    "stateful": Shape(make=_resumed, gate="stateful"),
    "hello_retry": Shape(make=_hello_retry),
    "client_certificate": Shape(make=_full, gate="verifying"),
    "large_chain": Shape(make=_full, gate="verifying"),
    "early_data": Shape(make=_early_data),
    "glued": Shape(make=_glued),
    "segments": Shape(make=_segments),
    "fin": Shape(make=_fin),
    SMALL_RECORDS: Shape(make=_small_records),
}


class Tickets:
    """An `openssl s_server` whose tickets allow 16 kB of early data."""

    def __init__(self, folder):
        self._file = folder / "early.session"
        command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-tls1_3", "-early_data"]
        command += ["-max_early_data", "16384", "-cert", "server.pem", "-key", "server.key"]
        command += ["-cipher", "ALL:@SECLEVEL=0", "-ciphersuites", _SUITES, "-naccept", "1"]
        self._command, self._folder = command, folder

    def take(self, options):
        """A file with a ticket for s_client with these options."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(self._command, cwd=self._folder, **pipes) as process:
            try:
                port = int(_line_with(process, b"ACCEPT").rpartition(b":")[2])
                self._connect(process, port, options)
            finally:
                process.kill()
        return self._file

    def _connect(self, process, port, options):
        client = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-ign_eof", *options]
        client += ["-servername", "localhost", "-sess_out", str(self._file)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
        with subprocess.Popen(client, **pipes) as other:
            _line_with(process, b"CIPHER is")
            process.stdin.write(b"Q\n")  # closes the connection, so s_client ends
            process.stdin.flush()
            other.communicate(timeout=WAIT)


def _line_with(process, word):
    while word not in (line := process.stdout.readline()):
        assert line, f"the process ended before it said {word}"
    return line


_SUITES = re.search(r'ciphersuites = "(.*)"', ALL_CIPHERS)[1]


class Bench:
    """The gates that serve the cells, each with a listener for every engine."""

    def __init__(self, fronts, engines):
        self.fronts = fronts
        self._engines = engines
        self._seen = {}
        authority = fronts["verifying"].authority
        names = [f"host-{number:04}.example" for number in range(3000)]
        self._identities = {
            "client_certificate": authority.issue("alice.example"),
            "large_chain": authority.issue(*names),  # 56 kB
        }
        self.tickets = Tickets(fronts["plain"].folder)

    def port(self, gate, engine):
        return self.fronts[gate].gate.ports[self._engines.index(engine)]

    def identity(self, shape):
        """The client's certificate."""
        return self._identities.get(shape)

    def observe(self, cell):
        """Make the connection; once, for however many tests look at it."""
        if cell not in self._seen:
            attempt = _Attempt(self, cell)
            sent, (facts, up, down, _) = SHAPES[cell.shape].make(attempt)
            report = attempt.front.report(attempt.target)
            self._seen[cell] = Observation(facts=facts, report=report, sent=sent, up=up, down=down)
        return self._seen[cell]


@contextlib.contextmanager
def start_bench(folder, engines):
    """Start the gates; they end at the end."""
    file = folder / "openssl.cnf"
    file.write_text(OPENSSL_CONFIG)
    with contextlib.ExitStack() as stack:
        fronts = {}
        for name, tls in _GATES.items():
            (folder / name).mkdir()
            how = {"listeners": len(engines), "env": {"OPENSSL_CONF": str(file)}}
            front = start_front(folder / name, config=gate_text(engines, tls), **how)
            fronts[name] = stack.enter_context(front)
        yield Bench(fronts, engines)
