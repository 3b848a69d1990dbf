"""HTTP/1.1 on a handed-over connection: h11 does the framing.

The first request's head came with the handoff, so it is built again and fed to
h11; everything behind it, later requests included, h11 reads from the stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import h11

from .trio_connection import ClientConnection

__all__ = ["HttpConnection", "build_head"]

_MAX_HEAD = 1 << 16  # the gate's own limit is 32 KiB; h11's 16 KiB would be less


def build_head(environ: Mapping[str, str]) -> bytes:
    """Write the request head that a handoff was made from, as far as its names tell."""
    version = environ.get("SERVER_PROTOCOL", "HTTP/1.1")
    lines = [f"{environ['REQUEST_METHOD']} {environ['REQUEST_URI']} {version}"]
    lines += [
        f"{name.removeprefix('HTTP_').replace('_', '-').title()}: {value}"
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class _FilePart:
    """Stands for bytes that sendfile sends: h11 only counts them."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


class HttpConnection:
    """Requests in, responses out.

    Attributes:
        stream: the client's connection.
        request: the request that is being answered.
    """

    def __init__(self, stream: ClientConnection) -> None:
        self.stream = stream
        self.request: h11.Request | None = None
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self._h11.receive_data(build_head(stream.environ))

    @property
    def trailing_data(self) -> bytes:
        """What was read behind the head of an upgrade request."""
        return self._h11.trailing_data[0]

    @property
    def can_answer(self) -> bool:
        """Whether no response was begun yet."""
        return self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE)

    async def next_request(self) -> h11.Request | None:
        """Wait for the next request; None when there is none.

        Raises:
            h11.RemoteProtocolError: it is malformed.
        """
        event = await self._next_event()
        self.request = event if isinstance(event, h11.Request) else None
        return self.request

    async def read_body(self) -> bytes:
        """Receive a piece of the request's body; nothing at its end.

        Raises:
            h11.RemoteProtocolError: it is malformed, or ends too early.
        """
        while True:
            event = await self._next_event()
            if not isinstance(event, h11.Data):
                return b""
            if event.data:
                return bytes(event.data)

    async def begin(self, status: int, headers: list[tuple[str, str]]) -> None:
        """Send the head of a response."""
        if self.stream.keepalive == "single":
            headers = [*headers, ("Connection", "close")]
        await self._send(h11.Response(status_code=status, headers=headers))

    async def send_body(self, data: bytes) -> None:
        """Send a piece of the response's body, unless it has none (HEAD)."""
        if self._has_body:
            await self._send(h11.Data(data=data))

    async def send_file(self, file: int, size: int) -> None:
        """Send the first ``size`` bytes of a file as the response's body."""
        if self._has_body:
            part = h11.Data(data=cast("bytes", _FilePart(size)))
            self._h11.send_with_data_passthrough(part)
            await self.stream.sendfile(file, 0, size)

    async def end(self) -> bool:
        """End the response; whether the connection can take another request."""
        await self._send(h11.EndOfMessage())
        # What is left of a body must be read, for the next request is behind it.
        while self._h11.their_state is h11.SEND_BODY and self._h11.our_state is h11.DONE:
            await self._next_event()
        if (self._h11.our_state, self._h11.their_state) != (h11.DONE, h11.DONE):
            return False
        self._h11.start_next_cycle()
        return True

    @property
    def _has_body(self) -> bool:
        return self.request is None or self.request.method != b"HEAD"

    async def _send(self, event: h11.Event) -> None:
        data = self._h11.send(event)
        if data:
            await self.stream.send_all(data)

    async def _next_event(self) -> object:
        while True:
            event = self._h11.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self._h11.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._h11.receive_data(await self.stream.receive_some())
