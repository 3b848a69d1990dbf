"""Fibers and time: sleeps, news or time, and deadlines."""

import math

import pytest
import trio
import trio.testing
from helpers.fibers import WAITS, Log, Steps, drain, recv, settled
from helpers.sessions import open_fibers

from ktlsgate.gate.fibers import (
    DeadlinePassed,
    now,
    set_deadline,
    sleep,
    wait_news,
    wait_readable,
    wait_writable,
)

GRAIN = 0.05  # how late a deadline may be that follows another


@pytest.fixture
def pair(pairs):
    return pairs()


# --- time -----------------------------------------------------------------------------


async def test_sleepers_wake_in_the_order_of_their_times(autojump_clock):
    log = Log()

    async def job(seconds):
        await sleep(seconds)
        log.note(seconds)

    async with open_fibers() as fibers:
        for seconds in (3, 1, 2, 0):
            fibers.start(job(seconds))
        await trio.sleep(10)
    assert log == [(0, 0), (1, 1), (2, 2), (3, 3)]


async def test_now_is_trios_time(autojump_clock):
    log = []

    async def job():
        for seconds in (0, 7):
            await sleep(seconds)
            log.append(now() == trio.current_time())

    async with open_fibers() as fibers:
        fibers.start(job())
        await trio.sleep(10)
    assert log == [True] * 2


async def test_news_do_not_shorten_a_sleep_and_are_seen_by_the_next_try(pair, autojump_clock):
    near, far = pair
    log = Log()

    async def job():
        log.note(await recv(near))
        await sleep(10)
        log.note("slept")
        log.note(await recv(near))

    async with open_fibers() as fibers:
        fibers.start(job())
        await settled()
        far.send(b"a")
        await trio.sleep(5)
        far.send(b"b")
        await trio.sleep(10)
    assert log == [(b"a", 0), ("slept", 10), (b"b", 10)]


async def _wait_news_for_ten_seconds(near, log):
    await wait_writable(near)  # the set has the socket now, and told what was there
    await wait_news(near, 10)
    log.note("news or time")


async def test_news_end_a_wait_for_news(pair, autojump_clock):
    near, far = pair
    log = Log()

    async with open_fibers() as fibers:
        fibers.start(_wait_news_for_ten_seconds(near, log))
        await trio.sleep(4)
        assert log == []
        far.send(b"x")
        await trio.sleep(1)
        assert log == [("news or time", 4)]
        await trio.sleep(20)  # the time of a fiber that has ended: nothing happens
        assert log == [("news or time", 4)]


async def test_time_ends_a_wait_for_news(pair, autojump_clock):
    near, far = pair
    log = Log()

    async with open_fibers() as fibers:
        fibers.start(_wait_news_for_ten_seconds(near, log))
        await trio.sleep(20)
        assert log == [("news or time", 10)]
        far.send(b"x")  # the news of a fiber that has ended: nothing happens
        await trio.sleep(1)
        assert log == [("news or time", 10)]


@pytest.mark.parametrize("again", range(10))  # Trio wakes the two tasks in any order
def test_news_and_time_together_end_a_wait_for_news_once(pair, again):
    near, far = pair
    clock = trio.testing.MockClock()

    async def main():
        log = Log()

        async def job():
            await _wait_news_for_ten_seconds(near, log)
            await sleep(5)
            log.note("slept")

        async with open_fibers() as fibers:
            fibers.start(job())
            await settled()
            far.send(b"x")
            clock.jump(10)
            await settled()
            assert log == [("news or time", 10)]
            clock.jump(5)
            await settled()
        assert log == [("news or time", 10), ("slept", 15)]

    trio.run(main, clock=clock)


async def test_a_timer_that_lost_to_news_does_not_shorten_the_next_sleep(pair, autojump_clock):
    near, far = pair
    log = Log()

    async def job():
        await _wait_news_for_ten_seconds(near, log)
        await sleep(100)
        log.note("slept")

    async with open_fibers() as fibers:
        fibers.start(job())
        await trio.sleep(4)
        far.send(b"x")
        await trio.sleep(200)
    assert log == [("news or time", 4), ("slept", 104)]


async def test_a_timer_that_lost_to_news_does_not_end_the_next_wait(pairs, autojump_clock):
    """Waking for nothing is allowed, but not known to happen: this is for the timers' sake."""
    near, far = pairs()
    other, to_other = pairs()
    log = Log()

    async def job():
        await _wait_news_for_ten_seconds(near, log)
        await wait_readable(other)
        log.note("other")

    async with open_fibers() as fibers:
        fibers.start(job())
        await trio.sleep(4)
        far.send(b"x")
        await trio.sleep(96)
        to_other.send(b"x")
        await trio.sleep(1)
    assert log == [("news or time", 4), ("other", 100)]


async def test_news_that_lost_to_the_timer_do_not_shorten_the_next_sleep(pair, autojump_clock):
    near, far = pair
    log = Log()

    async def job():
        await _wait_news_for_ten_seconds(near, log)
        await sleep(100)
        log.note("slept")

    async with open_fibers() as fibers:
        fibers.start(job())
        await trio.sleep(50)
        far.send(b"x")
        await trio.sleep(100)
    assert log == [("news or time", 10), ("slept", 110)]


async def test_a_socket_that_cannot_be_watched_leaves_no_timer_behind(pair, autojump_clock):
    log = Log()

    async def job():
        pair[0].close()
        try:
            await wait_news(pair[0], 10)
        except (OSError, ValueError):
            log.note("refused")

    async with open_fibers() as fibers:
        fibers.start(job())
        await trio.sleep(20)
    assert log == [("refused", 0)]


# --- deadlines --------------------------------------------------------------------------


@pytest.mark.parametrize("wait", WAITS)
async def test_a_deadline_is_told_at_the_place_of_the_wait_and_in_time(pair, wait, autojump_clock):
    log = Log()

    async def job():
        set_deadline(log.began + 10)
        try:
            await WAITS[wait](pair[0])
        except DeadlinePassed:
            log.note("passed")

    async with open_fibers() as fibers:
        fibers.start(job())
        await trio.sleep(30)
        drain(pair[1])  # what it waited for comes when it has ended: nothing happens
        pair[1].send(b"x")
        await trio.sleep(2000)
    assert log == [("passed", 10)]


@pytest.mark.parametrize("wait", WAITS)
async def test_what_a_deadline_ended_does_not_wake_the_next_wait(pairs, wait, autojump_clock):
    near, far = pairs()
    log = Log()

    async def job():
        set_deadline(log.began + 10)
        with pytest.raises(DeadlinePassed):
            await WAITS[wait](near)
        await sleep(2000)
        log.note("slept")

    async with open_fibers() as fibers:
        fibers.start(job())
        await trio.sleep(30)
        drain(far)
        far.send(b"x")
        await trio.sleep(2000)
    assert log == [("slept", 2010)]


async def test_a_deadline_that_was_told_is_not_told_again(autojump_clock):
    log = Log()

    async def job():
        set_deadline(log.began + 10)
        with pytest.raises(DeadlinePassed):
            await sleep(1000)
        await sleep(1000)
        log.note("slept")

    async with open_fibers() as fibers:
        fibers.start(job())
        await trio.sleep(2000)
    assert log == [("slept", 1010)]


async def test_a_new_deadline_may_follow_one_that_was_told(autojump_clock):
    log = Log()

    async def job():
        for number in range(1, 4):
            set_deadline(log.began + 10 * number)
            with pytest.raises(DeadlinePassed):
                await sleep(1000)
            log.note("passed")

    async with open_fibers() as fibers:
        fibers.start(job())
        await trio.sleep(2000)
    assert log == [("passed", 10), ("passed", 20), ("passed", 30)]


async def test_a_deadline_that_is_over_already_is_told_at_the_next_wait(autojump_clock):
    log = Log()

    async def job():
        set_deadline(log.began - 10)
        log.note("goes on")
        with pytest.raises(DeadlinePassed):
            await sleep(1000)
        log.note("passed")

    async with open_fibers() as fibers:
        fibers.start(job())
        await trio.sleep(2000)
    assert log == [("goes on", 0), ("passed", 0)]


MOVES = {"later": (20, 20), "earlier": (4, 4), "none": (math.inf, None)}


@pytest.mark.parametrize("move", MOVES)
async def test_a_deadline_that_is_moved_counts_where_it_is(pair, move, autojump_clock):
    near, far = pair
    log = Log()
    moved, expected = MOVES[move]

    async def job():
        set_deadline(log.began + 10)
        await recv(near)
        set_deadline(log.began + moved)
        with pytest.raises(DeadlinePassed):
            await sleep(1000)
        log.note("passed")

    async with open_fibers() as fibers:
        fibers.start(job())
        await trio.sleep(2)
        far.send(b"x")
        await trio.sleep(900)
        assert log == ([("passed", expected)] if expected else [])


async def test_a_thousand_deadlines_are_told_by_a_few_looks(autojump_clock):
    """The first in time, the others not before theirs and at most a grain late."""
    began = trio.current_time()
    told = {}

    async def job(deadline):
        set_deadline(began + deadline)
        with pytest.raises(DeadlinePassed):
            await sleep(1000)
        told[deadline] = round(trio.current_time() - began, 6)

    deadlines = [10 + number / 1000 for number in range(1000)]
    async with open_fibers() as fibers:
        for deadline in reversed(deadlines):
            fibers.start(job(deadline))
        await trio.sleep(20)
    assert sorted(told) == deadlines
    assert told[10] == 10
    for deadline, when in told.items():
        assert deadline <= when <= round(deadline + GRAIN, 6)
    assert len(set(told.values())) <= 1 + 1 / GRAIN


async def test_deadlines_that_do_not_pass_cost_no_looks(pairs, autojump_clock):
    """What ended in time, and what was moved in time, is found at the first one's time."""
    several = [pairs() for _ in range(100)]

    async def job(number):
        set_deadline(trio.current_time() + 10 + number / 10)
        await recv(several[number][0])
        set_deadline(math.inf)
        await recv(several[number][0])

    async with open_fibers() as fibers:
        for number in range(100):
            fibers.start(job(number))
        await settled()
        for _, far in several:
            far.send(b"x")
        await settled()
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        await trio.sleep(100)
        # This task, and the one look.
        assert steps.count <= 2
        trio.lowlevel.remove_instrument(steps)


async def test_the_deadline_of_a_fiber_that_ended_disturbs_nobody(pairs, autojump_clock):
    near, far = pairs()
    log = Log()

    async def ends():
        set_deadline(log.began + 10)
        await recv(near)

    async def other():
        set_deadline(log.began + 20)
        with pytest.raises(DeadlinePassed):
            await sleep(1000)
        log.note("passed")

    async with open_fibers() as fibers:
        fibers.start(ends())
        fibers.start(other())
        await settled()
        far.send(b"x")
        await trio.sleep(100)
    assert log == [("passed", 20)]
