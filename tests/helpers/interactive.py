"""Command-line clients that a test holds a conversation with: `openssl s_client`, `gnutls-cli`.

Both read commands between lines of input: ``k`` and ``K``, ``^rekey1^`` and ``^rekey^``
send a KeyUpdate, the second of each asks for one back.
"""

from __future__ import annotations

import contextlib
import fcntl
import queue
import shutil
import subprocess
import termios
import threading
import time

import pytest
from helpers.backends import WAIT


class Client:
    """A command-line client whose standard input and output the test holds."""

    def __init__(self, *command):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.output = b""
        self._pieces = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while piece := self.process.stdout.read1(65_536):
            self._pieces.put(piece)
        self._pieces.put(b"")

    def write(self, data):
        """One write, which the client reads by one read: commands stand at its beginning."""
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def wait_read(self):
        """Wait until the client has read all of its input, so that a command is read by itself."""
        deadline = time.monotonic() + WAIT
        while int.from_bytes(fcntl.ioctl(self.process.stdin, termios.FIONREAD, bytes(4)), "little"):
            assert time.monotonic() < deadline, "the client does not read its input"
            time.sleep(0.01)

    def wait_for(self, text):
        """Wait until the output has ``text``, and cut it off behind it."""
        while text not in self.output:
            piece = self._pieces.get(timeout=WAIT)
            assert piece, f"expected {text[:40]!r}, got the end behind {self.output[-300:]!r}"
            self.output += piece
        before, _, self.output = self.output.partition(text)
        return before

    def rest(self):
        """All that comes to the end."""
        while piece := self._pieces.get(timeout=WAIT):
            self.output += piece
        return self.output

    def end(self):
        """End its input, and wait until it has ended."""
        self.process.stdin.close()
        self.process.wait(WAIT)

    def close(self):
        self.process.kill()
        self.process.wait(WAIT)
        self._reader.join(WAIT)
        self.process.stdout.close()
        with contextlib.suppress(OSError):
            self.process.stdin.close()


@contextlib.contextmanager
def s_client(gate, *arguments):
    """`openssl s_client` in its interactive mode."""
    where = ["-connect", f"127.0.0.1:{gate.port}", "-servername", "localhost", "-tls1_3"]
    client = Client(
        "openssl", "s_client", *where, "-CAfile", str(gate.folder / "ca.pem"), *arguments
    )
    with contextlib.closing(client):
        yield client


@contextlib.contextmanager
def gnutls_cli(gate):
    """`gnutls-cli` that obeys commands in its input."""
    if not shutil.which("gnutls-cli"):
        pytest.skip("no gnutls-cli")
    client = Client(
        *["gnutls-cli", "--inline-commands", "--x509cafile", str(gate.folder / "ca.pem")],
        *["--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.3", "-p", str(gate.port), "127.0.0.1"],
    )
    with contextlib.closing(client):
        yield client
