"""A check that the recorded operations of many clients on one tag are linearizable, by the algorithm of Wing and Gong.

A history is linearizable if its operations can be put in one order that keeps real time (what ended before another began stays before
it), and in which each answer is what a single registry would have given. Tags are independent, so each is checked alone.

The registry of the model is a register with compare-and-swap and a write-once seal:

- put: 412 if its condition does not hold; else 409 if the tag is sealed to another digest; else 201. A tag that seals is sealed by it.
- delete: 404 if the tag does not exist; else 405 if it is protected; else 202. The seal stays, as a tombstone.
- seal: 404 if the tag does not exist; else 200. The tag is sealed to its digest and protected from then on.
- get: the digest, or None.

An operation whose answer was lost, or was 503, may have been done at any later moment or never.

Source: Wing and Gong, "Testing and Verifying Concurrent Objects" (1993); Lowe, "Testing for Linearizability" (2017), for the memory of
what was tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

Answer: TypeAlias = int | str | None
"""A status, or what a get found."""


class Kind(Enum):
    """What a client asks for. CREATE: a put on the condition that the tag does not exist; REPLACE: that it has the digest `expected`."""

    PUT = "put"
    CREATE = "create"
    REPLACE = "replace"
    DELETE = "delete"
    SEAL = "seal"
    GET = "get"


class Lost(Enum):
    """The answer of an operation of which is not known whether it was done."""

    LOST = "lost"


LOST: Final = Lost.LOST
REFUSALS: Final = frozenset({404, 405, 409, 412})
"""The answers that say that nothing was changed."""


@dataclass(frozen=True, slots=True)
class TagState:
    """What a tag resolves to, what it is sealed to, and whether it may not be deleted. `seals`: whether a push seals it."""

    digest: str | None = None
    sealed: str | None = None
    protected: bool = False
    seals: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of one client. `start`, `end`: seconds by one monotonic clock, when it was asked and answered."""

    kind: Kind
    start: float
    end: float
    answer: Answer | Lost
    digest: str | None = None
    expected: str | None = None
    client: int = 0


def apply(state: TagState, operation: Operation) -> tuple[TagState, Answer]:
    """Return the state after an operation of a single registry, and its answer."""
    match operation.kind:
        case Kind.GET:
            return state, state.digest
        case Kind.DELETE:
            if state.digest is None:
                return state, 404
            return (state, 405) if state.protected else (_with(state, None, state.sealed), 202)
        case Kind.SEAL:
            if state.digest is None:
                return state, 404
            return TagState(state.digest, state.digest, protected=True, seals=state.seals), 200
        case Kind.PUT | Kind.CREATE | Kind.REPLACE:
            return _put(state, operation)


def _put(state: TagState, operation: Operation) -> tuple[TagState, Answer]:
    expected = {Kind.PUT: state.digest, Kind.CREATE: None}.get(operation.kind, operation.expected)
    if state.digest != expected:
        return state, 412
    if state.sealed not in {None, operation.digest}:
        return state, 409
    return _with(state, operation.digest, operation.digest if state.seals else state.sealed), 201


def _with(state: TagState, digest: str | None, sealed: str | None) -> TagState:
    return TagState(digest, sealed, protected=state.protected, seals=state.seals)


def is_linearizable(history: Sequence[Operation], initial: TagState) -> bool:
    """Return whether one order of the operations explains all answers. `history`: of one tag, in any order."""
    operations = sorted(history, key=lambda each: each.start)
    answered = sum(1 << number for number, each in enumerate(operations) if each.answer is not LOST)
    waiting, tried = [(0, initial)], {(0, initial)}
    while waiting:
        done, state = waiting.pop()
        if done & answered == answered:
            return True
        for step in _steps(operations, done, state):
            if step not in tried:
                tried.add(step)
                waiting.append(step)
    return False


def contradiction(history: Sequence[Operation], initial: TagState) -> list[Operation]:
    """Return the operations that no order explains, without the reads and refusals that are not needed for that; none if one does."""
    if is_linearizable(history, initial):
        return []
    left = sorted(history, key=lambda each: each.start)
    for each in list(left):
        without = [other for other in left if other is not each]
        if (each.kind is Kind.GET or each.answer in REFUSALS) and not is_linearizable(without, initial):
            left = without
    return left


def _steps(operations: Sequence[Operation], done: int, state: TagState) -> list[tuple[int, TagState]]:
    """Return what may come next: the operations that are done then, and the state.

    A get or a refusal that has its answer is the only next step: it changes nothing at any place, so an order in which it comes later
    stays right if it is moved here. An acknowledged change is not: one that changes nothing here, such as a put of what the tag has,
    may be needed later. A lost one that changes nothing is left out, as if it had not been done.
    """
    found = []
    for number in _next_ones(operations, done):
        after, answer = apply(state, operations[number])
        step = (done | 1 << number, after)
        if operations[number].answer == answer:
            if operations[number].kind is Kind.GET or answer in REFUSALS:
                return [step]
            found.append(step)
        elif operations[number].answer is LOST and after != state:
            found.append(step)
    return found


def _next_ones(operations: Sequence[Operation], done: int) -> list[int]:
    """Return the operations that may be next: those that began before any other that is left was answered."""
    found, first_end = [], math.inf
    for number, each in enumerate(operations):
        if done >> number & 1:
            continue
        if each.start > first_end:
            break
        found.append(number)
        if each.answer is not LOST:
            first_end = min(first_end, each.end)
    return found
