"""Which tags resolve or resolved to an image, and how far they moved since."""

from __future__ import annotations

import msgspec
import pytest

from boltseal.ledger.entry import Entry, EntryKind
from boltseal.ledger.history import EntryAt
from boltseal.ledger.tag_intervals import (
    Behind,
    BuiltOn,
    ReleaseRecord,
    TagInterval,
    TagStep,
    behind,
    built_on,
    in_words,
    intervals_of,
    moment,
    released,
    steps_of,
)

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
HOUR_US = 3_600_000_000
NOON_US = 1_795_694_400_000_000
"""2026-11-26T12:00:00Z."""


def entry_at(index: int, kind: EntryKind, digest: str, tag: str = "latest", actor: str = "ci") -> EntryAt:
    entry = Entry(
        kind=kind,
        time_us=index,
        registry="r",
        repository="shop/app",
        tag=tag,
        digest=digest,
        actor=actor,
        salt="0" * 32,
    )
    return EntryAt(index, entry, b"")


def test_the_changes_of_each_tag() -> None:
    """Each entry of a tag gives its digest from then on; entries about no tag are left out."""
    entries = [
        entry_at(1, EntryKind.TAG_CREATED, A),
        entry_at(2, EntryKind.TAG_CREATED, B, "1.4.2", "eve"),
        entry_at(3, EntryKind.RELEASED, A),
        entry_at(4, EntryKind.TAG_DELETED, A),
        entry_at(5, EntryKind.TAG_DELETED, B, ""),
    ]

    assert steps_of(entries) == {
        "latest": (TagStep(1, A, "ci", 1), TagStep(4, "", "ci", 4)),
        "1.4.2": (TagStep(2, B, "eve", 2),),
    }


def test_the_newest_release_of_an_image() -> None:
    """The newest release record of an image has actor and time, or is absent."""
    entries = [
        entry_at(1, EntryKind.RELEASED, A),
        entry_at(2, EntryKind.RELEASED, A, actor="ada"),
        entry_at(3, EntryKind.RELEASED, B),
    ]

    assert released(entries, {A}) == ReleaseRecord("ada", 2, 2)
    assert released(entries, {C}) is None


def test_the_newest_build_names_the_base_and_its_change() -> None:
    """The newest `built` entry of an image names its base, and for a revision the base's change; one from scratch has none."""
    extra = {"base.name": "node:16", "base.digest": B}
    revision = extra | {"revision.of": "1.4.2", "base.was": C}
    built = ((A, extra), (A, revision), (B, extra), (C, {"base.name": "scratch"}))
    entries = [
        EntryAt(at, msgspec.structs.replace(entry_at(at, EntryKind.BUILT, digest).entry, extra=found), b"")
        for at, (digest, found) in enumerate(built)
    ]

    assert built_on(entries, {A}) == BuiltOn("node:16", B, "1.4.2", C, 1)
    assert built_on(entries, {B}) == BuiltOn("node:16", B, "", "", 2)
    assert built_on(entries, {C}) is None
    assert built_on(entries, {"sha256:none"}) is None


@pytest.mark.parametrize(
    ("actor", "reason", "by"),
    [
        ("anonymous", "release 7 of shop by ann@web1", "ann@web1, without a login"),
        ("ci", "release 7 of shop by ann@web1", "ci"),
        ("anonymous", "release 7 of shop by ann and bob", "anonymous"),
        ("anonymous", "", "anonymous"),
    ],
)
def test_a_release_without_a_login_names_the_user_of_its_reason(actor: str, reason: str, by: str) -> None:
    """A release that was recorded without a login names the user that `boltseal deploy` wrote into the entry's reason."""
    one = entry_at(1, EntryKind.RELEASED, A, actor=actor)
    entries = [EntryAt(one.index, msgspec.structs.replace(one.entry, reason=reason), b"")]

    assert released(entries, {A}) == ReleaseRecord(by, 1, 1)


def test_the_present_and_former_tags_of_an_image() -> None:
    """Present tags come first, then former ones, the last moved first; for each tag the last interval counts."""
    steps = {
        "latest": [TagStep(1, A, "ci"), TagStep(2, A, "admin"), TagStep(5, B)],
        "1.4.2": [TagStep(1, A, "ci", 9)],
        "edge": [TagStep(1, A), TagStep(2, B), TagStep(3, A, "eve"), TagStep(7, "")],
        "2.0": [TagStep(6, C)],
    }

    assert intervals_of(steps, {A}) == (
        TagInterval("1.4.2", 1, None, "ci", 9),
        TagInterval("edge", 3, 7, "eve"),
        TagInterval("latest", 1, 5, "ci"),
    )
    assert intervals_of(steps, set()) == ()


def test_an_image_has_several_digests() -> None:
    """A tag that resolved to the index and then to the manifest of one image resolved to it throughout."""
    assert intervals_of({"1": [TagStep(1, A), TagStep(2, B)]}, {A, B}) == (TagInterval("1", 1),)


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        ([TagStep(1, A)], Behind(0)),
        ([TagStep(1, A), TagStep(2, B)], Behind(1, 2)),
        ([TagStep(1, A), TagStep(2, B), TagStep(3, B), TagStep(4, C)], Behind(2, 2)),
        ([TagStep(1, A), TagStep(2, "")], Behind(0, 2)),
        ([TagStep(1, A), TagStep(2, ""), TagStep(3, B)], Behind(1, 2)),
        ([TagStep(1, A), TagStep(2, B), TagStep(3, A)], Behind(0)),
        ([TagStep(1, B)], None),
        ([], None),
    ],
)
def test_the_distance_to_a_moved_tag(steps: list[TagStep], found: Behind | None) -> None:
    """The distance of a moved tag counts each other image once; a deletion does not count."""
    assert behind(steps, {A}) == found


def test_the_text_of_the_intervals() -> None:
    """The text lists present tags, then former ones with the time when they moved."""
    tags = [TagInterval("1.4.2", 0), TagInterval("edge", 0), TagInterval("latest", 0, NOON_US - 22 * HOUR_US)]

    assert in_words(tags) == "1.4.2, edge; was `latest` until 2026-11-25T14:00:00Z"
    assert in_words(tags[2:]) == "was `latest` until 2026-11-25T14:00:00Z"
    assert in_words([]) == ""


def test_a_moment_is_written_in_utc() -> None:
    """A time is written in UTC, in whole seconds, with its zone."""
    assert moment(NOON_US - 48 * HOUR_US + 999_999) == "2026-11-24T12:00:00Z"
