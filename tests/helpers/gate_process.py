"""The real gate as a process of its own: start it, read its log, end it.

    with start_gate(folder, routes={"/": socket_path}) as gate:
        curl https://localhost:{gate.port}/ ...
        report = gate.next_report()

Reading the log waits for a line (with a bound), so tests need no sleeps.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading

import pytest
from helpers.identities import Authority

WAIT = 60.0  # seconds; a guest of the lab is slow, a hung gate is a failure


class GateProcess:
    """A running ``ktlsgate run``."""

    def __init__(self, process: subprocess.Popen, folder: pathlib.Path):
        self.process = process
        self.folder = folder
        self.messages: list[dict] = []
        self._reports: queue.Queue[dict] = queue.Queue()
        self._listening: queue.Queue[int | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"event": "raw", "message": line.decode(errors="replace").rstrip()}
            self.messages.append(entry)
            text = entry.get("message", "")
            if text.startswith("listening on "):
                self._listening.put(int(text.rpartition(":")[2]))
            if "client" in entry:
                self._reports.put(entry)
        self._listening.put(None)

    @property
    def pid(self):
        return self.process.pid

    def wait_listening(self, count: int) -> list[int]:
        """The ports of that many listening sockets, in the order of the file."""
        ports = []
        for _ in range(count):
            port = self._listening.get(timeout=WAIT)
            assert port is not None, f"the gate ended: {self.messages}"
            ports.append(port)
        self.ports = ports
        self.port = ports[0]
        return ports

    def next_report(self) -> dict:
        """The next connection's log line, whole."""
        return self._reports.get(timeout=WAIT)

    def terminate(self, number=signal.SIGTERM) -> int:
        """Send a signal and wait; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(WAIT)


def require_view(pid: int) -> None:
    """Skip where this user may not look at what a gate has open.

    A gate is not dumpable, so that no traffic secret can be traced or dumped; its
    entries in /proc are root's then, even for the user who started it.
    """
    if not os.access(f"/proc/{pid}/fd", os.R_OK | os.X_OK):
        pytest.skip("only root may look at a gate's descriptors: it is not dumpable")


def tls_files(folder: pathlib.Path, kind="ecdsa") -> Authority:
    """Write ca.pem, server.pem, server.key; the authority."""
    authority = Authority()
    (folder / "ca.pem").write_bytes(authority.pem)
    authority.issue("localhost", "127.0.0.1", "::1", kind=kind).write(folder, "server")
    return authority


def gate_config(folder, *, backend, listen="", tls="", limits="", route="", dialect="ktlsgate"):
    """A configuration with one TLS listener on a free port; extra lines per table."""
    return f"""
log_format = "json"
[limits]
{limits}
[tls]
{tls}
[[cert]]
file = "{folder}/server.pem"
key = "{folder}/server.key"
[[listen]]
address = "127.0.0.1:0"
{listen}
[[route]]
backend = "app"
{route}
[backend.app]
address = "unix:{backend}"
dialect = "{dialect}"
"""


@contextlib.contextmanager
def start_gate(folder: pathlib.Path, config: str, *, listeners=1, env=None, user=None):
    """Run ``python -m ktlsgate run`` on a configuration text; ends it at the end."""
    path = folder / "ktlsgate.toml"
    path.write_text(config)
    process = subprocess.Popen(
        [sys.executable, "-m", "ktlsgate", "run", "-c", str(path)],
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
        cwd=folder,  # not the checkout: the installed package is what runs
        user=user,
    )
    gate = GateProcess(process, folder)
    try:
        gate.wait_listening(listeners)
        yield gate
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(WAIT)
        gate._reader.join(WAIT)
        process.stderr.close()
