"""What repositories hold: manifests, blobs and the links between them. Plain reads and writes, no rule.

Every question names a repository: a row of another one does not exist (promise 13). Digests go in and come out as
text, as they stand in the database; parsing and rules are the registry's. What a user's pushes add and what is taken
away again is counted (`usage`) by whoever writes the row, here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sqlalchemy import Integer, Text, and_, bindparam, case, delete, exists, func, insert, literal, or_, select

from boltseal.server.storage.metadata import usage
from boltseal.server.storage.metadata.schema import blob, content, link, manifest, released, repository, tag

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from sqlalchemy import BindParameter, Select

    from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork

# What a manifest is made of, and what it merely speaks about (promise 6). A foreign layer's bytes need not be here, but
# if they are, a seal covers them.
CONTAINS: Final = ("child", "config", "layer", "foreign-layer")
IN_AT_ONCE: Final = 500  # digests in one question; SQLite takes 32,766 values
POINTS_AT: Final = ("subject", "signature-tag")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """A manifest of a repository, without its bytes. `annotations` is JSON text or None."""

    digest: str
    canonical: str
    media_type: str
    size: int
    subject: str | None
    artifact_type: str | None
    annotations: str | None
    pushed_us: int
    pushed_by: str


_REPOSITORY_ID = select(repository.c.id).where(repository.c.name == bindparam("name"))
_LOCK_REPOSITORY = _REPOSITORY_ID.with_for_update()
_MANIFEST_COLUMNS = [c for c in manifest.c if c.name != "repository_id"]
_MANIFEST = select(*_MANIFEST_COLUMNS).where(
    manifest.c.repository_id == bindparam("at_repository"), manifest.c.digest == bindparam("at_digest")
)
_MANIFEST_SIZE = "SELECT size FROM manifest WHERE repository_id = ? AND digest = ?"
_HOLDS_BLOB = select(blob.c.size).where(
    blob.c.repository_id == bindparam("at_repository"), blob.c.digest == bindparam("at_digest")
)
_ADD_CONTENT = insert(content).from_select(
    ["canonical", "raw"],
    select(
        bindparam("new_canonical", type_=content.c.canonical.type), bindparam("new_raw", type_=content.c.raw.type)
    ).where(~exists().where(content.c.canonical == bindparam("new_canonical"))),
)


def lock_repository(tx: UnitOfWork, name: str) -> int | None:
    """Return the id of a repository, and lock its row to the end of the transaction; None when nothing was ever pushed to it.

    What one repository holds changes in one transaction at a time: a push that checks references excludes a delete.
    """
    found: int | None = tx.sql.connection.execute(_LOCK_REPOSITORY, {"name": name}).scalar_one_or_none()
    return found


def ensure_repository(tx: UnitOfWork, name: str, by: str | None) -> int:
    """The number of a repository, which is made, and counted for whoever does so, when it is not there."""
    found = lock_repository(tx, name)
    if found is not None:
        return found
    made: int = tx.sql.connection.execute(
        insert(repository).values(name=name, created_us=tx.now_us, created_by=by).returning(repository.c.id)
    ).scalar_one()
    usage.add(tx, by, 0, repositories=1)
    return made


def repository_exists(snapshot: Snapshot, name: str) -> bool:
    """Whether anything was ever pushed to a repository."""
    return snapshot.sql.connection.execute(_REPOSITORY_ID, {"name": name}).first() is not None


def find_manifest(tx: UnitOfWork, repository_id: int, digest: str) -> ManifestRow | None:
    """A manifest of this repository, or None."""
    row = tx.sql.connection.execute(_MANIFEST, {"at_repository": repository_id, "at_digest": digest}).one_or_none()
    return None if row is None else ManifestRow(**row._mapping)


def manifest_size(tx: UnitOfWork, repository_id: int, digest: str) -> int:
    """Size in bytes of a manifest of this repository, 0 when it is not held. Asked by every entry: the driver's own."""
    row = tx.sql.plain(_MANIFEST_SIZE, (repository_id, digest)).fetchone()
    return 0 if row is None else int(row[0])


def digest_that_begins(tx: UnitOfWork, repository_id: int, beginning: str) -> str | None:
    """The digest of a manifest of this repository that begins so, or None."""
    query = select(manifest.c.digest).where(
        manifest.c.repository_id == repository_id,
        manifest.c.digest >= beginning,
        manifest.c.digest < beginning + "g",  # behind every hex digit
    )
    return tx.sql.connection.execute(query.limit(1)).scalar_one_or_none()


def media_types_of(tx: UnitOfWork, repository_id: int, canonical: str) -> set[str]:
    """Under which media types this repository holds these bytes, by whatever digest."""
    return set(
        tx.sql.connection.execute(
            select(manifest.c.media_type).where(
                manifest.c.repository_id == repository_id, manifest.c.canonical == canonical
            )
        ).scalars()
    )


def manifest_bytes(tx: UnitOfWork, repository_id: int, digest: str) -> tuple[str, bytes] | None:
    """Media type and bytes of a manifest of this repository, or None."""
    query = select(manifest.c.media_type, content.c.raw).join(content, content.c.canonical == manifest.c.canonical)
    query = query.where(manifest.c.repository_id == repository_id, manifest.c.digest == digest)
    row = tx.sql.connection.execute(query).first()
    return None if row is None else (row[0], row[1])


def add_manifest(
    tx: UnitOfWork, repository_id: int, row: ManifestRow, raw: bytes, links: Iterable[tuple[str, str]]
) -> None:
    """Write a manifest, its bytes and its links, given as (child digest, kind)."""
    tx.sql.connection.execute(_ADD_CONTENT, {"new_canonical": row.canonical, "new_raw": raw})
    values = {name: getattr(row, name) for name in ManifestRow.__slots__}
    tx.sql.connection.execute(insert(manifest), {"repository_id": repository_id, **values})
    usage.add(tx, row.pushed_by, row.size)
    pairs = [
        {"repository_id": repository_id, "parent": row.digest, "child": child, "kind": kind}
        for child, kind in sorted(set(links))
    ]
    if pairs:
        tx.sql.connection.execute(insert(link), pairs)


def also_hold(tx: UnitOfWork, repository_id: int, digest: str, other: str) -> None:
    """Hold the manifest `digest` also under `other`, another digest of the same bytes, with all that it speaks of."""
    row = find_manifest(tx, repository_id, digest)
    if row is None:
        return
    links = select(link.c.child, link.c.kind).where(link.c.repository_id == repository_id, link.c.parent == digest)
    pairs = [(child, kind) for child, kind in tx.sql.connection.execute(links).all()]
    if find_manifest(tx, repository_id, other) is not None:
        for child, kind in pairs:
            if kind in POINTS_AT:
                add_link(tx, repository_id, other, child, kind)
        return
    raw = manifest_bytes(tx, repository_id, digest)
    add_manifest(tx, repository_id, replace(row, digest=other), raw[1] if raw else b"", pairs)


def add_link(tx: UnitOfWork, repository_id: int, parent: str, child: str, kind: str) -> None:
    """Write one link if it is not there."""
    key = {"repository_id": repository_id, "parent": parent, "child": child, "kind": kind}
    there = tx.sql.connection.execute(select(literal(1)).where(*(link.c[name] == value for name, value in key.items())))
    if there.first() is None:
        tx.sql.connection.execute(insert(link), key)


def remove_manifest(tx: UnitOfWork, repository_id: int, digest: str) -> None:
    """Remove a manifest, what it says of others, and its bytes when no repository holds them any more."""
    row = find_manifest(tx, repository_id, digest)
    if row is None:
        return
    here = and_(manifest.c.repository_id == repository_id, manifest.c.digest == digest)
    tx.sql.connection.execute(delete(link).where(link.c.repository_id == repository_id, link.c.parent == digest))
    tx.sql.connection.execute(delete(manifest).where(here))
    usage.add(tx, row.pushed_by, -row.size)
    tx.sql.connection.execute(
        delete(content).where(
            content.c.canonical == row.canonical, ~exists().where(manifest.c.canonical == row.canonical)
        )
    )


def blob_size(tx: UnitOfWork, repository_id: int, digest: str) -> int | None:
    """Size in bytes of a blob of this repository, or None."""
    found: int | None = tx.sql.connection.execute(
        _HOLDS_BLOB, {"at_repository": repository_id, "at_digest": digest}
    ).scalar_one_or_none()
    return found


def add_blob(tx: UnitOfWork, repository_id: int, digest: str, size: int, by: str) -> bool:
    """Write that this repository holds a blob; nothing, and False, when it does already."""
    if blob_size(tx, repository_id, digest) is not None:
        return False
    row = {"repository_id": repository_id, "digest": digest, "size": size, "added_us": tx.now_us, "added_by": by}
    tx.sql.connection.execute(insert(blob), row)
    usage.add(tx, by, size)
    return True


def remove_blob(tx: UnitOfWork, repository_id: int, digest: str) -> None:
    """Remove the row; when it was the last one of any repository, note since when its bytes are nobody's."""
    here = and_(blob.c.repository_id == repository_id, blob.c.digest == digest)
    row = tx.sql.connection.execute(select(blob.c.added_by, blob.c.size).where(here)).one_or_none()
    if row is not None:
        tx.sql.connection.execute(delete(blob).where(here))
        usage.add(tx, row.added_by, -row.size)
    if not blob_named(tx, digest):
        tx.sql.connection.execute(delete(released).where(released.c.digest == digest))
        tx.sql.connection.execute(insert(released).values(digest=digest, released_us=tx.now_us))


def blob_named(snapshot: Snapshot, digest: str) -> bool:
    """Whether a row of any repository names these bytes."""
    return (
        snapshot.sql.connection.execute(select(literal(1)).where(blob.c.digest == digest).limit(1)).first() is not None
    )


def released_since(snapshot: Snapshot, digest: str) -> int | None:
    """Return when the last row that referred to these bytes was removed; None if there never was one, or there is one now.

    Microseconds since the epoch.
    """
    found: int | None = snapshot.sql.connection.execute(
        select(released.c.released_us).where(released.c.digest == digest)
    ).scalar_one_or_none()
    return found


def released_before(snapshot: Snapshot, before_us: int) -> list[str]:
    """Return the blobs whose last row was removed before a time."""
    query = select(released.c.digest).where(released.c.released_us < before_us)
    return list(snapshot.sql.connection.execute(query.order_by(released.c.digest)).scalars())


def release_again(tx: UnitOfWork, digest: str) -> bool:
    """Change the time that `released_since` returns, if no row refers to these bytes; return whether none does.

    After the COMMIT no row is added for bytes that were stored before it (`server.registry.uploads` compares the times), so
    they can be deleted.
    """
    if blob_named(tx, digest):
        return False
    at_us = max(tx.now_us, (released_since(tx, digest) or 0) + 1)
    tx.sql.connection.execute(delete(released).where(released.c.digest == digest))
    tx.sql.connection.execute(insert(released).values(digest=digest, released_us=at_us))
    return True


def forget_released(tx: UnitOfWork, digests: Iterable[str], absent: Collection[str] | None = None) -> None:
    """Remove the times that `released_since` returns; with `absent`, only of those blobs and of blobs that have a row."""
    for digest in digests:
        if absent is None or digest in absent or blob_named(tx, digest):
            tx.sql.connection.execute(delete(released).where(released.c.digest == digest))


_UNREFERENCED_CONTENT: Final = ~exists().where(manifest.c.canonical == content.c.canonical)


def unreferenced_contents(snapshot: Snapshot) -> list[tuple[str, int]]:
    """Return the manifest bytes that no repository refers to, as (sha256 digest, size)."""
    query = select(content.c.canonical, func.length(content.c.raw)).where(_UNREFERENCED_CONTENT)
    rows = snapshot.sql.connection.execute(query.order_by(content.c.canonical)).all()
    return [(row[0], row[1]) for row in rows]


def remove_unreferenced_contents(tx: UnitOfWork) -> list[tuple[str, int]]:
    """Remove the manifest bytes that no repository refers to, and return them as `unreferenced_contents` does."""
    found = unreferenced_contents(tx)
    tx.sql.connection.execute(delete(content).where(_UNREFERENCED_CONTENT))
    return found


def holders(tx: UnitOfWork, digests: Collection[str]) -> list[tuple[int, str, str]]:
    """Every row of any repository with one of these digests, manifest or blob: (repository's number, name, digest)."""
    found = []
    for table in (manifest, blob):
        query = select(repository.c.id, repository.c.name, table.c.digest).join(
            table, table.c.repository_id == repository.c.id
        )
        found += [tuple(row) for row in tx.sql.connection.execute(query.where(table.c.digest.in_(digests)))]
    return sorted(found)


def blob_holders(snapshot: Snapshot, digest: str, source: str | None) -> list[tuple[str, int]]:
    """The repositories (`source` alone, or any) that hold a blob, as (name, size)."""
    query = select(repository.c.name, blob.c.size).join(blob, blob.c.repository_id == repository.c.id)
    query = query.where(blob.c.digest == digest)
    if source is not None:
        query = query.where(repository.c.name == source)
    return [(name, size) for name, size in snapshot.sql.connection.execute(query).all()]


@dataclass(frozen=True, slots=True)
class DigestSet:
    """Digests that the database computes where they are needed; for the functions of this package."""

    query: Select[str]


def reached_from(repository_id: int, digest: str) -> DigestSet:
    """Return the digest and everything below it, over all levels: what a seal on it covers downwards."""
    return DigestSet(_below(repository_id, literal(digest, Text)))


def _below(repository_id: int | BindParameter[int], top: BindParameter[str]) -> Select[str]:
    seen = select(top.label("digest")).cte("below", recursive=True)
    step = select(link.c.child).join(seen, link.c.parent == seen.c.digest)
    step = step.where(link.c.repository_id == repository_id, link.c.kind.in_(CONTAINS))
    return select(seen.union(step).c.digest)


def reaching(repository_id: int, digest: str, *, through_subjects: bool) -> DigestSet:
    """Return the digest and every digest whose seal covers it: manifests that contain it and, if wanted, its subjects."""
    seen = select(literal(digest, Text).label("digest")).cte("above", recursive=True)
    contained = and_(link.c.child == seen.c.digest, link.c.kind.in_(CONTAINS))
    speaks_of = and_(link.c.parent == seen.c.digest, link.c.kind.in_(POINTS_AT))
    step = select(case((contained, link.c.parent), else_=link.c.child)).where(link.c.repository_id == repository_id)
    step = step.where(or_(contained, speaks_of) if through_subjects else contained)
    return DigestSet(select(seen.union(step.select_from(link, seen)).c.digest))


def also_called(tx: UnitOfWork, repository_id: int) -> list[tuple[str, str]]:
    """What this repository holds under another digest than the sha256 of its bytes, as (digest, sha256)."""
    query = select(manifest.c.digest, manifest.c.canonical).where(manifest.c.repository_id == repository_id)
    # A range of the key, because almost no repository has any. The ";" is what follows the ":".
    return [
        (row[0], row[1])
        for row in tx.sql.connection.execute(query.where(manifest.c.digest.between("sha512:", "sha512;")))
    ]


def called(tx: UnitOfWork, repository_id: int, canonical: str) -> list[str]:
    """Every digest under which this repository holds the bytes with this sha256, sorted."""
    query = select(manifest.c.digest).where(
        manifest.c.canonical == canonical, manifest.c.repository_id == repository_id
    )
    return list(tx.sql.connection.execute(query.order_by(manifest.c.digest)).scalars())


def digests(snapshot: Snapshot, which: DigestSet) -> set[str]:
    """Return the digests of a set."""
    return set(snapshot.sql.connection.execute(which.query).scalars())


def parents(tx: UnitOfWork, repository_id: int, digest: str) -> set[str]:
    """The manifests that contain this one, or this blob."""
    query = select(link.c.parent).where(link.c.repository_id == repository_id, link.c.child == digest)
    return set(tx.sql.connection.execute(query.where(link.c.kind.in_(CONTAINS))).scalars())


def _missing() -> Select[str]:
    here = bindparam("at_repository", type_=Integer)
    held_manifest = exists().where(manifest.c.repository_id == here, manifest.c.digest == link.c.child)
    held_blob = exists().where(blob.c.repository_id == here, blob.c.digest == link.c.child)
    absent = or_(and_(link.c.kind == "child", ~held_manifest), and_(link.c.kind.in_(("config", "layer")), ~held_blob))
    under = _below(here, bindparam("at_digest", type_=Text))
    return select(link.c.child).where(link.c.repository_id == here, link.c.parent.in_(under), absent)


_MISSING = _missing()  # made once: it is asked at every push of a sealed tag


def missing(snapshot: Snapshot, repository_id: int, digest: str) -> list[str]:
    """What a manifest needs, over all levels, and this repository does not hold, sorted."""
    found = snapshot.sql.connection.execute(_MISSING, {"at_repository": repository_id, "at_digest": digest})
    return sorted(set(found.scalars()))


def tag_names(snapshot: Snapshot, name: str, after: str, limit: int | None) -> list[str] | None:
    """Live tags of a repository behind `after`, sorted by bytes. None: nothing was ever pushed to it."""
    found = snapshot.sql.connection.execute(_REPOSITORY_ID, {"name": name}).scalar_one_or_none()
    if found is None:
        return None
    query = select(tag.c.name).where(tag.c.repository_id == found, tag.c.digest.is_not(None), tag.c.name > after)
    return list(snapshot.sql.connection.execute(query.order_by(tag.c.name).limit(limit)).scalars())


def repository_names(snapshot: Snapshot, after: str, limit: int | None) -> list[str]:
    """Repositories that hold a manifest or a blob, behind `after`, sorted by bytes."""
    holds = or_(
        exists().where(manifest.c.repository_id == repository.c.id),
        exists().where(blob.c.repository_id == repository.c.id),
    )
    query = select(repository.c.name).where(repository.c.name > after, holds).order_by(repository.c.name)
    return list(snapshot.sql.connection.execute(query.limit(limit)).scalars())


def repositories_below(snapshot: Snapshot, prefix: str) -> list[tuple[str, str | None]]:
    """The repositories whose names begin so (`docker.io/`), with who made them, None where that is not known."""
    names = (repository.c.name >= prefix, repository.c.name < prefix[:-1] + chr(ord(prefix[-1]) + 1))
    return [
        (row[0], row[1])
        for row in snapshot.sql.connection.execute(select(repository.c.name, repository.c.created_by).where(*names))
    ]


def referrers(snapshot: Snapshot, name: str, subject: str, artifact_type: str | None = None) -> list[tuple[str, int]]:
    """The manifests of a repository whose subject is this digest, of one artifact type if wanted, as (digest, size)."""
    query = select(manifest.c.digest, manifest.c.size).join(repository, repository.c.id == manifest.c.repository_id)
    query = query.where(repository.c.name == name, manifest.c.subject == subject)
    if artifact_type is not None:
        query = query.where(manifest.c.artifact_type == artifact_type)
    return [(row[0], row[1]) for row in snapshot.sql.connection.execute(query)]


def count_referrers(tx: UnitOfWork, repository_id: int, subject: str, most: int) -> int:
    """How many manifests of a repository name this subject; counts no further than `most`."""
    some = select(literal(1)).where(manifest.c.repository_id == repository_id, manifest.c.subject == subject)
    counted: int = tx.sql.connection.execute(select(func.count()).select_from(some.limit(most).subquery())).scalar_one()
    return counted


def tagged_bytes(snapshot: Snapshot, name: str, tag_name: str) -> tuple[str, bytes] | None:
    """Media type and bytes of the manifest that a tag means, or None."""
    query = (
        select(manifest.c.media_type, content.c.raw)
        .join(repository, repository.c.id == manifest.c.repository_id)
        .join(tag, and_(tag.c.repository_id == repository.c.id, tag.c.digest == manifest.c.digest))
        .join(content, content.c.canonical == manifest.c.canonical)
        .where(repository.c.name == name, tag.c.name == tag_name)
    )
    row = snapshot.sql.connection.execute(query).first()
    return None if row is None else (row[0], row[1])


def bytes_of_a_parent(snapshot: Snapshot, name: str, child: str) -> tuple[str, bytes] | None:
    """Media type and bytes of a manifest of the repository that contains this blob or manifest, or None."""
    query = (
        select(manifest.c.media_type, content.c.raw)
        .join(repository, repository.c.id == manifest.c.repository_id)
        .join(link, and_(link.c.repository_id == repository.c.id, link.c.parent == manifest.c.digest))
        .join(content, content.c.canonical == manifest.c.canonical)
        .where(repository.c.name == name, link.c.child == child, link.c.kind.in_(CONTAINS))
    )
    row = snapshot.sql.connection.execute(query.limit(1)).first()
    return None if row is None else (row[0], row[1])


def held_sizes(tx: UnitOfWork, repository_id: int, wanted: Sequence[str]) -> dict[str, int]:
    """Size in bytes of those of the wanted manifests and blobs that this repository holds, by digest."""
    found: dict[str, int] = {}
    for start in range(0, len(wanted), IN_AT_ONCE):
        some = wanted[start : start + IN_AT_ONCE]
        for held in (manifest, blob):
            query = select(held.c.digest, held.c.size).where(held.c.repository_id == repository_id)
            rows = tx.sql.connection.execute(query.where(held.c.digest.in_(some))).all()
            found |= {row.digest: row.size for row in rows}
    return found


def held_manifests(snapshot: Snapshot, name: str, wanted: Iterable[str]) -> dict[str, ManifestRow]:
    """Those of the wanted digests that this repository holds, by digest."""
    query = select(*_MANIFEST_COLUMNS).join(repository, repository.c.id == manifest.c.repository_id)
    query = query.where(repository.c.name == name, manifest.c.digest == bindparam("wanted"))
    found = (snapshot.sql.connection.execute(query, {"wanted": digest}).one_or_none() for digest in wanted)
    return {row.digest: ManifestRow(**row._mapping) for row in found if row is not None}
