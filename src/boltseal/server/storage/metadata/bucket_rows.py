"""Rows about a registry in its bucket: who it is there, and which objects have its manifests. No rules.

A key of a manifest's object is drawn at random and never used again, as that of a blob (`blob_keys`): it is dead in the
transaction that removes the manifest's row, and its object is deleted later.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from boltseal.server.storage.metadata import blob_keys
from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork


class OwnerRow(NamedTuple):
    """The registry's ID. `claimed`: the bucket had its owner object. `rebuilding`: a rebuild began and has not ended."""

    registry: str
    claimed: bool
    rebuilding: bool


class StoredManifest(NamedTuple):
    """A manifest with what a rebuild needs, and the id of its repository."""

    repository_id: int
    repository: str
    digest: str
    media_type: str
    pushed_us: int
    pushed_by: str
    raw: bytes


_OWNER: Final = "SELECT registry, claimed, rebuilding FROM bucket_owner"
_REMOVE_OWNER: Final = "DELETE FROM bucket_owner"
_ADD_OWNER: Final = "INSERT INTO bucket_owner (id, registry, claimed, rebuilding) VALUES (1, ?, ?, ?)"
_KEY: Final = "SELECT key FROM manifest_object WHERE repository_id = ? AND digest = ?"
_ADD_KEY: Final = "INSERT INTO manifest_object (repository_id, digest, key) VALUES (?, ?, ?)"
_REMOVE_KEY: Final = "DELETE FROM manifest_object WHERE repository_id = ? AND digest = ?"
_NAMED: Final = "SELECT 1 FROM manifest_object WHERE key = ?"
_WITHOUT: Final = """
SELECT manifest.repository_id, repository.name, manifest.digest, media_type, pushed_us, pushed_by, raw
FROM manifest JOIN repository ON repository.id = manifest.repository_id
JOIN content ON content.canonical = manifest.canonical
WHERE (manifest.repository_id > ? OR (manifest.repository_id = ? AND manifest.digest > ?))
    AND NOT EXISTS (SELECT 1 FROM manifest_object WHERE manifest_object.repository_id = manifest.repository_id
        AND manifest_object.digest = manifest.digest)
ORDER BY manifest.repository_id, manifest.digest LIMIT ?
"""
_THERE: Final = "SELECT 1 FROM manifest WHERE repository_id = ? AND digest = ?"
_ANYTHING: Final = """
SELECT 1 WHERE EXISTS (SELECT 1 FROM repository) OR EXISTS (SELECT 1 FROM ledger_head)
    OR EXISTS (SELECT 1 FROM stored_blob) OR EXISTS (SELECT 1 FROM upload_progress)
"""
_BEHIND: Final = "SELECT key FROM blob_key ORDER BY digest LIMIT ?"


def owner(snapshot: Snapshot) -> OwnerRow | None:
    """Return who this registry is in its bucket, None if it never had one."""
    row = snapshot.sql.plain(_OWNER).fetchone()
    return None if row is None else OwnerRow(row[0], bool(row[1]), bool(row[2]))


def put_owner(tx: UnitOfWork, row: OwnerRow) -> None:
    """Replace the row."""
    tx.sql.plain(_REMOVE_OWNER)
    tx.sql.plain(_ADD_OWNER, row)


def is_empty(snapshot: Snapshot) -> bool:
    """Return whether the database has no repository, no ledger, no blob and no upload."""
    return snapshot.sql.plain(_ANYTHING).fetchone() is None


def some_keys(snapshot: Snapshot, limit: int) -> list[str]:
    """Return the keys of some objects that must be in the bucket."""
    return [str(row[0]) for row in snapshot.sql.plain(_BEHIND, (limit,)).fetchall()]


def put_manifest(tx: UnitOfWork, repository_id: int, digest: str, key: str) -> bool:
    """Let an object have the bytes of a manifest. False, and nothing done, if there is no such manifest, or it has one."""
    there = tx.sql.plain(_THERE, (repository_id, digest)).fetchone() is not None
    if not there or tx.sql.plain(_KEY, (repository_id, digest)).fetchone() is not None:
        return False
    tx.sql.plain(_ADD_KEY, (repository_id, digest, key))
    return True


def remove_manifest(tx: UnitOfWork, repository_id: int, digest: str) -> None:
    """Mark the object of a removed manifest dead, to be deleted from now on."""
    row = tx.sql.plain(_KEY, (repository_id, digest)).fetchone()
    if row is not None:
        tx.sql.plain(_REMOVE_KEY, (repository_id, digest))
        blob_keys.mark_dead(tx, [str(row[0])], tx.now_us)


def without_object(snapshot: Snapshot, after: tuple[int, str], limit: int) -> list[StoredManifest]:
    """Return some manifests that have no object, in the order of repository ids and digests, those after `after`."""
    repository_id, digest = after
    rows = snapshot.sql.plain(_WITHOUT, (repository_id, repository_id, digest, limit)).fetchall()
    return [StoredManifest(row[0], row[1], row[2], row[3], row[4], row[5], bytes(row[6])) for row in rows]


def unnamed_manifests(snapshot: Snapshot, keys: Iterable[str]) -> list[str]:
    """Return those keys that are of no manifest."""
    return [key for key in keys if snapshot.sql.plain(_NAMED, (key,)).fetchone() is None]
