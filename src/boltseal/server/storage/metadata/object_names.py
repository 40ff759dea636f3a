"""All keys that rows name, in the order of keys, so that they can be compared with a listing of the object store. No rules.

A key that is about to be written is in the row of its session before, so an object without a row can't get one any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from boltseal.server.storage.metadata.protocol import Snapshot


class NamedKey(NamedTuple):
    """A key that a row names. `owner`: the digest of the blob or manifest, or the session; None if the object may be missing.

    `size`: of the object, None if the rows do not know it.
    """

    key: str
    size: int | None
    owner: str | None


_BYTES_AFTER: Final = """
SELECT * FROM (SELECT key, size, digest AS owner FROM blob_key WHERE key > ? ORDER BY key LIMIT ?) AS a
UNION ALL SELECT * FROM (SELECT key, size, name FROM upload_part WHERE key > ? ORDER BY key LIMIT ?) AS b
UNION ALL SELECT * FROM (
    SELECT key, CAST(NULL AS BIGINT), NULL FROM dead_key WHERE key > ? AND key < 'c' ORDER BY key LIMIT ?) AS c
UNION ALL SELECT * FROM (
    SELECT writer, CAST(NULL AS BIGINT), NULL FROM upload_progress WHERE writer > ? ORDER BY writer LIMIT ?) AS d
ORDER BY 1 LIMIT ?
"""
_INDEXES_AFTER: Final = """
SELECT * FROM (
    SELECT index_key AS key, CAST(NULL AS BIGINT) AS size, digest AS owner FROM stored_blob
    WHERE digest >= ? AND index_key > ? ORDER BY digest LIMIT ?) AS a
UNION ALL SELECT * FROM (
    SELECT key, CAST(NULL AS BIGINT), NULL FROM dead_key WHERE key > ? AND key < 'j' ORDER BY key LIMIT ?) AS b
UNION ALL SELECT * FROM (
    SELECT index_key, CAST(NULL AS BIGINT), NULL FROM upload_progress WHERE index_key > ? ORDER BY index_key LIMIT ?) AS c
ORDER BY 1 LIMIT ?
"""
_NAMED: Final = """
SELECT 1 WHERE EXISTS (SELECT 1 FROM blob_key WHERE key = ?) OR EXISTS (SELECT 1 FROM upload_part WHERE key = ?)
    OR EXISTS (SELECT 1 FROM dead_key WHERE key = ?) OR EXISTS (SELECT 1 FROM upload_progress WHERE writer = ?)
"""
_NAMED_INDEX: Final = """
SELECT 1 WHERE EXISTS (SELECT 1 FROM stored_blob WHERE digest = ? AND index_key = ?)
    OR EXISTS (SELECT 1 FROM dead_key WHERE key = ?) OR EXISTS (SELECT 1 FROM upload_progress WHERE index_key = ?)
"""
_MANIFESTS_AFTER: Final = """
SELECT * FROM (
    SELECT key, CAST(NULL AS BIGINT) AS size, digest AS owner FROM manifest_object WHERE key > ? ORDER BY key LIMIT ?) AS a
UNION ALL SELECT * FROM (
    SELECT key, CAST(NULL AS BIGINT), NULL FROM dead_key WHERE key > ? AND key < 'n' ORDER BY key LIMIT ?) AS b
ORDER BY 1 LIMIT ?
"""
_NAMED_MANIFEST: Final = """
SELECT 1 WHERE EXISTS (SELECT 1 FROM manifest_object WHERE key = ?) OR EXISTS (SELECT 1 FROM dead_key WHERE key = ?)
"""
INDEX: Final = "index/"
MANIFESTS: Final = "manifests/"
_AFTER_INDEX: Final = "j"


def bytes_after(snapshot: Snapshot, after: str, limit: int) -> list[NamedKey]:
    """Return some keys of bytes in order, those after `after`."""
    values = [after, limit] * 4
    return [NamedKey(*row) for row in snapshot.sql.plain(_BYTES_AFTER, (*values, limit)).fetchall()]


def indexes_after(snapshot: Snapshot, after: str, limit: int) -> list[NamedKey]:
    """Return some keys of index objects in order, those after `after`."""
    if after >= _AFTER_INDEX:
        return []
    after = max(after, INDEX)
    digest = "" if after == INDEX else digest_of(after)
    values = (digest, after, limit, after, limit, after, limit, limit)
    return [NamedKey(*row) for row in snapshot.sql.plain(_INDEXES_AFTER, values).fetchall()]


def manifests_after(snapshot: Snapshot, after: str, limit: int) -> list[NamedKey]:
    """Return some keys of manifests' objects in order, those after `after`."""
    after = max(after, MANIFESTS)
    return [
        NamedKey(*row) for row in snapshot.sql.plain(_MANIFESTS_AFTER, (after, limit, after, limit, limit)).fetchall()
    ]


def query_of(key: str) -> Callable[[Snapshot, str, int], list[NamedKey]]:
    """Return the query that finds the row of a key."""
    if key.startswith(INDEX):
        return indexes_after
    return manifests_after if key.startswith(MANIFESTS) else bytes_after


def unnamed(snapshot: Snapshot, keys: Iterable[str]) -> list[str]:
    """Return those keys, of bytes, index objects and manifests, that no row names, not even one of a request that may still write."""
    return [key for key in keys if not _is_named(snapshot, key)]


def _is_named(snapshot: Snapshot, key: str) -> bool:
    values: tuple[str, ...]
    if key.startswith(INDEX):
        query, values = _NAMED_INDEX, (digest_of(key), key, key, key)
    elif key.startswith(MANIFESTS):
        query, values = _NAMED_MANIFEST, (key, key)
    else:
        query, values = _NAMED, (key,) * 4
    return snapshot.sql.plain(query, values).fetchone() is not None


def digest_of(index_key: str) -> str:
    """Return the digest in the key of an index object, or what sorts as it would."""
    _, algorithm, hexed, *_ = [*index_key.split("/"), "", ""]
    return f"{algorithm}:{hexed}"
