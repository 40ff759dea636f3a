"""`admin gc --full`: compare everything that is stored with the rows, and have what is not needed collected.

For what no queue knows: bytes that a killed process left beside the rows, objects that were written by a request which was
stopped for days, and everything from before there were reviews. Stages, each in pages in the order of its keys:

    repository-blobs  blobs of a repository to which no manifest of it refers          -> a review of the row
    blobs             stored bytes to which no repository refers, older than a day     -> a review of the bytes
    objects           objects that no row names, older than a day                      -> marked dead
                      missing ones from which a lost database is rebuilt               -> written again
    manifests         manifest bytes to which no repository refers                     -> deleted

`find_all` deletes no blob: it adds reviews and marks keys, so the rules of `garbage_collection` decide, in the run that follows.
The position is stored with what each page added. A run that was killed is continued within a day. A dry run begins anew, and writes
nothing. No page holds a lock, and pushes go on beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

from boltseal.server.storage.blobs.protocol import BlobMaintenance, DifferenceKind, StoredBlob, StoreUpkeep
from boltseal.server.storage.findings import Progress
from boltseal.server.storage.garbage_collection import UNNAMED_FOR_US, UNUSED, GarbageItem, items_of, unreferenced_bytes
from boltseal.server.storage.metadata import blob_reviews, full_collection_table, unreferenced
from boltseal.server.storage.metadata.blob_reviews import BYTES, Review
from boltseal.server.storage.metadata.full_collection_table import FullCollectionRow
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot, UnitOfWork

ROWS_AT_ONCE: Final = 500
CONTINUED_FOR_US: Final = 24 * 3600 * 1_000_000
"""A position that is older says too little of what was compared before it."""


class _Page(NamedTuple):
    """The result of one page of `rows` keys, the last of which is `position`. `reviews`: to be added."""

    position: str
    rows: int
    items: tuple[GarbageItem, ...] = ()
    reviews: tuple[Review, ...] = ()


class FullCollection:
    """One comparison of a store. `upkeep`: of an object store, None for files."""

    def __init__(
        self,
        database: Metadata,
        blobs: BlobMaintenance,
        upkeep: StoreUpkeep | None,
        now_us: int,
        progress: Progress = lambda *_: None,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._upkeep = upkeep
        self._now_us = now_us
        self._progress = progress

    def find_all(self, *, dry_run: bool) -> Iterator[GarbageItem]:
        """Compare everything, and yield what was deleted; with `dry_run` what would be, now or when its rows are gone. Blocks.

        Raises: StoreBroken, Unavailable: the next run continues.
        """
        stages: dict[str, Callable[[str], Iterator[_Page]]] = {
            "repository-blobs": self._repository_blobs,
            "blobs": self._stored_blobs,
            "objects": partial(self._objects, dry_run=dry_run),
            "manifests": partial(self._manifests, dry_run=dry_run),
        }
        begun = FullCollectionRow(next(iter(stages)), "", self._now_us) if dry_run else self._begun()
        for name in list(stages)[list(stages).index(begun.stage) :]:
            done = 0
            for page in stages[name](begun.position if name == begun.stage else ""):
                done += page.rows
                self._progress(name, done, 0)
                if dry_run or not page.reviews:  # items with reviews are deleted in the run that follows
                    yield from page.items
                if not dry_run:
                    row = FullCollectionRow(name, page.position, begun.began_us)
                    self._database.write_and_wait(partial(_record, page=page, row=row))
        if not dry_run:
            self._database.write_and_wait(full_collection_table.clear)

    def _begun(self) -> FullCollectionRow:
        """Return from where on to compare."""
        found = self._database.read_and_wait(full_collection_table.find)
        if found is not None and self._now_us - CONTINUED_FOR_US < found.began_us <= self._now_us:
            return found
        return FullCollectionRow("repository-blobs", "", self._now_us)

    def _repository_blobs(self, position: str) -> Iterator[_Page]:
        number, _, digest = position.partition(" ")
        after = (int(number), digest) if position else (-1, "")
        while rows := self._database.read_and_wait(
            partial(blob_reviews.blobs_after, after=after, now_us=self._now_us, limit=ROWS_AT_ONCE)
        ):
            after = rows[-1].repository_id, rows[-1].digest
            unused = [row for row in rows if row.is_unused]
            yield _Page(
                f"{after[0]} {after[1]}",
                len(rows),
                tuple(
                    GarbageItem("repository-blob", f"{row.repository}@{row.digest}", row.size, UNUSED) for row in unused
                ),
                tuple(Review(row.digest, row.repository_id, self._now_us) for row in unused),
            )

    def _stored_blobs(self, position: str) -> Iterator[_Page]:
        walk = self._blobs.walk(position)
        while stored := list(islice(walk, ROWS_AT_ONCE)):
            items = self._database.read_and_wait(partial(_unreferenced, stored=stored, now_us=self._now_us))
            reviews = tuple(Review(item.name, BYTES, self._now_us) for item in items)
            yield _Page(str(stored[-1].digest), len(stored), tuple(items), reviews)

    def _objects(self, position: str, *, dry_run: bool) -> Iterator[_Page]:
        if self._upkeep is None:
            return
        old_us = self._now_us - UNNAMED_FOR_US
        for page in self._blobs.compare(position):
            unnamed = [each for each in page.differences if each.kind is DifferenceKind.UNREFERENCED]
            old = [each for each in unnamed if each.written_us < old_us]
            if not dry_run:
                self._upkeep.replace([each.name for each in page.differences if each.kind is DifferenceKind.MISSING])
            names = {each.name for each in old} if dry_run else set(self._upkeep.discard([each.name for each in old]))
            items = (GarbageItem("object", each.name, each.size, each.problem) for each in old if each.name in names)
            yield _Page(page.position, page.names, tuple(items))

    def _manifests(self, position: str, *, dry_run: bool) -> Iterator[_Page]:
        page = partial(unreferenced.contents_after, limit=ROWS_AT_ONCE)
        while rows := self._database.read_and_wait(partial(page, after=position)):
            position, left = rows[-1].canonical, [row for row in rows if not row.is_referenced]
            if left and not dry_run:
                left = self._database.write_and_wait(partial(unreferenced.remove_unreferenced_contents, some=left))
            items = (GarbageItem("manifest", row.canonical, row.size, "no repository refers to it") for row in left)
            yield _Page(position, len(rows), tuple(items))


def _unreferenced(snapshot: Snapshot, stored: Sequence[StoredBlob], now_us: int) -> list[GarbageItem]:
    """Return those blobs to which no repository refers, and that may be deleted now."""
    needed = unreferenced.referenced(snapshot, [str(each.digest) for each in stored])
    left = (each for each in stored if str(each.digest) not in needed)
    found = (unreferenced_bytes(snapshot, str(each.digest), each, now_us) for each in left)
    return list(items_of(found, now_us))


def _record(tx: UnitOfWork, page: _Page, row: FullCollectionRow) -> None:
    blob_reviews.add_found(tx, page.reviews)
    full_collection_table.put(tx, row)
