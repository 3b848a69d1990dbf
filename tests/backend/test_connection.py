"""A handed-over connection in the modes that need no kTLS, in both flavours.

In mode TX the descriptor is a plain TCP socket here, on which the kernel sends a
control record's bytes as data: so a close_notify shows up as ``01 00``.
"""

import contextlib
import io
import os
import socket
import struct
import threading

import pytest
import trio
from helpers.flavours import FLAVOURS, received
from helpers.handoffs import nginx_head, our_head, tcp_pair

from ktlsgate.backend.connection import SpinGuard
from ktlsgate.errors import ConnectionCut, LocalProtocolError
from ktlsgate.wire.handoff import FINISHED, RECEIVED, Mode

CLOSE_NOTIFY = b"\1\0"


class Stage:
    """One connection in one mode and flavour, and the far ends of everything.

    Attributes:
        client: what the application sends arrives here.
        source: what is sent here the application reads.
        gate: the gate's end of the Unix connection, None where it has ended.
        hands: the connection, in one flavour.
        goodbye: what the client sees behind all data when the output was ended.
    """

    def __init__(self, flavour, mode, keepalive="own", head=None, make=None, **names):
        make = make or (socket.socketpair if mode == "relay" else tcp_pair)
        self.client, descriptor = make()
        descriptor.setblocking(False)
        self.gate = unix = None
        if mode in ("tx", "relay"):
            self.gate, unix = socket.socketpair()
            self.gate.settimeout(5)
            unix.send(RECEIVED)
        self.client.settimeout(5)
        self.source = self.gate if mode == "tx" else self.client
        self.goodbye = CLOSE_NOTIFY if mode == "tx" else b""
        self.hands = flavour(received(head or our_head(mode, keepalive, **names), descriptor, unix))

    def end_input(self):
        """End the client's data as a gate does: cleanly."""
        if self.gate is not None:
            assert self.gate.recv(1) == RECEIVED
        self.source.shutdown(socket.SHUT_WR)

    def fill(self):
        """Fill every buffer between application and client, to the last byte."""
        with (
            socket.socket(fileno=os.dup(self.hands.connection.fileno())) as descriptor,
            contextlib.suppress(BlockingIOError),
        ):
            while True:
                descriptor.send(b"x", socket.MSG_DONTWAIT)

    def rest(self):
        """Read all that the client gets."""
        data = b""
        while piece := self.client.recv(65536):
            data += piece
        return data

    def close(self):
        self.hands.abort()
        self.client.close()
        if self.gate is not None:
            self.gate.close()


@pytest.fixture(params=FLAVOURS, ids=lambda flavour: flavour.__name__)
def flavour(request):
    return request.param


@pytest.fixture
def stages(flavour):
    """Makes stages and closes them."""
    made = []

    def make(mode, *arguments, **names):
        made.append(Stage(flavour, mode, *arguments, **names))
        return made[-1]

    yield make
    for stage in made:
        stage.close()


@pytest.fixture(params=["plain", "tx", "relay"])
def stage(request, stages):
    return stages(request.param)


# Reading.


def test_data_then_a_clean_end_that_stays(stage):
    stage.source.sendall(b"data")
    assert stage.hands.recv(2) == b"da"
    assert stage.hands.recv(100) == b"ta"
    stage.end_input()
    assert stage.hands.recv(100) == b""
    assert stage.hands.recv(100) == b""


def test_a_read_waits_for_data_and_can_be_given_up(stage):
    assert stage.hands.times_out("recv", 10)
    stage.source.sendall(b"data")
    assert stage.hands.recv(10) == b"data"


def test_after_the_clean_end_writing_goes_on(stage):
    stage.end_input()
    assert stage.hands.recv(1) == b""
    stage.hands.sendall(b"answer")
    assert stage.client.recv(100) == b"answer"


@pytest.mark.parametrize("mode", ["tx", "relay"])
def test_a_gate_that_dies_is_a_cut_behind_all_data(stages, mode):
    stage = stages(mode)
    stage.source.sendall(b"data")
    stage.gate.close()
    stage.client.close()
    assert stage.hands.recv(100) == b"data"
    for _ in range(2):
        with pytest.raises(ConnectionCut):
            stage.hands.recv(100)


def test_a_reset_by_the_client_is_a_cut_that_stays(stages):
    stage = stages("plain")
    stage.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stage.client.close()
    for _ in range(2):
        with pytest.raises(ConnectionCut) as caught:
            stage.hands.recv(100)
        assert str(caught.value) == "the connection broke: Connection reset by peer (ECONNRESET)"


def test_in_the_nginx_dialect_the_end_of_the_unix_connection_is_an_end(flavour):
    gate, unix = socket.socketpair()
    client, descriptor = tcp_pair()
    hands = flavour(received(nginx_head("0"), descriptor, unix))
    gate.send(b"data")
    gate.close()
    assert hands.recv(100) == b"data"
    assert hands.recv(100) == b""
    hands.close()
    client.close()


def test_a_read_of_nothing_is_a_mistake(stage):
    with pytest.raises(ValueError, match=r"^expected a size of 1 or more, got 0$"):
        stage.hands.recv(0)


# Writing.


def test_a_large_write_goes_on_while_the_client_reads(stage):
    data = os.urandom(5_000_000)
    result = []
    reader = threading.Thread(target=lambda: result.append(stage.rest()))
    reader.start()
    stage.hands.sendall(memoryview(data))
    stage.hands.close()
    reader.join()
    assert result == [data + stage.goodbye]


@pytest.mark.parametrize("is_blocking", [False, True])
@pytest.mark.parametrize(
    ("offset", "count", "expected"),
    [
        (0, None, 3_000_000),
        (10, 2_500_000, 2_500_000),
        (2_999_990, 100, 10),
        (4_000_000, None, 0),
        (5, 0, 0),
    ],
)
def test_sendfile_sends_what_the_file_has(stage, tmp_path, offset, count, expected, is_blocking):
    """On a blocking descriptor too, whose flag it must not touch."""
    data = os.urandom(3_000_000)
    (tmp_path / "f").write_bytes(data)
    os.set_blocking(stage.hands.connection.fileno(), is_blocking)
    result = []
    reader = threading.Thread(target=lambda: result.append(stage.rest()))
    reader.start()
    with io.FileIO(tmp_path / "f") as file:
        assert stage.hands.sendfile(file, offset, count) == expected
        assert file.tell() == 0
    assert os.get_blocking(stage.hands.connection.fileno()) is is_blocking
    stage.hands.close()
    reader.join()
    assert result == [data[offset : offset + expected] + stage.goodbye]


def test_sendfile_reaches_behind_two_gigabytes(stage, tmp_path):
    with open(tmp_path / "f", "w+b") as file:
        file.seek(3 << 30)
        file.write(b"the end")
        file.flush()
        assert stage.hands.sendfile(file, (3 << 30) - 2) == 9
    assert stage.client.recv(100) == b"\0\0the end"


def test_sendfile_takes_a_number_too(stage, tmp_path):
    (tmp_path / "f").write_bytes(b"contents")
    with io.FileIO(tmp_path / "f") as file:
        assert stage.hands.sendfile(file.fileno()) == 8
    assert stage.client.recv(100) == b"contents"


def test_sendfile_tells_a_file_that_cannot_be_read(stage, tmp_path):
    with io.FileIO(tmp_path / "f", "w") as file, pytest.raises(OSError, match="Bad file"):
        stage.hands.sendfile(file)


def test_writing_to_a_client_that_is_gone_is_a_cut(stage):
    stage.client.close()
    with pytest.raises(ConnectionCut):
        for _ in range(1000):
            stage.hands.sendall(b"x" * 65536)


# Ending the output.


def test_the_end_of_the_output_is_said_once(stage):
    stage.hands.sendall(b"answer")
    stage.hands.end_output()
    stage.hands.end_output()
    assert stage.rest() == b"answer" + stage.goodbye
    stage.source.sendall(b"more")
    assert stage.hands.recv(100) == b"more"


def test_finished_is_written_before_the_data_ends(stages):
    stage = stages("relay")
    stage.hands.end_output()
    assert stage.client.recv(1) == b""
    assert stage.gate.recv(10) == RECEIVED + FINISHED


def test_nothing_can_be_written_behind_the_end(stage, flavour, tmp_path):
    stage.hands.end_output()
    with pytest.raises(flavour.closed_error) as caught:
        stage.hands.sendall(b"x")
    assert str(caught.value) == "expected no more data after the end of the output"
    (tmp_path / "f").write_bytes(b"contents")
    with io.FileIO(tmp_path / "f") as file, pytest.raises(flavour.closed_error):
        stage.hands.sendfile(file)


def test_a_full_buffer_makes_close_notify_wait(stages):
    stage = stages("tx", make=socket.socketpair)  # TCP's buffers have no exact end
    stage.fill()
    assert stage.hands.times_out("end_output")
    result = []
    reader = threading.Thread(target=lambda: result.append(stage.rest()))
    reader.start()
    stage.hands.end_output()
    reader.join()
    assert result[0].endswith(b"x" + CLOSE_NOTIFY)


# Closing.


def test_closing_says_the_end_and_can_be_repeated(stage):
    stage.hands.sendall(b"answer")
    stage.hands.close()
    stage.hands.close()
    assert stage.rest() == b"answer" + stage.goodbye
    if stage.gate:
        expected = RECEIVED if stage.goodbye else RECEIVED + FINISHED
        assert stage.gate.recv(10) == expected
        assert stage.gate.recv(10) == b""


def test_aborting_does_not_call_the_data_complete(stage):
    stage.hands.sendall(b"half an ans")
    stage.hands.abort()
    assert stage.rest() == b"half an ans"
    if stage.gate:
        assert stage.gate.recv(10) == RECEIVED


def test_closing_in_the_middle_of_a_write_does_not_call_the_data_complete(stage):
    assert stage.hands.times_out("sendall", b"x" * 50_000_000)
    stage.hands.close()
    assert stage.rest().strip(b"x") == b""
    if stage.gate:
        assert stage.gate.recv(10) == RECEIVED


def test_a_write_ends_when_there_is_room_again(stages):
    """Where the kernel encrypts: with less room its TLS layer may hold what an end throws away.

    A Unix socket is not writable for poll once a quarter of its buffer is used.
    """
    stage = stages("tx", make=socket.socketpair)
    data = bytes(100_000)
    assert stage.hands.times_out("sendall", data)
    assert stage.client.recv(len(data), socket.MSG_WAITALL) == data
    stage.hands.sendall(b"rest")
    stage.hands.close()
    assert stage.rest() == b"rest" + CLOSE_NOTIFY


def test_a_file_ends_when_there_is_room_again(stages, tmp_path):
    stage = stages("tx", make=socket.socketpair)
    data = bytes(100_000)
    (tmp_path / "f").write_bytes(data)
    with io.FileIO(tmp_path / "f") as file:
        assert stage.hands.times_out("sendfile", file)
    assert stage.client.recv(len(data), socket.MSG_WAITALL) == data


def test_a_write_given_up_without_room_is_not_called_complete(stages):
    stage = stages("tx", make=socket.socketpair)
    assert stage.hands.times_out("sendall", bytes(100_000))
    stage.hands.close()
    assert stage.rest() == bytes(100_000)


def test_the_end_of_the_output_waits_for_room(stages):
    stage = stages("tx", make=socket.socketpair)
    assert stage.hands.times_out("sendall", bytes(100_000))
    assert stage.hands.times_out("end_output")
    assert stage.client.recv(100_000, socket.MSG_WAITALL) == bytes(100_000)
    stage.hands.end_output()
    assert stage.rest() == CLOSE_NOTIFY


def test_where_the_kernel_does_not_encrypt_a_write_ends_when_it_was_taken(stages):
    stage = stages("relay")
    stage.hands.sendall(bytes(100_000))


def test_closing_with_a_full_buffer_does_not_wait(stages):
    stage = stages("tx", make=socket.socketpair)  # TCP's buffers have no exact end
    stage.fill()
    stage.hands.close()
    assert stage.rest().strip(b"x") == b""


def test_closing_over_unread_input_does_not_destroy_the_answer(stages):
    stage = stages("plain")
    stage.client.sendall(b"y" * 50_000)
    assert stage.hands.recv(1) == b"y"
    stage.hands.sendall(b"answer")
    stage.hands.close()
    assert stage.rest() == b"answer"


def test_closing_shuts_down_what_the_gate_still_holds(stages):
    """In mode TX the client's socket has another holder."""
    stage = stages("tx")
    with socket.socket(fileno=os.dup(stage.hands.connection.fileno())) as gates_copy:
        stage.hands.close()
        assert stage.rest() == CLOSE_NOTIFY
        assert gates_copy.recv(1) == b""


def test_a_closed_connection_refuses_everything(stage, flavour):
    stage.hands.close()
    calls = [
        lambda: stage.hands.recv(1),
        lambda: stage.hands.sendall(b"x"),
        stage.hands.end_output,
        lambda: stage.hands.sendfile(0),
    ]
    for call in calls:
        with pytest.raises(flavour.closed_error) as caught:
            call()
        assert str(caught.value) == "expected an open connection, got a closed one"
    assert stage.hands.connection.fileno() == -1
    assert stage.hands.connection.is_ktls_tx is False


def test_a_forgotten_connection_is_closed_as_a_cut_and_warned_about(flavour):
    client, descriptor = tcp_pair()
    gate, unix = socket.socketpair()
    hands = flavour(received(our_head("tx"), descriptor, unix))
    with pytest.warns(ResourceWarning, match=r"^unclosed <\w+ 192\.0\.2\.7 port 40000, tx>$"):
        del hands  # nothing else refers to it
    with client, gate:
        assert client.recv(1) == b""


# What it says about itself.


@pytest.mark.parametrize("keepalive", ["own", "single"])
def test_it_tells_what_was_handed_over(stages, keepalive):
    connection = stages("relay", keepalive).hands.connection
    assert connection.mode is Mode.RELAY
    assert connection.remote == ("192.0.2.7", 40000)
    assert connection.environ["REQUEST_URI"] == "/x?y=1"
    assert connection.head.is_ours
    assert connection.keepalive == keepalive
    assert connection.fileno() >= 0
    assert not connection.is_ktls_tx
    assert not connection.is_ktls_rx
    kind = type(connection).__name__
    assert repr(connection) == f"<{kind} 192.0.2.7 port 40000, relay>"


# One request and no more.


@pytest.mark.parametrize("mode", ["plain", "tx", "relay"])
def test_single_reads_end_behind_the_body_once_it_is_answered(stages, mode):
    stage = stages(mode, "single", HTTP_CONTENT_LENGTH="5")
    stage.source.sendall(b"abcdeGET /other HTTP/1.1\r\n")
    assert stage.hands.recv(3) == b"abc"
    assert stage.hands.recv(100) == b"de"
    stage.hands.sendall(b"HTTP/1.1 200 OK\r\n")
    assert stage.hands.recv(100) == b""
    assert stage.hands.recv(100) == b""


@pytest.mark.parametrize("mode", ["plain", "tx", "relay"])
def test_single_reads_wait_behind_the_body_until_it_is_answered(stages, mode):
    stage = stages(mode, "single")
    assert stage.hands.times_out("recv", 100)
    stage.source.sendall(b"GET /other HTTP/1.1\r\n")
    assert stage.hands.times_out("recv", 100)


@pytest.mark.parametrize("mode", ["plain", "tx", "relay"])
def test_single_reads_end_behind_the_body_when_the_client_ends(stages, mode):
    stage = stages(mode, "single")
    stage.end_input()
    assert stage.hands.recv(100) == b""


@pytest.mark.parametrize("mode", ["plain", "tx", "relay"])
def test_single_reads_go_on_once_an_upgrade_was_accepted(stages, mode):
    stage = stages(mode, "single")
    stage.source.sendall(b"frames")
    assert stage.hands.times_out("recv", 100)
    stage.hands.sendall(b"HTTP/1.1 ")
    assert stage.hands.recv(100) == b""
    stage.hands.sendall(b"101 Switching Protocols\r\n\r\n")
    assert stage.hands.recv(100) == b"frames"


def test_single_a_reset_behind_the_body_is_a_cut_that_stays(stages):
    """The kernel tells it once, and the look for a next request is who hears it."""
    stage = stages("plain", "single")
    stage.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stage.client.close()
    for _ in range(2):
        with pytest.raises(ConnectionCut) as caught:
            stage.hands.recv(100)
        assert str(caught.value) == "the connection broke: Connection reset by peer (ECONNRESET)"


def test_single_with_malformed_chunks_is_an_error_that_stays(stages):
    stage = stages("plain", "single", HTTP_TRANSFER_ENCODING="chunked")
    stage.source.sendall(b"nonsense\r\n")
    texts = []
    for _ in range(2):
        with pytest.raises(Exception, match="malformed chunk size or extension") as caught:
            while stage.hands.recv(100):
                pass
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


def test_single_after_a_file_no_upgrade_is_believed(stages, tmp_path):
    stage = stages("plain", "single")
    (tmp_path / "f").write_bytes(b"HTTP/1.1 101 ")
    with io.FileIO(tmp_path / "f") as file:
        stage.hands.sendfile(file)
    stage.source.sendall(b"GET /other HTTP/1.1\r\n")
    assert stage.hands.recv(100) == b""


# Not spinning.


def test_false_alarms_in_a_row_slow_the_reader_down():
    guard = SpinGuard()
    pauses = [guard.pause_after(was_readable=True) for _ in range(8)]
    assert pauses == [0.0, 0.01, 0.02, 0.04, 0.08, 0.1, 0.1, 0.1]


def test_a_look_that_nobody_asked_for_is_no_false_alarm():
    guard = SpinGuard()
    assert {guard.pause_after(was_readable=False) for _ in range(9)} == {0.0}


def test_errors_of_trio_are_of_both_trees(stages, flavour):
    stage = stages("tx")
    stage.gate.close()
    with pytest.raises(ConnectionCut) as caught:
        stage.hands.recv(1)
    assert isinstance(caught.value, trio.BrokenResourceError) is (
        flavour.closed_error is not LocalProtocolError
    )
