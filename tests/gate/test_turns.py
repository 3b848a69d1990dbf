"""Which of a backend's addresses is asked when, and when none is asked any more."""

import logging

import pytest
import trio
import trio.testing
from helpers.sessions import make_backend, open_fibers

from ktlsgate.errors import BackendFailed, BackendUnavailable
from ktlsgate.gate.fibers import DeadlinePassed, now, set_deadline, sleep, this_fiber
from ktlsgate.gate.turns import Turns

ABSENT = BackendUnavailable("backend_absent", "nobody listens")
DIED = BackendFailed("backend_died", "it went away")


# Time passes as soon as everybody waits.
pytestmark = pytest.mark.usefixtures("autojump_clock")


class Place:
    """Addresses that answer as told, and who was asked."""

    def __init__(self, addresses="abc", **changes):
        self.backend = make_backend("x", **changes)
        object.__setattr__(self.backend, "addresses", tuple(addresses))
        self.turns = Turns()
        self.errors = {}
        self.asked = ""

    async def attempt(self, backend):
        (address,) = backend.addresses
        assert backend.name == "app"
        self.asked += address
        if address in self.errors:
            raise self.errors[address]
        return address

    async def take(self, *, shares_time=False, attempt=None):
        """Who took it, and who was asked for it."""
        self.asked = ""
        try:
            taken = await self.turns.take(
                self.backend, attempt or self.attempt, shares_time=shares_time
            )
        except (BackendFailed, BackendUnavailable) as exc:
            taken = exc
        return taken, self.asked


async def in_fiber(run):
    """Run something in a fiber, to its end."""
    over = trio.Event()

    async def watch():
        try:
            await run()
        finally:
            over.set()

    async with open_fibers() as fibers:
        fibers.start(watch())
        await over.wait()


async def test_one_address_is_asked_as_it_is():
    place = Place("a")

    async def run():
        assert await place.take() == ("a", "a")
        place.errors["a"] = DIED
        assert await place.take() == (DIED, "a")
        assert await place.take() == (DIED, "a")

    await in_fiber(run)


async def test_addresses_take_turns():
    place = Place("abc")

    async def run():
        assert [(await place.take())[0] for _ in range(7)] == list("abcabca")

    await in_fiber(run)


async def test_two_backends_have_turns_of_their_own():
    place, other = Place("ab"), Place("ab")
    object.__setattr__(other.backend, "name", "other")
    other.turns = place.turns

    async def attempt(backend):
        return backend.name + backend.address

    async def run():
        found = [(await one.take(attempt=attempt))[0] for one in (place, other, place, other)]
        assert found == ["appa", "othera", "appb", "otherb"]

    await in_fiber(run)


@pytest.mark.parametrize("error", [ABSENT, DIED])
async def test_the_next_one_is_asked_when_one_fails(error):
    place = Place("abc")
    place.errors = {"a": error, "b": error}

    async def run():
        assert await place.take() == ("c", "abc")

    await in_fiber(run)


async def test_when_all_fail_the_last_ones_error_is_told():
    place = Place("ab")
    place.errors = {"a": DIED, "b": ABSENT}

    async def run():
        assert await place.take() == (ABSENT, "ab")
        assert await place.take() == (DIED, "ba")

    await in_fiber(run)


async def test_who_failed_is_asked_after_the_others_for_a_while():
    place = Place("abc", fail_timeout=10)
    place.errors["a"] = DIED

    async def run():
        assert await place.take() == ("b", "ab")
        place.errors.clear()
        assert [(await place.take())[1] for _ in range(4)] == ["b", "c", "b", "b"]
        await sleep(10)
        asked = [(await place.take())[1] for _ in range(3)]
        assert sorted(asked) == ["a", "b", "c"]

    await in_fiber(run)


async def test_who_is_down_is_asked_when_nobody_else_is_left_and_is_up_again_then():
    place = Place("ab", fail_timeout=10)
    place.errors["a"] = DIED

    async def run():
        assert await place.take() == ("b", "ab")
        place.errors = {"b": DIED}
        assert await place.take() == ("a", "ba")
        assert await place.take() == ("a", "a")

    await in_fiber(run)


async def test_down_and_up_are_logged_once(caplog):
    caplog.set_level(logging.INFO, "ktlsgate")
    place = Place("ab", fail_timeout=2)

    async def run():
        place.errors["a"] = DIED
        for _ in range(3):
            await place.take()
            await sleep(3)
        place.errors.clear()
        for _ in range(3):
            await place.take()

    await in_fiber(run)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "backend app at a: down for 2 s: backend_died"),
        ("INFO", "backend app at a: up again"),
    ]


async def test_i1_what_may_have_been_taken_is_not_offered_again():
    place = Place("ab")

    async def attempt(backend):
        place.asked += backend.address
        await sleep(1000)

    async def run():
        set_deadline(now() + 5)
        with pytest.raises(DeadlinePassed):
            await place.take(attempt=attempt)
        assert place.asked == "a"

    await in_fiber(run)


async def test_who_did_not_take_it_in_time_is_asked_after_the_others():
    place = Place("ab", fail_timeout=10)

    async def attempt(backend):
        if backend.address == "a":
            await sleep(1000)
        return backend.address

    async def run():
        set_deadline(now() + 2)
        with pytest.raises(DeadlinePassed):
            await place.take(attempt=attempt)
        assert [(await place.take(attempt=attempt))[0] for _ in range(3)] == ["b"] * 3

    await in_fiber(run)


@pytest.mark.parametrize("reason", ["no_descriptors", "no_watches", "no_memory"])
async def test_our_own_shortage_says_nothing_about_the_backend(reason, caplog):
    place = Place("ab")
    place.errors["a"] = BackendUnavailable(reason, "expected more")

    async def run():
        assert await place.take() == ("b", "ab")
        place.errors.clear()
        assert [(await place.take())[0] for _ in range(2)] == ["b", "a"]

    await in_fiber(run)
    assert not caplog.records


async def test_a_bug_of_ours_says_nothing_about_the_backend():
    place = Place("ab")

    async def attempt(_backend):
        raise ZeroDivisionError

    async def run():
        with pytest.raises(ZeroDivisionError):
            await place.take(attempt=attempt)
        assert await place.take() == ("b", "b")
        assert await place.take() == ("a", "a")

    await in_fiber(run)


async def test_each_has_its_share_of_the_time_where_attempts_can_be_taken_back():
    place, waited = Place("abc"), []

    async def attempt(_backend):
        began = now()
        try:
            await sleep(1000)
        except DeadlinePassed:
            waited.append(round(now() - began))
            raise ABSENT from None

    async def run():
        set_deadline(now() + 9)
        assert (await place.take(attempt=attempt, shares_time=True))[0] is ABSENT
        assert waited == [3, 3, 3]

    await in_fiber(run)


async def test_who_fails_at_once_leaves_its_time_to_the_others():
    place, deadlines = Place("abc"), []

    async def attempt(backend):
        deadlines.append(round(this_fiber().deadline - now()))
        return await place.attempt(backend)

    async def run():
        place.errors = {"a": DIED, "b": DIED}
        set_deadline(now() + 30)
        assert (await place.take(attempt=attempt, shares_time=True))[0] == "c"
        assert deadlines == [10, 15, 30]

    await in_fiber(run)


async def test_time_is_not_shared_where_attempts_cannot_be_taken_back():
    place, deadlines = Place("ab"), []

    async def attempt(_backend):
        deadlines.append(this_fiber().deadline - now())

    async def run():
        set_deadline(now() + 30)
        await place.take(attempt=attempt)
        assert deadlines == [pytest.approx(30, abs=0.1)]

    await in_fiber(run)


@pytest.mark.parametrize("addresses", ["a", "ab"])
async def test_a_backend_that_restarts_is_waited_for(addresses):
    place = Place(addresses, absence_timeout=2)
    place.errors = dict.fromkeys(addresses, ABSENT)

    async def attempt(backend):
        if now() - began > 1:
            place.errors.clear()
        return await place.attempt(backend)

    async def run():
        taken, _ = await place.take(attempt=attempt)
        assert taken in addresses
        assert 1 < now() - began < 1.2

    began = trio.current_time()
    await in_fiber(run)


async def test_the_wait_for_a_backend_has_an_end():
    place = Place("ab", absence_timeout=2)
    place.errors = dict.fromkeys("ab", ABSENT)

    async def run():
        began = now()
        taken, asked = await place.take()
        assert taken is ABSENT
        assert 1.8 < now() - began <= 2
        assert 2 * 20 <= len(asked) <= 2 * 30

    await in_fiber(run)


@pytest.mark.parametrize("errors", [(ABSENT, DIED), (DIED, ABSENT)])
async def test_nobody_waits_for_a_backend_that_is_there_and_fails(errors):
    place = Place("ab", absence_timeout=2)
    place.errors = dict(zip("ab", errors, strict=True))

    async def run():
        assert await place.take() == (errors[1], "ab")

    await in_fiber(run)
