"""The rules for the times of entries, as properties."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from boltseal.ledger.clock import (
    BEHIND_LIMIT_US,
    STEP_LIMIT_US,
    ClockReading,
    has_stepped_forward,
    is_behind,
    next_time_us,
)

HOUR = 3600 * 1_000_000
YEAR = 365 * 24 * HOUR
TIMES = st.integers(0, 100 * YEAR)
STARTS = st.builds(ClockReading, TIMES, TIMES)


@given(TIMES, st.lists(TIMES, max_size=20))
def test_times_rise_whatever_the_clock_does(first: int, clock: list[int]) -> None:
    """Every entry is later than the one before it."""
    times = [first]
    for now in clock:
        times.append(next_time_us(times[-1], now))

    assert all(later > earlier for earlier, later in itertools.pairwise(times))


@given(TIMES, st.integers(-100 * YEAR, BEHIND_LIMIT_US))
def test_a_clock_that_is_a_little_behind_gives_times(last: int, behind: int) -> None:
    """A clock up to five minutes behind the last entry, or ahead of it, gives times."""
    assert not is_behind(last, last - behind)
    assert is_behind(last, last - BEHIND_LIMIT_US - 1)


@given(STARTS, st.integers(0, 10 * YEAR), st.integers(-500, 500))
def test_a_clock_that_runs_on_has_not_stepped(start: ClockReading, passed: int, slewed: int) -> None:
    """A clock that runs for years, is slewed at the highest rate, or belongs to a suspended machine has not stepped."""
    now = ClockReading(start.time_us + passed + passed * slewed // 1_000_000, start.boot_us + passed)

    assert not has_stepped_forward(start, now)


@given(STARTS, st.integers(0, YEAR), st.integers(0, 2 * YEAR))
def test_a_step_forward_of_more_than_an_hour_is_one(start: ClockReading, passed: int, step: int) -> None:
    """A clock has stepped if it is ahead by more than an hour and a thousandth of the elapsed time."""
    now = ClockReading(start.time_us + passed + step, start.boot_us + passed)

    assert has_stepped_forward(start, now) == (step > STEP_LIMIT_US + passed // 1000)


@given(STARTS, st.integers(0, YEAR), st.integers(0, 10 * YEAR))
def test_a_step_back_and_the_return_from_it_are_none(start: ClockReading, passed: int, back: int) -> None:
    """The clock is compared with the start, not with the last reading."""
    away = ClockReading(start.time_us + passed - back, start.boot_us + passed)
    returned = ClockReading(start.time_us + passed, start.boot_us + passed)

    assert not has_stepped_forward(start, away)
    assert not has_stepped_forward(start, returned)


@given(STARTS, st.integers(0, YEAR))
def test_every_process_that_reads_the_same_anchor_decides_alike(start: ClockReading, step: int) -> None:
    """The decision depends on the two readings only, so a process that started after the step refuses as well."""
    now = ClockReading(start.time_us + step, start.boot_us)

    assert {has_stepped_forward(ClockReading(*start), ClockReading(*now)) for _ in range(3)} == {step > STEP_LIMIT_US}
