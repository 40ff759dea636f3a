"""Two locks are merged entry by entry; only what both sides locked differently is a conflict."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from boltseal.lockfile.document import Lock, LockedImage, LockInvalid, Rendered, Use, WrittenPin, sorted_lock
from boltseal.lockfile.format import format_lock, format_merged
from boltseal.lockfile.merge import merge_locks, sides_of_conflict
from boltseal.lockfile.parse import parse_lock
from tests.lockfile.locks import KEY, NOW_US, digest, lock_of, locked, locks

REGISTRY = "registry.example.com"
OTHER_KEY = KEY.replace("1a2b", "ffff")


def used(image: LockedImage, *files: str) -> LockedImage:
    return replace(image, used=tuple(Use(file, "FROM") for file in files), written=files)


def uses(lock: Lock) -> dict[str, list[str]]:
    return {str(image.reference.tag): [use.file for use in image.used] for image in lock.images}


A, B, C = (used(locked(f"app:{tag}", number), "x") for number, tag in enumerate("abc", 1))


@given(locks, locks)
def test_a_change_of_one_side_is_taken(base: Lock, changed: Lock) -> None:
    """If one side changed nothing, the other side's digests are taken, and there is no conflict."""
    for merged in (merge_locks(base, changed, base), merge_locks(base, base, changed)):
        assert merged.conflicts == ()
        found = {image.reference: image.digest for image in merged.lock.images}
        assert found.items() <= {image.reference: image.digest for image in changed.images}.items()
        assert merged.lock.pins == changed.pins


@given(locks)
def test_equal_sides_are_merged_to_themselves(lock: Lock) -> None:
    """Sides that are equal give the same lock, with any base, and byte for byte."""
    for base in (Lock(), lock):
        assert format_merged(merge_locks(base, lock, lock)) == format_lock(lock)


def test_images_that_two_branches_add_are_both_there() -> None:
    """Two branches that add different images, neighbours in the file, have no conflict."""
    merged = merge_locks(lock_of(A), lock_of(A, B), lock_of(A, C))

    assert (merged.lock, merged.conflicts) == (lock_of(A, B, C), ())


def test_an_image_that_one_branch_removed_is_gone() -> None:
    """An image that one side removed is removed, unless the other side uses it in a new place."""
    kept = used(A, "x", "y")

    assert merge_locks(lock_of(A, B), lock_of(B), lock_of(A, B)).lock == lock_of(B)
    assert merge_locks(lock_of(A, B), lock_of(A, B), lock_of(B)).lock == lock_of(B)
    assert uses(merge_locks(lock_of(A), lock_of(), lock_of(kept)).lock) == {"a": ["y"]}


def test_places_are_merged_one_by_one() -> None:
    """A place that one side added is there, and one that one side removed is not."""
    base, ours, theirs = (lock_of(used(A, *files)) for files in (("x", "y"), ("x", "y", "ours"), ("y", "theirs")))

    assert uses(merge_locks(base, ours, theirs).lock) == {"a": ["ours", "theirs", "y"]}


def test_the_digest_of_the_side_that_changed_it_is_taken() -> None:
    """A digest that one side locked anew is taken, with its time, and the places of both sides."""
    newer = replace(used(A, "x", "y"), digest=digest(9), first_seen_us=NOW_US + 10**6)
    for sides in ((lock_of(newer), lock_of(A)), (lock_of(A), lock_of(newer))):
        assert merge_locks(lock_of(A), *sides).lock == lock_of(newer)


def test_two_digests_are_a_conflict_with_both_entries() -> None:
    """If both sides locked an image to different digests, both entries stand between marks, and the text is no lock."""
    ours, theirs = (replace(A, digest=digest(number)) for number in (8, 9))
    merged = merge_locks(lock_of(A, B), lock_of(ours, B), lock_of(theirs, B))
    text = format_merged(merged)

    assert merged.conflicts == ("app:a",)
    assert text.index("<<<<<<< ours\n[[image]]") < text.index(str(digest(8))) < text.index("=======\n[[image]]")
    assert text.index("=======") < text.index(str(digest(9))) < text.index(">>>>>>> theirs\n\n[[image]]")
    with pytest.raises(LockInvalid, match="is a merge conflict"):
        parse_lock(text.encode())
    sides = sides_of_conflict(text.encode())
    assert sides is not None
    assert (parse_lock(sides.ours), parse_lock(sides.theirs)) == (lock_of(ours, B), lock_of(theirs, B))


def test_without_a_base_different_digests_are_a_conflict() -> None:
    """If the base is not known, no side's digest is taken for the older one."""
    assert merge_locks(Lock(), lock_of(A), lock_of(replace(A, digest=digest(9)))).conflicts == ("app:a",)


def test_details_are_completed_from_the_other_side() -> None:
    """Of equal digests the earlier time and the known details are kept."""
    full = replace(locked("app:a", 1, ("linux/amd64", 2)), entry=7, first_seen_us=NOW_US)
    bare = replace(full, platforms=(), media_type="", entry=None, first_seen_us=NOW_US + 10**6)

    for sides in ((full, bare), (bare, full)):
        assert merge_locks(Lock(), *map(lock_of, sides)).lock == lock_of(full)


def test_ledger_keys_are_merged() -> None:
    """The key that one side changed is taken; two different ones are a conflict; that of a registry in use stays."""
    image = used(locked(f"{REGISTRY}/app:1"), "x")
    old, new, third = (sorted_lock([image], {REGISTRY: key}) for key in (KEY, OTHER_KEY, KEY.replace("1a2b", "eeee")))
    conflict = merge_locks(old, new, third)
    text = format_merged(conflict)

    assert merge_locks(old, new, old).lock.keys == merge_locks(old, old, new).lock.keys == {REGISTRY: OTHER_KEY}
    assert conflict.conflicts == (REGISTRY,)
    assert f'<<<<<<< ours\n"{REGISTRY}" = "{OTHER_KEY}"\n=======\n"{REGISTRY}" = ' in text
    added = sorted_lock([image, used(locked(f"{REGISTRY}/other:1"), "y")], {REGISTRY: KEY})
    assert merge_locks(old, Lock(), added).lock.keys == {REGISTRY: KEY}


def test_what_is_rendered_is_merged_one_by_one() -> None:
    """What one side added to the rendered parts is there; what one side removed is not."""
    old, mine, theirs = (Lock(rendered=tuple(Rendered("helm", each) for each in paths)) for paths in ("ab", "abc", "b"))

    assert [each.path for each in merge_locks(old, mine, theirs).lock.rendered] == ["b", "c"]


def test_records_of_pins_never_conflict() -> None:
    """Records of both sides are there; one that a side removed is not; of two different ones ours is taken."""
    first, second, mine, other = (
        WrittenPin("a", at, 1, digest(n)) for n, at in ((1, "x"), (2, "y"), (3, "z"), (4, "z"))
    )
    base = Lock(pins=(first, second))
    merged = merge_locks(base, Lock(pins=(first, second, mine)), Lock(pins=(second, other)))

    assert merged.lock.pins == (second, mine)
    assert merged.conflicts == ()


def test_the_sides_of_conflict_marks() -> None:
    """The text between marks belongs to one side, the rest to all; the base is known only if every conflict shows it."""
    whole = sides_of_conflict(b"a\n<<<<<<< HEAD\nb\n||||||| 1a2b\nc\n=======\r\nd\n>>>>>>> other\ne\n")
    short = sides_of_conflict(b"<<<<<<<\nb\n=======\n>>>>>>>\n")

    assert whole == (b"a\nc\ne\n", b"a\nb\ne\n", b"a\nd\ne\n")
    assert short == (None, b"b\n", b"")


@pytest.mark.parametrize(
    "text", ["", "a\n", "<<<<<<< x\n", "=======\n", "<<<<<<< x\n=======\n<<<<<<< x\n", ">>>>>>> x\n"]
)
def test_incomplete_marks_are_no_conflict_with_sides(text: str) -> None:
    """A text without marks, or with marks in a wrong order, has no sides."""
    assert sides_of_conflict(text.encode()) is None
