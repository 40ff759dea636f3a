"""Two copies of a project's releases become one state, and a torn file is ignored."""

from __future__ import annotations

from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.deploy.holds import holding
from boltseal.deploy.release_exchange import exchanged, files_in_volume, releases_in_volume
from boltseal.deploy.release_file import StoredRelease, TornFile, format_stored, parse_stored
from boltseal.deploy.releases import ReleaseContents, ReleaseEnd, ReleaseKind, ReleaseUnreadable
from tests.deploy.samples import release

CONTENTS = ReleaseContents(b"{}", b"{}", {"compose.yaml": b"\xff\x00"}, b"lock", ("/data: a folder",))


def stored(number: int, revision: int = 1, who: str = "ann@host", started_us: int | None = None) -> StoredRelease:
    """Return a release in one state."""
    made = msgspec.structs.replace(release(number), who=who, started_us=started_us or number)
    return StoredRelease(revision=revision, release=made, contents=CONTENTS)


def test_a_file_is_read_back() -> None:
    """The file of a release is read back with record, contents and revision, also without contents."""
    bare = StoredRelease(revision=7, release=release(2), contents=None)

    assert parse_stored(format_stored(stored(1, 3))) == stored(1, 3)
    assert parse_stored(format_stored(bare)) == bare


@given(st.data())
def test_a_torn_or_changed_file_is_recognized(data: st.DataObject) -> None:
    """A file that ends early, or in which any one byte was changed, is recognized by its hash."""
    whole = format_stored(stored(1))
    position = data.draw(st.integers(0, len(whole) - 1))
    changed = bytes([*whole[:position], whole[position] ^ data.draw(st.integers(1, 255)), *whole[position + 1 :]])

    for raw in (whole[:position], changed):
        with pytest.raises(TornFile):
            parse_stored(raw)


def test_a_file_of_a_newer_version_is_not_torn() -> None:
    """A file of another format, whose hash fits, is reported instead of ignored."""
    whole = format_stored(stored(1)).rpartition(b"\nsha256:")[0] + b"\n"
    newer = whole.replace(b"release 1\n", b"release 2\n")
    other = whole.replace(b'"revision"', b'"another"')
    for body in (newer, other):
        with pytest.raises(ReleaseUnreadable) as caught:
            parse_stored(_hashed(body))
        assert not isinstance(caught.value, TornFile)


def _hashed(body: bytes) -> bytes:
    return body + b"sha256:" + sha256(body).hexdigest().encode() + b"\n"


def test_a_release_of_a_newer_version_in_the_volume_is_not_missing() -> None:
    """A release on the engine that a newer boltseal wrote is an error, since its number would be used again."""
    whole = format_stored(stored(1)).rpartition(b"\nsha256:")[0] + b"\n"
    newer = _hashed(whole.replace(b"release 1\n", b"release 2\n"))

    with pytest.raises(ReleaseUnreadable, match="use a newer boltseal"):
        releases_in_volume({"1.1": newer}, "shop")


def test_the_newest_whole_state_in_the_volume_counts() -> None:
    """Of the two files of a release in the volume the one with the higher revision counts; a torn one leaves the other."""
    files = files_in_volume(stored(1, 4)) | files_in_volume(stored(1, 5)) | files_in_volume(stored(2))
    torn = {**files, "1.1": files["1.1"][:-9]}
    noise = {"key": b"k", "x.0": b"", "1.2": b"", "3.0": format_stored(stored(1)), "٣.0": b""}

    assert releases_in_volume({**files, **noise}, "shop") == (stored(1, 5), stored(2))
    assert releases_in_volume({**files, **noise}, "other") == ()
    assert releases_in_volume(torn, "shop") == (stored(1, 4), stored(2))


def test_each_side_gets_what_it_lacks() -> None:
    """A release that one side lacks, or has in an older state, is copied there; a pruned volume is written again."""
    found = exchanged(
        [stored(1), stored(2, 5), stored(3, 1)], [stored(2, 4), stored(3, 2), stored(4)], authoritative=True
    )
    pruned = exchanged([stored(1), stored(2)], [], authoritative=False)

    assert found.to_folder == (stored(3, 2), stored(4))
    assert found.to_engine == (stored(1), stored(2, 5))
    assert pruned.to_engine == (stored(1), stored(2))


@pytest.mark.parametrize("authoritative", [True, False])
def test_two_releases_of_one_number_are_both_kept(authoritative: bool) -> None:
    """Of two releases of one number, one keeps it, by whether the folder is authoritative; the other gets the next number."""
    ours, theirs = stored(1, 3, "ann@host", 10), stored(1, 8, "bob@laptop", 20)
    found = exchanged([ours, stored(2)], [theirs, stored(2)], authoritative=authoritative)
    winner, loser = (ours, theirs) if authoritative else (theirs, ours)
    kept, moved = found.to_folder

    assert [(each.release.number, each.release.who) for each in (kept, moved)] == [
        (1, winner.release.who),
        (3, loser.release.who),
    ]
    assert kept.revision == (9 if authoritative else 8)
    assert found.to_engine == ((kept, moved) if authoritative else (moved,))
    assert moved.release.end is (ReleaseEnd.HEALTHY if authoritative else ReleaseEnd.ABANDONED)


@pytest.mark.parametrize("authoritative", [True, False])
def test_the_hold_of_a_rollback_outlasts_a_new_number(authoritative: bool) -> None:
    """A rollback that gets another number still refers to the releases of its side, so that its hold stays."""
    bad, good = stored(1, started_us=30), stored(2, started_us=31)
    back = msgspec.structs.replace(release(3), of=2, previous=1, hold=True, kind=ReleaseKind.ROLLBACK, started_us=32)
    ours = [bad, good, StoredRelease(revision=1, release=back, contents=CONTENTS)]
    theirs = [stored(1, who="bob@laptop", started_us=10), good, stored(3, who="bob@laptop", started_us=11)]
    found = exchanged(*((theirs, ours) if authoritative else (ours, theirs)), authoritative=authoritative)
    known = exchanged(
        *(
            ([*theirs, stored(7, 2, started_us=30)], ours)
            if authoritative
            else (ours, [*theirs, stored(7, 2, started_us=30)])
        ),
        authoritative=authoritative,
    )

    moved = {each.release.started_us: each.release for each in found.to_engine}
    assert (moved[30].number, moved[32].number) == (4, 5)
    assert (moved[32].previous, moved[32].of, moved[32].hold) == (4, 2, True)
    assert [each.number for each in holding([each.release for each in found.to_engine])] == [5]
    assert {each.release.number: each.release.previous for each in known.to_engine}[8] == 7


@pytest.mark.parametrize("authoritative", [True, False])
def test_an_older_rollback_that_gets_another_number_still_holds(authoritative: bool) -> None:
    """A rollback that did not run last and gets another number is recorded as abandoned, and what it holds stays held."""
    back = msgspec.structs.replace(release(2), of=1, previous=1, hold=True, kind=ReleaseKind.ROLLBACK, started_us=5)
    ours = [stored(1), StoredRelease(revision=1, release=back, contents=CONTENTS)]
    theirs = [stored(1), stored(2, who="bob@laptop", started_us=10)]
    found = exchanged(*((theirs, ours) if authoritative else (ours, theirs)), authoritative=authoritative)
    (moved,) = [each.release for each in found.to_engine if each.release.hold]

    assert (moved.number, moved.end) == (3, ReleaseEnd.ABANDONED)
    assert holding([moved]) == (moved,)


@pytest.mark.parametrize("change", [(b"release 1\n", b"release 2\n"), (b'"number":2', b'"number":-2')])
def test_an_unreadable_release_on_the_engine_is_not_ignored(change: tuple[bytes, bytes]) -> None:
    """A release of a newer version, or an invalid one, is an error: its number is not given to another release."""
    body = format_stored(stored(2)).rpartition(b"\nsha256:")[0] + b"\n"
    files = files_in_volume(stored(1)) | {"2.1": _hashed(body.replace(*change))}

    with pytest.raises(ReleaseUnreadable, match=r"shop/2\.1"):
        releases_in_volume(files, "shop")


def test_an_exchange_ends() -> None:
    """After both sides got what they lacked, a further exchange copies nothing, also by an administrator with an old copy."""
    ours, theirs = [stored(1, 3, "ann@host", 10)], [stored(1, 8, "bob@laptop", 20)]
    found = exchanged(ours, theirs, authoritative=True)
    left, right = _applied(ours, found.to_folder), _applied(theirs, found.to_engine)
    again = exchanged(left, right, authoritative=True)
    late = exchanged(theirs, right, authoritative=False)

    assert (again.to_folder, again.to_engine) == ((), ())
    assert late.to_engine == ()
    assert _applied(theirs, late.to_folder) == right


def _applied(side: list[StoredRelease], new: tuple[StoredRelease, ...]) -> list[StoredRelease]:
    found = {each.release.number: each for each in (*side, *new)}
    return [found[number] for number in sorted(found)]
