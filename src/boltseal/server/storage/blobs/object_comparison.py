"""Compares the objects of a store with the rows that name them: a merge of two lists in the order of keys. Reads only.

Neither list is of one moment, so each difference is looked at again before it is yielded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Final

from boltseal.server.storage.blobs import object_contents
from boltseal.server.storage.blobs.object_contents import WRITE_AGAIN, is_compared
from boltseal.server.storage.blobs.protocol import ComparedPage, DifferenceKind, StoreDifference
from boltseal.server.storage.metadata import object_names
from boltseal.server.storage.metadata.object_names import NamedKey
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot
from boltseal.server.storage.object_client import ListedObject, ObjectClient
from boltseal.server.storage.object_tiles import KEYS as LOG_KEYS

ROWS_AT_ONCE: Final = 1000
KEYS_AT_ONCE: Final = 1000
NAMED_KEYS: Final = re.compile(
    r"(blobs|manifests)/[0-9a-f]{32}|index/sha(256/[0-9a-f]{64}|512/[0-9a-f]{128})/[0-9a-f]{32}"
)
"""The objects that rows name. Only such are ever deleted."""
KEYS: Final = re.compile(rf"{NAMED_KEYS.pattern}|health|owner(\.probe)?")
"""What a blob store writes below its prefix. The objects of the ledger are beside it (`object_tiles`)."""

_PUT_BACK: Final = "; restore an older version of the object, or push the blob again"

Query = Callable[[Snapshot, str, int], list[NamedKey]]
Pair = tuple[ListedObject | None, NamedKey | None]


def compare(database: Metadata, client: ObjectClient, after: str, *, contents: bool) -> Iterator[ComparedPage]:
    """Yield the differences after a key, page by page, to the end. `contents`: read what a rebuild needs.

    Raises: StoreBroken, Unavailable.
    """
    pairs = merge(_listed(client, after), _named(database, after))
    while some := list(islice(pairs, KEYS_AT_ONCE)):
        last_listed, last_named = some[-1]
        position = last_listed.key if last_listed is not None else last_named.key if last_named is not None else ""
        differences = [*_differences(database, client, some)]
        if contents:
            there = (named for listed, named in some if listed is not None and named is not None)
            differences += object_contents.damaged(database, client, filter(object_contents.is_compared, there))
        yield ComparedPage(position, len(some), tuple(differences))


def merge(listed: Iterator[ListedObject], named: Iterator[NamedKey]) -> Iterator[Pair]:
    """Yield each key once, with the object and the row that have it. Both are in the order of keys."""
    one, other = next(listed, None), next(named, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one.key < other.key):
            yield one, None
            one = next(listed, None)
        elif one is None or other.key < one.key:
            yield None, other
            other = next(named, None)
        else:
            yield one, other
            one, other = next(listed, None), next(named, None)


def _listed(client: ObjectClient, after: str) -> Iterator[ListedObject]:
    for page in client.listed("", after):
        yield from page


def _named(database: Metadata, after: str) -> Iterator[NamedKey]:
    yield from _paged(database, object_names.bytes_after, after)
    yield from _paged(database, object_names.indexes_after, after)
    yield from _paged(database, object_names.manifests_after, after)


def _page(snapshot: Snapshot, query: Query, after: str) -> list[NamedKey]:
    return query(snapshot, after, ROWS_AT_ONCE)


def _paged(database: Metadata, query: Query, after: str) -> Iterator[NamedKey]:
    last = ""
    while rows := database.read_and_wait(partial(_page, query=query, after=after)):
        for row in rows:
            if row.key != last:  # moved from one table to another between two pages
                yield row
            last = row.key
        after = last


def _differences(database: Metadata, client: ObjectClient, pairs: list[Pair]) -> Iterator[StoreDifference]:
    only_listed = [listed for listed, named in pairs if listed is not None and named is None]
    ours = [each.key for each in only_listed if NAMED_KEYS.fullmatch(each.key)]
    unnamed = set(database.read_and_wait(partial(object_names.unnamed, keys=ours)))
    for each in only_listed:
        if each.key in unnamed:
            yield StoreDifference(
                DifferenceKind.UNREFERENCED, each.key, each.size, each.written_us, "an object that no row names"
            )
        elif not KEYS.fullmatch(each.key) and not LOG_KEYS.fullmatch(each.key):
            yield StoreDifference(
                DifferenceKind.FOREIGN, each.key, each.size, each.written_us, "an object that boltseal did not write"
            )
    for listed, named in pairs:
        if named is not None and named.owner is not None and not _fits(listed, named):
            yield from _named_wrong(database, client, named)


def _fits(listed: ListedObject | None, named: NamedKey) -> bool:
    return listed is not None and named.size in (None, listed.size)


def _named_wrong(database: Metadata, client: ObjectClient, named: NamedKey) -> Iterator[StoreDifference]:
    """Look again at an object that is missing or has another size than its row says, and at its row."""
    size = client.size_and_wait(named.key)
    query = object_names.query_of(named.key)
    now = database.read_and_wait(partial(_page, query=query, after=named.key[:-1]))
    if named not in now or (size is not None and named.size in (None, size)):
        return
    if size is None:
        advice = f", from which a lost database is rebuilt; {WRITE_AGAIN}" if is_compared(named) else _PUT_BACK
        yield StoreDifference(DifferenceKind.MISSING, named.key, 0, 0, f"an object of {named.owner} is missing{advice}")
    else:
        problem = f"an object of {named.owner} has {size} bytes, its row says {named.size}{_PUT_BACK}"
        yield StoreDifference(DifferenceKind.WRONG_SIZE, named.key, size, 0, problem)
