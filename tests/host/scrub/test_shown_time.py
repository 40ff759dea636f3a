"""Times in differences."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.host.scrub.inodes import shown_time


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_time_is_shown_with_all_its_digits(ns: int) -> None:
    """A time in nanoseconds can be read back from its text, so that two different times never look equal."""
    text, _, fraction = shown_time(ns).removesuffix("Z").partition(".")
    past = datetime.fromisoformat(text).replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)

    assert (past.days * 86400 + past.seconds) * 10**9 + int(fraction or 0) == ns


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (1_700_000_000_987_654_209, "2023-11-14T22:13:20.987654209Z"),
        (7 * 10**9, "1970-01-01T00:00:07Z"),
        (-1_500_000_000, "1969-12-31T23:59:58.500000000Z"),
    ],
)
def test_whole_seconds_have_no_fraction(ns: int, text: str) -> None:
    """Whole seconds are shown without a fraction, all others with nine digits."""
    assert shown_time(ns) == text
