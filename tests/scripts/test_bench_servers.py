"""Starting and stopping: what must be there first, what a failure says, and that nothing is left."""

import os
import signal
import socket
import stat
import subprocess
import sys

import pytest
from bench.machine import BenchError
from bench.measure import family
from bench.peers import Peer
from bench.servers import KEYS, Setting, free_port, make_certificates, run_server, stop

from ktlsgate.config import Certificate
from ktlsgate.service.certificates import load_identity

CPU = min(os.sched_getaffinity(0))

ACCEPTING = """\
import signal, socket, sys
sock = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    signal.pause()
"""


def peer(text: str) -> Peer:
    """A server that is this Python program."""
    return Peer(
        name="fake",
        title="fake",
        configure=lambda site: (
            f"port {site.port}, {site.is_keyless}, {site.group}, {site.pair.name}\n"
        ),
        command=lambda site, file: [sys.executable, "-c", text, str(site.port), str(file)],
    )


def run(text, folder, port):
    return run_server(
        peer(text), "mlkem", Setting(folder=folder, programs=folder, cpu=CPU), port=port
    )


def test_certificates_of_both_kinds_are_such_as_the_gate_takes(tmp_path):
    make_certificates(tmp_path)
    for key in {keys.certificate for keys in KEYS.values()}:
        identity = load_identity(
            Certificate(file=f"{tmp_path}/{key}.crt", key=f"{tmp_path}/{key}.key")
        )
        assert identity.warnings == ()
        pair = (tmp_path / f"{key}.pem").read_bytes()
        assert pair.count(b"-----BEGIN") == 2


def test_private_keys_are_their_owners_alone(tmp_path):
    make_certificates(tmp_path)
    for name in ("ec.key", "ec.pem", "rsa.key", "rsa.pem"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_port_is_free_and_never_given_twice():
    taken: set[int] = set()
    first = free_port(taken)
    with socket.create_server(("127.0.0.1", first)):
        assert free_port(set()) > first, "somebody listens there"
    second = free_port(taken)
    assert second > first
    assert taken == {first, second}
    assert 18_000 <= first < second < 32_768, "below the ephemeral ones"


def test_a_server_runs_on_its_cpu_with_its_configuration_until_the_block_ends(tmp_path):
    port = free_port(set())
    with run(ACCEPTING, tmp_path, port) as server:
        pids = family(server.pid)
        assert server.pids == pids
        assert os.sched_getaffinity(server.pid) == {CPU}
        with socket.create_connection(("127.0.0.1", port)):
            pass
    said = (tmp_path / "fake-mlkem" / "config").read_text()
    assert said == f"port {port}, True, X25519MLKEM768, ec.pem\n"
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_a_server_that_ends_at_once_is_an_error_with_what_it_said(tmp_path):
    text = "import sys; sys.exit('no such directive')"
    with (
        pytest.raises(BenchError, match=r"^python\S* did not start: no such directive$"),
        run(text, tmp_path, free_port(set())),
    ):
        pass


STUBBORN = """\
import os, signal
os.fork()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, b".")
while True:
    signal.pause()
"""


def test_what_ignores_the_signal_is_killed_and_its_children_with_it():
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
    with process.stdout as said:
        assert said.read(1) + said.read(1) == b"..", "both ignore it"
        stop(process, patience=0)
        assert process.returncode == -signal.SIGKILL
        assert said.read() == b"", "nobody has the other end any more"
