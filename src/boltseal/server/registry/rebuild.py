"""Rebuilds the database of a registry from its bucket and its keys, after the loss of the database.

The steps, each in pages that are committed one by one, so that a rebuild which was killed is continued by the next one:

1. The database must be empty, or have a rebuild that was not finished. It gets a new ID, and until the last step no server starts on it
   and no garbage collection deletes anything.
2. The ledger, and the log of observations: the newest of the published checkpoint and the high-water mark whose entries the bucket
   has. The note must be signed by the key in the folder of keys. All bundles are read and hashed. If their tree does not have the root
   that was signed, the rebuild ends here, and leaves the database as it was. Otherwise the owner object gets the new ID, so that a
   server which still works on the lost database deletes nothing any more. The bundles are read again, compared with the first reading,
   and stored.
3. The blobs, from the small index objects: of each digest the newest one whose objects exist and have its size.
4. The manifests, from their objects. Bytes that do not have the stated digest are reported and not used. A repository gets those
   blobs that its manifests refer to, and that it had by their objects. An object of format 1 does not state these, and gives none.
5. The last entries of the ledger, and with them in one transaction the tags, as `recovery.restore_tags` sets them. Until then
   the database has fewer entries than were signed, so a server that is connected to it nevertheless takes no push.

Only what a digest or a signature proves is trusted, with these exceptions: which repository a manifest is of, which of its blobs the
repository had, and who pushed it when. Only the owner object is written in the bucket.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Final, NamedTuple

from boltseal.ledger.checkpoint import Checkpoint
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import LinkKind, Manifest, ManifestInvalid, parse_manifest
from boltseal.oci.mediatype import MediaTypeInvalid
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.rules import RuleSet
from boltseal.server.auth.actor import Actor
from boltseal.server.registry.manifests import add_row
from boltseal.server.registry.models import ManifestPush, PushedManifest, RepositoryRow
from boltseal.server.registry.rebuilt_logs import RebuildRefused, RebuiltLogs, SignedLog, set_rules
from boltseal.server.registry.recovery import restore_recorded
from boltseal.server.registry.tag_writer import TagWriter
from boltseal.server.storage.batches import batches
from boltseal.server.storage.blobs.object_contents import MOST_INDEX_BYTES, parse_index
from boltseal.server.storage.bucket_owner import BucketOwner, new_id
from boltseal.server.storage.findings import FindingCollector
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.metadata import (
    blob_keys,
    bucket_rows,
    layer_chain_table,
    object_names,
    queries,
)
from boltseal.server.storage.metadata.blob_keys import BlobRow, ObjectPart
from boltseal.server.storage.metadata.bucket_rows import OwnerRow
from boltseal.server.storage.metadata.object_names import INDEX, MANIFESTS
from boltseal.server.storage.metadata.protocol import LEDGER, OBSERVATIONS, Log, Metadata, Snapshot, UnitOfWork
from boltseal.server.storage.object_client import READS_AT_ONCE, ListedObject, ObjectClient
from boltseal.server.storage.object_manifests import (
    MOST_BYTES,
    ManifestCopy,
    ManifestObjectInvalid,
    decode,
)
from boltseal.server.storage.object_tiles import ObjectTiles

ROWS_AT_ONCE: Final = 100
_is_index_key = re.compile(r"index/(sha256/[0-9a-f]{64}|sha512/[0-9a-f]{128})/[0-9a-f]{32}").fullmatch
_is_blob_key = re.compile(r"blobs/[0-9a-f]{32}").fullmatch
_is_manifest_key = re.compile(r"manifests/[0-9a-f]{32}").fullmatch


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was restored. `entries`: the size of the ledger. `tags`, `manifests`, `blobs`: those that this run restored."""

    entries: int
    tags: int
    manifests: int
    blobs: int


class _IndexObjects(NamedTuple):
    """A blob and its index objects, the newest first."""

    digest: Digest
    objects: list[ListedObject]


class _ChosenBlob(NamedTuple):
    """A blob as its row will be; `row` None: `problem` says why it can't be restored."""

    digest: Digest
    row: BlobRow | None
    parts: list[ObjectPart]
    problem: str


class Rebuild:
    """One rebuild. `rules`: of the configuration, which the ledger recorded last. `findings`: what could not be restored."""

    def __init__(
        self,
        database: Metadata,
        client: ObjectClient,
        tiles: Mapping[Log, ObjectTiles],
        keys: LedgerKeys,
        owner: BucketOwner,
        rules: RuleSet,
        findings: FindingCollector,
    ) -> None:
        self._database = database
        self._client = client
        self._keys = keys
        self._owner = owner
        self._rules = rules
        self._tag_writer = TagWriter(rules)
        self._findings = findings
        self._reads = ThreadPoolExecutor(READS_AT_ONCE, thread_name_prefix="boltseal-rebuild")
        self._logs = RebuiltLogs(database, tiles, self._reads, findings)

    def run(self) -> Rebuilt:
        """Do all steps. Blocks.

        Raises:
            RebuildRefused: as its description says; what was restored before stays, for the next run.
            BoltsealError: bucket, database or keys do not answer.
        """
        with self._reads:
            self._begin()
            try:
                ledger = self._logs.signed(LEDGER, self._keys)
                observed = self._logs.signed(OBSERVATIONS, self._keys.of(OBSERVATIONS.name))
                if ledger is None:
                    raise RebuildRefused(
                        "the bucket has no signed ledger, and the mark none that the bucket has: there is nothing to rebuild from; "
                        "check [storage] blobs and the folder of keys"
                    )
            except RebuildRefused:
                self._database.write_and_wait(_forget)
                raise
            self._owner.begin_rebuild()
            self._logs.restore(LEDGER, ledger, without_last=True)
            if observed is not None:
                self._logs.restore(OBSERVATIONS, observed)
            blobs = self._blobs()
            manifests = self._manifests()
            tags = self._database.write_and_wait(partial(self._complete, signed=ledger), limited=False)
        return Rebuilt(ledger.head.size, tags, manifests, blobs)

    # 1

    def _begin(self) -> None:
        # Also read where it is not compared: it must be an owner object that this version can read.
        registry = self._owner.registry()

        def begin(tx: UnitOfWork) -> None:
            known = bucket_rows.owner(tx)
            if known is not None and known.rebuilding:
                return
            if known is not None and registry not in (None, known.registry):
                raise RebuildRefused(
                    f"the database is of the registry {known.registry}, but the bucket is of {registry}: name that registry's bucket "
                    "with [storage] blobs, or begin with an empty database"
                )
            if not bucket_rows.is_empty(tx):
                raise RebuildRefused(
                    "the database is not empty (it has repositories, a ledger or blobs), and a rebuild needs an empty one; to rebuild "
                    "nevertheless, name a new database with [storage] database, or a new data folder with --data"
                )
            begun = known or OwnerRow(new_id(), claimed=False, rebuilding=True)
            bucket_rows.put_owner(tx, begun._replace(rebuilding=True))

        self._database.write_and_wait(begin)

    # 3

    def _blobs(self) -> int:
        restored = 0
        for some in batches(self._index_objects(), ROWS_AT_ONCE):
            missing = self._database.read_and_wait(partial(_without_row, some=some))
            chosen = list(self._reads.map(self._choose, missing))
            added = self._database.write_and_wait(partial(_add_blobs, chosen=chosen), limited=False)
            restored += added.count
            self._report(added)
            self._findings.passed("blobs", restored, 0, every=1)
        return restored

    def _index_objects(self) -> Iterator[_IndexObjects]:
        """Yield each blob with its index objects, the newest first."""
        listed = (each for page in self._client.listed(INDEX) for each in page if _is_index_key(each.key))
        for folder, found in groupby(listed, key=lambda each: each.key.rpartition("/")[0]):
            _, algorithm, hexed = folder.split("/")
            newest_first = sorted(found, key=lambda each: -each.written_us)
            yield _IndexObjects(Digest.parse(f"{algorithm}:{hexed}"), newest_first)

    def _choose(self, blob: _IndexObjects) -> _ChosenBlob:
        problems = []
        for each in blob.objects:
            try:
                if each.size > MOST_INDEX_BYTES:
                    raise RebuildRefused(f"it has {each.size} bytes, expected at most {MOST_INDEX_BYTES}")
                parts = self._parts(blob.digest, each.key)
            except RebuildRefused as error:
                problems.append(f"{each.key}: {error.message}")
                continue
            size = sum(part.size for part in parts)
            row = BlobRow(str(blob.digest), size, each.written_us, uuid.uuid4().hex, each.key)
            return _ChosenBlob(blob.digest, row, parts, "")
        return _ChosenBlob(blob.digest, None, [], "; ".join(problems))

    def _parts(self, digest: Digest, key: str) -> list[ObjectPart]:
        """Return the objects that an index object names, all of which exist. Raises: RebuildRefused: it can't be used."""
        found = self._client.get(key, MOST_INDEX_BYTES)
        try:
            parts = parse_index(b"" if found is None else found.content, digest)
            valid = all(_is_blob_key(part.key) and type(part.size) is int and part.size > 0 for part in parts)
        except (ValueError, KeyError, TypeError) as error:
            raise RebuildRefused(f"it is no index object of this blob ({type(error).__name__})") from error
        if not valid or len({part.key for part in parts}) < len(parts):
            raise RebuildRefused("it names objects that no blob can have")
        for part in parts:
            size = self._client.size_and_wait(part.key)
            if size != part.size:
                got = "is missing" if size is None else f"has {size} bytes, expected {part.size}"
                raise RebuildRefused(f"the object {part.key} {got}")
        return parts

    # 4

    def _manifests(self) -> int:
        restored = 0
        for page in self._client.listed(MANIFESTS):
            keys = [each.key for each in page if _is_manifest_key(each.key) and self._fits(each)]
            keys = self._database.read_and_wait(partial(bucket_rows.unnamed_manifests, keys=keys))
            for some in batches(keys, ROWS_AT_ONCE):
                copies = [
                    (key, copy) for key, copy in zip(some, self._reads.map(self._copy, some), strict=True) if copy
                ]
                added = self._database.write_and_wait(partial(_add_manifests, copies=copies), limited=False)
                restored += added.count
                self._report(added)
                self._findings.passed("manifests", restored, 0, every=1)
        return restored

    def _fits(self, listed: ListedObject) -> bool:
        """Return whether an object is as small as those of manifests are, and report it if not."""
        if listed.size > MOST_BYTES:
            self._findings.differs(
                f"object {listed.key}", f"it is not used: it has {listed.size} bytes, expected at most {MOST_BYTES}"
            )
        return listed.size <= MOST_BYTES

    def _copy(self, key: str) -> ManifestCopy | None:
        found = self._client.get(key, MOST_BYTES)
        if found is None:
            return None  # deleted since it was listed
        try:
            return decode(found.content)
        except ManifestObjectInvalid as error:
            self._findings.differs(f"object {key}", f"it is not used: {error.message}")
            return None

    def _report(self, added: _Added) -> None:
        for what, problem in added.problems:
            self._findings.differs(what, problem)

    # 5

    def _complete(self, tx: UnitOfWork, signed: SignedLog) -> int:
        """Add what no page may add before all others, and let servers start."""
        self._logs.add_last(tx, LEDGER, signed)
        tags = self._tags(tx, signed.head)
        self._owner.end_rebuild(tx)
        self._findings.passed("tags", tags, tags, every=1)
        return tags

    def _tags(self, tx: UnitOfWork, signed: Checkpoint) -> int:
        changed = restore_recorded(tx, self._tag_writer, signed)
        for text in changed:
            name, _, tag = text.rpartition(":")
            number = queries.lock_repository(tx, name)
            if number is None:
                raise AssertionError(f"{name} has a tag and no row")
            row = RepositoryRow(Repository(name), number)
            image, digest = (
                self._tag_writer.signed_image(tx, row, Tag(tag)),
                self._tag_writer.digest_of(tx, row, Tag(tag)),
            )
            if image is not None and digest is not None and queries.find_manifest(tx, number, str(digest)) is not None:
                queries.add_link(tx, number, str(digest), str(image), str(LinkKind.SIGNATURE_TAG))
        set_rules(tx, self._rules.canonical())
        return len(changed)


@dataclass(frozen=True, slots=True)
class _Added:
    """How many blobs or manifests one transaction added, and what is wrong with others."""

    count: int
    problems: list[tuple[str, str]]


def _forget(tx: UnitOfWork) -> None:
    """Leave the database as it was, if nothing was restored: a server may start on it."""
    known = bucket_rows.owner(tx)
    if known is None or not bucket_rows.is_empty(tx):
        return
    if known.claimed:  # it was the owner before, and is empty
        bucket_rows.put_owner(tx, known._replace(rebuilding=False))
    else:
        bucket_rows.remove_owner(tx)


def _without_row(snapshot: Snapshot, some: Iterable[_IndexObjects]) -> list[_IndexObjects]:
    return [each for each in some if blob_keys.find(snapshot, str(each.digest)) is None]


def _add_blobs(tx: UnitOfWork, chosen: Iterable[_ChosenBlob]) -> _Added:
    count, problems = 0, list[tuple[str, str]]()
    for blob in chosen:
        problem = blob.problem
        if blob.row is not None and len(object_names.unnamed(tx, [part.key for part in blob.parts])) == len(blob.parts):
            blob_keys.put(tx, blob.row, blob.parts)
            count += 1
            continue
        problems.append(
            (f"blob {blob.digest}", f"it can't be restored: {problem or 'another blob has one of its objects'}")
        )
    return _Added(count, problems)


def _add_manifests(tx: UnitOfWork, copies: list[tuple[str, ManifestCopy]]) -> _Added:
    count, problems = 0, list[tuple[str, str]]()
    for key, copy in copies:
        what = f"{copy.repository}@{copy.digest}"
        try:
            manifest = parse_manifest(copy.raw, copy.media_type)
        except (ManifestInvalid, MediaTypeInvalid) as error:
            problems.append((what, f"its object {key} is not used: {error.message}"))
            continue
        number = queries.ensure_repository(tx, copy.repository, None)
        stored = queries.find_manifest(tx, number, str(copy.digest))
        if stored is None:
            pushed = PushedManifest.of(manifest, copy.digest)
            add_row(
                tx, number, ManifestPush(Repository(copy.repository), pushed, (), Actor(copy.pushed_by)), copy.pushed_us
            )
            layer_chain_table.put(tx, number, str(copy.digest), None)
            count += 1
        elif stored.media_type != copy.media_type:
            problems.append(
                (what, f"two objects have it, as {stored.media_type} and {copy.media_type}: the first is used")
            )
            continue
        if copy.parts is None:
            problems.append(
                (
                    what,
                    f"its object {key} does not say which of its blobs {copy.repository} had (it has format 1), so the repository "
                    "gets none of them from it; push the image again",
                )
            )
        _add_parts(tx, number, manifest, key, copy)
    return _Added(count, problems)


def _add_parts(tx: UnitOfWork, repository_id: int, manifest: Manifest, key: str, copy: ManifestCopy) -> None:
    """Give a repository the blobs that it had according to a manifest's object, and let the manifest's row name the object.

    A manifest can have several objects: one that is outdated is deleted within an hour. An object is dead in a day if the manifest
    has one already, or if the repository has other parts of it than the object states.
    """
    parts = copy.parts or frozenset()
    for digest in sorted({link.descriptor.digest for link in manifest.references()} & parts, key=str):
        blob = blob_keys.find(tx, str(digest))
        if blob is not None:
            queries.add_blob(tx, repository_id, blob.digest, blob.size, copy.pushed_by)
    blob_keys.forget_dead(tx, [key])  # a former run of this rebuild may have marked it
    stated = copy.parts is not None
    if not (stated and bucket_rows.put_manifest(tx, repository_id, str(copy.digest), key, parts)):
        blob_keys.announce(tx, [key])
