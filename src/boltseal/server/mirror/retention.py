"""Retention of mirrored images: deletes those not pulled for `keep_for`, then the least recently pulled ones until the
rest fits into `keep_bytes`. `plan` is a pure function that selects them; `retain` deletes them.

An image is deleted as a whole: a manifest that no other one contains, with everything under it and its referrers
(signatures, SBOMs). It was last used when any part of it was last pulled. A part of two images stays as long as one of
them does. Retention never deletes

- an image that a host runs, by its report of any age;
- an image that a local tag resolves to, sealed or not;
- an image that is served while a change of an upstream's tag is held back;
- content that a client pushed.

The transaction that deletes rows checks all of this again; it deletes the rows of some images, since all other writes wait
for it. Bytes are deleted later by
`server.storage.garbage_collection`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from boltseal.policy.name_resolution import MIRROR_ACTOR
from boltseal.policy.upstreams import UpstreamTerms
from boltseal.server.registry.host_reports import reason_of
from boltseal.server.storage.collection_part import Part
from boltseal.server.storage.garbage_collection import KEPT, ROWS_AT_ONCE, GarbageItem
from boltseal.server.storage.metadata import mirrored, queries
from boltseal.server.storage.metadata.mirrored import MirroredContent, MirroredRow
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot, UnitOfWork

DAY_US: Final = 24 * 3600 * 1_000_000
YOUNG_US: Final = 3600 * 1_000_000
"""Images used in the last hour are not deleted for `keep_bytes`: a pull may be in progress."""


@dataclass(frozen=True, slots=True)
class RetentionUnit:
    """An image of a repository with all its parts. `root`: its manifest, or a blob that no manifest references.

    `running`: which host runs it, "" if none does.
    """

    repository: str
    root: str
    parts: frozenset[str]
    used_us: int
    kept: bool
    running: str = ""


@dataclass(frozen=True, slots=True)
class ExpiredImage:
    """An image to delete, and why."""

    unit: RetentionUnit
    reason: str


def units_of(holdings: MirroredContent, actor: str) -> list[RetentionUnit]:
    """Return all images of a repository. `actor`: the mirror; content of other actors is kept."""
    rows = {row.digest: row for row in (*holdings.manifests, *holdings.blobs)}
    contained = {
        child
        for parent, children in holdings.contains.items()
        if parent in rows
        for child in children
        if child != parent
    }
    roots = [digest for digest in rows if digest not in contained]
    manifests = frozenset(row.digest for row in holdings.manifests)
    seen: set[str] = set()
    found = [_unit(holdings, rows, manifests, root, actor, seen) for root in roots]
    # Manifests that contain each other have no root, so each of them is one.
    found += [_unit(holdings, rows, manifests, digest, actor, seen) for digest in rows if digest not in seen]
    return found


def plan(
    units: Sequence[RetentionUnit],
    sizes: Mapping[str, int],
    now_us: int,
    keep_for_us: int | None,
    keep_bytes: int | None,
) -> list[ExpiredImage]:
    """Return the images to delete, the least recently used first.

    `sizes`: bytes by digest. A part of several images counts once.
    """
    waiting = sorted(
        (unit for unit in units if not unit.kept and not unit.running), key=lambda unit: (unit.used_us, unit.root)
    )
    unit_counts = Counter(part for unit in units for part in unit.parts)
    held = sum(sizes.get(part, 0) for part in unit_counts)
    expired = []
    for unit in waiting:
        age_us = now_us - unit.used_us
        too_old = keep_for_us is not None and age_us > keep_for_us
        too_much = keep_bytes is not None and held > keep_bytes and age_us > YOUNG_US
        if not too_old and not too_much:
            continue
        days = f"not pulled for {age_us / DAY_US:.0f} days"
        expired.append(ExpiredImage(unit, days if too_old else f"{days}, and the mirror has more than keep_bytes"))
        for part in unit.parts:
            unit_counts[part] -= 1
            if not unit_counts[part]:
                held -= sizes.get(part, 0)
    return expired


def retain(
    database: Metadata,
    upstreams: Iterable[UpstreamTerms],
    now_us: int,
    *,
    dry_run: bool,
    part: Part | None = None,
) -> Iterator[GarbageItem]:
    """Delete the images that the upstreams' terms no longer keep, and yield what is deleted.

    `dry_run`: delete nothing. `part`: return when it ends. This blocks, so do not call it on the event loop.
    """
    for terms in upstreams:
        if terms.keep_for_us is None and terms.keep_bytes is None:
            continue
        actor = f"{MIRROR_ACTOR}{terms.name}"
        all_holdings = database.read_and_wait(partial(_all, f"{terms.name}/"))
        units = [unit for holdings in all_holdings for unit in units_of(holdings, actor)]
        sizes = {row.digest: row.size for holdings in all_holdings for row in (*holdings.manifests, *holdings.blobs)}
        planned: dict[str, list[ExpiredImage]] = {}
        if dry_run:
            yield from _kept_by_hosts(units, sizes, now_us, terms)
        for expired in plan(units, sizes, now_us, terms.keep_for_us, terms.keep_bytes):
            planned.setdefault(expired.unit.repository, []).append(expired)
        for name, going in planned.items():
            images = {expired.unit.root: expired for expired in going}
            rows = database.read_and_wait(partial(_still_expired, name, images, actor))
            if dry_run:
                yield from rows.items()
                continue
            for some in rows.in_batches():
                yield from database.write_and_wait(partial(_remove_expired, some, actor), repository=name)
                if part is not None and part.ends():
                    return


def _kept_by_hosts(
    units: Sequence[RetentionUnit], sizes: Mapping[str, int], now_us: int, terms: UpstreamTerms
) -> Iterator[GarbageItem]:
    """Yield the images that would be deleted if no host ran them, each with its host."""
    running = {(unit.repository, unit.root): unit.running for unit in units if unit.running}
    if not running:
        return
    otherwise = [replace(unit, running="") for unit in units]
    for expired in plan(otherwise, sizes, now_us, terms.keep_for_us, terms.keep_bytes):
        host = running.get((expired.unit.repository, expired.unit.root))
        if host is not None:
            yield GarbageItem(KEPT, f"{expired.unit.repository}@{expired.unit.root}", 0, host)


@dataclass(frozen=True, slots=True)
class _ExpiredRows:
    """Rows of a repository that belong to expired images and to no other, with the reason by digest. `units`: the images."""

    repository: str
    repository_id: int = 0
    units: tuple[RetentionUnit, ...] = ()
    manifests: tuple[MirroredRow, ...] = ()
    blobs: tuple[MirroredRow, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)

    def in_batches(self) -> Iterator[_ExpiredRows]:
        """Yield parts of about `ROWS_AT_ONCE` rows. A row of several images is in the part of the last one."""
        last = {part: number for number, unit in enumerate(self.units) for part in unit.parts}
        manifests, blobs = _by_unit(self.manifests, last), _by_unit(self.blobs, last)
        start = rows = 0
        for number in range(len(self.units)):
            rows += len(manifests.get(number, ())) + len(blobs.get(number, ()))
            if rows >= ROWS_AT_ONCE or number == len(self.units) - 1:
                some = range(start, number + 1)
                yield replace(
                    self,
                    units=self.units[start : number + 1],
                    manifests=tuple(row for each in some for row in manifests.get(each, ())),
                    blobs=tuple(row for each in some for row in blobs.get(each, ())),
                )
                start, rows = number + 1, 0

    def without(self, needed: frozenset[str]) -> _ExpiredRows:
        """Return the rows of those images that need none of these digests."""
        staying = {part for unit in self.units if unit.parts & needed for part in unit.parts}
        return replace(
            self,
            manifests=tuple(row for row in self.manifests if row.digest not in staying),
            blobs=tuple(row for row in self.blobs if row.digest not in staying),
        )

    def items(self) -> list[GarbageItem]:
        """The rows as they are reported."""
        return [
            GarbageItem(what, f"{self.repository}@{row.digest}", row.size, self.reasons[row.digest])
            for what, rows in (("manifest", self.manifests), ("blob", self.blobs))
            for row in rows
        ]


def _still_expired(name: str, planned: Mapping[str, ExpiredImage], actor: str, snapshot: Snapshot) -> _ExpiredRows:
    """Return the rows of those planned images that are still as they were when the plan was made."""
    holdings = mirrored.content_of(snapshot, name)
    if holdings is None:
        return _ExpiredRows(name)
    retained: set[str] = set()
    expired: dict[str, str] = {}
    units: list[RetentionUnit] = []
    for unit in units_of(holdings, actor):
        image = planned.get(unit.root)
        if image is None or unit.kept or unit.running or unit.used_us > image.unit.used_us:
            retained |= unit.parts
        else:
            expired |= dict.fromkeys(unit.parts, image.reason)
            units.append(unit)
    manifests = tuple(_ours(holdings.manifests, expired, retained, actor))
    blobs = tuple(_ours(holdings.blobs, expired, retained, actor))
    return _ExpiredRows(name, holdings.repository_id, tuple(units), manifests, blobs, expired)


def _by_unit(rows: Iterable[MirroredRow], last: Mapping[str, int]) -> dict[int, list[MirroredRow]]:
    """Return the rows by the number of the last image that they are part of."""
    found: dict[int, list[MirroredRow]] = {}
    for row in rows:
        found.setdefault(last[row.digest], []).append(row)
    return found


def _remove_expired(rows: _ExpiredRows, actor: str, tx: UnitOfWork) -> list[GarbageItem]:
    """Remove the rows of the images that nothing has used since the snapshot; the next run plans the others again."""
    queries.lock_repository(tx, rows.repository)
    going = (*rows.manifests, *rows.blobs)
    rows = rows.without(mirrored.needed_now(tx, rows.repository_id, rows.repository, going, actor))
    if rows.manifests or rows.blobs:
        mirrored.remove_rows(
            tx, rows.repository_id, [row.digest for row in rows.manifests], [row.digest for row in rows.blobs]
        )
    return rows.items()


def _ours(rows: Iterable[MirroredRow], expired: Mapping[str, str], retained: set[str], actor: str) -> list[MirroredRow]:
    return [row for row in rows if row.digest in expired and row.digest not in retained and row.by == actor]


def _all(prefix: str, snapshot: Snapshot) -> list[MirroredContent]:
    found = (mirrored.content_of(snapshot, name) for name in mirrored.repositories_of(snapshot, prefix))
    return [holdings for holdings in found if holdings is not None]


def _unit(
    holdings: MirroredContent,
    rows: Mapping[str, MirroredRow],
    manifests: frozenset[str],
    root: str,
    actor: str,
    seen: set[str],
) -> RetentionUnit:
    parts: set[str] = set()
    waiting = [root]
    while waiting:
        digest = waiting.pop()
        if digest in parts or digest not in rows:
            continue
        parts.add(digest)
        waiting += holdings.contains.get(digest, ())
    seen |= parts
    kept = bool(parts & holdings.needed) or any(rows[part].by != actor for part in parts & manifests)
    # A blob has only the time when it was fetched. That counts where the image has no manifest.
    times = [rows[part].used_us for part in parts & manifests] or [rows[root].used_us]
    runs = next((holdings.running[part] for part in sorted(parts & holdings.running.keys())), None)
    running = "" if runs is None else reason_of(runs)
    return RetentionUnit(holdings.name, root, frozenset(parts), max(times), kept, running)
