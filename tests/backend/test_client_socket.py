"""A handed-over connection as servers use sockets, over real ones; records are tested elsewhere."""

import contextlib
import errno
import io
import os
import select
import selectors
import socket
import threading

import pytest
from helpers.descriptors import open_descriptors
from helpers.flavours import received
from helpers.handoffs import our_head, tcp_pair

from ktlsgate.backend.client_socket import ClientSocket
from ktlsgate.errors import HandoffMalformed
from ktlsgate.wire.handoff import FINISHED, RECEIVED, Mode

HEAD = b"GET /x?y=1 HTTP/1.1\r\n\r\n"


@pytest.fixture
def pair():
    """The client's end, and what a server got of it in mode PLAIN."""
    client, server = tcp_pair()
    client.settimeout(5)
    with client, ClientSocket(received(our_head(), server)) as sock:
        sock.settimeout(5)
        yield client, sock


@contextlib.contextmanager
def relayed():
    """The gate's ends of the socketpair and of the Unix connection, and what a server got."""
    gate, descriptor = socket.socketpair()
    verdict, unix = socket.socketpair()
    descriptor.setblocking(False)
    unix.send(RECEIVED)
    with gate, verdict, ClientSocket(received(our_head("relay"), descriptor, unix)) as sock:
        sock.settimeout(5)
        yield gate, verdict, sock


def read_exactly(sock, size):
    data = b""
    while len(data) < size and (piece := sock.recv(size - len(data))):
        data += piece
    return data


def is_readable(sock):
    return bool(select.select([sock], [], [], 0)[0])


# The head first


def test_head_is_read_first_in_pieces_of_any_size_then_the_client(pair):
    client, sock = pair
    client.sendall(b"body")
    assert sock.recv(4) == b"GET "
    assert read_exactly(sock, len(HEAD) - 4) == HEAD[4:]
    assert sock.recv(100) == b"body"


def test_server_that_waits_for_readability_sees_the_head(pair):
    client, sock = pair
    assert is_readable(sock)
    sock.recv(5)
    assert is_readable(sock)
    sock.recv(1000)
    assert not is_readable(sock)
    client.sendall(b"x")
    assert select.select([sock], [], [], 5)[0] == [sock]


def test_server_that_registers_anew_behind_the_head_is_woken(pair):
    client, sock = pair
    with selectors.EpollSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        assert selector.select(0)
        selector.unregister(sock)
        sock.recv(1000)
        selector.register(sock, selectors.EVENT_READ)
        assert not selector.select(0)
        client.sendall(b"x")
        assert selector.select(5)


def test_number_is_the_same_for_ever(pair):
    _, sock = pair
    before = sock.fileno()
    sock.recv(1000)
    assert sock.fileno() == before


@pytest.mark.parametrize("where", ["head", "client"])
def test_peek_takes_nothing(pair, where):
    client, sock = pair
    expected = HEAD
    if where == "client":
        assert sock.recv(1000) == HEAD
        client.sendall(b"data")
        expected = b"data"
    assert sock.recv(3, socket.MSG_PEEK) == expected[:3]
    assert sock.recv(2, socket.MSG_PEEK | socket.MSG_DONTWAIT) == expected[:2]
    if where == "client":
        assert sock.recv(1000) == expected[:3]
        expected = expected[3:]
    assert sock.recv(1000) == expected


def test_every_way_to_receive_begins_with_the_head(pair):
    client, sock = pair
    room = bytearray(6)
    assert sock.recv_into(room) == 6
    assert bytes(room) == b"GET /x"
    assert sock.recvfrom(1) == (b"?", ("192.0.2.7", 40000))
    assert sock.recvfrom_into(room, 2) == (2, ("192.0.2.7", 40000))
    assert bytes(room[:2]) == b"y="
    assert sock.recvmsg(1, 100) == (b"1", [], 0, ("192.0.2.7", 40000))
    assert sock.recvmsg_into([bytearray(), room]) == (6, [], 0, ("192.0.2.7", 40000))
    assert bytes(room) == b" HTTP/"
    client.sendall(b"z")
    assert sock.recv(len(HEAD) - 16 + 1, socket.MSG_WAITALL) == HEAD[16:] + b"z"


def test_file_made_of_it_reads_head_and_body(pair):
    client, sock = pair
    client.sendall(b"line\n")
    with sock.makefile("rb") as file:
        assert [file.readline() for _ in range(3)] == [
            b"GET /x?y=1 HTTP/1.1\r\n",
            b"\r\n",
            b"line\n",
        ]


def test_file_keeps_it_open(pair):
    client, sock = pair
    file = sock.makefile("rwb")
    sock.close()
    file.write(b"still")
    file.flush()
    assert client.recv(10) == b"still"
    file.close()
    assert client.recv(10) == b""


def test_take_early_gives_the_rest_of_the_head_at_once(pair):
    client, sock = pair
    assert sock.recv(4) == b"GET "
    assert sock.take_early() == HEAD[4:]
    assert not is_readable(sock)
    client.sendall(b"x")
    assert sock.recv(10) == b"x"
    assert sock.take_early() == b""


# Waiting


def test_call_that_never_waits_finds_nothing_and_says_so(pair):
    client, sock = pair
    alarms = []
    sock.on_false_alarm = lambda: alarms.append(sock.false_alarms)
    sock.setblocking(False)
    assert sock.recv(1000) == HEAD
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            sock.recv(1)
    client.sendall(b"x")
    assert select.select([sock], [], [], 5)[0]
    assert sock.recv(10) == b"x"
    with pytest.raises(BlockingIOError):
        sock.recv(1, socket.MSG_DONTWAIT)
    assert alarms == [1, 2, 1]


def test_call_with_a_timeout_waits_and_gives_up(pair):
    _, sock = pair
    sock.recv(1000)
    sock.settimeout(0.01)
    with pytest.raises(TimeoutError, match=r"^timed out$"):
        sock.recv(1)


def test_call_without_a_timeout_waits(pair):
    client, sock = pair
    sock.recv(1000)
    sock.settimeout(None)
    with_data = threading.Timer(0.05, client.sendall, [b"late"])
    with_data.start()
    assert sock.recv(10) == b"late"
    with_data.join()


def test_full_send_buffer_blocks_or_says_so(pair):
    client, sock = pair
    sock.settimeout(0.01)
    with pytest.raises(TimeoutError):
        sock.sendall(b"x" * 50_000_000)
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.send(b"x")
    client.close()


# Sending


def test_every_way_to_send_reaches_the_client(pair, tmp_path):
    client, sock = pair
    assert sock.send(b"one ") == 4
    sock.sendall(memoryview(b"two "))
    assert sock.sendmsg([b"three", b" "]) == 6
    assert read_exactly(client, 14) == b"one two three "
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file:
        assert sock.sendfile(file, 2, 5) == 5
        assert file.tell() == 7
        assert sock.sendfile(file, 8) == 2
    assert sock.sendfile(io.BytesIO(b"abcdef"), 1, 3) == 3
    assert read_exactly(client, 10) == b"2345689bcd"


def test_sendfile_is_for_sockets_that_wait(pair):
    _, sock = pair
    sock.setblocking(False)
    with pytest.raises(ValueError, match=r"^non-blocking sockets are not supported$"):
        sock.sendfile(io.BytesIO(b""))


def test_ancillary_data_is_refused(pair):
    _, sock = pair
    with pytest.raises(OSError, match="got ancillary data or an address"):
        sock.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"")])


def test_unknown_flag_is_refused(pair):
    _, sock = pair
    with pytest.raises(OSError, match="expected no flags but known ones, got 0x1") as caught:
        sock.recv(1, socket.MSG_OOB)
    assert caught.value.errno == errno.EOPNOTSUPP


# Ends


def test_end_of_the_client_is_the_end_of_file_and_stays(pair):
    client, sock = pair
    client.shutdown(socket.SHUT_WR)
    sock.recv(1000)
    assert [sock.recv(10), sock.recv(10)] == [b"", b""]
    sock.sendall(b"answer")
    assert client.recv(10) == b"answer"


def test_cut_is_a_reset_connection_in_mode_relay():
    with relayed() as (gate, verdict, sock):
        sock.recv(1000)
        verdict.close()  # RECEIVED unread
        gate.close()
        with pytest.raises(ConnectionResetError, match="as the gate tells") as caught:
            sock.recv(10)
        assert caught.value.errno == errno.ECONNRESET


def test_client_that_is_gone_is_a_reset_connection(pair):
    client, sock = pair
    sock.recv(1000)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    with pytest.raises(ConnectionResetError):
        sock.recv(10)
    with pytest.raises(ConnectionResetError):
        sock.sendall(b"x")


def test_shutdown_of_sending_ends_only_that(pair):
    client, sock = pair
    sock.shutdown(socket.SHUT_WR)
    assert client.recv(10) == b""
    with pytest.raises(BrokenPipeError):
        sock.send(b"x")
    client.sendall(b"more")
    assert sock.recv(1000) == HEAD
    assert sock.recv(1000) == b"more"


def test_shutdown_of_both_ends_both(pair):
    client, sock = pair
    sock.recv(1000)
    sock.shutdown(socket.SHUT_RDWR)
    assert client.recv(10) == b""
    assert sock.recv(10) == b""


@pytest.mark.parametrize("how", ["close", "shutdown"])
def test_end_is_told_to_the_gate_in_mode_relay(how):
    with relayed() as (gate, verdict, sock):
        assert verdict.recv(1) == RECEIVED
        sock.sendall(b"answer")
        sock.close() if how == "close" else sock.shutdown(socket.SHUT_WR)
        assert gate.recv(10) == b"answer"
        assert verdict.recv(10) == FINISHED
        assert gate.recv(10) == b""


def test_answer_that_broke_off_is_not_called_complete():
    with relayed() as (gate, verdict, sock):
        assert verdict.recv(1) == RECEIVED
        sock.settimeout(0.01)
        with pytest.raises(TimeoutError):
            sock.sendall(b"x" * 10_000_000)
        sock.close()
        assert verdict.recv(10) == b""
        gate.close()


def test_abort_is_no_end():
    with relayed() as (_, verdict, sock):
        assert verdict.recv(1) == RECEIVED
        sock.abort()
        assert sock.fileno() == -1
        assert verdict.recv(10) == b""


def test_close_is_final_and_leaves_nothing(pair):
    client, sock = pair
    sock.close()
    sock.close()
    assert sock.fileno() == -1
    assert client.recv(1) == b""
    with pytest.raises(OSError) as caught:
        sock.recv(1)
    assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("is_read", [True, False])
def test_no_descriptor_outlives_it(is_read):
    before = open_descriptors()
    client, server = tcp_pair()
    sock = ClientSocket(received(our_head(), server))
    if is_read:
        sock.recv(1000)
    sock.close()
    client.close()
    assert open_descriptors() == before


# What it says of itself


def test_addresses_and_family_are_the_clients_in_every_mode(pair):
    _, plain = pair
    with relayed() as (_, _, relay):
        for sock in (plain, relay):
            assert sock.getpeername() == ("192.0.2.7", 40000)
            assert sock.getsockname() == ("192.0.2.1", 443)
            assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
            assert sock.proto == socket.IPPROTO_TCP
        assert (plain.mode, relay.mode) == (Mode.PLAIN, Mode.RELAY)
        assert repr(relay) == "<ClientSocket 192.0.2.7 port 40000, relay>"
    assert repr(relay) == "<ClientSocket 192.0.2.7 port 40000, closed>"


def test_ipv6_addresses_have_four_parts():
    client, server = tcp_pair()
    head = our_head(REMOTE_ADDR="2001:db8::7", SERVER_ADDR="2001:db8::1")
    with client, ClientSocket(received(head, server)) as sock:
        assert sock.getpeername() == ("2001:db8::7", 40000, 0, 0)
        assert sock.family == socket.AF_INET6


def test_options_are_the_clients_even_before_the_head_was_read(pair):
    _, sock = pair
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    sock.recv(1000)
    with socket.socket(fileno=os.dup(sock.fileno())) as kernels:
        assert kernels.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_options_of_tcp_do_nothing_where_there_is_none():
    with relayed() as (_, _, sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 4) == bytes(4)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM


def test_what_the_gate_said_is_there(pair):
    _, sock = pair
    assert sock.environ["REQUEST_URI"] == "/x?y=1"
    assert (sock.is_ktls_tx, sock.is_ktls_rx) == (False, False)


def test_head_that_is_none_leaves_the_handoff_with_the_caller():
    client, server = tcp_pair()
    with client, server:
        with pytest.raises(HandoffMalformed):
            ClientSocket(received(our_head(HTTP_X="a\nb"), server))
        server.send(b"mine")
        assert client.recv(10) == b"mine"
