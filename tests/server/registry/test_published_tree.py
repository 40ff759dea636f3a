"""The tree of a log as objects of a real S3 server: complete for each checkpoint, whenever a process dies."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from boltseal.ledger.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from boltseal.ledger.merkle import leaf_hash
from boltseal.ledger.note import MAX_NOTE_BYTES, SigningKey, parse_note_unverified
from boltseal.ledger.tiles import TILE_LEVELS, WIDTH, BundleId, TileId, Tiles, parse_bundle
from boltseal.server.registry.integrator import Integrator
from boltseal.server.registry.ledger import Ledger
from boltseal.server.registry.ledger_in_doubt import LedgerInDoubt
from boltseal.server.registry.published_tree import PublishedAhead, PublishedTree
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.ledger_mark import MARK, ObjectMark
from boltseal.server.storage.metadata import ledger_tree
from boltseal.server.storage.metadata.protocol import LEDGER
from boltseal.server.storage.object_client import Bucket, ObjectClient
from boltseal.server.storage.object_tiles import TILES, ObjectTiles, TilesUnavailable
from tests.ledger.tree_oracle import mth
from tests.ports import free_port
from tests.server.registry.ledgers import ORIGIN, BareLedger
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectServer

DIES = """
import os, signal, sys
from pathlib import Path
from boltseal.server.registry.integrator import Integrator
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.ledger_mark import MARK, ObjectMark
from boltseal.server.storage.object_client import Bucket, ObjectClient
from boltseal.server.storage.object_tiles import TILES, ObjectTiles
from tests.server.registry.ledgers import BareLedger

step, data, bucket, prefix, endpoint, key, secret = sys.argv[1:]

def die(at):
    if at == step:
        os.kill(os.getpid(), signal.SIGKILL)

class Tiles(ObjectTiles):
    def put(self, origin, files):
        die("before the tiles")
        super().put(origin, dict(list(files.items())[:1]))
        die("after one tile")
        super().put(origin, files)
        die("after the tiles")

    def put_checkpoint(self, origin, note, replaces):
        die("before the object of the checkpoint")
        super().put_checkpoint(origin, note, replaces)
        die("after the object of the checkpoint")

class Mark(ObjectMark):
    def replace(self, note, before):
        super().replace(note, before)
        die("after the mark")

place = Bucket(bucket, prefix, endpoint, "us-east-1", (key, secret))
log = BareLedger(Path(data))
keys = LedgerKeys(Path(data).with_name("data.keys"), marks=lambda name: Mark(place.connect(MARK), f"{name}.mark"))
log.add(300)
Integrator(log.database, keys, objects=Tiles(place.connect(TILES), "ledger")).integrate()
"""
STEPS = [
    "before the tiles",
    "after one tile",
    "after the tiles",
    "after the mark",
    "before the object of the checkpoint",
    "after the object of the checkpoint",
]


@pytest.fixture
def place(object_server: ObjectServer) -> Bucket:
    """A prefix of its own."""
    return Bucket(BUCKET, uuid.uuid4().hex, object_server.endpoint, "us-east-1", (ACCESS_KEY, SECRET_KEY))


@pytest.fixture
def objects(place: Bucket) -> ObjectTiles:
    return ObjectTiles(place.connect(TILES), "ledger")


@pytest.fixture
def open_log(tmp_path: Path, place: Bucket) -> Iterator[Callable[[], BareLedger]]:
    """Open the ledger as a process does that starts."""
    opened: list[BareLedger] = []

    def open_() -> BareLedger:
        log = BareLedger(tmp_path / "data")
        marks = place.connect(MARK)
        log.keys = LedgerKeys(tmp_path / "data.keys", marks=lambda name: ObjectMark(marks, f"{name}.mark"))
        log.integrator = Integrator(log.database, log.keys, objects=ObjectTiles(place.connect(TILES), "ledger"))
        log.integrator.begin()
        opened.append(log)
        return log

    yield open_
    for log in opened:
        log.database.close()


FOLDER = f"ledger/{hashlib.sha256(ORIGIN.encode()).hexdigest()}"
CHECKPOINT = f"{FOLDER}/checkpoint"


def key_of(log: BareLedger) -> SigningKey:
    """Return the key of the ledger."""
    key = log.keys.key()
    assert key is not None
    return key


def published(log: BareLedger, objects: ObjectTiles) -> Checkpoint:
    """Return the published checkpoint, after its signature, entries and every tile of its tree were verified."""
    key = log.keys.key()
    assert key is not None
    head = open_checkpoint(objects.checkpoint(ORIGIN) or b"", key.verifier).checkpoint
    lines: list[bytes] = []
    for index in range(-(-head.size // WIDTH)):
        bundle = BundleId(index, min(WIDTH, head.size - index * WIDTH))
        lines += parse_bundle(objects.get(ORIGIN, bundle.path()) or b"", bundle.width)
    held, level = {}, 0
    while head.size >> (TILE_LEVELS * level):
        nodes = head.size >> (TILE_LEVELS * level)
        for index in range(-(-nodes // WIDTH)):
            tile = TileId(level, index, min(WIDTH, nodes - index * WIDTH))
            held[tile] = objects.get(ORIGIN, tile.path()) or b""
        level += 1
    leaves = b"".join(held[tile] for tile in sorted(held) if tile.level == 0)

    assert leaves == b"".join(map(leaf_hash, lines))
    assert Tiles(head.size, held).root() == head.root == mth(lines)
    return head


def test_every_published_checkpoint_has_all_of_its_tiles(
    open_log: Callable[[], BareLedger], objects: ObjectTiles
) -> None:
    """At sizes around full tiles, standard tools find the signed tree with its entries, and nothing but it."""
    log = open_log()
    for more in (1, 253, 1, 1, 255, 1):
        log.add(more)
        log.integrator.integrate()

        assert published(log, objects) == log.head() == log.expected()


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_leaves_one_history(
    open_log: Callable[[], BareLedger], objects: ObjectTiles, place: Bucket, tmp_path: Path, step: str
) -> None:
    """After kill -9 at each step of a signature, what is published is whole, and the next process continues without a gap."""
    log = open_log()
    log.add(200)
    log.integrator.integrate()
    assert place.endpoint is not None
    died = subprocess.run(
        [
            sys.executable,
            "-c",
            DIES,
            step,
            str(tmp_path / "data"),
            place.name,
            place.prefix,
            place.endpoint,
            ACCESS_KEY,
            SECRET_KEY,
        ],
        check=False,
    )
    between = published(log, objects)
    key = log.keys.key()
    assert key is not None
    signed = open_checkpoint(log.keys.mark() or b"", key.verifier).checkpoint
    started = open_log()
    started.integrator.integrate()
    first = published(started, objects)
    started.add(1)
    started.integrator.integrate()
    lines = started.lines()

    assert died.returncode == -9
    assert between.root == mth(lines[: between.size])
    assert signed.root == mth(lines[: signed.size])
    assert (between.size, signed.size) in {(201, 201), (201, 501), (501, 501)}
    assert first.size == 501
    assert published(started, objects) == started.head() == started.expected()


def test_a_ledger_from_before_the_object_store_is_published_whole(
    open_log: Callable[[], BareLedger], objects: ObjectTiles, tmp_path: Path
) -> None:
    """When the object store is configured later, all older tiles are published, also in several chunks."""
    log = open_log()
    without = Integrator(log.database, log.keys)
    for more in (300, 450):
        log.add(more)
        without.integrate()
    head = log.database.read_and_wait(ledger_tree.head)
    assert head is not None
    PublishedTree(log.database, objects, LEDGER, chunk=WIDTH).publish(ORIGIN, head.note, key_of(log).verifier)
    first = published(log, objects)
    log.add(600)
    log.integrator.integrate()

    assert first.size == 751
    assert published(log, objects) == log.expected()


def test_new_tiles_are_published_in_chunks_before_they_are_stored(
    open_log: Callable[[], BareLedger], objects: ObjectTiles
) -> None:
    """Many new entries at once are published piece by piece, although their tiles are not in the database yet."""
    log = open_log()
    log.add(100)
    log.integrator.integrate()
    log.integrator._published = PublishedTree(log.database, objects, LEDGER, chunk=WIDTH)
    log.add(900)
    log.integrator.integrate()

    assert published(log, objects) == log.expected()


def test_a_tile_with_other_bytes_stops_the_signer(open_log: Callable[[], BareLedger], objects: ObjectTiles) -> None:
    """An object that is not what the database has means that entries were lost: nothing is signed, and it stays as it is."""
    log = open_log()
    log.add(5)
    log.integrator.integrate()
    before = log.head()
    log.add(2)
    path = BundleId(0, before.size + 2).path()
    objects.put(ORIGIN, {path: b"another history"})
    with pytest.raises(LedgerInDoubt, match="about to be signed are missing or were replaced"):
        log.integrator.integrate()

    assert log.head() == before == published(log, objects)
    assert objects.get(ORIGIN, path) == b"another history"


def test_a_published_checkpoint_is_never_replaced_by_an_older_one(
    open_log: Callable[[], BareLedger], objects: ObjectTiles
) -> None:
    """A process that is late does not replace a newer checkpoint by its older one, and names the newer one."""
    log = open_log()
    log.add(4)
    log.integrator.integrate()
    older = sign_checkpoint(Checkpoint(ORIGIN, 2, mth(log.lines()[:2])), key_of(log))
    with pytest.raises(PublishedAhead, match="of 5 entries"):
        PublishedTree(log.database, objects, LEDGER).publish(ORIGIN, older, key_of(log).verifier)

    assert published(log, objects).size == 5


def test_a_checkpoint_that_others_changed_is_read_again(place: Bucket, objects: ObjectTiles) -> None:
    """A process knows which checkpoint it has published, but not what others did since: it looks again before it replaces it."""
    notes = [
        sign_checkpoint(Checkpoint(ORIGIN, size, bytes(32)), SigningKey(ORIGIN, bytes(32))) for size in range(1, 5)
    ]
    other, asked = ObjectTiles(place.connect(TILES), "ledger"), list[bytes]()

    def replaces(found: bytes) -> bool:
        asked.append(found)
        return found != notes[2]

    objects.put_checkpoint(ORIGIN, notes[0], replaces)
    place.connect(TILES).delete_and_wait([CHECKPOINT])
    for _ in range(2):
        with suppress(TilesUnavailable):  # a server may answer that the object is gone; the signer tries again
            objects.put_checkpoint(ORIGIN, notes[1], replaces)
    first = other.checkpoint(ORIGIN)
    other.put_checkpoint(ORIGIN, notes[2], replaces)
    objects.put_checkpoint(ORIGIN, notes[3], replaces)

    assert first == notes[1]
    assert asked[-1] == other.checkpoint(ORIGIN) == notes[2]


class WatchedTiles(ObjectTiles):
    """Records what is written. `fails`: raise before or after the object of a checkpoint with two signatures is written."""

    def __init__(self, client: ObjectClient, fails: str = "") -> None:
        super().__init__(client, "ledger")
        self.written: list[str] = []
        self.fails = fails

    def put(self, origin: str, files: Mapping[str, bytes]) -> None:
        """Write tiles and bundles."""
        self.written += files
        super().put(origin, files)

    def put_checkpoint(self, origin: str, note: bytes, replaces: Callable[[bytes], bool]) -> None:
        """Write the object of a checkpoint."""
        fails = len(parse_note_unverified(note).signatures) == 2 and self.fails
        if fails == "before":
            raise TilesUnavailable("not done")
        super().put_checkpoint(origin, note, replaces)
        if fails == "after":
            raise TilesUnavailable("done, and the answer was lost")


@pytest.mark.parametrize("restarted", [True, False])
def test_a_rotation_in_another_process_leaves_nothing_to_write_again(
    open_log: Callable[[], BareLedger], objects: ObjectTiles, place: Bucket, *, restarted: bool
) -> None:
    """A server takes over the checkpoint that `ledger rotate` published: no warning, and no older tile is written again."""
    log = open_log()
    log.add(2 * WIDTH)
    log.integrator.integrate()
    open_log().integrator.rotate("operator", "once a year")
    tiles = WatchedTiles(place.connect(TILES))
    if restarted:
        log = open_log()
        log.integrator = Integrator(log.database, log.keys, objects=tiles)
    with capture_logs() as logged:
        log.integrator.integrate()
        log.add(1)
        log.integrator.integrate()

    assert logged == []
    assert published(log, objects) == log.head() == log.expected()
    assert not [path for path in tiles.written if ".p/" not in path]


@pytest.mark.parametrize("fails", ["before", "after"])
def test_a_rotation_that_can_not_publish_leaves_the_old_key_in_force(
    open_log: Callable[[], BareLedger], objects: ObjectTiles, place: Bucket, fails: str
) -> None:
    """If the object of the checkpoint can't be written, or its answer is lost, the old key stays until a signer has published it."""
    log, command = open_log(), open_log()
    log.add(5)
    log.integrator.integrate()
    old = key_of(log)
    tiles = WatchedTiles(place.connect(TILES), fails)
    command.integrator = Integrator(command.database, command.keys, objects=tiles)
    with pytest.raises(TilesUnavailable):
        command.integrator.rotate("operator", "once a year")
    kept = key_of(log)
    with capture_logs() as logged:
        log.integrator.integrate()
        between = published(log, objects)
        tiles.fails = ""
        new = command.integrator.rotate("operator", "once more")
        log.integrator.integrate()

    assert (kept, key_of(log)) == (old, new)
    assert between.size == 7
    assert logged == []
    assert published(log, objects) == log.head() == log.expected()


HOSTILE = {
    "empty": b"",
    "no note": b"a hostile object",
    "no text": bytes(range(256)),
    "of another key": sign_checkpoint(Checkpoint(ORIGIN, 1_000_000, bytes(32)), SigningKey(ORIGIN, b"x" * 32)),
    "of another key, and small": sign_checkpoint(Checkpoint(ORIGIN, 1, bytes(32)), SigningKey(ORIGIN, b"x" * 32)),
    "unsigned": f"{ORIGIN}\n1000000\n{'A' * 43}=\n".encode(),
    "too large": b"A" * (MAX_NOTE_BYTES + 1),
}


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("restarted", [True, False])
def test_a_published_checkpoint_without_a_valid_signature_proves_nothing(
    open_log: Callable[[], BareLedger], objects: ObjectTiles, place: Bucket, hostile: str, *, restarted: bool
) -> None:
    """If an attacker replaces the object, or it is damaged, the ledger continues and everything is published again."""
    log = open_log()
    log.add(4)
    log.integrator.integrate()
    place.connect(TILES).delete_and_wait([f"{FOLDER}/{BundleId(0, 5).path()}"])
    place.connect(TILES).put_and_wait(CHECKPOINT, HOSTILE[hostile])
    if restarted:
        log = open_log()
        log.integrator.integrate()
        assert published(log, objects).size == 5
    log.add(3)
    log.integrator.integrate()

    assert published(log, objects) == log.head() == log.expected()


@pytest.mark.parametrize("size", [3, 5, 6, 7, 1000])
@pytest.mark.parametrize("more", [0, 1, 2])
def test_a_signed_checkpoint_that_is_not_of_this_ledger_stops_the_signer(
    open_log: Callable[[], BareLedger], objects: ObjectTiles, place: Bucket, size: int, more: int
) -> None:
    """Data and mark are an old copy, and the bucket is not: nothing is signed, and the published checkpoint stays."""
    log = open_log()
    log.add(4)
    log.integrator.integrate()
    before, signed = log.head(), log.keys.mark()
    other = sign_checkpoint(Checkpoint(ORIGIN, size, b"r" * 32), key_of(log))
    place.connect(TILES).put_and_wait(CHECKPOINT, other)
    started = open_log()
    if more:
        started.add(more)
    with pytest.raises(LedgerInDoubt, match="signed with this ledger's key"):
        started.integrator.integrate()

    assert objects.checkpoint(ORIGIN) == other
    assert (started.head(), started.keys.mark()) == (before, signed)


async def test_the_api_reads_tiles_from_the_objects(open_log: Callable[[], BareLedger], objects: ObjectTiles) -> None:
    """A tile comes from the object store, one that is not published from the database, and none without an answer."""
    log = open_log()
    log.add(3)
    log.integrator.integrate()
    path = BundleId(0, 2).path()  # of a size that was never signed
    objects.put(ORIGIN, {path: b"an object"})
    ledger = Ledger(log.database, LEDGER, objects)
    nowhere = Bucket(BUCKET, "", f"http://127.0.0.1:{free_port()}", "us-east-1", ("a", "b"))
    without_answer = Ledger(log.database, LEDGER, ObjectTiles(nowhere.connect(TILES), "ledger"))
    read = [await ledger.tile(BundleId(0, 2)), await ledger.tile(BundleId(0, 4)), await ledger.tile(TileId(0, 0, 3))]
    with pytest.raises(TilesUnavailable):
        await without_answer.tile(BundleId(0, 4))

    assert read[0] == b"an object"
    assert parse_bundle(read[1], 4) == tuple(log.lines())
    assert read[2] == b"".join(map(leaf_hash, log.lines()[:3]))
