"""Rows about a registry in its bucket: who it is there, and which objects have its manifests. No rules.

A key of a manifest's object is drawn at random and never used again, as that of a blob (`blob_keys`). It is announced before the
object is written, and dead in the transaction that removes the manifest's row; its object is deleted later.

The object also states the parts of the manifest: which of the digests that it refers to are blobs of its repository. A row names
only an object whose parts are those of the rows. A transaction that adds a part of a manifest to its repository, or removes one,
records that it changed (`note_changed`), however many manifests refer to it. The next cleanup removes the rows that name their
objects, some at a time (`forget_outdated`), and writes other objects.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from boltseal.oci.digest import Digest
from boltseal.server.storage.batches import IN_AT_ONCE, batches
from boltseal.server.storage.metadata import blob_keys
from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork


class OwnerRow(NamedTuple):
    """The registry's ID. `claimed`: the bucket had its owner object. `rebuilding`: a rebuild began and has not ended."""

    registry: str
    claimed: bool
    rebuilding: bool


class StoredManifest(NamedTuple):
    """A manifest with what a rebuild needs, and the id of its repository. `parts`: as `parts_of`."""

    repository_id: int
    repository: str
    digest: str
    media_type: str
    pushed_us: int
    pushed_by: str
    raw: bytes
    parts: frozenset[Digest]


class NamedManifest(NamedTuple):
    """A manifest of a repository, as its row has it. `parts`: as `parts_of`; None if the cleanup has yet to write an object for them."""

    repository: str
    digest: str
    media_type: str
    parts: frozenset[Digest] | None


_OWNER: Final = "SELECT registry, claimed, rebuilding FROM bucket_owner"
_REMOVE_OWNER: Final = "DELETE FROM bucket_owner"
_ADD_OWNER: Final = "INSERT INTO bucket_owner (id, registry, claimed, rebuilding) VALUES (1, ?, ?, ?)"
_KEY: Final = "SELECT key FROM manifest_object WHERE repository_id = ? AND digest = ?"
_ADD_KEY: Final = """
INSERT INTO manifest_object (repository_id, digest, key)
SELECT repository_id, digest, CAST(? AS TEXT) FROM manifest WHERE repository_id = ? AND digest = ?
ON CONFLICT (repository_id, digest) DO NOTHING
"""
_PARTS: Final = """
SELECT DISTINCT blob.digest FROM link
JOIN blob ON blob.repository_id = link.repository_id AND blob.digest = link.child
WHERE link.repository_id = ? AND link.parent = ? AND link.kind <> 'signature-tag'
"""
_HELD: Final = """
SELECT 1, manifest.digest FROM manifest JOIN repository ON repository.id = manifest.repository_id
WHERE repository.name = ? AND manifest.digest = ?
UNION ALL SELECT 0, blob.digest FROM blob JOIN repository ON repository.id = blob.repository_id
WHERE repository.name = ? AND blob.digest IN ({})
"""
_NOTE_CHANGED: Final = """
WITH part (digest) AS (VALUES {})
INSERT INTO changed_part (repository_id, digest) SELECT CAST(? AS INTEGER), digest FROM part
WHERE EXISTS (SELECT 1 FROM link WHERE link.repository_id = ? AND link.child = part.digest)
    AND (SELECT min(repository_id) FROM manifest_object) IS NOT NULL
ON CONFLICT (repository_id, digest) DO NOTHING
"""
_CHANGED: Final = "SELECT repository_id, digest FROM changed_part ORDER BY repository_id, digest LIMIT 1"
_REMOVE_CHANGED: Final = "DELETE FROM changed_part WHERE repository_id = ? AND digest = ?"
_IS_CHANGING: Final = """
SELECT 1 FROM link JOIN changed_part ON changed_part.repository_id = link.repository_id AND changed_part.digest = link.child
WHERE link.repository_id = ? AND link.parent = ? LIMIT 1
"""
_OUTDATED: Final = """
SELECT DISTINCT manifest_object.digest, manifest_object.key FROM link JOIN manifest_object
    ON manifest_object.repository_id = link.repository_id AND manifest_object.digest = link.parent
WHERE link.repository_id = ? AND link.child = ? LIMIT ?
"""
_REMOVE_KEY: Final = "DELETE FROM manifest_object WHERE repository_id = ? AND digest = ?"
_NAMED: Final = "SELECT 1 FROM manifest_object WHERE key = ?"
_WITHOUT: Final = """
SELECT manifest.repository_id, manifest.digest FROM manifest
WHERE (manifest.repository_id > ? OR (manifest.repository_id = ? AND manifest.digest > ?))
    AND NOT EXISTS (SELECT 1 FROM manifest_object WHERE manifest_object.repository_id = manifest.repository_id
        AND manifest_object.digest = manifest.digest)
ORDER BY manifest.repository_id, manifest.digest LIMIT ?
"""
_STORED: Final = """
SELECT repository.name, media_type, pushed_us, pushed_by, raw
FROM manifest JOIN repository ON repository.id = manifest.repository_id JOIN content ON content.canonical = manifest.canonical
WHERE manifest.repository_id = ? AND manifest.digest = ?
"""
_OF_KEY: Final = """
SELECT repository.name, manifest.digest, manifest.media_type, repository.id
FROM manifest_object JOIN manifest ON manifest.repository_id = manifest_object.repository_id
    AND manifest.digest = manifest_object.digest
JOIN repository ON repository.id = manifest.repository_id WHERE manifest_object.key = ?
"""
_REMOVE_OBJECT: Final = "DELETE FROM manifest_object WHERE key = ?"
_NOT_EMPTY: Final = """
SELECT 1 WHERE EXISTS (SELECT 1 FROM repository) OR EXISTS (SELECT 1 FROM ledger_head)
    OR EXISTS (SELECT 1 FROM stored_blob) OR EXISTS (SELECT 1 FROM upload_progress) OR EXISTS (SELECT 1 FROM dead_key)
"""
_SOME_KEYS: Final = "SELECT key FROM blob_key ORDER BY digest LIMIT ?"


def owner(snapshot: Snapshot) -> OwnerRow | None:
    """Return who this registry is in its bucket, None if it never had one."""
    row = snapshot.sql.plain(_OWNER).fetchone()
    return None if row is None else OwnerRow(row[0], bool(row[1]), bool(row[2]))


def put_owner(tx: UnitOfWork, row: OwnerRow) -> None:
    """Replace the row."""
    tx.sql.plain(_REMOVE_OWNER)
    tx.sql.plain(_ADD_OWNER, row)


def remove_owner(tx: UnitOfWork) -> None:
    """Remove the row."""
    tx.sql.plain(_REMOVE_OWNER)


def is_empty(snapshot: Snapshot) -> bool:
    """Return whether the database has no repository, no ledger, no blob, no upload, and nothing to delete in its bucket."""
    return snapshot.sql.plain(_NOT_EMPTY).fetchone() is None


def some_keys(snapshot: Snapshot, limit: int) -> list[str]:
    """Return the keys of some objects that must be in the bucket."""
    return [str(row[0]) for row in snapshot.sql.plain(_SOME_KEYS, (limit,)).fetchall()]


def parts_of(snapshot: Snapshot, repository_id: int, digest: str) -> frozenset[Digest]:
    """Return which of the digests that a stored manifest refers to are blobs of its repository: a part, but also a subject."""
    rows = snapshot.sql.plain(_PARTS, (repository_id, digest)).fetchall()
    return frozenset(Digest.parse(row[0]) for row in rows)


def parts_held(
    snapshot: Snapshot, repository: str, digest: Digest, references: Collection[Digest]
) -> frozenset[Digest] | None:
    """Return which of the digests that a manifest refers to are blobs of a repository; None if it has the manifest already."""
    held: set[Digest] = set()
    named, of_manifest = {str(each): each for each in references}, (repository, str(digest), repository)
    for some in batches([str(digest), *named], IN_AT_ONCE):
        query = _HELD.format(", ".join("?" * len(some)))
        rows = snapshot.sql.plain(query, (*of_manifest, *some)).fetchall()
        if any(is_manifest for is_manifest, _ in rows):
            return None
        held.update(named[found] for _, found in rows if found in named)
    return frozenset(held)


def put_manifest(tx: UnitOfWork, repository_id: int, digest: str, key: str, parts: frozenset[Digest]) -> bool:
    """Record the object that has the bytes of a manifest and states `parts`.

    False, and nothing done, if there is no such manifest, it has an object, or its parts are others.
    """
    if parts_of(tx, repository_id, digest) != parts:
        return False
    return tx.sql.plain(_ADD_KEY, (key, repository_id, digest)).rowcount == 1


def note_changed(tx: UnitOfWork, repository_id: int, blobs: Collection[str]) -> None:
    """Record that a repository just got or lost these blobs, if its manifests refer to them. At most `batches.IN_AT_ONCE` blobs.

    The work does not grow with the manifests: a client chooses how many refer to a blob. While no manifest has an object, as with
    files, there is nothing to record.
    """
    if blobs:
        marks = ", ".join(["(CAST(? AS TEXT))"] * len(blobs))
        tx.sql.plain(_NOTE_CHANGED.format(marks), (*blobs, repository_id, repository_id))


def forget_outdated(tx: UnitOfWork, limit: int) -> bool:
    """Remove some rows of objects that state other parts than their manifests have now. False: none is left.

    These objects are dead at once: who calls this writes others before a cleanup deletes them.
    """
    changed = tx.sql.plain(_CHANGED).fetchone()
    if changed is None:
        return False
    repository_id, blob = changed
    outdated = tx.sql.plain(_OUTDATED, (repository_id, blob, limit)).fetchall()
    for digest, _ in outdated:
        tx.sql.plain(_REMOVE_KEY, (repository_id, digest))
    blob_keys.mark_dead(tx, [str(key) for _, key in outdated], 0)
    if len(outdated) < limit:  # in this transaction no other object states the former parts
        tx.sql.plain(_REMOVE_CHANGED, (repository_id, blob))
    return True


def remove_manifest(tx: UnitOfWork, repository_id: int, digest: str) -> None:
    """Mark the object of a removed manifest dead, to be deleted from now on."""
    row = tx.sql.plain(_KEY, (repository_id, digest)).fetchone()
    if row is not None:
        tx.sql.plain(_REMOVE_KEY, (repository_id, digest))
        blob_keys.mark_dead(tx, [str(row[0])], tx.now_us)


def without_object(snapshot: Snapshot, after: tuple[int, str], limit: int) -> list[tuple[int, str]]:
    """Return repository id and digest of some manifests that have no object, in this order, those after `after`.

    Without their bytes: each may have as many as the server accepts.
    """
    repository_id, digest = after
    rows = snapshot.sql.plain(_WITHOUT, (repository_id, repository_id, digest, limit)).fetchall()
    return [(row[0], row[1]) for row in rows]


def stored_manifest(snapshot: Snapshot, repository_id: int, digest: str) -> StoredManifest | None:
    """Return a manifest with its bytes and parts, None if there is none."""
    row = snapshot.sql.plain(_STORED, (repository_id, digest)).fetchone()
    if row is None:
        return None
    parts = parts_of(snapshot, repository_id, digest)
    return StoredManifest(repository_id, row[0], digest, row[1], row[2], row[3], bytes(row[4]), parts)


def manifest_of(snapshot: Snapshot, key: str) -> NamedManifest | None:
    """Return the manifest whose row names an object, None if none does."""
    row = snapshot.sql.plain(_OF_KEY, (key,)).fetchone()
    if row is None:
        return None
    changing = snapshot.sql.plain(_IS_CHANGING, (row[3], row[1])).fetchone() is not None
    return NamedManifest(row[0], row[1], row[2], None if changing else parts_of(snapshot, row[3], row[1]))


def forget_object(tx: UnitOfWork, key: str) -> bool:
    """Let a manifest have no object any more, so that it gets another one. Returns whether it had this one."""
    if tx.sql.plain(_REMOVE_OBJECT, (key,)).rowcount != 1:
        return False
    blob_keys.mark_dead(tx, [key], tx.now_us)
    return True


def unnamed_manifests(snapshot: Snapshot, keys: Iterable[str]) -> list[str]:
    """Return those keys that are of no manifest."""
    return [key for key in keys if snapshot.sql.plain(_NAMED, (key,)).fetchone() is None]
