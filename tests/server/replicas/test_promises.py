"""The checks of `promises` accept the record of a registry that keeps its promises, and refuse each forged one."""

from __future__ import annotations

import json
from dataclasses import replace

from tests.ledger.tree_oracle import mth
from tests.server.replicas.linear_checker import Kind, Operation
from tests.server.replicas.promises import (
    Checkpoint,
    Gone,
    Image,
    Read,
    Record,
    broken,
    gaps,
    lost,
    moved,
    not_linearizable,
    split,
    stale,
)

APP, ONE, OTHER, BLOB = "shop/app", "sha256:1", "sha256:2", "sha256:b"
TAGGED = f"{APP}:1.0"
IMAGE = Image(APP, "1.0", ONE, (BLOB,), entry=1)
ENTRIES = [json.dumps({"repository": APP, "tag": tag, "digest": ONE}).encode() for tag in ("", "1.0", "latest")]
SERVERS = (0, 1)


def reads(digest: str = ONE, status: int = 200) -> list[Read]:
    """Return what both servers answered to a pull. `digest`, `status`: of the last server's answer about the tag."""
    honest = [
        Read(server, subject, 5.0, 200, of)
        for server in SERVERS
        for subject, of in IMAGE.subjects.items()
        if (server, subject) != (1, TAGGED)
    ]
    return [*honest, Read(1, TAGGED, 5.0, status, digest)]


def record() -> Record:
    """Return a record of a registry that keeps its promises."""
    checkpoints = [Checkpoint(server, size, mth(ENTRIES[:size])) for server in SERVERS for size in (1, 3)]
    return Record([IMAGE], reads(), [], checkpoints, list(ENTRIES), {TAGGED})


def test_a_registry_that_keeps_its_promises_is_accepted() -> None:
    """Nothing is found in an honest record."""
    honest = record()

    assert lost(honest.images, honest.reads, SERVERS, 0.0) == []
    assert gaps(honest) == []
    assert broken(honest, ()) == {}


def test_an_acknowledged_image_that_a_server_does_not_have_is_found() -> None:
    """A 404, another digest, no read at all, and only a read of before the fault are each found, for tag, manifest and blob."""
    for subject in IMAGE.subjects:
        others = [each for each in reads() if (each.server, each.subject) != (1, subject)]
        early = Read(1, subject, 1.0, 200, IMAGE.subjects[subject])
        missing = replace(early, sent_s=5.0, status=404, digest=None)
        for forged in ([], [early], [missing], [replace(early, sent_s=5.0, digest="sha256:x")]):
            found = lost([IMAGE], others + forged, SERVERS, 2.0)

            assert len(found) == 1, (subject, forged)
            assert subject in found[0]


def test_a_mutable_tag_may_move_but_its_image_stays() -> None:
    """Of an image under a mutable tag the manifest and the blobs are read, not the tag."""
    assert [*replace(IMAGE, sealed=False).subjects] == ["shop/app@sha256:1", "shop/app blob sha256:b"]
    assert [*Image(APP, None, BLOB, (BLOB,)).subjects] == ["shop/app blob sha256:b"]


def test_a_sealed_tag_that_moved_is_found() -> None:
    """A read of another digest, at any time and server, and a second acknowledgement are each found; a refused read is not."""
    read, pushed, refused, unacknowledged = record(), record(), record(), record()
    read.reads = reads(OTHER)
    pushed.images.append(replace(IMAGE, digest=OTHER))
    refused.reads = reads(OTHER, 503)
    unacknowledged.images, unacknowledged.reads = [], reads(OTHER)

    assert len(moved(read)) == len(moved(pushed)) == len(moved(unacknowledged)) == 1
    assert moved(refused) == []


def test_two_signatures_of_one_size_are_found() -> None:
    """Two servers, or one server at two times, that show two roots of one size are found."""
    for server in SERVERS:
        forged = [*record().checkpoints, Checkpoint(server, 3, b"another")]

        assert len(split(forged)) == 1


def test_a_ledger_with_a_gap_is_found() -> None:
    """An entry that is missing, changed or exchanged, and a checkpoint beyond the entries are each found."""
    for entries in (ENTRIES[:2], [ENTRIES[0], b"{}", ENTRIES[2]], ENTRIES[::-1], ENTRIES[1:], []):
        forged = record()
        forged.entries = entries

        assert gaps(forged)


def test_an_acknowledged_push_without_its_entry_is_found() -> None:
    """A 201 that names the entry of another push, or one that does not exist, is found."""
    for forged in (replace(IMAGE, entry=0), replace(IMAGE, entry=7), replace(IMAGE, digest=OTHER)):
        changed = record()
        changed.images = [forged]

        assert len(gaps(changed)) == 1


def test_what_was_taken_away_is_not_given() -> None:
    """A request sent after the acknowledgement that gets the image, blob or right is found; an earlier or a refused one is not."""
    gone = [Gone(TAGGED, 4.0)]

    assert len(stale(reads(), gone)) == 2
    assert len(stale(reads(status=404), gone)) == 1
    assert stale(reads(), [Gone(TAGGED, 6.0)]) == []
    assert broken(replace(record(), gone=gone), ()).keys() == {"stale"}


def test_a_history_that_no_registry_gives_is_found() -> None:
    """A put that was acknowledged and is not read later is found."""
    put = Operation(Kind.PUT, 1.0, 2.0, 201, ONE)
    honest, forged = Operation(Kind.GET, 3.0, 4.0, ONE), Operation(Kind.GET, 3.0, 4.0, None)

    assert not_linearizable({"latest": [put, honest]}, ()) == []
    assert len(not_linearizable({"latest": [put, forged]}, ())) == 1
