r"""The receiving side: takes handoffs, gives connections. Needs no pyOpenSSL.

::

    UnixListener ──► Receiver ──► Arrival ──► ReceivedHandoff        one for both flavours
                                                   │
                  HandedConnection ◄───────────────┘                 never waits
                 (client_input, client_output, verdict, single)
                   ▲                        ▲
    ClientConnection (Trio)      BlockingClientConnection            wait for it
    HandoffListener, serve_trio  BlockingHandoffListener

    HandoffSocket ──► ClientSocket       around HandedConnection, too: sockets for
    (aio, middleware, hypercorn_trio)    servers that know nothing of handoffs

A server on Trio::

    async def handler(connection):
        if connection.environ["REQUEST_METHOD"] == "GET":
            await connection.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi\n")

    listener = HandoffListener(bind_unix_listener("/run/app.sock", group="ktlsgate"))
    trio.run(serve_trio, handler, listener)
"""
