"""How the kernel's answers about the client's data are understood."""

import errno
import os
import socket

import pytest
from helpers.flavours import received
from helpers.handoffs import our_head

from ktlsgate.backend.client_input import make_input, peer_error
from ktlsgate.backend.verdict import Verdict
from ktlsgate.errors import BadRecord, ConnectionCut, FatalAlert, RemoteProtocolError
from ktlsgate.kernel.ktls import SOL_TLS
from ktlsgate.wire.handoff import FINISHED, RECEIVED


class FakeKtlsSocket:
    """Answers recvmsg from a script: (content type, data), or an errno."""

    def __init__(self, *script):
        self.script = list(script)
        self.sent = []

    def recvmsg(self, size, space, flags):
        assert flags & socket.MSG_DONTWAIT
        assert space == socket.CMSG_SPACE(1)
        answer = self.script.pop(0)
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer))
        content_type, data = answer
        cmsg = [(SOL_TLS, 2, bytes((content_type,)))] if content_type != 23 else []
        return data[:size], cmsg, 0, None

    def sendmsg(self, buffers, ancillary, flags):
        assert flags & socket.MSG_DONTWAIT
        self.sent.append((ancillary[0][2], b"".join(buffers)))
        return 2


def records(*script, **names):
    sock = FakeKtlsSocket(*script)
    return make_input(received(our_head("both", **names), sock), Verdict(None)), sock


def test_data_then_close_notify():
    source, _ = records((23, b"data"), (21, b"\1\0"))
    assert source.read(100, 0) == b"data"
    assert source.read(100, 0) == b""


def test_the_end_of_the_stream_without_close_notify_is_a_cut():
    source, _ = records((23, b"data"), (23, b""))
    assert source.read(100, 0) == b"data"
    with pytest.raises(ConnectionCut) as caught:
        source.read(100, 0)
    assert str(caught.value) == "the client's stream ended without close_notify"


def test_what_means_nothing_is_skipped():
    source, sock = records((21, b"\1\x5a"), (22, b"\4\0\0\1x"), (23, b"data"))
    assert source.read(100, 0) == b"data"
    assert sock.sent == []


def test_renegotiation_is_refused_and_reading_goes_on():
    source, sock = records((22, b"\1\0\0\1x"), (23, b"data"), SSL_PROTOCOL="TLSv1.2")
    assert source.read(100, 0) == b"data"
    assert sock.sent == [(b"\x15", b"\1\x64")]


def test_a_tls13_client_cannot_wish_for_renegotiation():
    source, sock = records((22, b"\1\0\0\1x"), SSL_PROTOCOL="TLSv1.3")
    with pytest.raises(RemoteProtocolError):
        source.read(100, 0)
    assert sock.sent == []


def test_a_fatal_alert_is_raised():
    source, _ = records((21, b"\2\x28"))
    with pytest.raises(FatalAlert) as caught:
        source.read(100, 0)
    assert caught.value.description == 40


def test_nothing_there_is_no_error_of_the_connection():
    source, _ = records(errno.EAGAIN)
    with pytest.raises(BlockingIOError):
        source.read(100, 0)


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (errno.EBADMSG, BadRecord, "a record does not decrypt (EBADMSG)"),
        (errno.EMSGSIZE, BadRecord, "a record is longer than TLS allows (EMSGSIZE)"),
        (
            errno.EINVAL,
            BadRecord,
            "a record header is no TLS header of this connection (EINVAL)",
        ),
        (
            errno.EKEYEXPIRED,
            RemoteProtocolError,
            "the client sent a KeyUpdate, and this backend cannot install the next receiving key",
        ),
        (
            errno.ECONNRESET,
            ConnectionCut,
            "the connection broke: Connection reset by peer (ECONNRESET)",
        ),
        (
            errno.ETIMEDOUT,
            ConnectionCut,
            "the connection broke: Connection timed out (ETIMEDOUT)",
        ),
        (errno.EPIPE, ConnectionCut, "the connection broke: Broken pipe (EPIPE)"),
    ],
)
def test_every_errno_has_its_meaning(code, kind, text):
    error = peer_error(OSError(code, os.strerror(code)))
    assert (type(error), str(error)) == (kind, text)
    source, _ = records(code)
    with pytest.raises(kind):
        source.read(100, 0)


@pytest.mark.parametrize("code", [errno.EBADMSG, errno.EMSGSIZE, errno.EINVAL, errno.ECONNRESET])
def test_what_a_look_is_told_it_tells(code):
    """The kernel says some errors once; a look that kept them would leave the reader waiting."""
    source, _ = records(code, errno.EAGAIN)
    with pytest.raises(type(peer_error(OSError(code, "")))):
        source.has_data()


def test_a_look_leaves_a_missing_key_to_the_read_that_may_have_it():
    source, _ = records(errno.EKEYEXPIRED)
    assert not source.has_data()


def test_a_bad_record_carries_its_errno():
    assert peer_error(OSError(errno.EMSGSIZE, "")).errno == errno.EMSGSIZE


# KeyUpdates, with a rekeying that writes down what it is told.


class FakeRekeying:
    def __init__(self):
        self.calls = []

    def follow(self, *, is_requested, now):
        self.calls.append(("follow", is_requested, now))

    def reopen_receiving(self):
        self.calls.append("reopen")


def rekeyed_records(*script):
    sock, rekeying = FakeKtlsSocket(*script), FakeRekeying()
    head = received(our_head("both", SSL_PROTOCOL="TLSv1.3"), sock)
    return make_input(head, Verdict(None), rekeying), rekeying


@pytest.mark.parametrize("is_requested", [False, True])
def test_a_key_update_is_followed_and_reading_goes_on(is_requested):
    message = b"\x18\0\0\1" + bytes((is_requested,))
    source, rekeying = rekeyed_records((22, message), (23, b"data"))
    assert source.read(100, 7.5) == b"data"
    assert rekeying.calls == [("follow", is_requested, 7.5)]


def test_a_key_update_split_over_records_is_reopened_and_then_followed():
    script = [(22, b"\x18"), errno.EKEYEXPIRED, (22, b"\0\0\1\0"), (23, b"data")]
    source, rekeying = rekeyed_records(*script)
    assert source.read(100, 1) == b"data"
    assert rekeying.calls == ["reopen", ("follow", False, 1)]


def test_a_kernel_that_stays_closed_is_asked_once():
    script = [(22, b"\x18"), errno.EKEYEXPIRED, errno.EKEYEXPIRED]
    source, rekeying = rekeyed_records(*script)
    with pytest.raises(RemoteProtocolError):
        source.read(100, 1)
    assert rekeying.calls == ["reopen"]


def test_a_missing_key_outside_a_key_update_is_an_error():
    source, rekeying = rekeyed_records(errno.EKEYEXPIRED)
    with pytest.raises(RemoteProtocolError):
        source.read(100, 1)
    assert rekeying.calls == []


# Verdicts, with the gate's end played by hand.


@pytest.fixture
def relay():
    """The gate's ends of data and verdict, and the receiver's input and verdict."""
    gate, ours = socket.socketpair()
    gate_verdict, our_verdict = socket.socketpair()
    our_verdict.send(RECEIVED)
    verdict = Verdict(our_verdict)
    with gate, ours, gate_verdict, our_verdict:
        source = make_input(received(our_head("relay"), ours, our_verdict), verdict)
        yield gate, gate_verdict, source, verdict


def test_an_end_is_clean_when_the_gate_took_received_and_closed(relay):
    gate, gate_verdict, source, _ = relay
    gate.send(b"data")
    gate_verdict.recv(1)
    gate_verdict.close()
    gate.close()
    assert source.read(100, 0) == b"data"
    assert source.read(100, 0) == b""


def test_an_end_is_clean_when_the_gate_took_received_and_listens_on(relay):
    gate, gate_verdict, source, _ = relay
    gate_verdict.shutdown(socket.SHUT_WR)
    gate_verdict.recv(1)
    gate.shutdown(socket.SHUT_WR)
    assert source.read(100, 0) == b""


def test_an_end_is_a_cut_when_the_gate_left_received_unread(relay):
    gate, gate_verdict, source, _ = relay
    gate.send(b"data")
    gate_verdict.close()
    gate.close()
    assert source.read(100, 0) == b"data"
    with pytest.raises(ConnectionCut) as caught:
        source.read(100, 0)
    assert str(caught.value) == "the client's stream was cut, as the gate tells"


def test_an_end_is_a_cut_when_the_gate_died_before_its_verdict(relay):
    """A killed process closes its descriptors one by one."""
    gate, _, source, _ = relay
    gate.close()
    with pytest.raises(ConnectionCut):
        source.read(100, 0)


def test_a_reset_of_the_data_is_a_cut(relay):
    gate, _, source, _ = relay
    source.socket.send(b"unread answer")
    gate.close()
    with pytest.raises(ConnectionCut):
        source.read(100, 0)


def test_finished_comes_behind_received(relay):
    _, gate_verdict, _, verdict = relay
    verdict.send_finished()
    assert gate_verdict.recv(10) == RECEIVED + FINISHED


def test_behind_finished_a_gate_that_took_only_received_still_means_clean(relay):
    gate, gate_verdict, source, verdict = relay
    verdict.send_finished()
    gate_verdict.recv(1)
    gate.shutdown(socket.SHUT_WR)
    assert source.read(100, 0) == b""


def test_a_gate_that_is_gone_needs_no_finished(relay):
    _, gate_verdict, _, verdict = relay
    gate_verdict.recv(1)
    gate_verdict.close()
    verdict.send_finished()


def test_without_a_verdict_connection_every_end_is_clean():
    gate, ours = socket.socketpair()
    with gate, ours:
        source = make_input(received(our_head("relay"), ours), Verdict(None))
        gate.close()
        assert source.read(100, 0) == b""
