"""Compares the objects that a rebuild of the database needs with the rows: index objects, and those of manifests. Reads only.

Nothing reads these objects while the database is there, so only this comparison finds that one is damaged. One request for each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from boltseal.oci.digest import Digest
from boltseal.server.storage.blobs.protocol import DifferenceKind, StoreDifference
from boltseal.server.storage.metadata import blob_keys, bucket_rows
from boltseal.server.storage.metadata.blob_keys import ObjectPart
from boltseal.server.storage.metadata.object_names import INDEX, MANIFESTS, NamedKey
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot
from boltseal.server.storage.object_client import READS_AT_ONCE, ObjectClient
from boltseal.server.storage.object_manifests import MOST_BYTES, ManifestObjectInvalid, decode

MOST_INDEX_BYTES: Final = 4 * 1024 * 1024
WRITE_AGAIN: Final = "run `boltseal admin gc --full`, which writes it again"


def is_compared(named: NamedKey) -> bool:
    """Return whether this object is one of those, and is named by a blob or a manifest."""
    return named.owner is not None and named.key.startswith((INDEX, MANIFESTS))


def damaged(database: Metadata, client: ObjectClient, some: Iterable[NamedKey]) -> Iterator[StoreDifference]:
    """Yield those of these objects whose content is not what the rows say. Raises: StoreBroken, Unavailable."""
    with ThreadPoolExecutor(READS_AT_ONCE, thread_name_prefix="boltseal-contents") as reads:
        for difference in reads.map(partial(_compared, database, client), some):
            if difference is not None:
                yield difference


def _compared(database: Metadata, client: ObjectClient, named: NamedKey) -> StoreDifference | None:
    compare = _index_problem if named.key.startswith(INDEX) else _manifest_problem
    for _ in range(2):  # its row may have been replaced meanwhile
        problem = compare(database, client, named)
        if problem is None:
            return None
    return StoreDifference(
        DifferenceKind.DAMAGED,
        named.key,
        0,
        0,
        f"the object of {named.owner}, from which a lost database is rebuilt, is damaged: {problem}; delete the object, and "
        f"{WRITE_AGAIN}",
    )


def _manifest_problem(database: Metadata, client: ObjectClient, named: NamedKey) -> str | None:
    """Return why an object is not that of the manifest whose row names it, None if it is, or no row names it now."""
    row = database.read_and_wait(partial(bucket_rows.manifest_of, key=named.key))
    found = None if row is None else client.get(named.key, MOST_BYTES)
    if row is None or found is None:
        return None
    try:
        copy = decode(found.content)
    except ManifestObjectInvalid as error:
        return error.message
    if (copy.repository, str(copy.digest), copy.media_type) != (row.repository, row.digest, row.media_type):
        return (
            f"it has {copy.repository}@{copy.digest} as {copy.media_type}, the row says {row.repository}@{row.digest} as "
            f"{row.media_type}"
        )
    if copy.parts is None:
        return "it does not say which blobs its repository has (it has format 1)"
    if row.parts is not None and copy.parts != row.parts:
        differing = min(map(str, copy.parts ^ row.parts))
        return f"it states {len(copy.parts)} blobs of {row.repository}, the rows have {len(row.parts)}; they differ in {differing}"
    return None


def _index_problem(database: Metadata, client: ObjectClient, named: NamedKey) -> str | None:
    """Return why an object does not name the objects that the row names, None if it does, or no row names it now."""
    digest = str(named.owner)
    parts = database.read_and_wait(partial(_parts, digest=digest, index_key=named.key))
    found = None if parts is None else client.get(named.key, MOST_INDEX_BYTES)
    if parts is None or found is None:
        return None
    try:
        recorded = parse_index(found.content, Digest.parse(digest))
    except (ValueError, KeyError, TypeError) as error:
        return f"it is no index object of this blob ({type(error).__name__})"
    if recorded != parts:
        return f"it names {_keys(recorded)}, the row names {_keys(parts)}"
    return None


def parse_index(content: bytes, digest: Digest) -> list[ObjectPart]:
    """Return the objects that an index object names. Raises: ValueError, KeyError, TypeError: it is not that of this blob."""
    try:
        document = json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    parts = [ObjectPart(part["key"], part["size"]) for part in document["keys"]]
    if document["digest"] != str(digest) or document["size"] != sum(part.size for part in parts):
        raise ValueError("another blob's")
    return parts


def _parts(snapshot: Snapshot, digest: str, index_key: str) -> list[ObjectPart] | None:
    row = blob_keys.find(snapshot, digest)
    return None if row is None or row.index_key != index_key else blob_keys.keys_of(snapshot, digest)


def _keys(parts: list[ObjectPart]) -> str:
    return ", ".join(part.key for part in parts[:3]) or "no object"
