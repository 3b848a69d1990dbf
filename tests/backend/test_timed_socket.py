"""Timeouts that leave O_NONBLOCK alone."""

import math
import os
import socket
import time

import pytest

from ktlsgate.backend.timed_socket import TimedSocket, seconds_left


@pytest.fixture
def sock():
    with TimedSocket(socket.AF_UNIX) as sock:
        yield sock


@pytest.mark.parametrize("is_blocking", [True, False])
def test_kernels_flag_stays_as_it_was(sock, is_blocking):
    os.set_blocking(sock.fileno(), is_blocking)
    for seconds in (None, 0, 2.5):
        sock.settimeout(seconds)
        assert sock.gettimeout() == sock.timeout == seconds
        assert sock.getblocking() is (seconds != 0)
        assert os.get_blocking(sock.fileno()) is is_blocking
    for flag in (True, False):
        sock.setblocking(flag)
        assert sock.getblocking() is flag
        assert os.get_blocking(sock.fileno()) is is_blocking


def test_blocking_is_what_a_socket_is_at_first(sock):
    assert sock.gettimeout() is None
    assert sock.deadline() == math.inf


def test_deadline_is_now_with_the_flag_or_without_a_timeout(sock):
    assert sock.deadline(socket.MSG_DONTWAIT) == 0
    sock.settimeout(0)
    assert sock.deadline() == 0
    sock.settimeout(50)
    assert 40 < seconds_left(sock.deadline()) <= 50


def test_time_below_zero_is_refused_in_pythons_words(sock):
    with pytest.raises(ValueError, match=r"^Timeout value out of range$"):
        sock.settimeout(-1)


def test_late_is_a_timeout():
    with pytest.raises(TimeoutError, match=r"^timed out$"):
        seconds_left(time.monotonic())


@pytest.mark.parametrize("name", ["detach", "dup"])
def test_number_alone_is_not_given_away(sock, name):
    with pytest.raises(OSError, match="the number alone is not it"):
        getattr(sock, name)()
    assert sock.fileno() != -1
