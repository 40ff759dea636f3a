"""Differences between two locks are reported by image and by platform."""

from __future__ import annotations

from dataclasses import replace

import pytest

from boltseal.lockfile.compare import ChangeKind, age, compare_locks, compare_platforms
from tests.lockfile.locks import DAY_US, NOW_US, lock_of, locked


def test_equal_locks_do_not_differ() -> None:
    """Locks with equal content do not differ, whatever the order of their rows."""
    a, b = locked("app:1", 1), locked("app:2", 2)

    assert compare_locks(lock_of(a, b), lock_of(b, a)) == ()


def test_every_image_that_differs_is_reported_once() -> None:
    """Each image that was added, removed, moved or changed in details is reported once."""
    same = locked("app:0", 1)
    before = lock_of(same, locked("app:1", 1), locked("app:2", 2), locked("app:4", 4))
    after = lock_of(same, locked("app:2", 9), locked("app:3", 3), replace(locked("app:4", 4), written=("app:4",)))
    differences = [(change.reference.tag, change.kind) for change in compare_locks(before, after)]

    assert differences == [
        ("1", ChangeKind.REMOVED),
        ("2", ChangeKind.MOVED),
        ("3", ChangeKind.ADDED),
        ("4", ChangeKind.DETAILS),
    ]


def test_a_move_names_the_platforms_that_changed() -> None:
    """A move lists the platforms whose manifests changed, so users of others can ignore it."""
    before = locked("app:1", 1, ("linux/amd64", 10), ("linux/arm64", 11), ("linux/s390x", 12))
    after = locked("app:1", 2, ("linux/amd64", 20), ("linux/arm64", 11), ("linux/riscv64", 13), ("", 14))
    (change,) = compare_locks(lock_of(before), lock_of(after))

    assert str(change.platforms) == (
        "changed: linux/amd64; added: unnamed, linux/riscv64; removed: linux/s390x; same: linux/arm64"
    )


def test_an_image_that_was_added_or_removed_has_no_platforms_to_compare() -> None:
    """An added or removed image is reported without platforms."""
    image = locked("app:1", 1, ("linux/amd64", 10))
    changes = [*compare_locks(lock_of(), lock_of(image)), *compare_locks(lock_of(image), lock_of())]

    assert [str(change.platforms) for change in changes] == ["", ""]


def test_several_images_for_one_platform_are_compared_as_a_set() -> None:
    """Several images for one platform, as Windows has for its versions, are compared as a set."""
    before = locked("app:1", 1, ("windows/amd64", 10), ("windows/amd64", 11)).platforms
    swapped = locked("app:1", 1, ("windows/amd64", 11), ("windows/amd64", 10)).platforms
    fewer = locked("app:1", 1, ("windows/amd64", 11)).platforms

    assert compare_platforms(before, swapped).same == ("windows/amd64",)
    assert compare_platforms(before, fewer).changed == ("windows/amd64",)


@pytest.mark.parametrize(
    ("ago_us", "message"),
    [
        (12 * DAY_US, "12 days"),
        (DAY_US, "1 day"),
        (DAY_US - 1, "23 hours"),
        (60_000_000, "1 minute"),
        (2_000_000, "2 seconds"),
        (0, "0 seconds"),
        (-DAY_US, "0 seconds"),
    ],
)
def test_an_age_is_written_in_its_largest_unit(ago_us: int, message: str) -> None:
    """An age is written in its largest unit, and a clock that is behind gives no negative age."""
    assert age(NOW_US - ago_us, NOW_US) == message
