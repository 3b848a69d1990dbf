"""The helper that Node starts, with the test in Node's place at the other end of its channel."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.handoffs import build_head, hand_off, our_head, our_pairs, tcp_pair
from helpers.ktls import TLS13, ktls_pair

from ktlsgate.backend.node_shim import build_request
from ktlsgate.config import Offload
from ktlsgate.kernel.ancillary import recv_fds
from ktlsgate.wire.handoff import FINISHED, RECEIVED
from ktlsgate.wire.handoff_scgi import ReceivedHead

WAIT = 60.0


class Shim:
    """A running helper, and Node's end of the channel to it."""

    def __init__(self, process, channel, address):
        self.process = process
        self.address = address
        self._channel = channel
        self._data = b""

    def receive(self):
        """The next line, and the descriptors that came with its first byte."""
        fds = []
        while b"\n" not in self._data:
            data, more, is_cut = recv_fds(self._channel, 65_536, 4)
            assert data, "the helper ended"
            assert not is_cut
            self._data += data
            fds += more
        line, _, self._data = self._data.partition(b"\n")
        return json.loads(line), [socket.socket(fileno=fd) for fd in fds]

    def receive_client(self):
        """The message of a handoff, and its socket."""
        line, (sock,) = self.receive()
        assert (line["cmd"], line["type"]) == ("NODE_HANDLE", "net.Socket")
        self._channel.sendall(b'{"cmd":"NODE_HANDLE_ACK"}\n')
        sock.settimeout(WAIT)
        return line["msg"], sock

    def leave(self):
        """Go away as Node does; the helper's status."""
        self._channel.close()
        return self.process.wait(WAIT)


def run_shim(*arguments, **environment):
    """A helper that cannot begin: status and what it says."""
    command = [sys.executable, "-m", "ktlsgate.backend.node_shim", *arguments]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, check=False, env=environment, capture_output=True, timeout=WAIT)
    return done.returncode, done.stderr.decode()


@pytest.fixture
def shim(tmp_path):
    ours, theirs = socket.socketpair()
    ours.settimeout(WAIT)
    address = str(tmp_path / "app.sock")
    theirs.setsockopt(
        socket.SOL_SOCKET, socket.SO_SNDBUF, 1
    )  # the least: longer lines go in pieces
    number = str(theirs.fileno())
    process = subprocess.Popen(
        [sys.executable, "-m", "ktlsgate.backend.node_shim", "--socket", address],
        env={**os.environ, "NODE_CHANNEL_FD": number},
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    with ours:
        shim = Shim(process, ours, address)
        try:
            assert shim.receive() == ({"listening": address}, [])
            yield shim
        finally:
            process.kill()
            process.wait(WAIT)


def request_of(*pairs, single=False):
    keepalive = "single" if single else "own"
    return build_request(ReceivedHead({**dict(our_pairs(keepalive=keepalive)), **dict(pairs)}))


# The request, written again


def test_the_request_is_the_one_that_the_gate_read():
    pairs = [("SERVER_PROTOCOL", "HTTP/1.0"), ("HTTP_HOST", "h"), ("HTTP_X_ONE", "\xe9 2")]
    assert request_of(*pairs) == "GET /x?y=1 HTTP/1.0\r\nHost: h\r\nX-One: \xe9 2\r\n\r\n"


def test_a_sender_that_does_not_tell_the_version_means_1_1():
    assert request_of() == "GET /x?y=1 HTTP/1.1\r\n\r\n"


def test_a_connection_for_one_request_is_said_to_end():
    told = request_of(("HTTP_CONNECTION", "keep-alive"), single=True)
    assert told == "GET /x?y=1 HTTP/1.1\r\nConnection: close\r\n\r\n"


def test_an_upgrade_is_left_possible_on_a_connection_for_one_request():
    pairs = [("HTTP_CONNECTION", "Upgrade"), ("HTTP_UPGRADE", "websocket")]
    told = request_of(*pairs, single=True)
    assert told == "GET /x?y=1 HTTP/1.1\r\nConnection: close, upgrade\r\nUpgrade: websocket\r\n\r\n"


# What Node gets


def test_a_client_comes_with_all_that_the_gate_said(shim):
    client, server = tcp_pair()
    pairs = our_pairs("plain", SERVER_PROTOCOL="HTTP/1.1", HTTP_HOST="h")
    with client, hand_off(shim.address, build_head(pairs), server):
        message, sock = shim.receive_client()
        with sock:
            assert message == {
                "environ": dict(pairs),
                "head": "GET /x?y=1 HTTP/1.1\r\nHost: h\r\n\r\n",
            }
            client.sendall(b"from the client")
            assert sock.recv(99) == b"from the client"
            sock.sendall(b"from Node")
            assert client.recv(99) == b"from Node"
        assert client.recv(99) == b""  # nobody else holds it


def test_a_head_longer_than_the_channel_takes_at_once_comes_whole(shim):
    client, server = tcp_pair()
    long = "x" * 100_000
    with client, hand_off(shim.address, our_head("plain", HTTP_LONG=long), server):
        message, sock = shim.receive_client()
        with sock:
            assert message["environ"]["HTTP_LONG"] == long


def test_many_clients_come_each_with_its_own_words(shim):
    clients, seen = [], {}
    for number in range(20):
        client, server = tcp_pair()
        clients.append(client)
        hand_off(shim.address, our_head("plain", REQUEST_URI=f"/{number}"), server).close()
    for _ in clients:
        message, sock = shim.receive_client()
        with sock:
            sock.sendall(message["environ"]["REQUEST_URI"].encode())
    for number, client in enumerate(clients):
        with client:
            seen[number] = client.recv(99)
    assert seen == {number: f"/{number}".encode() for number in range(20)}


def test_in_mode_relay_every_end_is_called_complete_at_once(shim):
    """Node has no way to say how it ended, and the gate would take silence for a cut."""
    client, server = socket.socketpair()
    with client, hand_off(shim.address, our_head("relay"), server) as unix:
        _, sock = shim.receive_client()
        with sock:
            assert unix.recv(99) + unix.recv(99) == RECEIVED + FINISHED
            assert unix.recv(99) == b""


@contextlib.contextmanager
def tx_client(shim):
    """A client in mode TX: its own end, the gate's end of the input, Node's socket."""
    with ktls_pair(TLS13, offload=Offload.TX) as (server, peer):
        peer.sock.settimeout(WAIT)
        descriptor = server.dup()
        descriptor.setblocking(False)
        with hand_off(shim.address, our_head("tx", HTTPS="on"), descriptor) as unix:
            unix.settimeout(WAIT)
            assert unix.recv(1, socket.MSG_PEEK) == RECEIVED
            _, sock = shim.receive_client()
            server.close()
            with sock:
                yield peer, unix, sock


@pytest.mark.ktls
def test_in_mode_tx_both_directions_are_copied(shim):
    with tx_client(shim) as (peer, unix, sock):
        unix.sendall(b"from the client")
        assert sock.recv(99) == b"from the client"
        sock.sendall(b"from Node")
        assert peer.recv() == (23, b"from Node")
        unix.shutdown(socket.SHUT_WR)
        assert sock.recv(99) == b""
        sock.sendall(b"still")
        assert peer.recv() == (23, b"still")


@pytest.mark.ktls
def test_in_mode_tx_nodes_end_is_close_notify(shim):
    with tx_client(shim) as (peer, unix, sock):
        sock.sendall(b"last")
        sock.shutdown(socket.SHUT_WR)
        assert [peer.recv() for _ in range(3)] == [(23, b"last"), (21, b"\1\0"), (0, b"")]
        assert unix.recv(99) == RECEIVED
        assert unix.recv(99) == b""


@pytest.mark.ktls
def test_in_mode_tx_a_cut_ends_both_sides_without_close_notify(shim):
    with tx_client(shim) as (peer, unix, sock):
        unix.sendall(b"half")
        assert sock.recv(99) == b"half"
        unix.close()  # RECEIVED is unread: a reset
        assert sock.recv(99) == b""
        assert peer.recv() == (0, b"")


def test_what_is_no_handoff_is_refused_and_the_next_one_taken(shim):
    client, server = tcp_pair()
    with client, hand_off(shim.address, b"7:NAME\0x\0,", server) as unix:
        assert unix.recv(99) == b""
    client, server = tcp_pair()
    with client, hand_off(shim.address, our_head("plain"), server):
        shim.receive_client()[1].close()


# Beginning and end


def test_the_socket_is_for_user_and_group_and_goes_with_node(shim):
    assert stat.S_IMODE(Path(shim.address).stat().st_mode) == 0o660
    assert shim.leave() == 0
    assert not Path(shim.address).exists()


def test_a_terminals_interrupt_is_for_node(shim):
    shim.process.send_signal(signal.SIGINT)
    client, server = tcp_pair()
    with client, hand_off(shim.address, our_head("plain"), server):
        shim.receive_client()[1].close()
    assert shim.leave() == 0


def test_without_node_it_says_who_has_to_start_it():
    status, said = run_shim("--socket", "/nowhere/x", NODE_CHANNEL_FD="")
    expected = "expected NODE_CHANNEL_FD: Node starts this program, with stdio 'ipc'\n"
    assert (status, said) == (1, expected)


def test_another_serialization_is_refused():
    environment = {"NODE_CHANNEL_FD": "0", "NODE_CHANNEL_SERIALIZATION_MODE": "advanced"}
    status, said = run_shim("--socket", "/nowhere/x", **environment)
    assert (status, said) == (1, "expected serialization 'json', got 'advanced'\n")


def test_a_channel_that_is_no_socket_is_refused():
    status, said = run_shim("--socket", "/nowhere/x", NODE_CHANNEL_FD="99999")
    assert (status, said) == (1, "expected a socket as NODE_CHANNEL_FD: Bad file descriptor\n")
