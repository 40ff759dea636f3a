"""Unpinning removes what `boltseal pin` wrote and nothing else, and gives back the exact bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from boltseal.lockfile.document import Lock, LockedImage, WrittenPin, key_in, lock_key, sorted_lock
from boltseal.oci.digest import Digest
from boltseal.project.edits import ScanRequest, edit
from boltseal.project.image_references import ImageReference
from boltseal.project.pin import PinStatus, pins_by_lock, unpins
from boltseal.project.scan import scan_project
from boltseal.project.source_files import ProjectTree
from boltseal.project.written_pins import carried_pins, pins_after, valid_pins
from tests.lockfile.locks import digest, lock_of, locked
from tests.project.projects import DATA, digest_of, found_in, put, trap, written

TRAPS = sorted(path.name for path in DATA.iterdir())
OURS, THEIRS = Digest.of(b"locked"), Digest.of(b"foreign")
COPY = "COPY --from=nginx:1.25 a b\n"


def contents(root: Path) -> dict[Path, bytes]:
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def edited(root: Path, choose: Callable[[ImageReference], bool], to: Digest) -> None:
    """Pin the chosen references that can be edited, as another tool does."""
    asked = ScanRequest(ProjectTree(root))
    found = scan_project(asked.project)
    chosen = {each: to for each in found.image_refs if each.edit_range and each.resolved and choose(each)}
    put(root, edit(asked, found, chosen))


def locked_to(root: Path, to: Digest) -> Lock:
    """Return a lock of all references."""
    keys = {lock_key(each.unpinned) for each in found_in(root).image_refs if each.unpinned}
    return sorted_lock([LockedImage(key, to, 0) for key in keys], {})


def pin(root: Path, lock: Lock) -> Lock:
    """Do what `boltseal pin --write` does; return the lock with its records."""
    asked = ScanRequest(ProjectTree(root))
    found = scan_project(asked.project)
    wanted = {
        each.image_ref: each.digest for each in pins_by_lock(found.image_refs, lock) if each.status is PinStatus.PINNED
    }
    done = edit(asked, found, wanted)
    refused = {each.image_ref for each in done.refusals}
    wanted = {image_ref: digest for image_ref, digest in wanted.items() if image_ref not in refused}
    put(root, done)
    return sorted_lock(lock.images, {}, pins_after(lock, found.image_refs, wanted, unpin=False))


def unpin(root: Path, lock: Lock) -> Lock:
    """Do what `boltseal pin --unpin --write` does; return the lock with its records."""
    asked = ScanRequest(ProjectTree(root))
    found = scan_project(asked.project)
    pins = unpins(found.image_refs, valid_pins(found.image_refs, lock))
    wanted = {each.image_ref: each.digest for each in pins if each.status is PinStatus.UNPINNED}
    done = edit(asked, found, wanted)
    put(root, done)

    assert done.refusals == ()
    return sorted_lock(lock.images, {}, pins_after(lock, found.image_refs, wanted, unpin=True))


@pytest.mark.parametrize("name", TRAPS)
@pytest.mark.parametrize("foreign", ["none", "every second", "all"])
def test_unpinning_gives_back_the_bytes_of_every_format(name: str, foreign: str, tmp_path: Path) -> None:
    """Pinned and unpinned, a project has its bytes again, also if another tool pinned references to other digests before."""
    root = trap(name, tmp_path)
    every = {"none": 10**9, "every second": 2, "all": 1}[foreign]
    edited(root, lambda each: each.line % every == 0, THEIRS)
    before = contents(root)
    lock = pin(root, locked_to(root, OURS))
    there = contents(root)
    after = unpin(root, lock)

    assert contents(root) == before
    assert after.pins == ()
    assert (there == before) == (lock.pins == ())


@pytest.mark.parametrize("name", TRAPS)
def test_digests_that_another_tool_wrote_stay(name: str, tmp_path: Path) -> None:
    """A reference that was pinned to the locked digest before is not recorded, and unpinning leaves it."""
    root = trap(name, tmp_path)
    edited(root, lambda each: each.pinned is None, OURS)
    before = contents(root)
    lock = pin(root, locked_to(root, OURS))
    unpin(root, lock)

    assert contents(root) == before


def test_of_two_equal_positions_only_the_recorded_one_is_unpinned(tmp_path: Path) -> None:
    """Several references of one file have the same position: the number shows which of them `boltseal pin` wrote."""
    text = f"FROM scratch\n{COPY}{COPY.replace('1.25', f'1.25@{OURS}')}{COPY}"
    root = written(tmp_path, {"Dockerfile": text})
    lock = pin(root, locked_to(root, OURS))
    pinned = (root / "Dockerfile").read_text()
    unpin(root, lock)

    assert pinned.count(str(OURS)) == 3
    assert [pin.number for pin in lock.pins] == [1, 3]
    assert (root / "Dockerfile").read_text() == text


def test_a_digest_that_was_changed_since_is_foreign(tmp_path: Path) -> None:
    """If another tool changed a digest that `boltseal pin` wrote, it is that tool's, and stays."""
    root = written(tmp_path, {"Dockerfile": "FROM nginx:1.25\n"})
    lock = pin(root, locked_to(root, OURS))
    edited(root, lambda _: True, THEIRS)
    unpin(root, lock)

    assert (root / "Dockerfile").read_text() == f"FROM nginx:1.25@{THEIRS}\n"


def test_a_second_digest_keeps_the_first_replaced_one(tmp_path: Path) -> None:
    """Pinned again after an update, a reference returns to what was there before the first pin."""
    root = written(tmp_path, {"Dockerfile": f"FROM nginx:1.25@{THEIRS}\n"})
    first = pin(root, locked_to(root, OURS))
    newer = Digest.of(b"newer")
    updated = sorted_lock(locked_to(root, newer).images, {}, first.pins)
    second = pin(root, updated)

    assert (second.pins[0].digest, second.pins[0].replaced) == (newer, THEIRS)
    unpin(root, second)
    assert (root / "Dockerfile").read_text() == f"FROM nginx:1.25@{THEIRS}\n"


def test_records_follow_the_lock_and_the_files(tmp_path: Path) -> None:
    """A record stays while the file has its digest or the locked one, while its place is unclear, or its file unread."""
    root = written(tmp_path, {"Dockerfile": f"FROM nginx:1.25@{digest(1)}\n", "b.dockerfile": "FROM $NOBODY\n"})
    found = found_in(root).image_refs
    where = {image_ref.path: image_ref.where for image_ref in found}
    lock = lock_of(locked("nginx:1.25", 1))
    written_before = WrittenPin("Dockerfile", where["Dockerfile"], 1, digest(2))
    unclear = WrittenPin("b.dockerfile", where["b.dockerfile"], 1, digest(2))
    unread = WrittenPin("c.yaml", "x", 1, digest(2))
    gone = WrittenPin("d.yaml", "x", 1, digest(2))
    carried = carried_pins([written_before, unclear, unread, gone], found, lock, lambda path: path == "c.yaml")

    assert carried == (written_before._replace(digest=digest(1)), unclear, unread)
    assert carried_pins([written_before], found, lock_of(locked("nginx:1.25", 7)), lambda _: False) == ()


def test_all_digests_are_removed_on_request(tmp_path: Path) -> None:
    """With `everything`, digests that are not recorded are removed as well, and nothing is restored."""
    root = written(tmp_path, {"Dockerfile": f"FROM nginx:1.25@{THEIRS}\n"})
    (image_ref,) = found_in(root).image_refs
    record = {image_ref: WrittenPin("Dockerfile", image_ref.where, 1, THEIRS, digest_of(image_ref))}

    assert image_ref.resolved is not None
    assert key_in(image_ref.resolved, {}) == lock_key(image_ref.resolved)
    assert [(each.status, each.digest) for each in unpins([image_ref], {})] == [(PinStatus.FOREIGN, None)]
    assert [(each.status, each.digest) for each in unpins([image_ref], {}, everything=True)] == [
        (PinStatus.UNPINNED, None)
    ]
    assert [each.digest for each in unpins([image_ref], record, everything=True)] == [None]
    assert [each.digest for each in unpins([image_ref], record)] == [digest_of(image_ref)]
