"""When memory is given back: behind a peak, once, and not for small ones."""

import contextlib

import pytest
import trio

from ktlsgate.gate.trimmer import Trimmer


@contextlib.asynccontextmanager
async def trimming():
    """A trimmer that runs, and the times at which it gave back."""
    times, began = [], trio.current_time()
    trimmer = Trimmer(lambda: times.append(trio.current_time() - began))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trimmer.run)
        yield trimmer, times
        nursery.cancel_scope.cancel()


def end(trimmer, first, last):
    """Connections end one by one, from so many held to so many."""
    for held in range(first - 1, last - 1, -1):
        trimmer.note_end(held)


@pytest.mark.parametrize(
    ("first", "last", "count"),
    [(5000, 0, 1), (5000, 2500, 1), (5000, 2501, 0), (500, 250, 1), (499, 0, 0)],
)
async def test_half_of_many_must_have_ended(first, last, count, autojump_clock):
    async with trimming() as (trimmer, times):
        end(trimmer, first, last)
        await trio.sleep(100)
        assert times == [2.0] * count


async def test_those_that_end_together_are_one_peak(autojump_clock):
    async with trimming() as (trimmer, times):
        end(trimmer, 5000, 2500)
        await trio.sleep(1)
        end(trimmer, 2500, 0)
        await trio.sleep(100)
        assert times == [2.0]


async def test_every_peak_counts_from_what_was_held_behind_the_last(autojump_clock):
    async with trimming() as (trimmer, times):
        end(trimmer, 5000, 2000)
        await trio.sleep(10)
        end(trimmer, 2000, 1001)
        await trio.sleep(10)
        end(trimmer, 1001, 1000)
        await trio.sleep(10)
        assert times == [2.0, 22.0]
        end(trimmer, 3000, 1500)
        await trio.sleep(10)
        assert times == [2.0, 22.0, 32.0]
