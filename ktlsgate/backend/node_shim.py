"""Gives connections to Node.js: ``python -m ktlsgate.backend.node_shim --socket PATH``.

Node cannot receive descriptors on a socket, only over the channel to a child process that
it started with ``ipc``. So Node starts this program: it takes the handoffs, and what
``child.on("message", (message, socket) => ...)`` gives is each client as a ``net.Socket``.

Messages, as JSON:

* ``{"listening": PATH}`` once, when connections can be taken;
* ``{"environ": {...}, "head": "GET / HTTP/1.1 ..."}`` with a socket: all names and
  values, and the request's head written again, for ``socket.unshift(head, "latin1")``.
  Where the handoff is for one request only, it says ``Connection: close``, which makes
  any server end the connection behind its answer.

By mode: in PLAIN and BOTH the socket is the client's own, in RELAY the gate's end of a
pair; this program keeps nothing of them. Node has one descriptor for both directions, so
in TX it gets one end of a pair of ours, and the bytes are copied here.

Of ends Node knows no more than FIN. So in RELAY `FINISHED` is said at once: however the
descriptor is closed, the gate takes that for the end that Node wanted.

It ends when the channel does, that is with Node, and removes its socket's file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence

import trio

from ..errors import ConfigError
from ..wire.handoff import Mode
from ..wire.handoff_scgi import ReceivedHead
from .arrival import ReceivedHandoff
from .receiver import Receiver
from .trio_connection import ClientConnection
from .unix_listener import bind_unix_listener
from .verdict import Verdict

__all__ = ["Channel", "build_request", "main"]

_log = logging.getLogger("ktlsgate.backend")

_CHANNEL = "NODE_CHANNEL_FD"
_SERIALIZATION = "NODE_CHANNEL_SERIALIZATION_MODE"


def build_request(head: ReceivedHead) -> str:
    """Write the request's head again, for a server that reads it from the connection.

    Returns:
        Text of which each character is a byte (Latin-1).
    """
    environ = dict(head.environ)
    if head.is_single:
        # An upgrade is no second request, and goes on if the server accepts it.
        environ["HTTP_CONNECTION"] = "close, upgrade" if "HTTP_UPGRADE" in environ else "close"
    version = environ.get("SERVER_PROTOCOL", "HTTP/1.1")
    lines = [f"{environ['REQUEST_METHOD']} {environ['REQUEST_URI']} {version}"]
    lines += [
        f"{name[5:].replace('_', '-').title()}: {value}"
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    return "\r\n".join([*lines, "", ""])


class Channel:
    """Our end of Node's channel to a child process: lines of JSON, sockets beside them.

    Args (of the constructor):
        sock: the channel; the caller's to close.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = trio.socket.from_stdlib_socket(sock)
        self._lock = trio.Lock()  # a line of another task must not get into one of ours

    async def send(self, message: Mapping[str, object], sock: socket.socket | None = None) -> None:
        """Send a message, with a socket or without.

        Raises:
            OSError: Node is gone.
        """
        rights: list[tuple[int, int, bytes]] = []
        if sock is not None:
            message = {"cmd": "NODE_HANDLE", "type": "net.Socket", "msg": message}
            number = sock.fileno().to_bytes(4, sys.byteorder)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, number)]
        line = memoryview(json.dumps(message).encode() + b"\n")
        async with self._lock:
            sent = await self._sock.sendmsg([line], rights)
            while sent < len(line):
                sent += await self._sock.send(line[sent:])

    async def wait_closed(self) -> None:
        """Return when Node is gone; what it says until then are acknowledgements."""
        with contextlib.suppress(ConnectionError):
            while await self._sock.recv(65_536):
                pass


async def _give(received: ReceivedHandoff, channel: Channel) -> None:
    """Pass one handoff on to Node."""
    head = received.head
    message = {"environ": dict(head.environ), "head": build_request(head)}
    if head.mode is Mode.TX:
        await _give_copy(received, channel, message)
        return
    try:
        if received.unix is not None:
            Verdict(received.unix).send_finished()
        await channel.send(message, received.descriptor)
    finally:
        received.close()


async def _give_copy(
    received: ReceivedHandoff, channel: Channel, message: Mapping[str, object]
) -> None:
    """Give Node one end of a pair, and copy between the other and the client."""
    async with ClientConnection(received) as connection:
        ours, theirs = socket.socketpair()
        async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as near:
            with theirs:
                await channel.send(message, theirs)
            if not await _copy_both(near, connection):
                connection.abort()


async def _copy_both(near: trio.SocketStream, connection: ClientConnection) -> bool:
    """Copy until Node ends its output; whether it came so far."""
    is_complete = False
    async with trio.open_nursery() as nursery:

        async def copy_input() -> None:
            if not await _copy(connection, near):
                nursery.cancel_scope.cancel()

        nursery.start_soon(copy_input)
        is_complete = await _copy(near, connection)
        nursery.cancel_scope.cancel()
    return is_complete


async def _copy(source: trio.abc.ReceiveStream, target: trio.abc.HalfCloseableStream) -> bool:
    """Copy to the source's end, and pass that on; whether neither of them broke before."""
    with contextlib.suppress(trio.BrokenResourceError):
        async for data in source:
            await target.send_all(data)
        await target.send_eof()
        return True
    return False


async def _serve(receiver: Receiver, channel: Channel) -> None:
    """Take handoffs and pass them on until Node is gone."""
    await channel.send({"listening": receiver.listener.address})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_give_all, receiver, channel, nursery)
        await channel.wait_closed()
        nursery.cancel_scope.cancel()


async def _give_all(receiver: Receiver, channel: Channel, nursery: trio.Nursery) -> None:
    while True:
        received = receiver.advance(trio.current_time())
        if received is not None:
            nursery.start_soon(_give_or_log, received, channel)
            continue
        due = receiver.next_deadline
        with trio.move_on_at(math.inf if due is None else due):
            await trio.lowlevel.wait_readable(receiver.fileno())


async def _give_or_log(received: ReceivedHandoff, channel: Channel) -> None:
    try:
        await _give(received, channel)
    except OSError as exc:  # no descriptors, or Node is gone, which the channel's reader sees
        _log.warning("cannot give a connection to Node: %s", exc.strerror)


def _open_channel(environ: Mapping[str, str]) -> socket.socket:
    """Take the channel that Node opened for us.

    Raises:
        ConfigError: there is none, or it does not speak JSON.
    """
    number = environ.get(_CHANNEL, "")
    if not number.isdecimal():
        raise ConfigError(f"expected {_CHANNEL}: Node starts this program, with stdio 'ipc'")
    if environ.get(_SERIALIZATION, "json") != "json":
        raise ConfigError(f"expected serialization 'json', got {environ[_SERIALIZATION]!r}")
    try:
        return socket.socket(fileno=int(number))
    except OSError as exc:
        raise ConfigError(f"expected a socket as {_CHANNEL}: {exc.strerror}") from exc


def main(arguments: Sequence[str] | None = None) -> None:
    """Run; exits with status 1 when it cannot begin.

    Args:
        arguments: command line, None for this process's.
    """
    parser = argparse.ArgumentParser(
        prog="python -m ktlsgate.backend.node_shim",
        description="Give connections that a gate hands over to the Node.js that started this.",
    )
    parser.add_argument("--socket", required=True, help="path to listen on, or @NAME")
    parser.add_argument("--mode", type=_octal, default=0o660, help="of the socket (default 660)")
    parser.add_argument("--owner", help="owner of the socket")
    parser.add_argument("--group", help="group of the socket")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for Node, and we end with it
    complaints: list[str] = []
    try:
        with _open_channel(os.environ) as sock:
            listener = bind_unix_listener(
                options.socket, owner=options.owner, group=options.group, mode=options.mode
            )
            with contextlib.closing(Receiver(listener)) as receiver:
                trio.run(_serve, receiver, Channel(sock), strict_exception_groups=True)
    except* (ConfigError, OSError) as group:  # which catches it, whether Trio wraps it or not
        complaints += map(str, _leaves(group))
    if complaints:
        sys.exit("\n".join(complaints))


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc


def _octal(text: str) -> int:
    value = int(text, 8)
    if not 0 <= value <= 0o777:
        raise ValueError(text)
    return value


if __name__ == "__main__":
    main()
