"""Starting and stopping: certificates, the backend, one process for each server.

Everything is started by us, in a folder that goes away with us, and stopped by its process id.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from .configs import Site
from .machine import BenchError, pinned
from .measure import family
from .peers import SYSTEM_PATH, Peer

__all__ = [
    "KEYS",
    "Keys",
    "Server",
    "Setting",
    "free_port",
    "make_certificates",
    "run_backend",
    "run_server",
    "stop",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What a server shakes hands with: the kind of its certificate's key, and a group."""

    certificate: str
    group: str


_GROUP = "X25519"
KEYS = {  # ec is P-256, rsa 2048 bits
    "ec": Keys(certificate="ec", group=_GROUP),
    "rsa": Keys(certificate="rsa", group=_GROUP),
    "mlkem": Keys(certificate="ec", group="X25519MLKEM768"),
}
_START_SECONDS = 20.0
_STOP_SECONDS = 5.0
_FIRST_PORT, _LAST_PORT = 18_000, 32_000  # below the ephemeral ones, which clients use up
_BACKEND_SECONDS = 7200
_OPEN_FILES = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all servers of a run share.

    Attributes:
        folder: with certificates and the backend's sockets.
        programs: the folder of what was compiled.
        cpu: where servers run.
        python: the interpreter that runs the gate; our own if empty.
        is_keyless: see `Site`.
        newest: see `Site`.
    """

    folder: Path
    programs: Path
    cpu: int
    python: str = ""
    is_keyless: bool = True
    newest: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One that runs; ``key`` is one of `KEYS`."""

    peer: Peer
    key: str
    port: int
    pid: int

    @property
    def pids(self) -> list[int]:
        """All its processes."""
        return family(self.pid)


def make_certificates(folder: Path) -> None:
    """Write KIND.crt, KIND.key and KIND.pem for each kind of key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
    keys: dict[str, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey] = {
        "ec": ec.generate_private_key(ec.SECP256R1()),
        "rsa": rsa.generate_private_key(65537, 2048),
    }
    for kind, key in keys.items():
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - day).not_valid_after(now + day)
        alternative = x509.SubjectAlternativeName([x509.DNSName("localhost")])
        builder = builder.add_extension(alternative, critical=False)
        certificate = builder.sign(key, hashes.SHA256())
        public = certificate.public_bytes(serialization.Encoding.PEM)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        for suffix, data in (("crt", public), ("key", private), ("pem", public + private)):
            file = folder / f"{kind}.{suffix}"
            file.touch(mode=0o600)
            file.write_bytes(data)


def free_port(taken: set[int]) -> int:
    """Find a port that nobody listens on, and note it.

    Raises:
        BenchError: there is none.
    """
    for port in range(_FIRST_PORT, _LAST_PORT):
        if port in taken:
            continue
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            taken.add(port)
            return port
    raise BenchError("no free port on 127.0.0.1")


def _raise_open_files() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = _OPEN_FILES if most == resource.RLIM_INFINITY else min(_OPEN_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _start(command: Sequence[str], cpu: int, log: Path) -> subprocess.Popen[bytes]:
    scripts = str(Path(__file__).parents[1])
    paths = [scripts, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    environment["PATH"] = f"{environment.get('PATH', '')}:{SYSTEM_PATH}"
    with pinned(cpu), log.open("wb") as output:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,  # Ctrl-C is for us, and we stop them
        )


def stop(process: subprocess.Popen[bytes], patience: float = _STOP_SECONDS) -> None:
    """Send TERM to a process and, if it does not end in time, KILL to all of its family."""
    members = family(process.pid)
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _accepts(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def _running(
    command: Sequence[str], cpu: int, log: Path, ready: Sequence[Path | int]
) -> Iterator[int]:
    """Run a process as long as the block; its process id, once what it makes is there."""
    process = _start(command, cpu, log)
    try:
        deadline = time.monotonic() + _START_SECONDS
        waiting = list(ready)
        while waiting:
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(encoding="utf-8", errors="replace").strip()[-400:]
                raise BenchError(f"{Path(command[0]).name} did not start: {said}")
            first = waiting[0]
            if first.exists() if isinstance(first, Path) else _accepts(first):
                waiting.pop(0)
            else:
                time.sleep(0.02)
        yield process.pid
    finally:
        stop(process)


@contextlib.contextmanager
def run_backend(folder: Path, programs: Path, cpu: int) -> Iterator[int]:
    """Run the backend on FOLDER/http.sock and FOLDER/handoff.sock; its process id."""
    sockets = [folder / "http.sock", folder / "handoff.sock"]
    command = [str(programs / "backend"), *map(str, sockets), str(_BACKEND_SECONDS)]
    with _running(command, cpu, folder / "backend.log", sockets) as pid:
        yield pid


def _site(setting: Setting, own: Path, keys: Keys, port: int) -> Site:
    folder, certificate = setting.folder, keys.certificate
    return Site(
        folder=own,
        port=port,
        group=keys.group,
        certificate=folder / f"{certificate}.crt",
        key=folder / f"{certificate}.key",
        pair=folder / f"{certificate}.pem",
        http=folder / "http.sock",
        handoff=folder / "handoff.sock",
        programs=setting.programs,
        python=setting.python or sys.executable,
        is_keyless=setting.is_keyless,
        newest=setting.newest,
    )


@contextlib.contextmanager
def run_server(peer: Peer, key: str, setting: Setting, *, port: int) -> Iterator[Server]:
    """Run one server on a port of 127.0.0.1, with one of `KEYS`.

    Raises:
        BenchError: it did not start, with what it said.
    """
    own = setting.folder / f"{peer.name}-{key}"
    own.mkdir(exist_ok=True)
    own.chmod(0o777)  # some change their user
    site = _site(setting, own, KEYS[key], port)
    file = own / "config"
    file.write_text(peer.configure(site), encoding="utf-8")
    _raise_open_files()
    with _running(peer.command(site, file), setting.cpu, own / "log", [port]) as pid:
        yield Server(peer=peer, key=key, port=port, pid=pid)
