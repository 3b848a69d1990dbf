"""Many short jobs in one Trio task: an event loop for what every connection costs.

A Trio task per connection would be a third of the gate's CPU time (measured): a task is
made, a cancel scope is moved three times, each wait is two system calls and two turns of
the scheduler. So a connection is a *fiber*: an ordinary coroutine, which a `Fibers`
resumes by itself when an epoll set of its own has news.

Rules:

* A fiber waits by the functions of this module only. Nothing of Trio's that waits or
  makes a cancel scope may run in one.
* The functions of this module are for fibers, and raise AssertionError elsewhere.
* The set is edge-triggered: wait only after the kernel said EAGAIN, or before the
  first try. Waking for nothing is allowed; every wait stands in a loop that tries.
* A descriptor that is closed or given away is told to `stop_watching` before that.

A fiber that is stopped (`Fibers.run` is cancelled) gets `Stopped` at every wait, one whose
deadline has passed `DeadlinePassed` once; both at the place where it waits.
"""

from __future__ import annotations

import collections
import heapq
import itertools
import select
import socket
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, NoReturn

import trio

from .handlers import Handlers, explain_refusal

__all__ = [
    "DeadlinePassed",
    "Fiber",
    "Fibers",
    "Job",
    "Stopped",
    "give_way",
    "now",
    "set_deadline",
    "sleep",
    "stop_watching",
    "this_fiber",
    "wait_news",
    "wait_readable",
    "wait_writable",
]

_BATCH = 64  # events in a row before Trio's tasks get their turn
_ROUNDS = 8  # looks at the set in a row, for the same reason
_LOAD = 65_536  # bytes moved by handlers, for the same reason

# Deadlines that pass within so many seconds are seen together: a look is at every fiber.
_GRAIN = 0.05

_NEVER = float("inf")

_READ = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_BOTH = _READ | select.EPOLLOUT


Job = Coroutine[Any, Any, None]


class Stopped(BaseException):
    """The gate's own end came first; thrown into fibers as Trio's Cancelled into tasks."""


class DeadlinePassed(Exception):
    """What a fiber gets at the place where it waits."""


class Fiber:
    """One job and what it waits for."""

    __slots__ = ("alarm", "deadline", "fibers", "job", "watched")

    def __init__(self, fibers: Fibers, job: Job) -> None:
        self.fibers = fibers
        self.job = job
        self.deadline = _NEVER
        self.alarm = 0  # number of the timer that may wake it; 0 for none
        self.watched: dict[int, int] = {}  # descriptors in the epoll set, with what is watched


# The fiber whose code runs right now; None in Trio's tasks and in handlers. One thread,
# one gate.
_current: Fiber | None = None


class Fibers:
    """Runs fibers; see the module."""

    def __init__(self) -> None:
        """Make the epoll set; the end of `run` closes it."""
        self.now = trio.lowlevel.current_clock().current_time
        self._epoll = select.epoll()
        self.handlers = Handlers(self._epoll)
        self._waiting: dict[int, Fiber] = {}
        self._is_serving = False
        self._soon: collections.deque[Fiber] = collections.deque()
        self._timers: list[tuple[float, int, Fiber]] = []
        self._numbers = itertools.count(1)
        self._all: set[Fiber] = set()
        self._next_look = self._next_deadline = _NEVER
        self._clock = trio.CancelScope()

    def start(self, job: Job) -> None:
        """Run a job up to its first wait, and then whenever it has news.

        Whatever it raises, but for `Stopped`, ends `run` (and leaves `start`, if it comes
        before the first wait): jobs have their own barrier.
        """
        fiber = Fiber(self, job)
        self._all.add(fiber)
        self._resume(fiber, job.send, None)

    async def run(self) -> NoReturn:
        """Serve the fibers until cancelled; then they are stopped."""
        with self._epoll:
            try:
                async with trio.open_nursery() as own:
                    own.start_soon(self._keep_time)
                    while True:
                        await trio.lowlevel.wait_readable(self._epoll.fileno())
                        await self._serve()
            finally:
                trio.lowlevel.notify_closing(self._epoll.fileno())
                self._stop_all()
        raise AssertionError("an endless loop has no end")

    async def _serve(self) -> None:
        """Resume whom the set has news for, until it has none."""
        while True:
            for _ in range(_ROUNDS):
                if not self._serve_once():
                    return
                if self.handlers.load >= _LOAD:
                    self.handlers.load = 0
                    break
            while self._soon:  # a deadline may come first now
                self.wake_at(self._soon.popleft(), trio.current_time())
            await trio.lowlevel.checkpoint()

    def _serve_once(self) -> bool:
        waiting, soon, handlers = self._waiting, self._soon, self.handlers
        turns = len(handlers.turns)  # asked for in an earlier round
        events = self._epoll.poll(0, _BATCH)
        self._is_serving = True
        try:
            for descriptor, what in events:
                fiber = waiting.pop(descriptor, None)
                if fiber is not None:
                    self._resume(fiber, fiber.job.send, None)
                elif descriptor in handlers.of:
                    handlers.of[descriptor](what)
            if turns:
                handlers.take_turns(turns)
            for _ in range(len(soon)):
                fiber = soon.popleft()
                self._resume(fiber, fiber.job.send, None)
        finally:
            self._is_serving = False
        return bool(events or soon or handlers.turns)

    def _resume(self, fiber: Fiber, resume: Callable[[Any], Any], value: Any) -> None:
        """Let a fiber go on until it waits or ends."""
        global _current  # noqa: PLW0603 - what it is for
        outer, _current = _current, fiber
        try:
            resume(value)
        except (StopIteration, Stopped):
            self._all.discard(fiber)
        except BaseException:
            self._all.discard(fiber)
            raise
        finally:
            _current = outer

    def _throw(self, fiber: Fiber, error: BaseException) -> None:
        for descriptor in fiber.watched:
            self._waiting.pop(descriptor, None)
        fiber.alarm = 0
        self._resume(fiber, fiber.job.throw, error)

    def _stop_all(self) -> None:
        """Stop every fiber, whatever others raise; who waits again is stopped again."""
        errors = []
        while self._all:
            for fiber in list(self._all):
                try:
                    self._throw(fiber, Stopped())
                except BaseException as exc:  # noqa: BLE001 - raised below
                    errors.append(exc)
        if errors:
            raise BaseExceptionGroup("expected fibers to stop", errors)

    # --- what fibers wait for ---

    def watch(self, fiber: Fiber, descriptor: int, events: int) -> None:
        """Wake a fiber at the descriptor's next news; what is there already is news at first.

        Args:
            fiber: who is woken, once.
            descriptor: open; watched by no other fiber.
            events: of epoll's, EPOLLET among them.

        Raises:
            ResourceShortage: the machine has no room for one more; nobody is woken.
            AssertionError: the set refuses the descriptor: a bug of ours.
        """
        watched = fiber.watched.get(descriptor)
        if watched != events:
            try:
                if watched is None:
                    self._epoll.register(descriptor, events)
                else:
                    self._epoll.modify(descriptor, events)
            except OSError as exc:
                raise explain_refusal(exc) from exc
            fiber.watched[descriptor] = events
        self._waiting[descriptor] = fiber

    def cease(self, descriptor: int) -> None:
        """Wake nobody at the descriptor's next news."""
        self._waiting.pop(descriptor, None)

    def forget(self, fiber: Fiber, descriptor: int) -> None:
        """Take a descriptor out of the set, if it is in it."""
        if fiber.watched.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)
            self._waiting.pop(descriptor, None)

    def wake_soon(self, fiber: Fiber) -> None:
        """Resume a fiber behind all that have news now."""
        if self._is_serving:
            self._soon.append(fiber)
        else:
            self.wake_at(fiber, trio.current_time())

    # --- time ---

    def wake_at(self, fiber: Fiber, when: float) -> None:
        """Wake a fiber at a time, unless it has other news before.

        Args:
            fiber: who is woken; its timer before this one counts no more.
            when: by Trio's clock, in seconds; what is over already is as soon as can be.
        """
        fiber.alarm = next(self._numbers)
        heapq.heappush(self._timers, (when, fiber.alarm, fiber))
        self._look_by(when)

    def limit(self, fiber: Fiber, deadline: float) -> None:
        """Let a fiber have `DeadlinePassed` at a time, once, instead of at any before.

        Args:
            fiber: who is told, where it waits then, or waits next.
            deadline: by Trio's clock, in seconds; infinity for none.
        """
        fiber.deadline = deadline
        if deadline < self._next_deadline:
            self._next_deadline = deadline
            self._look_by(deadline)

    def _look_by(self, when: float) -> None:
        if when < self._next_look:
            self._next_look = self._clock.deadline = when

    async def _keep_time(self) -> NoReturn:
        while True:
            with trio.CancelScope(deadline=self._next_look) as self._clock:
                await trio.sleep_forever()
            self._ring()
        raise AssertionError("an endless loop has no end")

    def _ring(self) -> None:
        """Wake whose time has come, and find out when to look again."""
        now = trio.current_time()
        timers, due = self._timers, []
        while timers and timers[0][0] <= now:
            due.append(heapq.heappop(timers))
        for _, alarm, fiber in due:  # who sets a timer for now is not among them
            if fiber.alarm == alarm:
                self._resume(fiber, fiber.job.send, None)
        if self._next_deadline <= now:
            self._expire(now)
        self._next_look = min(self._next_deadline, timers[0][0] if timers else _NEVER)

    def _expire(self, now: float) -> None:
        """Tell those whose deadline has passed, and find the next one."""
        for fiber in [fiber for fiber in self._all if fiber.deadline <= now]:
            fiber.deadline = _NEVER
            self._throw(fiber, DeadlinePassed())
        first = min((fiber.deadline for fiber in self._all), default=_NEVER)
        self._next_deadline = max(first, now + _GRAIN)


def this_fiber() -> Fiber:
    """The caller's, for `Fibers.wake_soon` and `Fibers.handlers`.

    Raises:
        AssertionError: the caller runs in none.
    """
    if _current is None:
        raise AssertionError("expected to run in a fiber, and not in a Trio task")
    return _current


def now() -> float:
    """Trio's time, by a shorter way."""
    return (_current or this_fiber()).fibers.now()


def set_deadline(when: float) -> None:
    """Let this fiber have `DeadlinePassed` at a time of Trio's clock; infinity for never."""
    fiber = _current or this_fiber()
    fiber.fibers.limit(fiber, when)


# Each wait below yields once itself: a coroutine that awaits another would cost two frames
# more at every wait.


@types.coroutine
def wait_readable(sock: socket.socket) -> Generator[None, None, None]:
    """Return when there may be something to read, or an end.

    Raises:
        ResourceShortage: the socket cannot be watched.
    """
    fiber = _current or this_fiber()
    descriptor = sock.fileno()
    fiber.fibers.watch(fiber, descriptor, fiber.watched.get(descriptor, _READ))
    yield


@types.coroutine
def wait_writable(sock: socket.socket) -> Generator[None, None, None]:
    """Return when there may be room to write.

    Raises:
        ResourceShortage: the socket cannot be watched.
    """
    fiber = _current or this_fiber()
    fiber.fibers.watch(fiber, sock.fileno(), _BOTH)
    yield


@types.coroutine
def wait_news(sock: socket.socket, seconds: float) -> Generator[None, None, None]:
    """Return when something may have changed at a socket, or after so many seconds.

    That the peer has read something is such news.

    Raises:
        ResourceShortage: the socket cannot be watched.
    """
    fiber = _current or this_fiber()
    fibers = fiber.fibers
    fibers.watch(fiber, sock.fileno(), _BOTH)  # may raise: no timer yet
    fibers.wake_at(fiber, fibers.now() + seconds)
    yield
    fiber.alarm = 0
    fibers.cease(sock.fileno())


@types.coroutine
def sleep(seconds: float) -> Generator[None, None, None]:
    """Return after so many seconds."""
    fiber = _current or this_fiber()
    fiber.fibers.wake_at(fiber, fiber.fibers.now() + seconds)
    yield
    fiber.alarm = 0


@types.coroutine
def give_way() -> Generator[None, None, None]:
    """Return when all others that have news had their turn."""
    fiber = _current or this_fiber()
    fiber.fibers.wake_soon(fiber)
    yield


def stop_watching(sock: socket.socket) -> None:
    """Before a socket is closed or given away: the set of this fiber does not keep it."""
    fiber = _current or this_fiber()
    fiber.fibers.forget(fiber, sock.fileno())
