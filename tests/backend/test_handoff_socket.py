"""A listening socket that accepts handed-over clients, as servers use listening sockets."""

import asyncio
import errno
import os
import select
import socket
import subprocess
import sys
import threading

import pytest
from helpers.descriptors import open_descriptors
from helpers.flavours import received
from helpers.handoffs import connect, hand_off, nginx_head, our_head, tcp_pair

from ktlsgate.backend.client_socket import ClientSocket
from ktlsgate.backend.handoff_socket import HandoffSocket
from ktlsgate.backend.unix_listener import bind_unix_listener
from ktlsgate.errors import LocalProtocolError
from ktlsgate.kernel.ancillary import send_fds
from ktlsgate.wire.messages import CLOSE_NOTIFY

HEAD = b"GET /x?y=1 HTTP/1.1\r\n\r\n"


@pytest.fixture
def refused():
    return []


@pytest.fixture
def listener(tmp_path, refused):
    unix = bind_unix_listener(str(tmp_path / "s"))
    with HandoffSocket(unix, on_refused=refused.append) as listener:
        listener.settimeout(5)
        yield listener


def hand(listener, head=None):
    """Hand a connection over; the client's end."""
    client, server = tcp_pair()
    client.settimeout(5)
    hand_off(listener.address, head or our_head(), server).close()
    return client


def is_readable(listener):
    return bool(select.select([listener], [], [], 0)[0])


def test_accept_gives_the_clients_connection_and_address(listener):
    with hand(listener) as client:
        sock, address = listener.accept()
        with sock:
            assert isinstance(sock, ClientSocket)
            assert address == ("192.0.2.7", 40000)
            assert sock.recv(1000) == HEAD
            sock.sendall(b"hello")
            assert client.recv(10) == b"hello"


def test_server_that_waits_for_readability_is_woken(listener):
    assert not is_readable(listener)
    client = hand(listener)
    assert select.select([listener], [], [], 5)[0] == [listener]
    with client, listener.accept()[0]:
        assert not is_readable(listener)


def test_handoff_that_came_in_part_wakes_again_when_the_rest_is_there(listener):
    head = our_head()
    client, server = tcp_pair()
    with client, connect(listener.address) as unix:
        send_fds(unix, head[:10], [server.fileno()])
        server.close()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError) as caught:
            listener.accept()
        assert caught.value.errno == errno.EAGAIN
        assert not is_readable(listener)
        unix.sendall(head[10:])
        assert select.select([listener], [], [], 5)[0]
        listener.accept()[0].close()


def test_slow_sender_holds_up_nobody(listener):
    with connect(listener.address) as slow:
        slow.sendall(b"")
        with hand(listener), listener.accept()[0] as sock:
            assert sock.recv(3) == b"GET"


def test_accept_waits_for_its_timeout(listener):
    listener.settimeout(0.01)
    with pytest.raises(TimeoutError):
        listener.accept()


def test_accept_without_a_timeout_waits(listener):
    listener.settimeout(None)
    clients = []
    thread = threading.Timer(0.05, lambda: clients.append(hand(listener)))
    thread.start()
    listener.accept()[0].close()
    thread.join()
    clients[0].close()


def test_it_looks_like_a_listening_socket(listener, tmp_path):
    assert listener.getsockname() == str(tmp_path / "s")
    assert (listener.family, listener.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
    listener.listen(5)
    assert repr(listener) == f"<HandoffSocket {tmp_path / 's'}>"


@pytest.mark.parametrize(
    ("shown", "name", "family"),
    [
        (("example.org", 443), ("example.org", 443), socket.AF_INET),
        (("::", 443), ("::", 443, 0, 0), socket.AF_INET6),
    ],
)
def test_servers_may_be_shown_another_address(tmp_path, shown, name, family):
    with HandoffSocket.bound(str(tmp_path / "s"), shown_as=shown) as listener:
        assert listener.getsockname() == name
        assert listener.family == family
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        listener.settimeout(5)
        with hand(listener):
            listener.accept()[0].close()


def test_bound_passes_owner_and_mode_on(tmp_path):
    path = tmp_path / "s"
    with HandoffSocket.bound(str(path), group=os.getgid(), mode=0o600):
        assert path.stat().st_mode & 0o777 == 0o600


def test_close_removes_the_file_and_ends_everything(tmp_path):
    before = open_descriptors()
    listener = HandoffSocket.bound(str(tmp_path / "s"))
    listener.fileno()
    with connect(listener.address) as unix:
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
        listener.close()
        listener.close()
        assert unix.recv(1) == b""
    assert listener.fileno() == -1
    assert not (tmp_path / "s").exists()
    with pytest.raises(OSError) as caught:
        listener.accept()
    assert caught.value.errno == errno.EBADF
    assert open_descriptors() == before


def test_adopted_listener_stays_its_owners(tmp_path):
    """A server bound it, and will close it and remove its file."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(path))
        own.listen()
        with HandoffSocket.adopting(own) as listener:
            listener.settimeout(5)
            with hand(listener):
                listener.accept()[0].close()
        assert path.exists()
        assert own.fileno() != -1


FORKING = """
import os, sys
from ktlsgate.backend.handoff_socket import HandoffSocket

listener = HandoffSocket.bound(sys.argv[1])
number = listener.fileno()
pid = os.fork()
if pid:
    os.waitpid(pid, 0)
    assert listener.fileno() == number
else:
    print("forked", flush=True)
    sock, _ = listener.accept()
    sock.sendall(b"child" if listener.fileno() != number else b"same")
    sock.close()
    os._exit(0)
"""


def test_child_gets_an_epoll_set_of_its_own(tmp_path):
    """Bound before a fork, served behind it, as servers with workers do."""
    path = str(tmp_path / "s")
    command = [sys.executable, "-c", FORKING, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"forked\n"
        client, server = tcp_pair()
        with client:
            hand_off(path, our_head(), server).close()
            client.settimeout(30)
            assert client.recv(10) == b"child"
    assert process.returncode == 0


# What it refuses


def test_mode_tx_is_turned_away_with_an_answer_and_a_word_to_the_operator(listener, refused):
    """Behind the receiver, whose check of the mode needs a kernel with kTLS to pass."""
    client, server = tcp_pair()
    gate, unix = socket.socketpair()
    with client, gate:
        client.settimeout(5)
        assert listener._welcome(received(nginx_head(ktls_rx="0"), server, unix)) is None
        (error,) = refused
        assert str(error).startswith("expected one descriptor for input and output, got mode tx")
        head, _, body = client.recv(1000).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n")
        assert body.endswith(CLOSE_NOTIFY)  # in the clear, for lack of kTLS here
        assert head.endswith(f"\r\nContent-Length: {len(body) - 2}".encode())
        assert client.recv(1) == b""
        assert gate.recv(1) == b""


def test_head_that_is_no_http_is_refused_and_the_next_is_served(listener, refused):
    with hand(listener, our_head(HTTP_X="a\nb")) as bad, hand(listener) as good:
        with listener.accept()[0] as sock:
            sock.sendall(b"x")
        assert bad.recv(1) == b""
        assert good.recv(1) == b"x"
    assert [str(error) for error in refused] == ["expected a header field, got 'X': 'a\\nb'"]


def test_stranger_is_refused(tmp_path, refused):
    unix = bind_unix_listener(str(tmp_path / "s"))
    with HandoffSocket(unix, allowed_uids=[os.getuid() + 1], on_refused=refused.append) as listener:
        listener.settimeout(0.05)
        with hand(listener), pytest.raises(TimeoutError):
            listener.accept()
    assert len(refused) == 1


def test_loop_that_would_wait_for_the_head_in_vain_is_told(listener):
    async def accept():
        listener.accept()

    with hand(listener):
        with pytest.raises(LocalProtocolError, match=r"ktlsgate.backend.aio.HandoffEventLoop"):
            asyncio.run(accept())
        listener.accept()[0].close()


def test_deadline_of_a_sender_is_kept_while_accepting(tmp_path, refused):
    unix = bind_unix_listener(str(tmp_path / "s"))
    with (
        HandoffSocket(unix, deadline=0.02, on_refused=refused.append) as listener,
        connect(listener.address) as slow,
    ):
        listener.settimeout(0.3)
        with pytest.raises(TimeoutError):
            listener.accept()
        assert slow.recv(1) == b""
    assert [str(error) for error in refused] == [
        "expected the whole head in time, got 0 bytes of it"
    ]
