"""The check of histories accepts what a single registry did for clients at the same time, and refuses each kind of defect."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.replicas.linear_checker import LOST, Answer, Kind, Lost, Operation, TagState, apply, is_linearizable

DIGESTS = st.sampled_from(["a", "b", "c"])
REQUESTS = st.builds(
    Operation,
    kind=st.sampled_from(Kind),
    start=st.floats(0, 4),
    end=st.floats(0, 4),
    answer=st.just(LOST),
    digest=DIGESTS,
    expected=DIGESTS,
)
"""Operations without answers. `start` and `end`: how long before and after the moment at which the registry did it."""


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Operation], TagState]:
    """Return what clients saw of a single registry that did one operation per second, some answers lost; and its first state."""
    initial = state = TagState(seals=draw(st.booleans()))
    history = []
    for moment, asked in enumerate(draw(st.lists(REQUESTS, max_size=14))):
        fate = draw(st.sampled_from(["answered", "answered", "answered", "lost", "not done"]))
        answer: Answer | Lost = LOST
        if fate != "not done":
            state, answer = apply(state, asked)
        if fate != "answered":
            answer = LOST
        history.append(replace(asked, start=moment - asked.start, end=moment + asked.end, answer=answer))
    return draw(st.permutations(history)), initial


def end_state(history: list[Operation], initial: TagState) -> TagState:
    """Return the state after operations that were done one after the other."""
    for each in history:
        initial, _ = apply(initial, each)
    return initial


@st.composite
def sequential_histories(draw: st.DrawFn, *, seals: bool) -> tuple[list[Operation], TagState]:
    """Return operations that were answered one after the other, at most one per second; and the first state."""
    initial = state = TagState(seals=seals)
    history = []
    for moment, asked in enumerate(draw(st.lists(REQUESTS, max_size=8))):
        state, answer = apply(state, asked)
        history.append(replace(asked, start=float(moment), end=moment + 0.5, answer=answer))
    return history, initial


def later(number: int, kind: Kind, answer: Answer | Lost, digest: str | None = None, *, long: float = 0.5) -> Operation:
    """Return an operation after all of a drawn history."""
    return Operation(kind, 100.0 + number, 100.0 + number + long, answer, digest, expected=digest)


@given(histories())
def test_what_a_single_registry_did_is_accepted(drawn: tuple[list[Operation], TagState]) -> None:
    """Operations overlap, are recorded in any order, and some answers are lost, of operations that were done and that were not."""
    assert is_linearizable(*drawn)


@given(sequential_histories(seals=False))
def test_a_stale_read_is_refused(drawn: tuple[list[Operation], TagState]) -> None:
    """A get that began after the second of two pushes was answered finds the image of the first."""
    history, initial = drawn
    for number, digest in enumerate(("old", "new")):
        put = later(number, Kind.PUT, LOST, digest)
        history.append(replace(put, answer=apply(end_state(history, initial), put)[1]))
    now = end_state(history, initial).digest

    assert is_linearizable([*history, later(2, Kind.GET, now)], initial)
    assert not is_linearizable([*history, later(2, Kind.GET, "old")], initial)


@given(sequential_histories(seals=True))
def test_two_winners_of_a_first_push_are_refused(drawn: tuple[list[Operation], TagState]) -> None:
    """Of two pushes at the same time of different images under a tag that seals, both got 201."""
    history, initial = drawn
    one, two = later(0, Kind.PUT, 201, "one", long=5), later(1, Kind.PUT, 201, "two")

    assert not is_linearizable([*history, one, two], initial)


@pytest.mark.parametrize("answer", [201, LOST])
def test_two_winners_of_a_conditional_put_are_refused(answer: Answer | Lost) -> None:
    """Two clients replaced the same digest at the same time. One whose answer was lost may have lost."""
    first = Operation(Kind.PUT, 0, 1, 201, "a")
    one = Operation(Kind.REPLACE, 2, 9, 201, "b", expected="a")
    two = Operation(Kind.REPLACE, 3, 8, answer, "c", expected="a")

    assert is_linearizable([first, one, two], TagState()) is (answer is LOST)


@given(sequential_histories(seals=True))
def test_a_lost_write_is_refused(drawn: tuple[list[Operation], TagState]) -> None:
    """A tag that a push sealed, and that no client deleted, is missing later."""
    history, initial = drawn
    now = end_state(history, initial)
    digest = now.sealed or "new"
    put = later(0, Kind.PUT, 201, digest)

    assert is_linearizable([*history, put], initial)
    assert not is_linearizable([*history, put, later(1, Kind.GET, None)], initial)


@pytest.mark.parametrize("seals", [True, False])
def test_a_resurrected_tag_is_refused(seals: bool) -> None:
    """A tag that was deleted resolves again without a push; it is accepted with a push whose answer was lost."""
    history = [
        Operation(Kind.PUT, 0, 1, 201, "a"),
        Operation(Kind.DELETE, 2, 3, 202),
        Operation(Kind.GET, 4, 5, None),
        Operation(Kind.GET, 6, 7, "a"),
    ]

    assert not is_linearizable(history, TagState(seals=seals))
    assert is_linearizable([*history, Operation(Kind.PUT, 1.5, 5, LOST, "a")], TagState(seals=seals))


def test_another_image_after_a_tombstone_is_refused() -> None:
    """A tag that was sealed and deleted comes back only with the digest that it was sealed to."""
    history = [Operation(Kind.PUT, 0, 1, 201, "a"), Operation(Kind.DELETE, 2, 3, 202)]
    back = [Operation(Kind.PUT, 4, 5, 201, digest) for digest in "ab"]

    assert [is_linearizable([*history, each], TagState(seals=True)) for each in back] == [True, False]


def test_a_delete_after_a_seal_is_refused() -> None:
    """A mutable tag that was sealed is neither deleted nor moved."""
    history = [Operation(Kind.PUT, 0, 1, 201, "a"), Operation(Kind.SEAL, 2, 3, 200)]
    after = [Operation(Kind.DELETE, 4, 5, 202), Operation(Kind.PUT, 4, 5, 201, "b"), Operation(Kind.DELETE, 4, 5, 405)]

    assert [is_linearizable([*history, each], TagState()) for each in after] == [False, False, True]


def test_an_operation_whose_answer_was_lost_is_not_done_before_it_was_asked() -> None:
    """A push explains a get that ended after the push began, not one that ended before."""
    lost = Operation(Kind.PUT, 2, 3, LOST, "a")

    assert is_linearizable([lost, Operation(Kind.GET, 8, 9, "a")], TagState())
    assert not is_linearizable([lost, Operation(Kind.GET, 0, 1, "a")], TagState())


ANSWERS: dict[Kind, list[Answer]] = {
    Kind.PUT: [201, 409],
    Kind.CREATE: [201, 409, 412],
    Kind.REPLACE: [201, 409, 412],
    Kind.DELETE: [202, 404, 405],
    Kind.SEAL: [200, 404],
    Kind.GET: ["a", "b", None],
}


@st.composite
def arbitrary_histories(draw: st.DrawFn) -> tuple[list[Operation], TagState]:
    """Return a few operations with any answers, which a single registry may or may not have given; and the first state."""
    history = []
    for _ in range(draw(st.integers(1, 6))):
        kind, start = draw(st.sampled_from(Kind)), draw(st.floats(0, 3))
        answer = draw(st.sampled_from([*ANSWERS[kind], LOST]))
        digest, expected = draw(st.sampled_from("ab")), draw(st.sampled_from("ab"))
        history.append(Operation(kind, start, start + draw(st.floats(0.1, 3)), answer, digest, expected))
    return history, TagState(draw(st.sampled_from(["a", None])), seals=draw(st.booleans()))


def some_order_explains(history: list[Operation], state: TagState) -> bool:
    """Try every order, with each lost operation done or not, without leaving anything out."""
    if all(each.answer is LOST for each in history):
        return True
    for number, each in enumerate(history):
        others = history[:number] + history[number + 1 :]
        if any(other.end < each.start and other.answer is not LOST for other in others):
            continue
        after, answer = apply(state, each)
        if each.answer in (answer, LOST) and some_order_explains(others, after):
            return True
        if each.answer is LOST and some_order_explains(others, state):
            return True
    return False


@given(arbitrary_histories())
def test_the_check_answers_as_a_search_of_every_order(drawn: tuple[list[Operation], TagState]) -> None:
    """What the check leaves out of its search changes no answer."""
    history, initial = drawn

    assert is_linearizable(history, initial) == some_order_explains(history, initial)


def test_a_put_of_what_the_tag_has_may_be_done_later() -> None:
    """A put that would change nothing at first is done after a delete, since the tag exists at the end."""
    history = [
        Operation(Kind.PUT, 0, 9, 201, "a"),
        Operation(Kind.DELETE, 1, 2, 202),
        Operation(Kind.GET, 10, 11, "a"),
    ]

    assert is_linearizable(history, TagState("a"))
