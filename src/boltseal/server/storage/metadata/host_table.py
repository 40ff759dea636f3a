"""Reports of hosts: the newest of each kind and subject with its images, and a few before. No rules.

`server.registry.host_reports` decides what is accepted and shown; `running_images` returns what cleanup must keep.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, delete, func, insert, inspect, or_, select, tuple_, update

from boltseal.policy.host_report import RUNNING_KINDS
from boltseal.server.storage.batches import IN_AT_ONCE, batches
from boltseal.server.storage.metadata.host_schema import host, host_image, host_report, host_subject
from boltseal.server.storage.metadata.links import DigestSet
from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork
from boltseal.server.storage.metadata.schema import blob, manifest

HISTORY: Final = 20
"""Reports that are kept of each kind and subject of a host, with the newest."""
_NEXT: Final = "SELECT coalesce(max(idx), -1) + 1 FROM host_report"
_RUNNING: Final = tuple(map(str, RUNNING_KINDS))


class HostRow(NamedTuple):
    """A host. `login`: the user who reported it first. Times in microseconds since the epoch."""

    name: str
    login: str
    first_us: int
    last_us: int


class SubjectKey(NamedTuple):
    """What a report is about."""

    host: str
    kind: str
    subject: str


class SubjectRow(NamedTuple):
    """The newest report of a subject. `every_s` None: it has no schedule. `summary`: JSON."""

    host: str
    kind: str
    subject: str
    received_us: int
    every_s: int | None
    complete: bool
    outcome: str
    summary: str
    images_sha256: str


class ImageRow(NamedTuple):
    """A digest of an image of a report. `item`: the number of the image in it. `detail`: JSON."""

    host: str
    kind: str
    subject: str
    item: int
    digest: str
    repository: str
    tag: str
    detail: str


class ReportRow(NamedTuple):
    """A report that was kept. `summary`, `images`: JSON."""

    idx: int
    host: str
    kind: str
    subject: str
    received_us: int
    outcome: str
    summary: str
    images: str


class RunningImage(NamedTuple):
    """A digest that runs by the reports. `host`: the first one by name, of so many; `received_us`: of the newest report."""

    host: str
    hosts: int
    received_us: int


def find(snapshot: Snapshot, name: str) -> HostRow | None:
    """Return a host, or None."""
    row = snapshot.sql.connection.execute(select(host).where(host.c.name == name)).first()
    return None if row is None else HostRow(*row)


def counts(snapshot: Snapshot, login: str) -> tuple[int, int]:
    """Return how many hosts a login reports, and how many there are."""
    count = select(func.count()).select_from(host)
    connection = snapshot.sql.connection
    own = connection.execute(count.where(host.c.login == login)).scalar_one()
    return own, connection.execute(count).scalar_one()


def add(tx: UnitOfWork, row: HostRow) -> None:
    """Add a host."""
    tx.sql.connection.execute(insert(host), row._asdict())


def note_report(tx: UnitOfWork, name: str, at_us: int) -> None:
    """Write when a host reported last."""
    tx.sql.connection.execute(update(host).where(host.c.name == name).values(last_us=at_us))


def hosts_after(snapshot: Snapshot, name: str, limit: int) -> list[HostRow]:
    """Return the next hosts by name."""
    query = select(host).where(host.c.name > name).order_by(host.c.name).limit(limit)
    return [HostRow(*row) for row in snapshot.sql.connection.execute(query)]


def subjects_of(snapshot: Snapshot, names: Collection[str]) -> list[SubjectRow]:
    """Return the newest report of each kind and subject of some hosts, sorted."""
    query = select(host_subject).where(host_subject.c.host.in_(names))
    query = query.order_by(host_subject.c.host, host_subject.c.kind, host_subject.c.subject)
    return [SubjectRow(*row) for row in snapshot.sql.connection.execute(query)]


def find_subject(snapshot: Snapshot, key: SubjectKey) -> SubjectRow | None:
    """Return the newest report of a subject, or None."""
    query = select(host_subject).where(_is(key))
    row = snapshot.sql.connection.execute(query).first()
    return None if row is None else SubjectRow(*row)


def put_subject(tx: UnitOfWork, row: SubjectRow) -> None:
    """Write the newest report of a subject."""
    tx.sql.connection.execute(delete(host_subject).where(_is(SubjectKey(*row[:3]))))
    tx.sql.connection.execute(insert(host_subject), row._asdict())


def _is(key: SubjectKey) -> ColumnElement[bool]:
    columns = host_subject.c
    return and_(columns.host == key.host, columns.kind == key.kind, columns.subject == key.subject)


def images_of(snapshot: Snapshot, key: SubjectKey) -> list[ImageRow]:
    """Return all images of the newest reports of a subject."""
    columns = host_image.c
    query = select(host_image).where(columns.host == key.host, columns.kind == key.kind, columns.subject == key.subject)
    return [ImageRow(*row) for row in snapshot.sql.connection.execute(query.order_by(columns.item, columns.digest))]


def add_images(tx: UnitOfWork, rows: Sequence[ImageRow]) -> None:
    """Add images of a subject."""
    if rows:
        tx.sql.connection.execute(insert(host_image), [row._asdict() for row in rows])


def remove_images(tx: UnitOfWork, key: SubjectKey) -> None:
    """Remove all images of a subject."""
    columns = host_image.c
    tx.sql.connection.execute(
        delete(host_image).where(columns.host == key.host, columns.kind == key.kind, columns.subject == key.subject)
    )


class ImageFilter(NamedTuple):
    """Which images to list; "" for any. `tag` needs `repository`."""

    host: str = ""
    digest: str = ""
    repository: str = ""
    tag: str = ""


ImagePosition = tuple[str, str, str, int]
"""The host, kind, subject and item of an image, after which a page begins."""


def images_after(snapshot: Snapshot, after: ImagePosition, limit: int, which: ImageFilter) -> list[ImageRow]:
    """Return the rows of the next `limit` images: each with all of its digests, also if one of them was asked for."""
    columns = host_image.c
    key = (columns.host, columns.kind, columns.subject, columns.item)
    found: Select[tuple[str, str, str, int]] = select(*key).distinct()
    for name in ImageFilter._fields:
        if value := getattr(which, name):
            found = found.where(columns[name] == value)
    found = found.where(tuple_(*key) > tuple_(*after)).order_by(*key).limit(limit)
    keys = [tuple(row) for row in snapshot.sql.connection.execute(found)]
    rows: list[ImageRow] = []
    for some in batches(keys, IN_AT_ONCE):
        query = select(host_image).where(tuple_(*key).in_(some)).order_by(*key, columns.digest)
        rows += [ImageRow(*row) for row in snapshot.sql.connection.execute(query)]
    return rows


class RepositoryCount(NamedTuple):
    """How many images of a report are of one repository."""

    host: str
    kind: str
    subject: str
    repository: str
    images: int


def repositories_of(snapshot: Snapshot, names: Collection[str]) -> list[RepositoryCount]:
    """Return how many images of each repository the newest reports of some hosts have."""
    columns = host_image.c
    first = select(columns.host, columns.kind, columns.subject, columns.item, columns.repository)
    each = first.where(columns.host.in_(names)).distinct().subquery()
    group = (each.c.host, each.c.kind, each.c.subject, each.c.repository)
    query = select(*group, func.count()).group_by(*group)
    return [RepositoryCount(*row) for row in snapshot.sql.connection.execute(query)]


def add_report(tx: UnitOfWork, row: ReportRow) -> None:
    """Keep a report, whose `idx` is set here, and forget those of its subject before the last `HISTORY`."""
    (number,) = tx.sql.plain(_NEXT).fetchone()
    tx.sql.connection.execute(insert(host_report), row._replace(idx=number)._asdict())
    columns = host_report.c
    same = and_(columns.host == row.host, columns.kind == row.kind, columns.subject == row.subject)
    last = select(columns.idx).where(same).order_by(columns.idx.desc()).offset(HISTORY).limit(1)
    oldest = tx.sql.connection.execute(last).scalar_one_or_none()
    if oldest is not None:
        tx.sql.connection.execute(delete(host_report).where(same, columns.idx <= oldest))


def reports_before(snapshot: Snapshot, kind: str, number: int, limit: int, name: str = "") -> list[ReportRow]:
    """Return the newest reports of a kind below a number, the newest first. `name`: only of this host."""
    columns = host_report.c
    query = select(host_report).where(columns.kind == kind, columns.idx < number)
    if name:
        query = query.where(columns.host == name)
    rows = snapshot.sql.connection.execute(query.order_by(columns.idx.desc()).limit(limit))
    return [ReportRow(*row) for row in rows]


def history_of(snapshot: Snapshot, name: str, limit: int) -> list[ReportRow]:
    """Return the newest reports of a host, the newest first."""
    columns = host_report.c
    query = select(host_report).where(columns.host == name).order_by(columns.idx.desc()).limit(limit)
    return [ReportRow(*row) for row in snapshot.sql.connection.execute(query)]


def forget(tx: UnitOfWork, name: str) -> None:
    """Remove a host with all of its reports."""
    tx.sql.connection.execute(delete(host_image).where(host_image.c.host == name))
    tx.sql.connection.execute(delete(host_subject).where(host_subject.c.host == name))
    tx.sql.connection.execute(delete(host_report).where(host_report.c.host == name))
    tx.sql.connection.execute(delete(host).where(host.c.name == name))


def has_reports(snapshot: Snapshot) -> bool:
    """Return whether any host reported an image. Before data format 16 there are no reports."""
    if not inspect(snapshot.sql.connection).has_table(host_image.name):
        return False
    return snapshot.sql.connection.execute(select(host_image.c.host).limit(1)).first() is not None


def running_images(snapshot: Snapshot, digests: Iterable[str]) -> dict[str, RunningImage]:
    """Return those of the digests that run by the newest reports, however old these are."""
    if not has_reports(snapshot):
        return {}
    some_digests = batches(digests, IN_AT_ONCE)
    found = (_running(snapshot, host_image.c.digest.in_(some)) for some in some_digests)
    return {digest: running for each in found for digest, running in each.items()}


def running_among(snapshot: Snapshot, which: DigestSet) -> RunningImage | None:
    """Return one of the digests of a set that runs by the newest reports, however old these are; None if none does."""
    if not has_reports(snapshot):
        return None
    found = _running(snapshot, host_image.c.digest.in_(which.query))
    return found[min(found)] if found else None


def running_in(snapshot: Snapshot, repository_id: int) -> dict[str, RunningImage]:
    """Return the manifests and blobs of a repository that run by the newest reports, however old these are."""
    if not has_reports(snapshot):
        return {}
    digest = host_image.c.digest
    here = (
        select(each.c.digest).where(each.c.repository_id == repository_id, each.c.digest == digest)
        for each in (manifest, blob)
    )
    return _running(snapshot, or_(*(query.exists() for query in here)))


def _running(snapshot: Snapshot, which: ColumnElement[bool]) -> dict[str, RunningImage]:
    """Return the running images whose row of `host_image` has a property, by digest."""
    columns, newest = host_image.c, host_subject.c
    same = and_(newest.host == columns.host, newest.kind == columns.kind, newest.subject == columns.subject)
    hosts = func.count(columns.host.distinct())
    query = select(columns.digest, func.min(columns.host), hosts, func.max(newest.received_us))
    query = query.join(host_subject, same).where(columns.kind.in_(_RUNNING), which).group_by(columns.digest)
    rows = snapshot.sql.connection.execute(query)
    return {digest: RunningImage(name, number, received_us) for digest, name, number, received_us in rows}
