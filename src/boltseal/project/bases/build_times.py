"""When an image, and images that it may be based on, were built, by the times in its config (image-spec "config.md"). Pure.

The builder writes these times. A time that is missing counts as any time; a wrong one can hide that a base may be another image.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from boltseal.project.bases.image_facts import HistoryStep, ImageFacts
from boltseal.project.bases.unknown_periods import Window

DAY_US: Final = 86_400_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def build_window(image: ImageFacts, base: ImageFacts | None, published_us: int) -> Window:
    """Return the period in which an unknown base of the image may have been used.

    It begins with the oldest step above `base`: a build may use an image that it pulled long ago, or steps that it cached, and
    keeps their times. It ends with the publication of the image. `base`: the longest known match; None: not known.
    """
    if sum(not step.empty for step in image.history) != len(image.diff_ids):
        return Window(None, published_us)  # a layer without a step has no time
    times_us = [_time_us(step.created) for step in _steps_above(image, base)] + [created_us(image)]
    known_us = [time_us for time_us in times_us if time_us is not None]
    start_us = min(known_us) if len(known_us) == len(times_us) else None
    if start_us is None or start_us > published_us + DAY_US:
        return Window(None, published_us)
    return Window(min(start_us, published_us), published_us)


def _steps_above(image: ImageFacts, base: ImageFacts | None) -> tuple[HistoryStep, ...]:
    """Return the steps of an image's history after those of its base, the whole history if the base is not known."""
    if base is None:
        return image.history
    if image.history_begins_with(base):
        return image.history[len(base.history) :]
    made = [number for number, step in enumerate(image.history) if not step.empty]
    count = len(base.diff_ids)
    return image.history[made[count - 1] + 1 :] if 0 < count <= len(made) else image.history


def created_us(image: ImageFacts) -> int | None:
    """Return an image's creation time, or None."""
    return _time_us(image.created)


def _time_us(text: str) -> int | None:
    """Return a time of an image's config in microseconds since the epoch, or None."""
    try:
        return (datetime.fromisoformat(text.upper()) - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, TypeError, OverflowError):  # not a time, or without a time zone
        return None
