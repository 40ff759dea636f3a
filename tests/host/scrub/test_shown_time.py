"""Times in differences."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.host.scrub.inodes import shown_time


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_time_is_shown_with_all_its_digits(ns: int) -> None:
    """A time in nanoseconds can be read back from its text, so that two different times never look equal."""
    assert Fraction(shown_time(ns)) * 10**9 == ns


@pytest.mark.parametrize(
    ("ns", "text"),
    [(1_700_000_000_987_654_209, "1700000000.987654209"), (7 * 10**9, "7"), (-1_500_000_000, "-1.500000000")],
)
def test_whole_seconds_have_no_fraction(ns: int, text: str) -> None:
    """Whole seconds are shown without a fraction, all others with nine digits."""
    assert shown_time(ns) == text
