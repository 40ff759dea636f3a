"""The tag rows. Only the tag writer imports this module; import-linter checks it.

A row that the ledger recorded is never removed: after a delete `digest` is None, and the row is the tombstone of a sealed
tag. The tag writer decides what may be written; this module only reads and writes, within the transaction that it is given.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, bindparam, delete, func, insert, or_, select, update

from boltseal.oci.reference import Tag
from boltseal.policy.refusal_message import MAX_COUNTED, SomeTags
from boltseal.policy.rule_decision import sha512_beginning, signature_subject
from boltseal.policy.rules import DELETABLE
from boltseal.server.storage.metadata.links import CONTAINS, DigestSet
from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork
from boltseal.server.storage.metadata.schema import IS_SETTLING, link, repository, tag
from boltseal.server.storage.metadata.tag_row import DIGESTS, TagRow, parse_row

_COLUMNS = [c for c in tag.c if c.name not in ("repository_id", "name")]
_AT = (tag.c.repository_id == bindparam("at_repository"), tag.c.name == bindparam("at_name"))
_FIND = select(*_COLUMNS).where(*_AT)
_LOCK = _FIND.with_for_update()
_ADD = insert(tag)
_CHANGE = update(tag).where(*_AT)


def find(snapshot: Snapshot, repository_id: int, name: str) -> TagRow | None:
    """Return the row of a tag, or None if the name was never used."""
    row = snapshot.sql.connection.execute(_FIND, {"at_repository": repository_id, "at_name": name}).one_or_none()
    return None if row is None else _parse(row)


def lock_tag(tx: UnitOfWork, repository_id: int, name: str) -> TagRow | None:
    """Return the row of a tag as `find` does, and lock it to the end of the transaction."""
    row = tx.sql.connection.execute(_LOCK, {"at_repository": repository_id, "at_name": name}).one_or_none()
    return None if row is None else _parse(row)


def add(tx: UnitOfWork, repository_id: int, name: str, row: TagRow) -> None:
    """Write the first row of a tag."""
    tx.sql.connection.execute(_ADD, {"repository_id": repository_id, "name": name, **_values(row)})


def change(tx: UnitOfWork, repository_id: int, name: str, row: TagRow) -> None:
    """Replace the row of a tag."""
    tx.sql.connection.execute(_CHANGE, {"at_repository": repository_id, "at_name": name, **_values(row)})


def remove(tx: UnitOfWork, repository_id: int, name: str) -> None:
    """Remove the row of a tag that the ledger never recorded."""
    tx.sql.connection.execute(delete(tag).where(tag.c.repository_id == repository_id, tag.c.name == name))


class NamedRow(NamedTuple):
    """A tag's name and row."""

    name: str
    row: TagRow


def tags_resolving_to(tx: UnitOfWork, repository_id: int, digest: str, limit: int | None = None) -> list[NamedRow]:
    """Return the tags that resolve to this digest now, sorted by name, at most `limit`."""
    rows = tx.sql.connection.execute(
        select(tag.c.name, *_COLUMNS)
        .where(tag.c.repository_id == repository_id, tag.c.digest == digest)
        .order_by(tag.c.name)
        .limit(limit)
    ).all()
    return [NamedRow(row[0], _parse(row[1:])) for row in rows]


def protecting_tags(tx: UnitOfWork, repository_id: int, digests: DigestSet, besides: Collection[str] = ()) -> SomeTags:
    """Return the sealed tags that resolve to one of these digests, but none of `besides`, and protect it from deletion now."""
    return _some(tx, repository_id, tag.c.digest.in_(digests.without(besides).query), _protects(tx))


def protecting_tags_of_parents(
    tx: UnitOfWork, repository_id: int, digest: str, besides: Collection[str] = ()
) -> SomeTags:
    """Return what `protecting_tags` does for the manifests that directly contain this digest, without the digest itself.

    Stops reading after the most tags that are counted, so a layer of a hundred thousand images costs as little as one of ten.
    """
    contains = and_(link.c.child == digest, link.c.kind.in_(CONTAINS), link.c.parent.not_in(besides))
    at_parent = and_(tag.c.repository_id == link.c.repository_id, tag.c.digest == link.c.parent)
    query = select(tag.c.name).select_from(link.join(tag, at_parent)).distinct()
    query = query.where(link.c.repository_id == repository_id, contains, _protects(tx)).limit(MAX_COUNTED + 1)
    return SomeTags.of(map(Tag, tx.sql.connection.execute(query).scalars()))


def protecting_tags_at(tx: UnitOfWork, repository_id: int, digest: str) -> SomeTags:
    """Return the sealed tags that resolve to exactly this digest and protect it from deletion now."""
    return _some(tx, repository_id, tag.c.digest == digest, _protects(tx))


def deletable_at(tx: UnitOfWork, repository_id: int, digest: str) -> SomeTags:
    """Return the tags that resolve to this digest and can be deleted by themselves, of the first thousand or so by name.

    Leaves out tags named by a signature tool, which stay as long as their image does (`policy.rule_decision`).
    """
    rows = tags_resolving_to(tx, repository_id, digest, MAX_COUNTED + 1)
    names = (Tag(name) for name, row in rows if not row.kept_at(tx.now_us))
    alone = (name for name in names if signature_subject(name) is None and sha512_beginning(name) is None)
    return SomeTags.of(alone, more=len(rows) > MAX_COUNTED)


def signature_tags_at(snapshot: Snapshot, repository_name: str, digest: str) -> list[str]:
    """Return the tags that resolve to this digest now and begin as those of signature tools do, sorted by name."""
    begins = or_(tag.c.name.between("sha256-", "sha256."), tag.c.name.between("sha512-", "sha512."))  # "." follows "-"
    query = select(tag.c.name).join(repository, repository.c.id == tag.c.repository_id)
    query = query.where(repository.c.name == repository_name, tag.c.digest == digest, begins).order_by(tag.c.name)
    return list(snapshot.sql.connection.execute(query).scalars())


def names_at(snapshot: Snapshot, repository_id: int, digest: str) -> list[str]:
    """Return the names of all tags that resolve to this digest now, sorted."""
    query = select(tag.c.name).where(tag.c.repository_id == repository_id, tag.c.digest == digest)
    return list(snapshot.sql.connection.execute(query.order_by(tag.c.name)).scalars())


def first_tag_at(snapshot: Snapshot, repository_id: int, digest: str) -> str | None:
    """Return the first tag by name that resolves to this digest now, or None."""
    query = select(tag.c.name).where(tag.c.repository_id == repository_id, tag.c.digest == digest)
    return snapshot.sql.connection.execute(query.order_by(tag.c.name).limit(1)).scalar_one_or_none()


class OverdueRow(NamedTuple):
    """A tag whose time is over: a live sealed tag's to be kept, or a settling tag's until it is sealed."""

    repository_id: int
    repository: str
    tag: str


def overdue(snapshot: Snapshot, now_us: int) -> list[OverdueRow]:
    """Return the live sealed tags whose time to be kept is over. Reads all tags, so not for a write."""
    rows = snapshot.sql.connection.execute(
        select(repository.c.id, repository.c.name, tag.c.name)
        .join(repository, repository.c.id == tag.c.repository_id)
        .where(tag.c.digest.is_not(None), tag.c.sealed_digest.is_not(None), tag.c.keep_until_us <= now_us)
        .where(tag.c.keep != str(DELETABLE))
        .order_by(repository.c.name, tag.c.name)
    )
    return [OverdueRow(*row) for row in rows]


def settled(snapshot: Snapshot, now_us: int, limit: int) -> list[OverdueRow]:
    """Return the settling tags whose time is over, the latest first, at most `limit`.

    The latest first, since an earlier one is left only if it could not be sealed.
    """
    rows = snapshot.sql.connection.execute(
        select(repository.c.id, repository.c.name, tag.c.name)
        .join(repository, repository.c.id == tag.c.repository_id)
        .where(IS_SETTLING, tag.c.keep_until_us <= now_us)
        .order_by(tag.c.keep_until_us.desc())
        .limit(limit)
    )
    return [OverdueRow(*row) for row in rows]


def _protects(tx: UnitOfWork) -> ColumnElement[bool]:
    kept = and_(tag.c.sealed_digest.is_not(None), or_(tag.c.keep_until_us.is_(None), tag.c.keep_until_us > tx.now_us))
    return and_(func.coalesce(tag.c.keep, "") != str(DELETABLE), or_(kept, IS_SETTLING))


def _some(tx: UnitOfWork, repository_id: int, *conditions: ColumnElement[bool]) -> SomeTags:
    query = select(tag.c.name).where(tag.c.repository_id == repository_id, *conditions).limit(MAX_COUNTED + 1)
    return SomeTags.of(map(Tag, tx.sql.connection.execute(query).scalars()))


def _values(row: TagRow) -> dict[str, Any]:
    """Return the row by column. Not `asdict`: its deep copies would delay every push."""
    values = {column.name: getattr(row, column.name) for column in _COLUMNS}
    for name in DIGESTS:
        if values[name] is not None:
            values[name] = str(values[name])
    return values


def _parse(row: Any) -> TagRow:
    return parse_row(dict(zip((column.name for column in _COLUMNS), row, strict=True)))
