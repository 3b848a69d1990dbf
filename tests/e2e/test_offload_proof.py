"""That it is really the kernel, and that nothing leaves unsealed: counters and a capture."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

import pytest
from helpers.backends import digest
from helpers.front import start_front
from helpers.ktls import require_ktls

from ktlsgate.kernel.tls_stat import changes_between, read_tls_stat
from ktlsgate.kernel.trials import loopback_pair

MARK = b"readable-by-anybody"
ETH_P_ALL = 3  # linux/if_ether.h
SOL_PACKET, PACKET_STATISTICS = 263, 6  # linux/socket.h, linux/if_packet.h


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    with start_front(tmp_path_factory.mktemp("proof")) as front:
        yield front


class Capture:
    """Every packet on loopback since it was opened."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def packets(self) -> list[bytes]:
        """All so far; the kernel has dropped none."""
        taken = []
        with contextlib.suppress(BlockingIOError):
            while True:
                taken.append(self._sock.recv(70_000))
        raw = self._sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        _, dropped = struct.unpack("=II", raw)
        assert dropped == 0
        return taken


@contextlib.contextmanager
def capture_loopback():
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    except OSError as exc:
        pytest.skip(f"cannot capture packets: {exc.strerror}")
    with sock:
        sock.bind(("lo", ETH_P_ALL))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.setblocking(False)
        yield Capture(sock)


def of_port(packets: list[bytes], port: int) -> list[bytes]:
    """IPv4 TCP packets that come from a port or go to it."""
    tcp = (p for p in packets if p[0] >> 4 == 4 and p[9] == socket.IPPROTO_TCP)
    return [p for p in tcp if port in struct.unpack_from("!HH", p, (p[0] & 15) * 4)]


def test_no_plaintext_is_seen_on_the_wire(front) -> None:
    """Input and output, head and body; a plain connection beside it is seen in full."""
    if os.geteuid() != 0:
        pytest.skip("only root can capture packets")
    body = MARK * 500
    target = front.target(f"/hash?{MARK.decode()}")
    with capture_loopback() as capture, loopback_pair() as (near, far):
        near.sendall(MARK)
        assert far.recv(100) == MARK
        plain = near.getsockname()[1]
        done = front.curl(target, "--data-binary", "@-", data=body)
        facts = front.curl(front.target(f"/facts?{MARK.decode()}"))
        packets = capture.packets()
    assert digest(body).encode() in done.stdout
    assert MARK in facts.stdout
    assert any(MARK in packet for packet in of_port(packets, plain))
    sealed = of_port(packets, front.port)
    assert sum(map(len, sealed)) > len(body)
    assert any(b"\x17\x03\x03" in packet for packet in sealed)
    for part in (MARK, b"HTTP/1.1", b"KTLSGATE"):
        assert not [packet for packet in sealed if part in packet]


@pytest.mark.ktls
def test_each_connection_counts_once_each_way_and_none_fails(front) -> None:
    require_ktls()
    before = read_tls_stat()
    for _ in range(3):
        done = front.curl(front.target("/hash"), "--data-binary", "@-", data=MARK * 2000)
        assert digest(MARK * 2000).encode() in done.stdout
    moved = changes_between(before, read_tls_stat())
    assert [str(change) for change in moved] == ["TlsTxSw +3", "TlsRxSw +3"]
