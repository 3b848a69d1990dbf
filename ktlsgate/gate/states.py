"""What a session waits for, what can happen to it, and what follows.

`TRANSITIONS` is the whole machine. A pair that is missing there is a bug and is raised.
"""

from __future__ import annotations

import enum

__all__ = ["TRANSITIONS", "State", "Step", "advance"]


class State(enum.Enum):
    """What a session waits for."""

    EXPECT_HANDSHAKE = "handshake"
    EXPECT_OFFLOAD = "offload"
    EXPECT_HEAD = "head"
    EXPECT_DISPOSAL = "disposal"
    RELAYING = "relaying"
    HANDED_OFF = "handed_off"
    CLOSED = "closed"

    __hash__ = object.__hash__  # members are single; Enum's own is a Python function


class Step(enum.Enum):
    """What happened."""

    ESTABLISHED = "established"
    HANDSHAKE_FAILED = "handshake_failed"
    KEYS_INSTALLED = "keys_installed"
    OFFLOAD_REFUSED = "offload_refused"
    OFFLOAD_DEFERRED = "offload_deferred"
    HEAD_RECEIVED = "head_received"
    HEAD_REJECTED = "head_rejected"
    PEER_CLOSED = "peer_closed"
    HANDOFF_ACKNOWLEDGED = "handoff_acknowledged"
    RELAY_STARTED = "relay_started"
    HANDOFF_FAILED = "handoff_failed"
    REJECTED = "rejected"
    BOTH_SIDES_CLOSED = "both_sides_closed"
    DEADLINE_PASSED = "deadline_passed"
    RESOURCES_EXHAUSTED = "resources_exhausted"

    __hash__ = object.__hash__  # members are single; Enum's own is a Python function


TRANSITIONS: dict[State, dict[Step, State]] = {
    State.EXPECT_HANDSHAKE: {
        Step.ESTABLISHED: State.EXPECT_OFFLOAD,
        Step.HANDSHAKE_FAILED: State.CLOSED,
        Step.DEADLINE_PASSED: State.CLOSED,
        Step.RESOURCES_EXHAUSTED: State.CLOSED,
    },
    State.EXPECT_OFFLOAD: {
        Step.KEYS_INSTALLED: State.EXPECT_HEAD,
        Step.OFFLOAD_REFUSED: State.EXPECT_HEAD,
        Step.OFFLOAD_DEFERRED: State.EXPECT_HEAD,
    },
    State.EXPECT_HEAD: {
        Step.HEAD_RECEIVED: State.EXPECT_DISPOSAL,
        Step.HEAD_REJECTED: State.CLOSED,
        Step.PEER_CLOSED: State.CLOSED,
        Step.DEADLINE_PASSED: State.CLOSED,
        Step.RESOURCES_EXHAUSTED: State.CLOSED,
    },
    State.EXPECT_DISPOSAL: {
        Step.HANDOFF_ACKNOWLEDGED: State.HANDED_OFF,
        Step.RELAY_STARTED: State.RELAYING,
        Step.HANDOFF_FAILED: State.CLOSED,
        Step.REJECTED: State.CLOSED,
        Step.DEADLINE_PASSED: State.CLOSED,
        Step.RESOURCES_EXHAUSTED: State.CLOSED,
    },
    State.RELAYING: {
        Step.BOTH_SIDES_CLOSED: State.CLOSED,
    },
    State.HANDED_OFF: {},
    State.CLOSED: {},
}


def advance(state: State, step: Step) -> State:
    """Look up what follows.

    Raises:
        AssertionError: the pair is missing: a bug of ours.
    """
    try:
        return TRANSITIONS[state][step]
    except KeyError:
        raise AssertionError(f"{step} is not legal in {state}") from None
