"""A registry loses its bucket to a restored one at any moment of a signature, and the two never sign two histories."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import obstore
import pytest

from boltseal.ledger.note import SigningKey, parse_note_unverified
from boltseal.server.registry.integrator import Integrator
from boltseal.server.registry.ledger_in_doubt import LedgerInDoubt
from boltseal.server.storage.bucket_owner import KEY, OWNER, BucketOwner, new_id, owner_now, take_over
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.metadata import bucket_rows
from boltseal.server.storage.metadata.bucket_rows import OwnerRow
from boltseal.server.storage.object_client import Bucket
from boltseal.server.storage.object_tiles import TILES, ObjectTiles
from tests.object_faults import FaultyServer, faulty
from tests.server.registry.ledgers import BareLedger
from tests.storage_choice import take_copy
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectServer

MOMENTS = 9
"""More than the requests of one signature (owner object, tile, bundle, checkpoint, each read or written): the last one is after it."""


class TakenBucket:
    """A bucket of a running registry, and a restored copy of that registry that takes the bucket over at some request.

    `former` reaches the bucket through a proxy, `restored` directly. Each has its own copy of the ledger's key and mark.
    """

    def __init__(self, folder: Path, server: ObjectServer, proxy: FaultyServer) -> None:
        prefix = uuid.uuid4().hex
        self.store = server.store(prefix)
        self._direct = Bucket(BUCKET, prefix, server.endpoint, "us-east-1", (ACCESS_KEY, SECRET_KEY))
        self._proxied = Bucket(BUCKET, prefix, proxy.endpoint, "us-east-1", (ACCESS_KEY, SECRET_KEY))
        self._proxy, self._requests, self.registry, self.taken = proxy, 0, new_id(), False
        for name in ("former", "restored"):
            (folder / name).mkdir()
        self.former = BareLedger(folder / "former" / "data")
        self.sign_with_bucket(self.former).claim()
        self.former.integrator.begin()
        self.former.add(3)
        self.former.integrator.integrate()
        self.former.database.close()
        take_copy(folder / "former" / "data", folder / "restored" / "data")
        shutil.copytree(self.former.keys.folder, folder / "restored" / "data.keys")
        self.former.reopen()
        self.sign_with_bucket(self.former)
        self.restored = BareLedger(folder / "restored" / "data")
        self.sign_with_bucket(self.restored, self._direct)
        row = OwnerRow(self.registry, claimed=True, rebuilding=False)
        self.restored.database.write_and_wait(lambda tx: bucket_rows.put_owner(tx, row))

    def sign_with_bucket(self, log: BareLedger, place: Bucket | None = None) -> BucketOwner:
        """Let a ledger be published in the bucket. `place`: how it reaches the bucket; None: through the proxy."""
        place = place or self._proxied
        owner = BucketOwner(log.database, place.connect(OWNER), "the bucket")
        log.integrator = Integrator(
            log.database, log.keys, objects=ObjectTiles(place.connect(TILES), "ledger"), owner=owner
        )
        return owner

    def take_over(self) -> None:
        """Give the bucket to the restored registry."""
        self.taken = True
        client = self._direct.connect(OWNER)
        take_over(client, self.registry, "the bucket", owner_now(client))

    def take_over_at(self, moment: int) -> None:
        """Give the bucket away right before this request of the former server, counted from now, reaches the object store."""

        def plan(_method: str, _path: str) -> None:
            if self._requests == moment:
                self._requests += 1
                self.take_over()
            else:
                self._requests += 1

        self._requests, self._proxy.plan = 0, plan

    def stated(self) -> int:
        """Return how many entries of the ledger were signed, or are about to be, by the owner object."""
        return int(json.loads(bytes(obstore.get(self.store, KEY).bytes()))["signing"]["ledger"]["size"])

    def tiles(self) -> set[str]:
        """Return the keys of all tiles and bundles."""
        return {
            each["path"] for page in obstore.list(self.store, "ledger") for each in page if "/tile/" in each["path"]
        }


@pytest.fixture
def bucket(tmp_path: Path, object_server: ObjectServer) -> Iterator[TakenBucket]:
    with faulty(object_server) as proxy:
        made = TakenBucket(tmp_path, object_server, proxy)
        yield made
        for log in (made.former, made.restored):
            log.database.close()


def refusal(log: BareLedger) -> str:
    """Sign what was added to a ledger. Return why that was refused, otherwise an empty text."""
    try:
        log.integrator.integrate()
    except LedgerInDoubt as error:
        return error.message
    return ""


def marked(log: BareLedger) -> int:
    """Return the size of the checkpoint that a server signed last."""
    return int((log.keys.mark() or b"").decode().split("\n")[1])


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_bucket_that_is_taken_during_a_signature_gets_one_history(bucket: TakenBucket, moment: int) -> None:
    """Either the former server signs nothing more, or the new owner finds what it signed stated, and signs nothing else."""
    before = bucket.former.head().size
    bucket.former.add(2)
    bucket.take_over_at(moment)
    refused = refusal(bucket.former)
    during = bucket.taken
    if not during:
        bucket.take_over()
    bucket.restored.add(1)
    restored_refused = refusal(bucket.restored)

    assert during or (refused == "" and bucket.former.head().size == before + 2)
    assert not during or moment < MOMENTS - 1
    if bucket.former.head().size > before:
        assert bucket.stated() == bucket.former.head().size
    if restored_refused:
        assert marked(bucket.restored) == bucket.restored.head().size == before
        assert moment > 0
    else:
        assert marked(bucket.former) == bucket.former.head().size == before
        assert "belongs to another registry" in refused


class PausedKeys(LedgerKeys):
    """Keys whose reader is paused after the next look at the mark, while `meanwhile` happens."""

    meanwhile: Callable[[], None] | None = None

    def mark(self) -> bytes | None:
        found, meanwhile, self.meanwhile = super().mark(), self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return found


def test_an_entry_that_comes_after_the_first_look_is_not_signed_without_the_bucket(bucket: TakenBucket) -> None:
    """If the bucket is taken, and then an entry added, while a signer reads the mark, the entry is neither signed nor published."""
    former, before, tiles = bucket.former, bucket.former.head().size, bucket.tiles()
    keys = former.keys = PausedKeys(former.keys.folder)
    bucket.sign_with_bucket(former).confirm()

    def taken() -> None:
        bucket.take_over()
        former.add(1)

    keys.meanwhile = taken
    refused = refusal(former)

    assert "belongs to another registry" in refused
    assert marked(former) == former.head().size == before
    assert bucket.tiles() == tiles


class KilledKeys(LedgerKeys):
    """Keys of a rotation that is killed after it replaced the key. `before_mark`: is called before the last mark is written."""

    before_mark: Callable[[], None]

    def put_mark(self, note: bytes, *, before: bytes | None) -> None:
        if len(parse_note_unverified(note).signatures) > 1:
            self.before_mark()
        super().put_mark(note, before=before)

    def put_key(self, key: SigningKey) -> None:
        super().put_key(key)
        raise KeyboardInterrupt


def test_a_key_that_a_killed_rotation_put_into_force_signs(bucket: TakenBucket) -> None:
    """If a rotation is killed after its last file, a server that compared the mark in between signs with the new key."""
    server, rotating = bucket.former, KilledKeys(bucket.former.keys.folder)
    rotating.before_mark = server.integrator.check
    with pytest.raises(KeyboardInterrupt):
        Integrator(server.database, rotating).rotate("operator", "")
    server.add(1)
    server.integrator.integrate()

    assert server.head() == server.expected()
