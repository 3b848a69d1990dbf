"""The trial of signals: it finds what it looks for, and leaves the process as it was."""

from __future__ import annotations

import signal
import socket
import threading

import pytest

from ktlsgate.kernel.signal_trial import send_under_signals
from ktlsgate.kernel.trials import loopback_pair


class Breaking(socket.socket):
    """A sender whose connection the first signal breaks, as kTLS did before 6.12.105."""

    def sendall(self, data: bytes) -> None:
        super().sendall(data[:10])
        raise OSError(512, "Unknown error 512")


class Losing(socket.socket):
    """A sender that loses a byte of each piece."""

    def sendall(self, data: bytes) -> None:
        super().sendall(data[1:])


def broken(near: socket.socket, kind: type[socket.socket]) -> socket.socket:
    return kind(fileno=near.detach())


@pytest.mark.slow
def test_plain_tcp_survives_signals() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with loopback_pair() as (near, far):
        assert send_under_signals(near, far) is None
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_broken_connection_is_told_with_its_errno() -> None:
    with loopback_pair() as (near, far), broken(near, Breaking) as sender:
        assert send_under_signals(sender, far) == (
            "a signal during a blocking send broke the connection (errno 512)"
        )
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.slow
def test_lost_data_is_told() -> None:
    with loopback_pair() as (near, far), broken(near, Losing) as sender:
        complaint = send_under_signals(sender, far)
    assert complaint.endswith(" came, or not the same")


def test_another_thread_than_the_main_one_cannot_try() -> None:
    raised = []

    def run() -> None:
        with loopback_pair() as (near, far), pytest.raises(ValueError, match="main thread") as info:
            send_under_signals(near, far)
        raised.append(info.type)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert raised == [ValueError]
