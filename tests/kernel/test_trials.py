"""Trials become values, pairs are closed, and nothing waits for ever."""

from __future__ import annotations

import errno
import socket
import time

import pytest
from helpers.descriptors import no_descriptor_left, open_descriptors

from ktlsgate.errors import CipherUnsupported
from ktlsgate.kernel.trials import (
    DONE,
    TIMEOUT,
    Outcome,
    attempt,
    loopback_pair,
    on_pair,
    recv_exactly,
)


def raising(exc: Exception):
    def trial() -> None:
        raise exc

    return trial


def test_a_trial_that_returns_nothing_worked() -> None:
    assert attempt(lambda: None) is DONE
    assert DONE.label == "ok"


def test_a_complaint_is_a_failure_without_errno() -> None:
    outcome = attempt(lambda: "half of it came")
    assert outcome == Outcome(ok=False, reason="half of it came")
    assert outcome.label == "failed"


def test_an_errno_is_told_in_the_given_words() -> None:
    trial = raising(OSError(errno.EBUSY, "Device or resource busy"))
    outcome = attempt(trial, {errno.EBUSY: "in use"})
    assert outcome == Outcome(ok=False, errno=errno.EBUSY, reason="in use (EBUSY)")
    assert outcome.label == "EBUSY"


def test_an_errno_without_words_has_the_systems() -> None:
    outcome = attempt(raising(OSError(errno.EIO, "whatever")))
    assert outcome.reason == "Input/output error (EIO)"


def test_our_own_errors_carry_their_errno_along() -> None:
    outcome = attempt(raising(CipherUnsupported(errno.EINVAL, "long")), {errno.EINVAL: "unknown"})
    assert outcome == Outcome(ok=False, errno=errno.EINVAL, reason="unknown (EINVAL)")


def test_a_timeout_is_the_kernels_failure_and_not_the_probes() -> None:
    outcome = attempt(raising(TimeoutError("timed out")))
    assert outcome == Outcome(ok=False, reason="nothing came within 2 seconds")


@pytest.mark.parametrize("exc", [AttributeError("no splice"), ValueError("x"), OSError("bare")])
def test_what_no_trial_expects_is_broken_and_still_a_value(exc: Exception) -> None:
    outcome = attempt(raising(exc))
    assert outcome.is_broken
    assert outcome.reason == f"{type(exc).__name__}: {exc}"


def test_both_ends_of_a_pair_are_connected_and_bounded() -> None:
    with loopback_pair() as (accepted, client):
        client.sendall(b"hello")
        assert accepted.recv(9) == b"hello"
        assert accepted.gettimeout() == client.gettimeout() == TIMEOUT
        assert accepted.getpeername() == client.getsockname()


def test_a_pair_can_be_of_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        with loopback_pair(socket.AF_INET6) as (accepted, client):
            assert accepted.family == socket.AF_INET6
            assert accepted.getpeername()[:2] == ("::1", client.getsockname()[1])
    except OSError as exc:
        pytest.skip(f"no IPv6 on loopback: {exc.strerror}")


def test_a_pair_leaves_no_descriptor_open() -> None:
    before = open_descriptors()
    with loopback_pair() as (accepted, client):
        pass
    assert accepted.fileno() == client.fileno() == -1
    assert open_descriptors() == before


def test_no_descriptor_left_is_a_broken_outcome() -> None:
    with no_descriptor_left():
        outcome = on_pair(lambda *_: DONE, lambda outcome: outcome)
    assert outcome.is_broken
    assert outcome.errno == errno.EMFILE
    assert outcome.reason == (
        "cannot make a TCP connection over loopback: [Errno 24] Too many open files"
    )


def test_recv_exactly_joins_pieces_and_stops_there() -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(b"abc")
        far.sendall(b"defg")
        assert recv_exactly(near, 6) == b"abcdef"
        assert near.recv(9) == b"g"


def test_recv_exactly_ends_with_the_stream() -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(b"abc")
        far.close()
        assert recv_exactly(near, 6) == b"abc"


@pytest.mark.slow
def test_recv_exactly_gives_up_in_time() -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(b"abc")
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            recv_exactly(near, 6)
        assert time.monotonic() - started < TIMEOUT + 1
