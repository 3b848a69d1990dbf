"""What counts as sent: nothing that a close could lose."""

import pytest

from ktlsgate.backend.admitted_output import AdmittedOutput


class FakeConnection:
    """Takes all, or ``room`` bytes; is tight while told so."""

    def __init__(self):
        self.taken = b""
        self.room = 1000
        self.is_tight = False
        self.checks = 0

    def check_writable(self):
        self.checks += 1

    def send(self, data):
        if not self.room:
            raise BlockingIOError
        sent = min(self.room, len(data))
        self.taken += bytes(data[:sent])
        return sent

    def flush(self):
        if self.is_tight:
            raise BlockingIOError


@pytest.fixture
def core():
    return FakeConnection()


def send(output, data):
    return output.send(memoryview(data))


def test_all_counts_while_there_is_room(core):
    output = AdmittedOutput(core)
    assert send(output, b"hello") == 5
    assert core.taken == b"hello"
    assert not output.is_owing


def test_last_byte_counts_once_there_is_room_and_goes_once(core):
    output = AdmittedOutput(core)
    core.is_tight = True
    assert send(output, b"hello") == 4
    assert output.is_owing
    with pytest.raises(BlockingIOError):
        send(output, b"o world")
    core.is_tight = False
    assert send(output, b"o world") == 1
    assert not output.is_owing
    assert send(output, b" world") == 6
    assert core.taken == b"hello world"


def test_single_byte_does_not_count_at_first(core):
    output = AdmittedOutput(core)
    core.is_tight = True
    with pytest.raises(BlockingIOError):
        send(output, b"x")
    core.is_tight = False
    assert send(output, b"x") == 1
    assert core.taken == b"x"


def test_part_that_was_taken_ends_with_the_owed_byte(core):
    output = AdmittedOutput(core)
    core.is_tight, core.room = True, 3
    assert send(output, b"hello") == 2
    core.is_tight, core.room = False, 1000
    assert send(output, b"llo") == 1
    assert send(output, b"lo") == 2
    assert core.taken == b"hello"


def test_another_byte_than_the_owed_one_is_not_swallowed(core):
    output = AdmittedOutput(core)
    core.is_tight = True
    assert send(output, b"hello") == 4
    core.is_tight = False
    assert send(output, b"HTTP") == 0
    assert send(output, b"HTTP") == 4
    assert core.taken == b"helloHTTP"


def test_nothing_is_nothing_but_still_asks_whether_it_may(core):
    assert send(AdmittedOutput(core), b"") == 0
    assert (core.taken, core.checks) == (b"", 1)


def test_full_buffer_owes_nothing(core):
    output = AdmittedOutput(core)
    core.room = 0
    with pytest.raises(BlockingIOError):
        send(output, b"hello")
    assert not output.is_owing
