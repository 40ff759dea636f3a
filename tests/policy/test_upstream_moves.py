"""Moves of an upstream's tag: followed, held, accepted, deleted, returned."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from boltseal.oci.digest import Digest
from boltseal.policy.upstream_moves import (
    DAY_US,
    MAX_CHANGES,
    KnownTag,
    MoveChange,
    MoveDecision,
    MoveEvent,
    ServedAnswer,
    UpstreamAnswer,
    accept,
    answer_of,
    judge,
    warning_of,
)
from boltseal.policy.upstreams import FirstSeen, MoveTerms, OnGone, OnMove

NOW: Final = 1_795_500_000_000_000
TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
A, B, C = (UpstreamAnswer(Digest.parse("sha256:" + letter * 64), TYPE, 100) for letter in "abc")
FOLLOW, ALERT, HOLD = (MoveTerms(each) for each in (OnMove.FOLLOW, OnMove.ALERT, OnMove.HOLD))
COOLING = MoveTerms(OnMove.HOLD, cooldown_us=7 * DAY_US)
CAREFUL = MoveTerms(OnMove.ALERT, first_seen=FirstSeen.HOLD)


def story(terms: MoveTerms, *answers: UpstreamAnswer | None, step_us: int = 600_000_000) -> MoveDecision:
    """Return the decision for the last of these upstream answers, which are ten minutes apart."""
    known: KnownTag | None = None
    judged = MoveDecision(KnownTag(None))
    for number, answer in enumerate(answers):
        judged = judge(known, answer, terms, NOW + number * step_us)
        known = judged.known
    return judged


def test_the_first_observation_is_served_and_recorded() -> None:
    """The first observed digest of a tag is served and recorded without an event."""
    judged = story(ALERT, A)

    assert (judged.known.serves, judged.change, judged.entry, judged.event) == (
        A,
        MoveChange.OBSERVED,
        A,
        MoveEvent.NOTHING,
    )


def test_the_first_observation_is_held_where_the_rule_requires_it() -> None:
    """With `first_seen = "hold"` nothing is served until an administrator accepts it."""
    judged = story(CAREFUL, A)

    assert (judged.known.serves, judged.known.held) == (None, A)
    assert (judged.change, judged.entry, judged.event) == (MoveChange.HELD, A, MoveEvent.HELD)
    assert answer_of(judged.known, OnGone.ALERT) is ServedAnswer.HELD_BACK
    assert story(CAREFUL, A, A).change is None
    assert story(CAREFUL, A, B).entry == B


def test_an_unknown_tag_is_not_recorded() -> None:
    """Requests for tags that do not exist upstream do not make the log grow."""
    judged = story(ALERT, None)

    assert (judged.change, judged.entry, judged.event) == (None, None, MoveEvent.NOTHING)
    assert answer_of(judged.known, OnGone.SERVE) is ServedAnswer.UNKNOWN


def test_an_unchanged_digest_is_not_recorded() -> None:
    """An unchanged digest is not recorded again, however often it is observed."""
    assert story(ALERT, A, A, A).change is None


@pytest.mark.parametrize(("terms", "expected"), [(FOLLOW, MoveEvent.NOTHING), (ALERT, MoveEvent.MOVED)])
def test_a_move_is_followed_and_reported_as_the_rule_requires(terms: MoveTerms, expected: MoveEvent) -> None:
    """`follow` records a move, and `alert` also reports it."""
    judged = story(terms, A, B)

    assert (judged.known.serves, judged.change, judged.entry, judged.event) == (B, MoveChange.OBSERVED, B, expected)


def test_a_move_is_held_until_it_is_accepted() -> None:
    """`hold` serves the old digest, and reports the move."""
    judged = story(HOLD, A, B)
    later = judge(judged.known, B, HOLD, NOW + 400 * DAY_US)
    accepted = accept(judged.known, NOW)
    assert accepted is not None

    assert (judged.known.serves, judged.known.held, judged.change, judged.event) == (
        A,
        B,
        MoveChange.HELD,
        MoveEvent.HELD,
    )
    assert "held until an administrator accepts it" in judged.reason
    assert "which is held" in (warning_of(judged.known, B) or "")
    assert later.change is None
    assert (accepted.known.serves, accepted.known.held, accepted.change) == (B, None, MoveChange.ACCEPTED)
    assert judge(accepted.known, B, HOLD, NOW).change is None
    assert warning_of(accepted.known, B) is None


def test_nothing_is_accepted_where_nothing_is_held() -> None:
    """Accepting a tag without a held move is an error."""
    assert accept(story(HOLD, A).known, NOW) is None


def test_a_move_is_served_after_its_cooldown() -> None:
    """After its cooldown, counted from the first observation, a move is served and reported."""
    held = judge(story(COOLING, A).known, B, COOLING, NOW)
    before = judge(held.known, B, COOLING, NOW + 7 * DAY_US - 1)
    after = judge(held.known, B, COOLING, NOW + 7 * DAY_US)

    assert "or for 7d" in held.reason
    assert before.change is None
    assert (after.known.serves, after.known.held) == (B, None)
    assert (after.change, after.event, after.reason) == (
        MoveChange.ACCEPTED,
        MoveEvent.MOVED,
        "its cooldown of 7d is over",
    )


def test_the_cooldown_of_a_first_observation_ends() -> None:
    """A first observation with a cooldown is served if it is not withdrawn until the end."""
    terms = MoveTerms(OnMove.ALERT, first_seen=FirstSeen.HOLD, cooldown_us=DAY_US)
    held = judge(None, A, terms, NOW)

    assert judge(held.known, A, terms, NOW + DAY_US).known.serves == A


@pytest.mark.parametrize("between", [A, C, None])
def test_a_cooldown_begins_again_after_a_withdrawal(between: UpstreamAnswer | None) -> None:
    """A digest that was withdrawn starts its cooldown again, so showing a bad image briefly does not help an attacker."""
    known = judge(judge(judge(None, A, COOLING, NOW).known, B, COOLING, NOW).known, between, COOLING, NOW + 1).known
    again = judge(known, B, COOLING, NOW + 7 * DAY_US)

    assert again.change is MoveChange.HELD
    assert again.known.serves == A
    assert again.known.held_us == NOW + 7 * DAY_US


def test_a_held_digest_that_is_withdrawn_is_dropped() -> None:
    """If upstream returns to the served digest, the held one is dropped."""
    judged = story(HOLD, A, B, A)

    assert (judged.known.serves, judged.known.held, judged.change, judged.event) == (
        A,
        None,
        MoveChange.OBSERVED,
        MoveEvent.NOTHING,
    )


def test_a_changed_rule_releases_what_was_held() -> None:
    """The rule in force when upstream is asked decides, also for a digest that is held."""
    assert judge(story(HOLD, A, B).known, B, FOLLOW, NOW).known.serves == B
    assert judge(story(CAREFUL, A).known, A, ALERT, NOW).known.serves == A


@pytest.mark.parametrize(
    ("on_gone", "answer"),
    [(OnGone.SERVE, ServedAnswer.SERVED), (OnGone.ALERT, ServedAnswer.SERVED), (OnGone.STOP, ServedAnswer.WITHDRAWN)],
)
def test_a_deleted_tag_is_served_or_not_as_configured(on_gone: OnGone, answer: ServedAnswer) -> None:
    """A tag deleted upstream is reported once, and served or not as configured."""
    judged = story(ALERT, A, None)

    assert (judged.change, judged.entry, judged.event) == (MoveChange.OBSERVED, None, MoveEvent.GONE)
    assert answer_of(judged.known, on_gone) is answer
    assert "no longer exists" in (warning_of(judged.known, None) or "")
    assert story(ALERT, A, None, None).change is None
    assert (judge(judge(None, A, ALERT, NOW).known, None, ALERT, NOW, on_gone).event is MoveEvent.GONE) == (
        on_gone is not OnGone.SERVE
    )


def test_a_tag_that_comes_back_is_served_again() -> None:
    """A deleted tag that returns with its former digest or another one is served again."""
    same, other = story(ALERT, A, None, A), story(ALERT, A, None, B)

    assert (same.known.serves, same.known.gone_us, same.change, same.event) == (
        A,
        None,
        MoveChange.OBSERVED,
        MoveEvent.NOTHING,
    )
    assert (other.known.serves, other.known.gone_us, other.event) == (B, None, MoveEvent.MOVED)


def test_a_tag_that_was_never_served_and_is_deleted_is_unknown() -> None:
    """A tag that was held since its first observation and is deleted upstream is unknown, and nothing is reported."""
    judged = story(CAREFUL, A, None)

    assert (judged.event, judged.known.held) == (MoveEvent.NOTHING, None)
    assert answer_of(judged.known, OnGone.SERVE) is ServedAnswer.UNKNOWN
    assert warning_of(judged.known, None) is None


def test_an_oscillating_tag_is_recorded_a_limited_number_of_times_a_day() -> None:
    """Beyond a daily number of moves, a tag's moves are neither recorded nor served until the next day."""
    flips = [A, B] * MAX_CHANGES
    judged = story(ALERT, *flips, step_us=1_000_000)
    known = judged.known
    tomorrow = judge(known, A if known.serves == B else B, ALERT, NOW + DAY_US)

    assert known.changes == MAX_CHANGES
    assert judged.change is None
    assert known.serves == flips[MAX_CHANGES - 1]
    assert "more than 144 times today" in (warning_of(known, A if known.serves == B else B) or "")
    assert tomorrow.change is MoveChange.OBSERVED
    assert tomorrow.known.changes == 1


def test_a_clock_that_was_set_back_resets_the_daily_limit() -> None:
    """After the clock was set back, the daily limit counts anew, or a tag could be frozen for years."""
    known = replace(story(ALERT, A).known, changes=MAX_CHANGES, changes_since_us=NOW + 5 * DAY_US)

    assert judge(known, B, ALERT, NOW).known.serves == B


def test_a_tag_without_observations_is_unknown() -> None:
    """A tag without any observation is neither served, nor held, nor deleted."""
    assert answer_of(KnownTag(None), OnGone.SERVE) is ServedAnswer.UNKNOWN


@pytest.mark.parametrize("terms", [FOLLOW, ALERT, MoveTerms(OnMove.HOLD, cooldown_us=1)])
def test_a_digest_that_lacks_evidence_is_held_whatever_the_terms_say(terms: MoveTerms) -> None:
    """New and moved tags are held, no cooldown serves them, and the reason is in the entry."""
    lacking = replace(terms, lacks="a signature by vendor.pub")
    new, moved = story(lacking, A, A, A), judge(KnownTag(A), B, lacking, NOW)
    later = judge(moved.known, B, lacking, NOW + DAY_US)

    assert (new.known.serves, new.known.held) == (None, A)
    assert (moved.known.serves, moved.known.held, moved.change) == (A, B, MoveChange.HELD)
    assert moved.reason == (
        "it lacks a signature by vendor.pub; held until it has that, or until an administrator accepts it"
    )
    assert (later.known, later.change) == (moved.known, None)


def test_a_held_digest_is_served_when_it_has_the_evidence() -> None:
    """A follow rule serves it at the next look."""
    held = judge(None, A, replace(FOLLOW, lacks="a signature"), NOW)
    judged = judge(held.known, A, FOLLOW, NOW + 1)

    assert (judged.known.serves, judged.known.held, judged.change) == (A, None, MoveChange.OBSERVED)
