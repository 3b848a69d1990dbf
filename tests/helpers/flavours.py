"""Both flavours of a handed-over connection behind one face, so that one table tests both."""

import trio

from ktlsgate.backend.arrival import ReceivedHandoff
from ktlsgate.backend.blocking_connection import BlockingClientConnection
from ktlsgate.backend.trio_connection import ClientConnection
from ktlsgate.errors import LocalProtocolError
from ktlsgate.wire.handoff_scgi import HandoffReader

PATIENCE = 5  # seconds for one call that is to succeed


def read_head(netstring):
    """Parse a head as a receiver does."""
    reader, head = HandoffReader(), None
    while head is None:
        data, netstring = netstring[: reader.wanted], netstring[reader.wanted :]
        head = reader.receive_data(data)
    return head


def received(netstring, descriptor, unix=None):
    """A taken handoff, without the listener and without the checks of the descriptor."""
    return ReceivedHandoff(head=read_head(netstring), descriptor=descriptor, unix=unix)


class Blocking:
    """The blocking flavour."""

    closed_error = LocalProtocolError

    def __init__(self, handoff, **options):
        self.connection = BlockingClientConnection(handoff, **options)
        self.connection.settimeout(PATIENCE)
        self.recv = self.connection.recv
        self.sendall = self.connection.sendall
        self.sendfile = self.connection.sendfile
        self.end_output = self.connection.shutdown_write
        self.close = self.connection.close
        self.abort = self.connection.abort

    def times_out(self, name, *arguments):
        """Whether a call is still waiting after a moment; it is given up then."""
        self.connection.settimeout(0.05)
        try:
            getattr(self, name)(*arguments)
        except TimeoutError:
            return True
        finally:
            self.connection.settimeout(PATIENCE)
        return False


class Trio:
    """The Trio flavour, each call in a run of its own."""

    closed_error = trio.ClosedResourceError

    def __init__(self, handoff, **options):
        self.connection = ClientConnection(handoff, **options)

    def recv(self, size):
        return self._run(self.connection.receive_some, size)

    def sendall(self, data):
        self._run(self.connection.send_all, data)

    def sendfile(self, *arguments):
        return self._run(self.connection.sendfile, *arguments)

    def end_output(self):
        self._run(self.connection.send_eof)

    def close(self):
        self._run(self.connection.aclose)

    def abort(self):
        async def abort():
            self.connection.abort()

        self._run(abort)

    def times_out(self, name, *arguments):
        """Whether a call is still waiting after a moment; it is cancelled then."""
        call = {"recv": "receive_some", "sendall": "send_all", "end_output": "send_eof"}

        async def run():
            with trio.move_on_after(0.05) as scope:
                await getattr(self.connection, call.get(name, name))(*arguments)
            return scope.cancelled_caught

        return trio.run(run)

    def _run(self, function, *arguments):
        async def run():
            with trio.fail_after(PATIENCE):
                return await function(*arguments)

        return trio.run(run)


FLAVOURS = [Blocking, Trio]
