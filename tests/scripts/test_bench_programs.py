"""The C programs and the keyless gate, compiled and run once on loopback."""

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench.generator import Generator
from bench.growth import LADDERS, climb
from bench.idle import hold_idle
from bench.leak import count_leaks
from bench.loads import LOADS
from bench.machine import BenchError, build_programs
from bench.measure import count_descriptors
from bench.peers import PEERS
from bench.rounds import Plan, in_turn, run_rounds
from bench.servers import (
    KEYS,
    Setting,
    free_port,
    make_certificates,
    run_backend,
    run_server,
)
from bench.syscalls import count_calls

CPUS = sorted(os.sched_getaffinity(0))
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler cc here")
    folder = tmp_path_factory.mktemp("programs")
    try:
        build_programs(folder)
    except BenchError as exc:
        if "libssl-dev" in str(exc):
            pytest.skip("no headers of OpenSSL here")
        raise
    return folder


@pytest.fixture(scope="module")
def site(programs, tmp_path_factory):
    """A backend, and the generator that knows it."""
    folder = tmp_path_factory.mktemp("site")
    make_certificates(folder)
    with run_backend(folder, programs, CPUS[-1]) as backend:
        program = [str(programs / "tlsload")]
        setting = Setting(folder=folder, programs=programs, cpu=CPUS[0])
        yield setting, Generator(program=program, cpu=CPUS[-1], backend=backend, is_keyless=True)


@pytest.fixture(scope="module", params=["gate", "floor", "relay"])
def server(request, site):
    with run_server(PEERS[request.param], "ec", site[0], port=free_port(set())) as running:
        yield running


def wait_quiet(server, idle):
    """Wait until nothing of earlier connections is left."""
    for _ in range(500):
        if count_descriptors(server.pids) <= idle:
            return
        time.sleep(0.02)
    raise AssertionError(f"expected {idle} descriptors, got {count_descriptors(server.pids)}")


@pytest.fixture(scope="module")
def idle(server):
    """How many descriptors the server has without connections."""
    return min(count_descriptors(server.pids) for _ in range(200))


@pytest.fixture
def quiet(server, idle):
    """A server without connections, before the test and behind it."""
    wait_quiet(server, idle)
    yield
    wait_quiet(server, idle)


@pytest.mark.parametrize("name", ["conn", "keep", "latency-64", "down", "up"])
def test_every_load_goes_through_the_gate_without_an_error(site, server, name):
    plan = Plan(rounds=1, seconds=0.05, bulk=300_000)
    (series,) = run_rounds([server], [LOADS[name]], site[1], plan, lambda _: None)
    slice_ = series.slices[0]
    assert (slice_.errors, slice_.first_error) == (0, "")
    assert slice_.operations > 0
    assert slice_.bytes == (2 * 300_000 if LOADS[name].is_bulk else 0)
    assert slice_.server_cpu >= 0


@pytest.mark.parametrize(("name", "first"), [("conn", None), ("resumed", 16)])
def test_sessions_are_resumed_by_the_load_that_is_named_so(site, server, name, first):
    generator = site[1]
    slice_ = generator.run(server, [*LOADS[name].words_for(seconds=30, bulk=1), "-n", "60"])
    assert slice_.operations >= 60
    assert slice_.resumed == (0 if first is None else slice_.operations - first)


def test_idle_connections_are_held_by_the_backend_alone_once_handed_over(site, server, idle, quiet):
    most = idle + 20 * PEERS[server.peer.name].descriptors

    def settle():  # the backend answers a moment before the gate closes its copy
        wait_quiet(server, most)

    (held,) = hold_idle([server], [20], site[1], lambda _: None, settle)
    assert (held.held, held.is_short) == (20, False)
    assert (held.descriptors_before, held.descriptors) == (idle, most)
    if server.peer.hands_over:
        assert held.epoll_entries == held.epoll_entries_before


def test_connections_that_come_and_go_leave_no_descriptor(site, server, quiet):
    (leak,) = count_leaks([server], 50, site[1], lambda _: None, 0)
    assert leak.errors == 0
    assert leak.connections >= 50
    assert len(leak.rss) == 5


def test_system_calls_are_counted_while_connections_are_made(site, server, quiet):
    if shutil.which("strace") is None:
        pytest.skip("no strace here")
    try:
        (calls,) = count_calls([server], 10, site[1], lambda _: None)
    except BenchError as exc:
        if "ptrace is forbidden" in str(exc):
            pytest.skip(str(exc))
        raise
    assert calls.connections >= 10
    assert calls.calls["sendmsg"] == calls.connections, "one handoff each"
    assert calls.calls["accept4"] >= calls.connections


def test_a_server_that_is_gone_is_an_error_and_not_asked_again(site, server):
    nobody = type(server)(peer=server.peer, key="ec", port=free_port(set()), pid=server.pid)
    plan = Plan(rounds=3, seconds=0.05, bulk=1000)
    (series,) = run_rounds([nobody], [LOADS["conn"]], site[1], plan, lambda _: None)
    assert list(series.slices) == [0]
    assert series.slices[0].first_error == "connect: Connection refused"
    (held,) = hold_idle([nobody], [3, 9], site[1], lambda _: None, int)
    assert (held.held, held.is_short) == (0, True)


@pytest.mark.parametrize(
    "words", [[], ["fast", "1"], ["conn"], ["conn", "1", "-z"], ["idle", "1"], ["half", "1"]]
)
def test_the_load_generator_refuses_what_it_does_not_know(programs, words):
    done = subprocess.run(
        [programs / "tlsload", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.endswith("tlsload: see the top of tlsload.c\n")


def test_a_group_that_openssl_does_not_know_is_refused_by_name(site):
    said = site[1].refuses("X9.99")
    assert said.startswith("tlsload: no group X9.99 in OpenSSL ")
    assert site[1].refuses("X25519") == ""


@pytest.mark.parametrize("mode", ["idle", "half"])
def test_connections_are_held_in_both_stages_and_given_back(site, server, idle, quiet, mode):
    with site[1].holding(server, mode, 12) as holding:
        assert (holding.held, holding.first_error) == (12, "")
        if mode == "half":  # nobody can have handed them over
            assert count_descriptors(server.pids) >= idle + 12


@pytest.mark.parametrize("name", LADDERS)
def test_every_ladder_can_be_climbed(site, name):
    @contextlib.contextmanager
    def start(peer):
        with run_server(peer, "ec", site[0], port=free_port(ports)) as running:
            yield [running]

    ports: set[int] = set()
    plan = Plan(rounds=1, seconds=0.05, bulk=1)
    steps = climb(LADDERS[name].up_to(10), start, site[1], plan, lambda _: None)
    assert [(step.ladder, step.size) for step in steps] == [
        (name, size) for size in LADDERS[name].sizes if size <= 10
    ]
    assert not any(step.is_short or step.first_error for step in steps)
    assert [list(step.costs) for step in steps] == [[0]] * len(steps)


def test_the_floor_refuses_what_it_does_not_know(programs):
    done = subprocess.run([programs / "floor", "1"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "floor: see the top of gate.c\n")


def test_the_floor_tells_the_backend_what_the_gate_tells_it(programs, site, tmp_path):
    heads = [handed_over(name, site[0], tmp_path) for name in ("gate-each", "floor")]
    ours, theirs = (dict(zip(parts[::2], parts[1::2], strict=True)) for parts in heads)
    assert list(theirs) == list(ours)
    differ = {name for name in ours if ours[name] != theirs[name]}
    assert differ <= {b"REMOTE_PORT", b"SERVER_PORT"}


@pytest.mark.parametrize("name", ["gate", "floor"])
def test_what_comes_with_the_head_is_left_to_the_backend(site, tmp_path, name):
    with backend_of_ours(name, site[0], tmp_path) as (server, listener):
        with shaken_hands(server.port) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody")
            with listener.accept()[0] as gate:
                head, (descriptor,), _, _ = socket.recv_fds(gate, 65536, 1)
        assert b"HTTP_CONTENT_LENGTH\0004\0" in head
        with socket.socket(fileno=descriptor) as sock:
            assert sock.recv(100) == b"body"


def shaken_hands(port):
    """Return a client's socket behind a handshake, for speaking in clear."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(received, sent, server_hostname="localhost")
    sock = socket.create_connection(("127.0.0.1", port))
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            sock.sendall(sent.read())
            received.write(sock.recv(65536))
        else:
            sock.sendall(sent.read())
            return sock


@contextlib.contextmanager
def backend_of_ours(name, setting, folder):
    """A server whose backend is the socket that comes with it."""
    own = folder / name
    own.mkdir()
    make_certificates(own)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(own / "handoff.sock"))
        listener.listen()
        listener.settimeout(20)
        setting = dataclasses.replace(setting, folder=own)
        with run_server(PEERS[name], "ec", setting, port=free_port(set())) as server:
            yield server, listener


def handed_over(name, setting, folder):
    """Return the names and values that a backend gets, one after the other."""
    with backend_of_ours(name, setting, folder) as (server, listener):
        command = [setting.programs / "tlsload", "conn", str(server.port), "-n", "1", "-k"]
        with subprocess.Popen([*command, "-d", "20"], stdout=subprocess.PIPE) as client:
            with listener.accept()[0] as gate:
                head, (descriptor,), _, _ = socket.recv_fds(gate, 65536, 1)
            os.write(descriptor, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            os.close(descriptor)
            assert json.loads(client.stdout.read())["operations"] == 1
    length, _, rest = head.partition(b":")
    assert (len(rest), rest[-2:]) == (int(length) + 1, b"\0,")
    return rest[:-2].split(b"\0")


def test_the_backend_refuses_what_it_does_not_know(programs):
    done = subprocess.run([programs / "backend", "x"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "backend: see the top of backend.c\n")


def keyless(*words):
    return subprocess.run(
        [sys.executable, "-m", "bench.keyless_gate", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(SCRIPTS), *sys.path])},
    )


@pytest.mark.parametrize("address", [":18443", "0.0.0.0:18443", "[::1]:18443", "localhost:18443"])
def test_the_keyless_gate_listens_on_one_loopback_address_only(tmp_path, address):
    make_certificates(tmp_path)
    file = tmp_path / "config"
    file.write_text(
        f"""\
        [[cert]]
        file = "{tmp_path}/ec.crt"
        key = "{tmp_path}/ec.key"
        [[listen]]
        address = "{address}"
        [[route]]
        backend = "b"
        [backend.b]
        address = "unix:/b"
        """
    )
    done = keyless(str(file))
    assert done.returncode == 1
    assert done.stderr == f"keyless_gate: expected an address on 127.0.0.1, got {address}\n"


def test_the_keyless_gate_says_how_it_is_used():
    done = keyless()
    assert (done.returncode, done.stderr) == (2, "usage: python -m bench.keyless_gate CONFIG\n")


def test_rounds_begin_with_another_server_each_time():
    assert [in_turn("abc", number) for number in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]
    assert in_turn([], 5) == []


def test_each_kind_of_key_has_a_load():
    assert {load.key for load in LOADS.values()} == set(KEYS)
