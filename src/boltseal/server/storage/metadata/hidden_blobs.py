"""Hidden blobs: how a repository loses a blob that nothing uses, although a client may just have asked whether it is there. No rules.

A client that found a blob with HEAD does not upload it again, and pushes a manifest that refers to it. So garbage collection
does not remove the repository's row at once:

                 unused for a day                        hidden for `HIDDEN_FOR_US`, and still unused
    visible ---------------------> hidden ---------------------------------------------> (no row)
       ^                             |                                                      |
       '-- upload, mount, manifest --'                  a manifest that refers to it is refused for a day

A hidden blob does not count for the user who pushed it (`usage`), and counts again when it is visible again. So a user at the quota can
push it again.

While it is hidden, clients' HEAD, GET, DELETE and mounts get the answer that there is no such blob, so a client uploads it again. A
manifest that refers to it is accepted, and `keep` makes the blob visible again. After that time no client has found the blob within
the last hour. The row is removed in a transaction that decides again (`garbage_collection`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from boltseal.server.storage.batches import IN_AT_ONCE, batches
from boltseal.server.storage.metadata import usage
from boltseal.server.storage.metadata.blob_reviews import UNUSED_FOR_US
from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork

HIDDEN_FOR_US: Final = (60 + 5) * 60 * 1_000_000
"""How long a blob is hidden before its row is removed: an hour for the client's manifest, and five minutes of reserve.

The reserve is for HEAD requests that are answered while the transaction commits, also from another server's cache, and for a
manifest that arrived in time and took long.
"""

_HIDE: Final = """
UPDATE blob SET hidden_us = ? WHERE repository_id = ? AND digest = ? AND hidden_us IS NULL RETURNING added_by, size
"""
_SHOW: Final = """
UPDATE blob SET hidden_us = NULL WHERE repository_id = ? AND hidden_us IS NOT NULL AND digest IN ({})
RETURNING added_by, size
"""
_REVIEW: Final = """
INSERT INTO blob_review (digest, repository_id, due_us)
SELECT digest, repository_id, CAST(? AS BIGINT) FROM blob WHERE repository_id = ? AND digest IN ({})
ON CONFLICT (digest, repository_id) DO UPDATE SET due_us = excluded.due_us, removed_us = NULL, problem = NULL
"""
_REMOVED: Final = """
SELECT v.digest FROM blob_review v WHERE v.repository_id = ? AND v.removed_us IS NOT NULL AND v.digest IN ({})
AND NOT EXISTS (SELECT 1 FROM blob b WHERE b.repository_id = v.repository_id AND b.digest = v.digest)
"""


def hide(tx: UnitOfWork, repository_id: int, digest: str) -> None:
    """Hide a blob of a repository from clients, from the COMMIT on."""
    tx.invalidates_caches = True
    for user, size in tx.sql.plain(_HIDE, (tx.now_us, repository_id, digest)).fetchall():
        usage.add(tx, user, -size)


def keep(tx: UnitOfWork, repository_id: int, digests: Collection[str]) -> None:
    """Keep those of these blobs that a repository has for a day, as if they were just pushed. Hidden ones become visible again."""
    for some in batches(digests, IN_AT_ONCE):
        marks = ", ".join("?" * len(some))
        for user, size in tx.sql.plain(_SHOW.format(marks), (repository_id, *some)).fetchall():
            usage.add(tx, user, size)
        tx.sql.plain(_REVIEW.format(marks), (tx.now_us + UNUSED_FOR_US, repository_id, *some))


def removed(snapshot: Snapshot, repository_id: int, digests: Collection[str]) -> list[str]:
    """Return those of these blobs that garbage collection removed from a repository within the last day, sorted."""
    found: set[str] = set()
    for some in batches(digests, IN_AT_ONCE):
        marks = ", ".join("?" * len(some))
        found.update(row[0] for row in snapshot.sql.plain(_REMOVED.format(marks), (repository_id, *some)).fetchall())
    return sorted(found)
