"""Reports of hosts: accepts them, shows what runs where, and keeps what runs from cleanup.

A host belongs to the login that reported it first; another one is refused, until an operator forgets the host. The newest
report of each kind and subject has its images; an incomplete one adds to those before it. The server dates reports. What a
caller may not pull it does not see: `may_see` is asked for the repository of each image, and None sees everything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from boltseal.errors import Denied, NotFound, TooMany, quote
from boltseal.ledger.entry import format_time
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.policy.host_report import (
    MAX_IMAGES,
    HostImage,
    HostReport,
    ReportCounts,
    ReportedRelease,
    ReportKind,
    due_us,
)
from boltseal.server.auth.actor import Actor
from boltseal.server.registry.dry_run import undone
from boltseal.server.registry.models import RepositoryRow
from boltseal.server.storage.metadata import audit_table, host_table, links, queries
from boltseal.server.storage.metadata.host_table import (
    HostRow,
    ImageFilter,
    ImagePosition,
    ImageRow,
    ReportRow,
    RunningImage,
    SubjectKey,
    SubjectRow,
)
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot, UnitOfWork
from boltseal.server.storage.metadata.tag_states import StoredTag

MaySee = Callable[[str], bool] | None


@dataclass(frozen=True, slots=True)
class HostLimits:
    """How much is stored of hosts. `subjects`: kinds and subjects of one host: engines, stores, projects.

    `collected`: images of a subject whose reports are incomplete.
    """

    hosts_of_login: int = 1000
    hosts: int = 10_000
    subjects: int = 50
    collected: int = 2 * MAX_IMAGES


DEFAULT_LIMITS: Final = HostLimits()


class HostTaken(Denied):
    """Another login reports this host."""


class HostUnknown(NotFound):
    """No host of this name has reported, or the caller may not see what it runs."""


class HostsTooMany(TooMany):
    """More hosts, subjects or images than a login or host may report."""


class Summary(msgspec.Struct, frozen=True):
    """What is stored of a report besides its images. `time`: by the host's clock."""

    time: str
    counts: ReportCounts
    images: int
    release: ReportedRelease | None = None


@dataclass(frozen=True, slots=True)
class SubjectState:
    """The newest report of a subject. `images`: those that the caller may see; `outcome` None: it may not see all of them."""

    kind: str
    subject: str
    received_us: int
    due_us: int | None
    complete: bool
    outcome: str | None
    images: int
    summary: Summary | None


@dataclass(frozen=True, slots=True)
class HostState:
    """A host. `login`: for operators only. `overdue_us`: since when one of its regular reports is overdue; None: none is.

    `stopped`: all of them are.
    """

    name: str
    login: str | None
    last_us: int
    overdue_us: int | None
    stopped: bool
    subjects: tuple[SubjectState, ...]


class HostPage(NamedTuple):
    """Some hosts. `following`: the host after which the next page begins, None on the last."""

    hosts: tuple[HostState, ...]
    following: str | None


@dataclass(frozen=True, slots=True)
class ShownImage:
    """An image of a host, as it was reported, and when."""

    host: str
    kind: str
    subject: str
    item: int
    repository: str
    tag: str
    received_us: int
    overdue: bool
    detail: bytes

    @property
    def position(self) -> ImagePosition:
        """Where the next page begins."""
        return (self.host, self.kind, self.subject, self.item)


class ImagePage(NamedTuple):
    """Some images. `following`: after which image the next page begins, None on the last."""

    images: tuple[ShownImage, ...]
    following: ImagePosition | None


@dataclass(frozen=True, slots=True)
class ShownRelease:
    """A release that a host reported, with those of its images that the caller may see."""

    number: int
    host: str
    project: str
    received_us: int
    release: ReportedRelease
    images: tuple[StoredImage, ...]


class ReleasePage(NamedTuple):
    """Some releases, the newest first. `following`: below which number the next page begins, None on the last."""

    releases: tuple[ShownRelease, ...]
    following: int | None


class StoredImage(msgspec.Struct, frozen=True):
    """An image of a release as it is stored."""

    repository: str
    reference: str
    digests: list[str]
    service: str


class HostReports:
    """The reports of one store."""

    def __init__(self, database: Metadata, limits: HostLimits = DEFAULT_LIMITS) -> None:
        self._database = database
        self._limits = limits

    @property
    def now_us(self) -> int:
        """The time of the store, microseconds since the epoch."""
        return self._database.now_us()

    async def accept(self, report: HostReport, actor: Actor) -> int:
        """Store a report, and return its time. Raises: HostTaken, HostsTooMany."""
        return await self._database.write(lambda tx: _accept(tx, report, actor, self._limits))

    async def hosts(self, after: str, limit: int, may_see: MaySee, name: str = "") -> HostPage:
        """Return the next hosts by name, or only one. A page is short where the caller may not see some."""

        def query(snapshot: Snapshot) -> HostPage:
            found = [] if name else host_table.hosts_after(snapshot, after, limit + 1)
            if name and (row := host_table.find(snapshot, name)) is not None:
                found = [row]
            shown = found[:limit]
            states = _states(snapshot, shown, may_see, self._database.now_us())
            return HostPage(tuple(states), shown[-1].name if len(found) > limit else None)

        return await self._database.read(query)

    async def host(self, name: str, may_see: MaySee) -> HostState:
        """Return a host. Raises: HostUnknown."""
        found = await self.hosts("", 1, may_see, name)
        if not found.hosts:
            raise _unknown(name)
        return found.hosts[0]

    async def images(self, after: ImagePosition, limit: int, which: ImageFilter, may_see: MaySee) -> ImagePage:
        """Return the next images of hosts. A page is short where the caller may not see some."""

        def query(snapshot: Snapshot) -> ImagePage:
            rows = host_table.images_after(snapshot, after, limit + 1, which)
            found = _joined(snapshot, rows, self._database.now_us())
            following = found[limit - 1].position if len(found) > limit else None
            seen = (each for each in found[:limit] if may_see is None or may_see(each.repository))
            return ImagePage(tuple(seen), following)

        return await self._database.read(query)

    async def releases(self, before: int, limit: int, name: str, may_see: MaySee) -> ReleasePage:
        """Return the newest releases below a number. `name`: only of this host; "": of all."""

        def query(snapshot: Snapshot) -> ReleasePage:
            rows = host_table.reports_before(snapshot, str(ReportKind.DEPLOY), before, limit + 1, name)
            shown = [_release(row, may_see) for row in rows[:limit]]
            following = rows[limit - 1].idx if len(rows) > limit else None
            return ReleasePage(tuple(each for each in shown if each is not None), following)

        return await self._database.read(query)

    async def why_running(self, tags: Sequence[StoredTag]) -> list[str]:
        """Return for each tag which host runs its image, by reports of any age; "" if none does."""

        def query(snapshot: Snapshot) -> list[str]:
            rows = ((RepositoryRow(Repository(each.repository), each.repository_id), each.row.digest) for each in tags)
            return ["" if digest is None else why_running(snapshot, row, digest) for row, digest in rows]

        return await self._database.read(query)

    async def forget(self, name: str, actor: Actor, *, dry_run: bool) -> HostState:
        """Remove a host with all of its reports, so that they keep no image, and record that. Raises: HostUnknown."""

        def job(tx: UnitOfWork) -> HostState:
            row = host_table.find(tx, name)
            if row is None:
                raise _unknown(name)
            (state,) = _states(tx, [row], None, tx.now_us)
            host_table.forget(tx, name)
            audit_table.record(tx, actor.recorded, "host.forgotten", name, f"reported by {row.login}")
            return state

        return await self._database.write(undone(job) if dry_run else job)


def why_running(snapshot: Snapshot, repository: RepositoryRow, digest: Digest) -> str:
    """Return which host runs an image or a part of it, by reports of any age; "" if none does."""
    if not host_table.has_reports(snapshot):
        return ""
    texts = [str(digest)]
    row = queries.find_manifest(snapshot, repository.id, str(digest))
    if row is not None and queries.has_aliases(snapshot, repository.id):  # the same bytes under another digest
        texts = queries.digests_of_bytes(snapshot, repository.id, row.canonical) or texts
    for text in texts:
        found = host_table.running_among(snapshot, links.closure(repository.id, text))
        if found is not None:
            return reason_of(found)
    return ""


def reason_of(running: RunningImage) -> str:
    """Return by which host an image is kept, as plans show it."""
    more = f" and {running.hosts - 1} more" if running.hosts > 1 else ""
    return f"host {running.host}{more} runs it, as reported at {format_time(running.received_us)}"


def _accept(tx: UnitOfWork, report: HostReport, actor: Actor, limits: HostLimits) -> int:
    document = report.document
    key = SubjectKey(document.host, str(document.kind), document.subject)
    _own_host(tx, document.host, actor, limits)
    known = host_table.find_subject(tx, key)
    if known is None and len(host_table.subjects_of(tx, [key.host])) >= limits.subjects:
        raise HostsTooMany(
            f"host {key.host} has reported about {limits.subjects} engines, stores and projects; ask an operator to run "
            f"`boltseal admin host forget {key.host}`"
        )
    rows = list(_rows(key, report.images))
    hashed = hashlib.sha256(msgspec.json.encode(rows)).hexdigest() if document.complete else ""
    if not document.complete:
        _add_unseen(tx, key, rows, limits.collected)
    elif known is None or known.images_sha256 != hashed:
        host_table.remove_images(tx, key)
        host_table.add_images(tx, rows)
    summary = msgspec.json.encode(
        Summary(document.time, document.counts, len(report.images), document.release)
    ).decode()
    host_table.put_subject(
        tx, SubjectRow(*key, tx.now_us, document.every_s, document.complete, str(document.outcome), summary, hashed)
    )
    kept = report.images if document.kind is ReportKind.DEPLOY else ()
    images = msgspec.json.encode([_stored(each) for each in kept]).decode()
    before = None if known is None else msgspec.json.decode(known.summary, type=Summary).release
    if before is None or before != document.release:  # a deploy of what runs already reports the same release
        host_table.add_report(tx, ReportRow(0, *key, tx.now_us, str(document.outcome), summary, images))
    host_table.note_report(tx, key.host, tx.now_us)
    return tx.now_us


def _own_host(tx: UnitOfWork, name: str, actor: Actor, limits: HostLimits) -> None:
    """Add a new host of this login. Raises: HostTaken: it is another's; HostsTooMany."""
    row = host_table.find(tx, name)
    if row is not None:
        if row.login != actor.name:
            raise HostTaken(
                f"host {name} is reported by another login than {actor.name}; choose another name with --report-as, or ask "
                f"an operator to run `boltseal admin host forget {name}`"
            )
        return
    own, total = host_table.counts(tx, actor.name)
    if own >= limits.hosts_of_login or total >= limits.hosts:
        raise HostsTooMany(
            f"{actor.name} reports {own} hosts of {total}; at most {limits.hosts_of_login} of a login and {limits.hosts} are "
            "allowed: ask an operator to forget some with `boltseal admin host forget`"
        )
    host_table.add(tx, HostRow(name, actor.name, tx.now_us, tx.now_us))


def _rows(key: SubjectKey, images: Iterable[HostImage], first: int = 0) -> Iterable[ImageRow]:
    for item, each in enumerate(images, start=first):
        detail = msgspec.json.encode(each.shown).decode()
        for digest in map(str, each.digests) if each.digests else ("",):
            yield ImageRow(*key, item, digest, each.repository, each.tag, detail)


def _add_unseen(tx: UnitOfWork, key: SubjectKey, rows: Sequence[ImageRow], most: int) -> None:
    """Add the images of an incomplete report to those before. Raises: HostsTooMany."""
    there = host_table.images_of(tx, key)
    known = {(row.digest, row.detail) for row in there}
    first = max((row.item for row in there), default=-1) + 1
    new = [row._replace(item=row.item + first) for row in rows if (row.digest, row.detail) not in known]
    if len({row.item for row in (*there, *new)}) > most:
        raise HostsTooMany(
            f"the incomplete reports of host {key.host} about {quote(key.subject)} have more than {most} images; "
            "send a complete one"
        )
    host_table.add_images(tx, new)


def _stored(image: HostImage) -> StoredImage:
    return StoredImage(image.repository, image.shown.reference, list(map(str, image.digests)), image.shown.service)


def _states(snapshot: Snapshot, hosts: Sequence[HostRow], may_see: MaySee, now_us: int) -> Iterable[HostState]:
    names = [row.name for row in hosts]
    newest: dict[str, list[SubjectRow]] = {}
    for subject in host_table.subjects_of(snapshot, names):
        newest.setdefault(subject.host, []).append(subject)
    seen: dict[SubjectKey, int] = {}
    for count in host_table.repositories_of(snapshot, names):
        if may_see is None or may_see(count.repository):
            key = SubjectKey(count.host, count.kind, count.subject)
            seen[key] = seen.get(key, 0) + count.images
    for row in hosts:
        subjects = [
            _subject_state(each, seen.get(SubjectKey(*each[:3]), 0), operator=may_see is None)
            for each in newest.get(row.name, [])
            if may_see is None or SubjectKey(*each[:3]) in seen
        ]
        if may_see is None or subjects:
            last_us = row.last_us if may_see is None else max(each.received_us for each in subjects)
            login = row.login if may_see is None else None
            due = [each.due_us for each in subjects if each.due_us is not None]
            late = [each for each in due if each < now_us]
            stopped = bool(late) and len(late) == len(due)
            yield HostState(row.name, login, last_us, min(late, default=None), stopped, tuple(subjects))


def _subject_state(row: SubjectRow, images: int, *, operator: bool) -> SubjectState:
    summary = msgspec.json.decode(row.summary, type=Summary) if operator else None
    return SubjectState(
        kind=row.kind,
        subject=row.subject,
        received_us=row.received_us,
        due_us=due_us(row.received_us, row.every_s),
        complete=row.complete,
        outcome=row.outcome if operator else None,
        images=images,
        summary=summary,
    )


def _joined(snapshot: Snapshot, rows: Sequence[ImageRow], now_us: int) -> list[ShownImage]:
    """Return the images of rows, each once, with the times of their reports."""
    newest = {SubjectKey(*each[:3]): each for each in host_table.subjects_of(snapshot, {row.host for row in rows})}
    found: dict[ImagePosition, ShownImage] = {}
    for row in rows:
        subject = newest[SubjectKey(*row[:3])]
        due = due_us(subject.received_us, subject.every_s)
        found[row[:4]] = ShownImage(
            *row[:4],
            row.repository,
            row.tag,
            subject.received_us,
            due is not None and due < now_us,
            row.detail.encode(),
        )
    return list(found.values())


def _release(row: ReportRow, may_see: MaySee) -> ShownRelease | None:
    """Return a release, None if the caller may see none of its images. Its reason may name any of them."""
    summary = msgspec.json.decode(row.summary, type=Summary)
    stored = msgspec.json.decode(row.images, type=list[StoredImage])
    images = tuple(each for each in stored if may_see is None or may_see(each.repository))
    if summary.release is None or (may_see is not None and not images):
        return None
    release = summary.release
    if len(images) < len(stored):
        release = msgspec.structs.replace(release, reason="")
    return ShownRelease(row.idx, row.host, row.subject, row.received_us, release, images)


def _unknown(name: str) -> HostUnknown:
    return HostUnknown(f"no host {quote(name, 100)} has reported, or it runs nothing that you may pull")
