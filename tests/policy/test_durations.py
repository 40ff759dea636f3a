"""Durations as users write them."""

from __future__ import annotations

import pytest

from boltseal.policy.durations import Duration, DurationInvalid, format_duration, parse_duration, rough_duration


@pytest.mark.parametrize(
    ("text", "span_us"),
    [("0s", 0), ("30s", 30_000_000), ("10m", 600_000_000), ("6h", 21_600_000_000), ("7d", 604_800_000_000)],
)
def test_a_number_and_a_unit_are_a_duration(text: str, span_us: int) -> None:
    """A number with a unit is a duration, and is written back the same way."""
    assert parse_duration(text) == span_us
    assert format_duration(span_us) == text


def test_a_duration_is_a_value() -> None:
    """A duration can be compared, converted to seconds, and written as it was read."""
    duration = Duration.parse("90s")

    assert (duration.us, duration.seconds, str(duration)) == (90_000_000, 90.0, "90s")
    assert Duration.parse("1m") < duration < Duration.parse("2m")


@pytest.mark.parametrize(
    "text", ["", "10", "m", "-1m", "1.5h", "10 m", "01m", "10M", "1w", "36501d", "9999999999d", "\u0661m"]
)
def test_other_text_is_no_duration(text: str) -> None:
    """Any other text is refused with the expected form."""
    with pytest.raises(DurationInvalid, match="expected a whole number and a unit"):
        parse_duration(text)


def test_the_largest_unit_that_fits_is_written() -> None:
    """A duration is written in its largest unit; fractions of a second are dropped."""
    assert format_duration(90_000_000) == "90s"
    assert format_duration(3_600_000_000) == "1h"
    assert format_duration(1_999_999) == "1s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (259_098, "3d"),
        (255_000, "2d 23h"),
        (90_000, "1d 1h"),
        (3_661, "1h 2m"),
        (3_600, "1h"),
        (61, "1m 1s"),
        (0, "0s"),
    ],
)
def test_a_rough_duration_has_two_units(seconds: int, text: str) -> None:
    """A duration for readers has its two largest units, and the rest is rounded up."""
    assert rough_duration(seconds * 1_000_000) == text
    assert rough_duration(1) == "1s"
