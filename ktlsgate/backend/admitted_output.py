"""Sends for servers that do not wait, so that their end loses nothing.

What the kernel's TLS layer took but TCP did not is lost by an end that follows
(`ktlsgate.backend.client_output`), and a server that does not wait ends as soon as all of
its data was taken. So the last byte is not admitted until TCP has room: `send` says one
byte less, the server waits until the socket is writable and sends that byte again, which
is then counted and not sent.
"""

from __future__ import annotations

from .connection import HandedConnection

__all__ = ["AdmittedOutput"]


class AdmittedOutput:
    """Send on a connection, and admit only what no end can lose. Never waits."""

    def __init__(self, core: HandedConnection) -> None:
        self._core = core
        self._owed: int | None = None

    @property
    def is_owing(self) -> bool:
        """Whether a byte went that was not admitted: its sender has more to do."""
        return self._owed is not None

    def send(self, data: memoryview) -> int:
        """Send the beginning of ``data``, bytes; how many of them count as sent.

        Returns:
            As many; 0 for no data, and when a byte was owed and another one came.

        Raises:
            BlockingIOError: none count, for now.
            RemoteProtocolError: the connection is broken.
            LocalProtocolError: it is closed, or its output was ended.
        """
        self._core.check_writable()
        if not data:
            return 0
        if self._owed is not None:
            return self._admit(data[0])
        sent = self._core.send(data)
        try:
            self._core.flush()
        except BlockingIOError:
            self._owed = data[sent - 1]
            if sent == 1:
                raise
            return sent - 1
        return sent

    def _admit(self, again: int) -> int:
        self._core.flush()
        is_same, self._owed = again == self._owed, None
        return int(is_same)
