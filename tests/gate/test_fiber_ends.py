"""How fibers end: stopped, by bugs; and what is left of their descriptors."""

import contextlib
import socket

import pytest
import trio
from helpers.fibers import WAITS, Steps, assert_no_fiber, recv, settled, watched
from helpers.sessions import open_fibers, own_descriptors

from ktlsgate.gate.fibers import (
    DeadlinePassed,
    Stopped,
    give_way,
    set_deadline,
    sleep,
    stop_watching,
    wait_readable,
)


@pytest.fixture
def pair(pairs):
    return pairs()


# --- the end --------------------------------------------------------------------------------


async def _give_way_for_ever(_):
    while True:
        await give_way()


@pytest.mark.parametrize("wait", [*WAITS, "give_way"])
async def test_a_fiber_is_stopped_where_it_waits_and_cleans_up_once(wait):
    before = own_descriptors()
    log = []
    near, far = socket.socketpair()
    near.setblocking(False)

    async def job():
        try:
            await {**WAITS, "give_way": _give_way_for_ever}[wait](near)
        except Exception:
            log.append("an error")
        except Stopped:
            log.append("stopped")
            raise
        finally:
            stop_watching(near)
            near.close()
            log.append("closed")

    async with open_fibers() as fibers:
        fibers.start(job())
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert log == []
    assert log == ["stopped", "closed"]
    far.close()
    assert own_descriptors() == before


async def test_all_are_stopped_and_the_set_is_closed(pairs):
    before = own_descriptors()
    log = []

    async def job(number):
        try:
            await sleep(1000)
        finally:
            log.append(number)

    async with open_fibers() as fibers:
        for number in range(100):
            fibers.start(job(number))
        await settled()
    assert sorted(log) == list(range(100))
    assert own_descriptors() == before


async def test_a_fiber_that_waits_after_it_was_stopped_is_stopped_again():
    log = []

    async def job():
        try:
            await sleep(1000)
        finally:
            try:
                await sleep(1)
            finally:
                log.append("over")

    async with open_fibers() as fibers:
        fibers.start(job())
        await settled()
    assert log == ["over"]


def _bug(error):
    """The one error inside groups of one."""
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    return repr(error)


RAISERS = {"news": wait_readable, "time": lambda _: sleep(0), "deadline": lambda _: sleep(1000)}


@pytest.mark.parametrize("wait", RAISERS)
async def test_what_a_fiber_raises_ends_run_and_all_others_are_stopped(pair, wait):
    near, far = pair
    log = []

    async def bad():
        set_deadline(trio.current_time() + (0 if wait == "deadline" else 1000))
        with contextlib.suppress(DeadlinePassed):
            await RAISERS[wait](near)
        raise ZeroDivisionError("a bug")

    async def good(number):
        try:
            await sleep(1000)
        except Stopped:
            log.append(number)
            raise

    with pytest.raises(ExceptionGroup) as caught:
        async with open_fibers() as fibers:
            for number in range(20):
                fibers.start(good(number))
            fibers.start(bad())
            far.send(b"x")
            await trio.sleep_forever()
    assert _bug(caught.value) == "ZeroDivisionError('a bug')"
    assert sorted(log) == list(range(20))


async def test_what_a_fiber_raises_before_its_first_wait_leaves_start():
    async def bad():
        raise ZeroDivisionError("a bug")

    async with open_fibers() as fibers:
        with pytest.raises(ZeroDivisionError, match="a bug"):
            fibers.start(bad())
        assert_no_fiber()


async def test_a_bug_in_one_cleanup_does_not_keep_others_from_theirs():
    log = []

    async def job(number):
        try:
            await sleep(1000)
        finally:
            log.append(number)
            if number % 10 == 0:
                raise ZeroDivisionError("a bug")

    with pytest.raises(ExceptionGroup) as caught:
        async with open_fibers() as fibers:
            for number in range(20):
                fibers.start(job(number))
            await settled()
    assert sorted(log) == list(range(20))
    (bugs,) = caught.value.exceptions
    assert [repr(bug) for bug in bugs.exceptions] == 2 * ["ZeroDivisionError('a bug')"]


# --- descriptors ----------------------------------------------------------------------------


async def test_a_number_that_is_used_again_within_a_batch_harms_nobody(pairs):
    """The old file's news come when the number is a new file's, of another fiber."""
    (a, to_a), (old, to_old), (new, to_new) = pairs(), pairs(), pairs()
    number, reused, log = old.fileno(), [], []

    async def second(sock):
        for _ in range(2):
            log.append(await recv(sock))

    async def first():
        await recv(old)
        await recv(a)
        stop_watching(old)
        old.close()
        reused.append(new.dup())
        assert reused[0].fileno() == number
        fibers.start(second(reused[0]))
        log.append("replaced")

    async with open_fibers() as fibers:
        fibers.start(first())
        await settled()
        to_old.send(b"1")
        await settled()
        to_a.send(b"x")
        to_old.send(b"2")
        await settled()
        assert log == ["replaced"]
        to_new.send(b"new")
        await settled()
        to_new.send(b"news")
        await settled()
        assert log == ["replaced", b"new", b"news"]
    reused[0].close()


@pytest.mark.parametrize("lives_on", [False, True])
async def test_stop_watching_takes_the_descriptor_out_of_the_set(pair, lives_on):
    near, far = pair
    elsewhere = near.dup() if lives_on else None

    async def job():
        await recv(near)
        assert watched(fibers) == [near.fileno()]
        stop_watching(near)
        assert watched(fibers) == []
        stop_watching(near)  # not in it: nothing happens
        near.close()
        await sleep(1000)

    async with open_fibers() as fibers:
        fibers.start(job())
        await settled()
        far.send(b"x")
        await settled()
        assert watched(fibers) == []
        if elsewhere:
            steps = Steps()
            trio.lowlevel.add_instrument(steps)
            far.send(b"y")
            await settled()
            assert steps.count <= 1  # this task: nobody else woke
            trio.lowlevel.remove_instrument(steps)
            elsewhere.close()


async def test_a_socket_may_be_watched_again_after_stop_watching(pair):
    near, far = pair
    log = []

    async def job():
        for _ in range(3):
            log.append(await recv(near))
            stop_watching(near)

    async with open_fibers() as fibers:
        fibers.start(job())
        for data in (b"a", b"b", b"c"):
            await settled()
            far.send(data)
        await settled()
        assert log == [b"a", b"b", b"c"]
