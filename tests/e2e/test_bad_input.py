"""Clients that stop, babble and vanish; backends that fail in every way; starts that cannot work."""

import contextlib
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.backends import start_backend
from helpers.clients import (
    WAIT,
    PlainClient,
    TlsClient,
    client_context,
    connect,
    request,
    reset,
    status_of,
)
from helpers.front import start_front
from helpers.gate_process import gate_config, require_view, start_gate, tls_files
from helpers.identities import Authority
from OpenSSL import SSL

_SEED = int(os.environ.get("KTLSGATE_SEED", "20261120"))
_BAD_CLIENTS = 200
_TIMEOUT = 1.5

_BEHAVIOURS = {
    # what the backend does: status, reason
    "absent": (503, "backend_absent"),
    "not-listening": (503, "backend_absent"),
    "full": (503, "handoff_timeout"),
    "never-accept": (503, "handoff_timeout"),
    "hang-after-accept": (503, "handoff_timeout"),
    "hang-in-head": (503, "handoff_timeout"),
    "die-before-accept": (502, "backend_died"),
    "die-after-accept": (502, "backend_died"),
    "die-in-head": (502, "backend_died"),
    "close-after-accept": (502, "backend_died"),
    "close-in-head": (502, "backend_died"),
    "wrong-user": (502, "backend_wrong_user"),
}

_CONFIG = f"""
log_format = "json"
[limits]
handshake_timeout = {_TIMEOUT}
header_timeout = {_TIMEOUT}
handoff_timeout = 1
[[cert]]
file = "{{folder}}/server.pem"
key = "{{folder}}/server.key"
[[listen]]
address = "127.0.0.1:0"
[[listen]]
address = "127.0.0.1:0"
tls = false
""" + "".join(
    f"""
[[route]]
path = "/{name}"
backend = "{name}"
[backend.{name}]
address = "unix:{{folder}}/{name}.sock"
{"peer_uid = 54321" if name == "wrong-user" else ""}
"""
    for name in _BEHAVIOURS
)
_CONFIG += """
[[route]]
backend = "good"
[backend.good]
address = "{backend}"
"""


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    with start_front(tmp_path_factory.mktemp("bad"), config=_CONFIG, listeners=2) as front:
        yield front


def is_served(front):
    """Whether an ordinary client gets its answer."""
    target = front.target("/hash")
    with front.client() as client:
        answer = client.handshake().ask(request(target))
    front.report(target)
    return status_of(answer) == 200


def descriptors(pid):
    """What a process has open, each as its link."""
    require_view(pid)
    links = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(str(path.readlink()))
    return sorted(links)


def wait_until(condition, what):
    """Poll; only for what nothing announces."""
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


# Backends


@contextlib.contextmanager
def bad_backend(folder, name):
    """Something at a backend's address that behaves as its name says."""
    path = folder / f"{name}.sock"
    if name == "absent":
        yield
    elif name in ("not-listening", "full"):
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(path))
            if name == "full":
                listener.listen(0)
                _fill_queue(stack, path)
            yield
    else:
        behaviour = "serve" if name == "wrong-user" else name
        with start_backend(path, behaviour):
            yield
    path.unlink(missing_ok=True)


def _fill_queue(stack, path):
    while True:
        sock = stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.setblocking(False)
        try:
            sock.connect(str(path))
        except BlockingIOError:
            return


@pytest.mark.parametrize("listener", ["tls", "plain"])
@pytest.mark.parametrize("name", _BEHAVIOURS)
def test_client_of_a_failing_backend_gets_an_answer(front, name, listener):
    target = front.target(f"/{name}")
    with bad_backend(front.folder, name):
        port = front.gate.ports[("tls", "plain").index(listener)]
        client = PlainClient(port) if listener == "plain" else front.client(port=port)
        with client:
            client.handshake().send(request(target))
            answer, is_clean = client.read_all()
        report = front.report(target)
    status, reason = _BEHAVIOURS[name]
    assert status_of(answer) == status
    assert is_clean
    assert report["status"] == status
    assert (report["event"], report["reason"]) == ("backend_failed", reason)
    assert report["backend"] == name


def test_backend_that_comes_back_is_used_again(front):
    path = front.folder / "absent.sock"
    with start_backend(path), front.client() as client:
        target = front.target("/absent")
        assert status_of(client.handshake().ask(request(target))) == 200
    path.unlink()
    front.report(target)


# Clients

_STAGES = ("connected", "half-hello", "hello", "unfinished", "established", "half-head", "head")
_ACTS = ("stop", "garbage", "reset", "fin")


def go_to(stage, client, target):
    """Take a fresh client as far as a stage; what it sends later is the test's business."""
    if stage == "connected":
        return
    hello = b""
    with contextlib.suppress(SSL.WantReadError):
        client.tls.do_handshake()
    with contextlib.suppress(SSL.WantReadError):
        hello = client.tls.bio_read(1 << 20)
    client.send_raw(hello[: len(hello) // 2] if stage == "half-hello" else hello)
    if stage in ("half-hello", "hello"):
        return
    if stage == "unfinished":
        client.sock.recv(65_536)
        return
    client.feed()
    client.handshake()
    head = request(target)
    if stage == "half-head":
        client.send(head[: len(head) // 2])
    elif stage == "head":
        client.send(head)


def act(act, client, dice):
    if act == "garbage":
        with contextlib.suppress(ConnectionError):  # the gate may have closed already
            client.send_raw(dice.randbytes(dice.randrange(1, 600)))
    elif act == "fin":
        client.half_close()
    elif act == "reset":
        reset(client.sock)


_HANDSHAKE_STAGES = _STAGES[:4]


def assert_report_fits(report, stage, what):
    assert report["event"] != "crashed", report
    if stage == "head":
        assert report["event"] in ("handoff", "relay"), report
    elif what == "stop":
        in_handshake = stage in _HANDSHAKE_STAGES
        assert report["event"] == "timeout", report
        assert report["reason"] == ("handshake_timeout" if in_handshake else "header_timeout")
        assert report.get("status", 0) == (0 if in_handshake else 408)
    elif what in ("reset", "fin"):
        assert report["event"] == "client_gone", report
    else:
        assert report["event"] in ("handshake_failed", "client_gone", "timeout", "refused"), report


def test_gate_survives_whatever_clients_do(front):
    """Stop, babble, reset or end at every stage; each is one line, and nothing stays open."""
    dice = random.Random(_SEED)
    assert is_served(front)
    before = descriptors(front.gate.pid)
    pairs = [(stage, what) for stage in _STAGES for what in _ACTS]
    plan = [pairs[number % len(pairs)] for number in range(_BAD_CLIENTS)]
    dice.shuffle(plan)
    contexts = [client_context(version=version) for version in ("TLSv1.2", "TLSv1.3")]
    with contextlib.ExitStack() as held:
        clients = []
        for number, (stage, what) in enumerate(plan, 1):
            # The port of a client that is gone may be another one's: an address for each.
            source = f"127.1.0.{number}"
            sock = connect(front.port, source_address=(source, 0))
            client = held.enter_context(front.client(dice.choice(contexts), sock=sock))
            target = front.target("/until-end")
            go_to(stage, client, target)
            if stage == "head":
                front.backend.next_event("received", target)
            act(what, client, dice)
            clients.append((stage, what, f"{source}:{client.port}"))
        early = [(*rest, front.report(client=who)) for *rest, who in clients if rest[0] != "head"]
    late = [(*rest, front.report(client=who)) for *rest, who in clients if rest[0] == "head"]
    for stage, what, report in early + late:
        assert_report_fits(report, stage, what)
    assert is_served(front)
    assert front._reports == []
    assert front.gate.process.poll() is None
    wait_until(lambda: descriptors(front.gate.pid) == before, "descriptors are left")


@pytest.mark.parametrize("stage", ["established", "half-head"])
def test_client_that_stops_is_told_so(front, stage):
    with front.client() as client:
        go_to(stage, client, front.target("/hash"))
        answer, is_clean = client.read_all()
    assert status_of(answer) == 408
    assert is_clean
    front.report(port=client.port)


# Descriptors


@contextlib.contextmanager
def room_for(gate, count):
    """Let the gate open that many descriptors more."""
    require_view(gate.pid)
    soft, hard = resource.prlimit(gate.pid, resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path(f"/proc/{gate.pid}/fd").iterdir())
    resource.prlimit(gate.pid, resource.RLIMIT_NOFILE, (highest + 1 + count, hard))
    try:
        yield
    finally:
        resource.prlimit(gate.pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_gate_without_descriptors_says_so_and_recovers(front):
    assert is_served(front)
    said = len(front.gate.messages)

    def is_said():
        texts = [entry.get("message", "") for entry in front.gate.messages[said:]]
        return any(text.startswith("cannot accept: Too many open files") for text in texts)

    with room_for(front.gate, 5):
        socks = [connect(front.port) for _ in range(20)]
        ports = [sock.getsockname()[1] for sock in socks]
        wait_until(is_said, "the gate did not say that it has no descriptors")
        for sock in socks:
            reset(sock)
        assert is_served(front)
    for port in ports:
        assert front.report(port=port)["event"] == "client_gone"
    assert is_served(front)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_client_is_answered_when_there_is_no_descriptor_for_its_handoff(front, count):
    """One is for the client; a handoff takes one more, and a relayed one three."""
    assert is_served(front)
    target = front.target("/hash")
    with room_for(front.gate, count), front.client() as client:
        answer, is_clean = b"", False
        client.handshake().send(request(target))
        answer, is_clean = client.read_all()
        report = front.report(target)
    assert report["event"] != "crashed", report["traceback"]
    assert status_of(answer) in (200, 503)
    assert is_clean or status_of(answer) == 200
    assert is_served(front)


# Starts


def run_gate(folder, config, wrapper=()):
    """Run a gate that is expected to end by itself: exit status and what it said."""
    file = folder / "ktlsgate.toml"
    file.write_text(config)
    done = subprocess.run(
        [*wrapper, sys.executable, "-m", "ktlsgate", "run", "-c", str(file)],
        check=False,
        capture_output=True,
        timeout=WAIT,
        cwd=folder,
    )
    return done.returncode, done.stderr.decode()


@pytest.fixture
def folder(tmp_path):
    tls_files(tmp_path)
    return tmp_path


def config_of(folder, **tables):
    return gate_config(folder, backend=folder / "app.sock", **tables)


def test_missing_certificate_ends_the_start(folder):
    (folder / "server.pem").unlink()
    status, said = run_gate(folder, config_of(folder))
    assert status == 1
    expected = f"{folder}/server.pem: expected a readable PEM file, got: No such file or directory"
    assert said.splitlines()[-1] == f"ktlsgate: {expected}"
    assert "Traceback" not in said


def test_unreadable_key_ends_the_start(folder):
    (folder / "server.key").chmod(0)
    # To root without these two capabilities modes mean what they mean to everybody.
    mortal = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] * (os.getuid() == 0)
    status, said = run_gate(folder, config_of(folder), wrapper=mortal)
    assert status == 1
    expected = f"{folder}/server.key: expected a readable PEM file, got: Permission denied"
    assert said.splitlines()[-1] == f"ktlsgate: {expected}"


def test_key_of_another_certificate_ends_the_start(folder):
    Authority().issue("other.example").write(folder, "other")
    shutil.copy(folder / "other.key", folder / "server.key")
    status, said = run_gate(folder, config_of(folder))
    assert status == 1
    assert "server.key: expected the key of the first certificate" in said
    assert "Traceback" not in said


def test_expired_certificate_is_served_with_a_warning(folder):
    import datetime

    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    authority = Authority()
    identity = authority.issue("localhost", not_before=now - 9 * day, not_after=now - day)
    identity.write(folder, "server")
    with start_gate(folder, config_of(folder)) as gate, TlsClient(gate.port) as client:
        client.handshake()
        texts = [entry.get("message", "") for entry in gate.messages]
    assert any("expired on" in text for text in texts), texts


def test_socket_path_that_is_too_long_ends_the_start(folder):
    status, said = run_gate(folder, gate_config(folder, backend=f"/tmp/{'x' * 120}.sock"))
    assert status == 1
    assert "address: expected" in said
    assert "Traceback" not in said


def test_port_in_use_ends_the_start(folder):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        config = config_of(folder).replace("127.0.0.1:0", f"127.0.0.1:{port}")
        status, said = run_gate(folder, config)
    assert status == 1
    expected = f"listen 127.0.0.1:{port}: expected an address to bind, got Address already in use"
    assert said.splitlines()[-1] == f"ktlsgate: {expected}"
