"""Fibers: who wakes when, and in turn with whom."""

import contextlib
import errno
import math
import select
import socket

import pytest
import trio
import trio.testing
from helpers.fibers import (
    Log,
    Steps,
    assert_no_fiber,
    drain,
    fill,
    limit_watches,
    open_pairs,
    recv,
    settled,
    watched,
)
from helpers.sessions import open_fibers

from ktlsgate.errors import ResourceShortage
from ktlsgate.gate.fibers import (
    DeadlinePassed,
    Fibers,
    give_way,
    now,
    set_deadline,
    sleep,
    stop_watching,
    this_fiber,
    wait_news,
    wait_readable,
    wait_writable,
)

MANY = 100_000  # turns in a row of one fiber: the others starve


@pytest.fixture
def pairs():
    with open_pairs() as make:
        yield make


@pytest.fixture
def pair(pairs):
    return pairs()


# --- the start ----------------------------------------------------------------------


async def test_a_fiber_runs_to_its_first_wait_when_it_is_started(pair):
    log = []

    async def job():
        log.append(this_fiber().fibers is fibers)
        await wait_readable(pair[0])
        log.append("woken")

    async with open_fibers() as fibers:
        fibers.start(job())
        assert log == [True]
        assert_no_fiber()
        pair[1].send(b"x")
        assert log == [True]
        await settled()
        assert log == [True, "woken"]
        assert_no_fiber()


async def test_a_fiber_that_never_waits_is_over_when_start_returns():
    log = []

    async def job():
        log.append("all")

    async with open_fibers() as fibers:
        fibers.start(job())
        assert log == ["all"]


async def test_a_fiber_that_starts_another_stays_one():
    log = []

    async def inner():
        log.append(this_fiber())
        await sleep(1000)

    async def outer(fibers):
        log.append(this_fiber())
        fibers.start(inner())
        log.append(this_fiber())

    async with open_fibers() as fibers:
        fibers.start(outer(fibers))
    first, inside, again = log
    assert again is first
    assert inside is not first


async def test_what_was_started_before_run_is_served_by_it(pair, autojump_clock):
    log = Log()

    async def reader():
        log.note(await recv(pair[0]))

    async def sleeper():
        await sleep(3)
        log.note("slept")

    async def late():
        set_deadline(log.began + 5)
        with contextlib.suppress(DeadlinePassed):
            await sleep(math.inf)
        log.note("late")

    async def yielding():
        await give_way()
        log.note("gave way")

    async with trio.open_nursery() as nursery:
        fibers = Fibers()
        for job in (reader, sleeper, late, yielding):
            fibers.start(job())
        pair[1].send(b"x")
        await trio.lowlevel.checkpoint()
        assert log == []
        nursery.start_soon(fibers.run)
        await trio.sleep(10)
        assert sorted(log, key=str) == [
            ("gave way", 0), ("late", 5), ("slept", 3), (b"x", 0),
        ]  # fmt: skip
        nursery.cancel_scope.cancel()


# --- news of sockets ------------------------------------------------------------------


ENDS = {
    "half close": lambda sock: sock.shutdown(socket.SHUT_WR),
    "close": lambda sock: sock.close(),
}


@pytest.mark.parametrize("end", ENDS)
async def test_the_peers_end_wakes_a_reader(pair, end):
    log = []

    async def job():
        log.append(await recv(pair[0]))

    async with open_fibers() as fibers:
        fibers.start(job())
        await settled()
        ENDS[end](pair[1])
        await settled()
        assert log == [b""]


async def test_the_peers_end_wakes_a_writer(pair):
    log = []

    async def job():
        fill(pair[0])
        await wait_writable(pair[0])
        with pytest.raises(ConnectionError):  # EPIPE, or the reset of what was unread
            pair[0].send(b"x")
        log.append("gone")

    async with open_fibers() as fibers:
        fibers.start(job())
        await settled()
        pair[1].close()
        await settled()
        assert log == ["gone"]


async def test_room_wakes_a_writer_every_time(pair):
    log = []

    async def job():
        for round_ in range(3):
            fill(pair[0])
            while True:
                await wait_writable(pair[0])
                with contextlib.suppress(BlockingIOError):
                    pair[0].send(b"x")
                    break
            log.append(round_)

    async with open_fibers() as fibers:
        fibers.start(job())
        for round_ in range(3):
            await settled()
            assert log == list(range(round_))
            drain(pair[1])
        await settled()
        assert log == [0, 1, 2]


@pytest.mark.parametrize("rounds", [1, 2, 3])
async def test_data_that_come_between_eagain_and_the_wait_wake_the_reader(pair, rounds):
    log = []

    async def job():
        for round_ in range(rounds):
            with pytest.raises(BlockingIOError):
                pair[0].recv(1)
            pair[1].send(bytes((round_,)))
            await wait_readable(pair[0])
            log.append(pair[0].recv(1))

    async with open_fibers() as fibers:
        fibers.start(job())
        await settled()
        assert log == [bytes((round_,)) for round_ in range(rounds)]


@pytest.mark.parametrize("read_before", [False, True])
async def test_room_that_comes_between_eagain_and_the_wait_wakes_the_writer(pair, read_before):
    log = []

    async def job():
        if read_before:  # so that the set has the socket for reading already
            await recv(pair[0])
        for round_ in range(3):
            fill(pair[0])
            drain(pair[1])
            await wait_writable(pair[0])
            log.append(round_)

    async with open_fibers() as fibers:
        fibers.start(job())
        await settled()
        pair[1].send(b"x")
        await settled()
        assert log == [0, 1, 2]


async def test_a_reader_that_wrote_before_is_woken_by_data(pair):
    log = []

    async def job():
        fill(pair[0])
        await wait_writable(pair[0])
        log.append("room")
        for _ in range(3):
            log.append(await recv(pair[0]))

    async with open_fibers() as fibers:
        fibers.start(job())
        await settled()
        drain(pair[1])
        await settled()
        for data in (b"a", b"b", b"c"):
            pair[1].send(data)
            await settled()
        assert log == ["room", b"a", b"b", b"c"]


async def test_a_wait_before_the_first_try_ends_with_what_was_there(pair):
    log = []
    pair[1].send(b"x")

    async def job():
        await wait_readable(pair[0])
        log.append("woken")

    async with open_fibers() as fibers:
        fibers.start(job())
        await settled()
        assert log == ["woken"]


async def test_more_news_than_a_batch_wake_all_of_them(pairs):
    several, log = [pairs() for _ in range(200)], []

    async def job(number):
        log.append((number, await recv(several[number][0])))

    async with open_fibers() as fibers:
        for number in range(200):
            fibers.start(job(number))
        for number in range(200):
            several[number][1].send(bytes((number,)))
        await settled()
        assert sorted(log) == [(number, bytes((number,))) for number in range(200)]


async def test_one_fiber_waits_at_two_sockets_in_turn(pairs):
    (a, to_a), (b, to_b) = pairs(), pairs()
    log = []

    async def job():
        for _ in range(3):
            log.append(await recv(a))
            log.append(await recv(b))

    async with open_fibers() as fibers:
        fibers.start(job())
        for number in b"123":  # the second socket's news come while it waits at the first
            to_b.send(b"b%c" % number)
            await settled()
            to_a.send(b"a%c" % number)
            await settled()
        assert log == [b"a1", b"b1", b"a2", b"b2", b"a3", b"b3"]


# --- giving way -----------------------------------------------------------------------


async def test_who_gives_way_goes_on_behind_all_that_have_news(pairs):
    several, log = [pairs() for _ in range(4)], []

    async def job(number):
        await recv(several[number][0])
        log.append(number)
        await give_way()
        log.append(number)

    async with open_fibers() as fibers:
        for number in range(4):
            fibers.start(job(number))
        await settled()
        for _, far in several:
            far.send(b"x")
        await settled()
        assert log == [0, 1, 2, 3, 0, 1, 2, 3]


async def test_giving_way_in_turn_costs_no_turn_of_trios(pair):
    near, far = pair

    async def job():
        await recv(near)
        for _ in range(5):
            await give_way()

    async with open_fibers() as fibers:
        fibers.start(job())
        await settled()
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        far.send(b"x")
        await settled()
        trio.lowlevel.remove_instrument(steps)
    assert steps.count == 2  # the fibers' own, and this task's


async def _yield_for_ever(log):
    for _ in range(MANY):
        await give_way()
        log.append("turn")
    raise AssertionError("the others starved")


async def _turns_until(condition):
    """Let the scheduler of Trio go round; it must not stand still for want of news."""
    for _ in range(1000):
        if condition():
            return
        await trio.lowlevel.checkpoint()
    raise AssertionError("forgotten")


@pytest.mark.parametrize("clock", ["real", "standing"])
@pytest.mark.parametrize("where", ["start", "service", "timer"])
def test_who_gives_way_for_ever_starves_nobody_and_has_its_turns(pairs, where, clock):
    near, far = pairs()
    first, to_first = pairs()
    turns = []

    async def endless():
        if where == "service":
            await recv(first)
        if where == "timer":
            await sleep(0)
        await _yield_for_ever(turns)

    async def other(log):
        while data := await recv(near):
            log.append(data)

    async def main():
        log = []
        async with open_fibers() as fibers:
            fibers.start(endless())
            fibers.start(other(log))
            to_first.send(b"x")
            for number in range(20):
                seen = len(turns)
                await _turns_until(lambda seen=seen: len(turns) > seen + 20)
                far.send(b"%d" % number)
                await _turns_until(lambda number=number: len(log) > number)
        assert log == [b"%d" % number for number in range(20)]

    # A clock that stands still: all that is due now is due at one and the same time.
    clock = trio.testing.MockClock() if clock == "standing" else None
    trio.run(main, clock=clock, strict_exception_groups=True)


def test_a_deadline_reaches_who_gives_way_for_ever():
    clock, turns, passed = trio.testing.MockClock(), [], []

    async def job():
        set_deadline(trio.current_time() + 10)
        try:
            while True:
                await give_way()
                turns.append(clock.current_time())
        except DeadlinePassed:
            passed.append(clock.current_time())

    async def main():
        async with open_fibers() as fibers:
            fibers.start(job())
            await _turns_until(lambda: len(turns) > 20)
            clock.jump(9)
            await _turns_until(lambda: len(turns) > 40)
            assert passed == []
            clock.jump(1)
            await _turns_until(lambda: passed)
            seen = len(turns)
            for _ in range(20):  # whoever has ended is not woken once more
                await trio.lowlevel.checkpoint()
        assert (len(passed), len(turns)) == (1, seen)

    trio.run(main, clock=clock, strict_exception_groups=True)


@pytest.mark.parametrize("end", [True, False])
async def test_who_was_giving_way_when_its_deadline_passed_is_not_woken_for_that(pair, end):
    """It had its turns by news before, and gives way when the rounds are over."""
    near, far = pair
    log = []

    async def job():
        await recv(near)
        set_deadline(trio.current_time())  # long over at the next look
        try:
            while True:
                await give_way()
        except DeadlinePassed:
            log.append("passed")
        if not end:
            await sleep(1000)
            log.append("woken")

    async with open_fibers() as fibers:
        fibers.start(job())
        await settled()
        far.send(b"x")
        await _turns_until(lambda: log)
        await settled()
        assert log == ["passed"]


async def test_a_busy_socket_does_not_starve_trios_tasks(pair):
    near, far = pair
    turns = []

    async def echo():
        for _ in range(MANY):
            far.send(b"x")
            await wait_readable(near)
            turns.append(near.recv(1))
        raise AssertionError("Trio's tasks starved")

    async with open_fibers() as fibers:
        fibers.start(echo())
        for _ in range(50):
            await trio.lowlevel.checkpoint()
    assert turns


# --- outside of fibers ----------------------------------------------------------------------


OUTSIDE = {
    "this_fiber": this_fiber,
    "now": now,
    "set_deadline": lambda: set_deadline(0),
    "stop_watching": lambda: stop_watching(None),
}
WAITING = {
    "wait_readable": wait_readable,
    "wait_writable": wait_writable,
    "wait_news": lambda sock: wait_news(sock, 1),
    "sleep": lambda _: sleep(1),
    "give_way": lambda _: give_way(),
}


@pytest.mark.parametrize("what", OUTSIDE)
async def test_a_call_outside_of_a_fiber_is_refused(what):
    with pytest.raises(AssertionError) as caught:
        OUTSIDE[what]()
    assert str(caught.value) == "expected to run in a fiber, and not in a Trio task"


@pytest.mark.parametrize("what", WAITING)
async def test_a_wait_outside_of_a_fiber_is_refused(pair, what):
    with pytest.raises(AssertionError) as caught:
        await WAITING[what](pair[0])
    assert str(caught.value) == "expected to run in a fiber, and not in a Trio task"


# --- no room in the set ---------------------------------------------------------------------

BEGIN = "expected an epoll set to take a descriptor, got: "
SHORTAGES = {
    errno.ENOSPC: (
        "no_watches", f"{BEGIN}No space left on device; raise fs.epoll.max_user_watches",
    ),
    errno.ENOMEM: ("no_memory", f"{BEGIN}Cannot allocate memory"),
}  # fmt: skip


async def add_handler(sock):
    this_fiber().fibers.handlers.add(sock.fileno(), select.EPOLLIN, lambda _: None)


WATCHING = {
    "readable": wait_readable,
    "writable": wait_writable,
    "news": lambda sock: wait_news(sock, 10),
    "handler": add_handler,
}


async def watch_in_vain(fail, sock, kind):
    """What is raised; nothing of the attempt is left, not even a timer."""
    log = []

    async def job():
        with pytest.raises(kind) as caught:
            await fail(sock)
        log.append(caught.value)
        await sleep(20)
        log.append("slept")

    async with open_fibers() as fibers:
        fibers.start(job())
        await trio.sleep(30)
        assert fibers.handlers.of == {}
        assert watched(fibers) == []
    error, rest = log
    assert rest == "slept"
    return error


@pytest.mark.parametrize("code", SHORTAGES)
@pytest.mark.parametrize("what", WATCHING)
async def test_a_shortage_of_watches_is_no_fault_of_the_socket(
    pair, what, code, monkeypatch, autojump_clock
):
    """An OSError would be taken for the peer's."""
    limit_watches(monkeypatch, 0, code)
    error = await watch_in_vain(WATCHING[what], pair[0], ResourceShortage)
    assert (error.reason, str(error)) == SHORTAGES[code]
    assert error.__cause__.errno == code


@pytest.mark.parametrize("what", WATCHING)
async def test_a_descriptor_that_no_set_takes_is_a_bug_of_ours(
    pair, what, monkeypatch, autojump_clock
):
    limit_watches(monkeypatch, 0, errno.EBADF)
    error = await watch_in_vain(WATCHING[what], pair[0], AssertionError)
    assert str(error) == f"{BEGIN}Bad file descriptor"


async def test_who_ran_short_may_watch_when_there_is_room(pair, monkeypatch):
    near, far = pair
    limit_watches(monkeypatch, 0)
    log = []

    async def job():
        with pytest.raises(ResourceShortage):
            await wait_readable(near)
        fibers._epoll.room = 1
        log.append(await recv(near))

    async with open_fibers() as fibers:
        fibers.start(job())
        await settled()
        far.send(b"x")
        await settled()
        assert log == [b"x"]
