"""A WebSocket that says everything back: wsproto does the framing."""

from __future__ import annotations

import h11
from wsproto import ConnectionType, WSConnection
from wsproto import events as ws

from .trio_connection import ClientConnection

__all__ = ["echo_websocket"]


def _reply(event: ws.Event) -> ws.Event | None:
    """Choose the answer to what the client said; None for none."""
    match event:
        case ws.Request():
            return ws.AcceptConnection()
        case ws.TextMessage():
            return ws.TextMessage(data=event.data, message_finished=event.message_finished)
        case ws.BytesMessage():
            return ws.BytesMessage(data=bytes(event.data), message_finished=event.message_finished)
        case ws.Ping() | ws.CloseConnection():
            return event.response()
        case _:
            return None


async def echo_websocket(
    stream: ClientConnection, request: h11.Request, trailing_data: bytes
) -> None:
    """Accept the upgrade and echo text, binary data and pings until the client closes.

    Args:
        stream: the client's connection, behind the head of ``request``.
        request: one that asks for an upgrade to WebSocket.
        trailing_data: what was read from the stream behind the head already.

    Raises:
        wsproto.utilities.RemoteProtocolError: the handshake or a frame is malformed.
    """
    connection = WSConnection(ConnectionType.SERVER)
    headers = [(bytes(name), bytes(value)) for name, value in request.headers]
    connection.initiate_upgrade_connection(headers, request.target.decode("latin-1"))
    data: bytes | None = trailing_data
    while True:
        for event in connection.events():
            reply = _reply(event)
            # 1006 is wsproto's word for a connection that ended without a close frame.
            is_lost = isinstance(event, ws.CloseConnection) and event.code == 1006
            if reply is not None and not is_lost:
                await stream.send_all(connection.send(reply))
            if isinstance(event, ws.CloseConnection):
                return
        # Before the upgrade is accepted wsproto takes no frames.
        connection.receive_data(data or await stream.receive_some() or None)
        data = None
