"""Sessions of the gate inside the test's own process: real sockets, a fake backend.

    context = make_context(backend.address)
    async with open_session(context) as session:
        await session.client.send_all(b"GET / ...")
        head, sock, unix = await backend.take()
    assert session.report.event is Event.HANDOFF

Nothing here waits for time: every wait is for bytes, or for a task's end.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import socket
import ssl

import outcome
import trio
import trio.testing
from helpers.identities import Authority

from ktlsgate.config import Backend, Dialect, Limits, Listener, Route, Tls
from ktlsgate.gate.client import RelayedClient
from ktlsgate.gate.context import SessionContext
from ktlsgate.gate.disposal import Disposal
from ktlsgate.gate.fibers import Fibers
from ktlsgate.gate.handshake import perform_handshake
from ktlsgate.gate.session import run_session
from ktlsgate.kernel.ancillary import recv_fds
from ktlsgate.kernel.probe import OffloadTable
from ktlsgate.metrics import Metrics
from ktlsgate.wire.handoff_scgi import HandoffReader
from ktlsgate.wire.handshake import Handshake
from ktlsgate.wire.tls_context import build_server_context

REQUEST = b"GET /x?y=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
NO_KTLS = OffloadTable.none("there is none in this test")


@functools.cache
def authority():
    return Authority()


@functools.cache
def identity():
    return authority().issue("localhost")


@functools.cache
def server_context(**tls):
    """The gate's OpenSSL context."""
    return build_server_context(Tls(**tls), identity().chain, identity().key)


def client_context(version=None):
    """A client's; it knows the authority."""
    context = ssl.create_default_context(cadata=authority().pem.decode())
    # Some Pythons take an end without close_notify for a clean one, unless told not to.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def make_backend(address, **changes):
    return Backend(name="app", addresses=(str(address),), **changes)


def make_context(
    backend="/nowhere",
    *,
    tls=True,
    table=NO_KTLS,
    limits=None,
    dialect=Dialect.KTLSGATE,
    listener=None,
    report=None,
    **changes,
):
    """What sessions share; reports are kept in ``context.metrics`` and the given list."""
    if not isinstance(backend, Backend):
        backend = make_backend(backend, dialect=dialect)
    return SessionContext.make(
        listener=Listener(address="127.0.0.1:0", tls=tls, **(listener or {})),
        tls=server_context() if tls else None,
        table=table,
        routes=(Route(backend=backend, **changes),),
        limits=limits or Limits(),
        metrics=Metrics(),
        disposal=Disposal(),
        report=report or (lambda _: None),
    )


def tcp_pair(*, small=False):
    """Two connected TCP sockets that do not block; ``small`` buffers both ways."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.socket()
        if small:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
    client.setblocking(False)
    server.setblocking(False)
    return client, server


class OneByteSegments(trio.abc.Stream):
    """Sends every byte by itself, and lets the other side read it first."""

    def __init__(self, inner):
        self.inner = inner

    async def send_all(self, data):
        for byte in data:
            await self.inner.send_all(bytes((byte,)))
            await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self):
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes=None):
        return await self.inner.receive_some(max_bytes)

    async def aclose(self):
        await self.inner.aclose()


def reset(sock):
    """Close with RST."""
    sock = getattr(sock, "socket", sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


class Session:
    """One session and the client's end of it."""

    def __init__(self, client, reports):
        self.client = client  # a trio.SocketStream
        self.reports = reports
        self.scope = trio.CancelScope()
        self.done = trio.Event()

    @property
    def report(self):
        (report,) = self.reports
        return report

    async def start_tls(self, version=None):
        """Do the client's handshake; the stream of plain bytes."""
        stream = trio.SSLStream(self.client, client_context(version), server_hostname="localhost")
        await stream.do_handshake()
        return stream


@contextlib.asynccontextmanager
async def open_fibers():
    """Run fibers; afterwards stop those that are left."""
    async with trio.open_nursery() as running:
        fibers = Fibers()
        running.start_soon(fibers.run)
        yield fibers
        running.cancel_scope.cancel()


async def in_fiber(function, *args, **keywords):
    """Run a coroutine function as a fiber until it has ended: its result, or its exception."""
    ended, outcomes = trio.Event(), []

    async def job():
        try:
            outcomes.append(outcome.Value(await function(*args, **keywords)))
        except Exception as exc:
            outcomes.append(outcome.Error(exc))
        ended.set()

    async with open_fibers() as fibers:
        fibers.start(job())
        await ended.wait()
    return outcomes[0].unwrap()


@contextlib.asynccontextmanager
async def open_session(context, number=1):
    """Run a session with a client; leaves when it has ended and reported."""
    ours, theirs = tcp_pair()
    reports = []
    context = _with_report(context, reports.append)
    session = Session(trio.SocketStream(trio.socket.from_stdlib_socket(ours)), reports)

    async def run():
        """Until the end of what goes on behind it, too: a relay."""
        with session.scope:
            async with open_fibers() as fibers:
                remote = ("192.0.2.7", 40000)
                fibers.start(run_session(context, theirs, remote, number, session.done.set))
                await session.done.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        try:
            yield session
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(10):
                await session.done.wait()
    await session.client.aclose()


def _with_report(context, report):
    import dataclasses

    return dataclasses.replace(context, report=report)


async def receive(sock):
    """What a raw socket has next."""
    await trio.lowlevel.wait_readable(sock)
    return sock.recv(65_536)


async def read_all(stream):
    """Everything up to the end; the bytes."""
    data = b""
    while piece := await stream.receive_some(65536):
        data += piece
    return data


async def read_exactly(stream, size):
    data = b""
    while len(data) < size:
        piece = await stream.receive_some(size - len(data))
        assert piece, f"expected {size} bytes, got {data!r}"
        data += piece
    return data


class FakeBackend:
    """A Unix listener that takes handoffs by hand."""

    def __init__(self, folder: pathlib.Path, backlog=16):
        self.address = str(folder / "backend.sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.address)
        self.listener.listen(backlog)
        self.listener.setblocking(False)
        self.owned = []

    async def accept(self):
        """The next Unix connection, nothing read."""
        while True:
            try:
                unix, _ = self.listener.accept()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.listener)
                continue
            unix.setblocking(False)
            self.owned.append(unix)
            return unix

    async def take(self, unix=None, *, chunk=65536):
        """Read a whole head; its names, the descriptor as a socket, the Unix connection."""
        unix = unix or await self.accept()
        reader, fds, head = HandoffReader(), [], None
        while head is None:
            try:
                data, more, _ = recv_fds(unix, min(reader.wanted, chunk), 4)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(unix)
                continue
            assert data, "the gate closed before the head was whole"
            assert not (fds and more), "expected one descriptor, on the first byte"
            fds += more
            head = reader.receive_data(data)
        (fd,) = fds
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        self.owned.append(sock)
        return head, sock, unix

    def close(self):
        for sock in [*self.owned, self.listener]:
            if sock.fileno() >= 0:
                trio.lowlevel.notify_closing(sock)
                sock.close()


@contextlib.contextmanager
def open_backend(folder, backlog=16):
    backend = FakeBackend(folder, backlog)
    try:
        yield backend
    finally:
        backend.close()


def close(sock):
    """Close a raw socket that trio may have waited on."""
    trio.lowlevel.notify_closing(sock)
    sock.close()


def stream(sock):
    """A trio stream over a raw socket."""
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


async def relayed_pair(*, kernel_sends=False, version=None, small=False):
    """A handshake over TCP; the gate's `RelayedClient` and the client's SSLStream."""
    ours, theirs = tcp_pair(small=small)
    handshake = Handshake(server_context())
    plain = stream(ours)
    tls = trio.SSLStream(plain, client_context(version), server_hostname="localhost")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tls.do_handshake)
        await in_fiber(perform_handshake, theirs, handshake)
    return RelayedClient(theirs, handshake.into_record_layer(), kernel_sends=kernel_sends), tls


def epoll_targets():
    """Descriptors that Trio's epoll still watches (``tfd:`` lines of fdinfo)."""
    found = []
    for path in pathlib.Path("/proc/self/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            lines = path.read_text().splitlines()
            found += [line.split()[1] for line in lines if line.startswith("tfd:")]
    return sorted(found)


def own_descriptors():
    return sorted(os.listdir("/proc/self/fd"), key=int)
