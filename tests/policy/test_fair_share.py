"""Places are divided among users, and no user loses a place to a group of others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.policy.fair_share import fair_share


@pytest.mark.parametrize(
    ("wanted", "places", "share"),
    [
        ([], 10, 10),
        ([4, 6], 10, 10),
        ([4, 7], 10, 6),
        ([500] * 40 + [5], 20_000, 499),
        ([1, 1, 1], 2, 0),
        ([0, 9, 9], 10, 5),
    ],
)
def test_small_users_keep_all_of_theirs(wanted: list[int], places: int, share: int) -> None:
    """Forty users with 500 rows each take nothing from one with five."""
    assert fair_share(wanted, places) == share


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, 200))
def test_a_share_is_the_largest_that_fits(wanted: list[int], places: int) -> None:
    """All together have at most the places, and with one more each they would have too many, unless all have what they want."""
    share = fair_share(wanted, places)

    assert sum(min(share, each) for each in wanted) <= places
    assert sum(wanted) <= places or sum(min(share + 1, each) for each in wanted) > places
