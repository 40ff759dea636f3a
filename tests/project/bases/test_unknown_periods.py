"""When an unknown image may be the base of an image that begins with the layers of a known one."""

from __future__ import annotations

import pytest

from boltseal.oci.digest import Digest
from boltseal.project.bases.freshness import TagInterval
from boltseal.project.bases.unknown_periods import UnknownPeriod, UnknownPeriods, Window, gaps, possible

NAME = "reg.test/base/rt"
NEVER = Window(2**63 - 1, -(2**63))
ONE, TWO = Digest.of(b"one"), Digest.of(b"two")


def reason(when: Window, since_match: Window, since_created: Window, *, observed: bool = True) -> str:
    periods = UnknownPeriods([UnknownPeriod(NAME, "unknown", when, observed)])
    return periods.reason("reg.test/team/app", since_match, since_created)


@pytest.mark.parametrize(
    ("when", "doubted"),
    [
        (Window(None, 10), False),
        (Window(None, 11), True),
        (Window(12, 15), True),
        (Window(19, None), True),
        (Window(20, None), False),
        (Window(None, None), True),
    ],
)
def test_an_unknown_digest_matters_between_the_publication_of_base_and_image(when: Window, doubted: bool) -> None:
    """An unknown digest may be the base exactly if a tag resolved to it after the match and before the image existed."""
    assert bool(reason(when, Window(10, 20), NEVER)) is doubted


@pytest.mark.parametrize(
    ("when", "doubted"), [(Window(None, 12), False), (Window(12, 15), True), (Window(20, 30), False)]
)
def test_a_gap_matters_while_the_image_was_built(when: Window, doubted: bool) -> None:
    """A gap between observations matters exactly if the image may have been built in it."""
    assert bool(reason(when, Window(None, None), Window(14, 20), observed=False)) is doubted


def test_an_unobserved_tag_of_the_own_repository_is_no_base() -> None:
    """A known digest of the image's own repository may be its base; that a tag was not observed is no doubt there."""
    periods = UnknownPeriods([UnknownPeriod(NAME, "gap", observed=False)])
    known = UnknownPeriods([UnknownPeriod(NAME, "digest")])

    assert periods.reason(NAME, Window(None, None), Window(None, None)) == ""
    assert known.reason(NAME, Window(None, None), Window(None, None)) == "digest"


def test_the_latest_unknown_digest_is_named_before_a_gap() -> None:
    """The reason names the latest unknown digest, and a gap only if there is none."""
    periods = UnknownPeriods(
        [
            UnknownPeriod(NAME, "gap", Window(None, None), observed=False),
            UnknownPeriod(NAME, "first", Window(1, 5)),
            UnknownPeriod(NAME, "second", Window(5, 9)),
        ]
    )

    assert periods.reason("x", Window(0, 20), Window(0, 20)) == "second"
    assert periods.reason("x", Window(10, 20), Window(0, 20)) == "gap"


def test_gaps_are_before_the_first_and_between_two_different_observations() -> None:
    """Between two observations of different digests a tag may have resolved to a third one; before the first to any."""
    intervals = [TagInterval(ONE, 10, 20), TagInterval(TWO, 30, 40), TagInterval(None, 40, 50)]

    assert list(gaps(intervals)) == [Window(None, 10), Window(20, 30)]
    assert list(gaps([])) == [Window(None, None)]


def test_a_digest_may_have_been_resolved_from_the_observation_before_to_the_one_after() -> None:
    """A digest may have been resolved since the previous observation, or the last listing without the tag."""
    intervals = [TagInterval(ONE, 10, 20), TagInterval(TWO, 30, 40)]

    assert possible(intervals, [3, 7, 10]) == (TagInterval(ONE, 7, 30), TagInterval(TWO, 20, None))
    assert possible(intervals[:1]) == (TagInterval(ONE, None, None),)
    assert possible([]) == ()
