"""fsck reports each contradiction by name, and nothing about a consistent store."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import sqlite3
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest

from boltseal.errors import Invalid
from boltseal.ledger.entry import EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.server.auth.actor import Actor
from boltseal.server.registry import sequencer
from boltseal.server.registry.models import UNCONDITIONAL
from boltseal.server.storage.blobs.local_store import LocalBlobs
from boltseal.server.storage.blobs.protocol import StoreBroken, StoreUnanswered
from boltseal.server.storage.coordination.file_leases import FileLeases
from boltseal.server.storage.fsck import Examined, FindingStatus, examine
from boltseal.server.storage.fsck_content import MAX_UNANSWERED
from boltseal.server.storage.fsck_position import FsckPosition
from boltseal.server.storage.garbage_collection import correct_usage
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from boltseal.server.storage.metadata.sqlite import open_snapshot
from tests.bare_registry import DAY_US, INDEX, OCI, SHOP
from tests.fakes.disk import FailingDisk
from tests.server.storage import sessions
from tests.server.storage.stored import remove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from boltseal.server.storage.blobs.protocol import StoredBlob
    from boltseal.server.storage.metadata.protocol import Metadata, Query, UnitOfWork
    from tests.bare_registry import BareRegistry, Opener

T = TypeVar("T")

ADMIN = Actor("root", admin=True)
LAYER = Digest.of(b"layer one")


@pytest.fixture
def look(shop: BareRegistry, tmp_path: Path) -> Callable[[], Examined]:
    """Return the findings of fsck in this test's store, while it is open."""
    return lambda: examine(open_snapshot(tmp_path / "data" / DATABASE_NAME), shop.blobs.maintenance)


@pytest.fixture
def by_hand(tmp_path: Path) -> Callable[..., None]:
    """Change the database directly, without the registry."""

    def execute(sql: str, *values: object) -> None:
        with sqlite3.connect(tmp_path / "data" / DATABASE_NAME) as connection:
            changed = connection.execute(sql, values)
            assert changed.rowcount > 0
        connection.close()

    return execute


async def publish(shop: BareRegistry) -> bytes:
    body = await shop.image("one")
    await shop.push(body, "1.4.2")
    return body


def problems(examined: Examined) -> list[str]:
    return [f"{finding.what}: {finding.problem}" for finding in examined.findings]


async def test_a_store_with_a_history_has_no_findings(shop: BareRegistry, look: Callable[[], Examined]) -> None:
    """A store with publications, moves, seals, deletions, purges and returns has no findings."""
    one, two = await shop.image("one"), await shop.image("two")
    await shop.push(one, "1.4.2", "latest")
    await shop.push(two, "latest")
    await shop.push(two, "1.4.3")
    await shop.registry.seals.seal(SHOP, Tag("latest"), ADMIN, "frozen")
    await shop.registry.seals.unseal(SHOP, Tag("1.4.2"), ADMIN, "a mistake")
    await shop.registry.deletes.manifest(SHOP, Digest.of(one), UNCONDITIONAL, ADMIN)
    await shop.push(one, Digest.of(one, "sha512"), "1.4.2")
    await shop.registry.seals.unseal(SHOP, Tag("latest"), ADMIN, "thaw")
    await shop.registry.deletes.tag(SHOP, Tag("latest"), UNCONDITIONAL, ADMIN)
    await shop.registry.seals.purge(SHOP, Tag("1.4.3"), ADMIN, "a secret")
    examined = look()
    counts = examined.counts

    assert problems(examined) == []
    assert examined.outcome is FindingStatus.HOLDS
    assert (counts.tags, counts.manifests, counts.blobs, counts.entries) == (3, 2, 2, 13)


async def test_bytes_of_a_refused_push_are_no_finding(shop: BareRegistry, look: Callable[[], Examined]) -> None:
    """Unreferenced bytes of a refused push are counted for gc, and are no finding."""
    await publish(shop)
    await sessions.push(shop.blobs, b"never used")
    examined = look()

    assert problems(examined) == []
    assert (examined.counts.unnamed_blobs, examined.counts.unnamed_bytes) == (1, 10)


@pytest.mark.parametrize("damage", ["rotten", "cut", "missing"])
async def test_damaged_bytes_are_found(shop: BareRegistry, look: Callable[[], Examined], damage: str) -> None:
    """A flipped bit, a truncated file and a missing file are three findings."""
    await publish(shop)
    path = shop.blobs.path(LAYER)
    assert path is not None
    path.chmod(0o640)
    match damage:
        case "rotten":
            path.write_bytes(b"lAyer one")
        case "cut":
            path.write_bytes(b"layer")
        case _:
            path.unlink()

    found = problems(look())

    assert len(found) == 1
    assert found[0].startswith(f"{LAYER}: the blob")


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        (
            "UPDATE tag SET digest = 'sha256:' || printf('%064d', 0) WHERE name = '1.4.2'",
            "shop/app:1.4.2: the tag resolves to",
        ),
        ("UPDATE tag SET sealed_digest = NULL WHERE name = '1.4.2'", "the tag is sealed at nothing"),
        ("UPDATE tag SET entry_index = 0 WHERE name = '1.4.2'", "the row is of entry 0"),
        ("DELETE FROM tag WHERE name = '1.4.2'", "the ledger has this tag, but there is no row"),
        ("DELETE FROM entry WHERE idx = 1", "entry 2: expected entry 1 here"),
        ("DELETE FROM entry WHERE idx = 2", "ledger: its last entry is 1"),
        (
            "UPDATE entry SET line = replace(line, 'anonymous', 'other one') WHERE idx = 2",
            "was changed by anonymous, the ledger says other one",
        ),
        ("UPDATE entry SET time_us = 7 WHERE idx = 2", "entry 2: the column time_us is 7"),
        ("UPDATE entry SET repository = 'a' WHERE idx = 2", "entry 2: the column repository is 'a'"),
        ("UPDATE ledger_head SET last_time_us = 7", "ledger: its head row has another time"),
        ("UPDATE ledger_head SET rules = 'all float'", "ledger: its head row has other rules"),
        ("DELETE FROM ledger_head", "ledger: its last entry is 2, but its head row says that 0"),
        ("UPDATE tag SET media_type = 'a/b'", "the tag has the media type a/b, the ledger says application/vnd.oci"),
        ("UPDATE tag SET media_type = 'a/b'", "(a/b), which the repository does not have"),
        ("UPDATE tag SET sealed_media_type = 'a/b'", "sealed at the media type a/b"),
        ("UPDATE tag SET sealed_by = 'boss'", "was sealed by boss, the ledger says anonymous"),
        ("UPDATE tag SET keep = 'deletable'", "is kept deletable, the ledger says forever"),
        ("UPDATE tag SET keep_until_us = 1", "the tag is not kept as long as forever says"),
        ("UPDATE tag SET canonical = 'sha256:0'", "the tag says its manifest's sha256 is sha256:0"),
        ("UPDATE tag SET sealed_canonical = 'sha256:0'", "the tag is sealed at sha256 sha256:0, but resolves to"),
        ("UPDATE manifest SET subject = 'sha256:0'", "the row's subject is sha256:0, the bytes say nothing"),
        ("UPDATE manifest SET artifact_type = 'a/b'", "the row's artifact type is 'a/b'"),
        ('UPDATE manifest SET annotations = \'{"a":"b"}\'', "the row's annotations are not those of the bytes"),
        ("UPDATE manifest SET annotations = '{'", "the row's annotations are not those of the bytes"),
        ("UPDATE manifest SET canonical = 'sha256:0'", "the manifest's bytes are missing"),
        ("UPDATE manifest SET media_type = 'a/b'", "the bytes can't be read as a/b"),
        ("UPDATE manifest SET digest = 'sha256:0'", "shop/app@sha256:0: the row's digest can't be read"),
        ("UPDATE blob SET digest = 'sha256:0' WHERE size = 9", "sha256:0: the row's digest can't be read"),
        ("UPDATE link SET kind = 'foreign-layer' WHERE kind = 'layer'", "the links differ from the bytes in sha256:"),
        ("UPDATE link SET parent = 'sha256:0' WHERE kind = 'layer'", "is left of this manifest, which was removed"),
        (
            "UPDATE repository SET name = 'BareRegistry'",
            "repository 'BareRegistry': repository name \"BareRegistry\" must be lower-case",
        ),
        ("UPDATE blob SET repository_id = 7 WHERE size = 9", "database: a row of blob refers to a row of repository"),
        (
            "UPDATE entry SET line = replace(line, '\"previous\":-1', '\"previous\":0') WHERE idx = 2",
            "its previous is 0",
        ),
        ("UPDATE entry SET line = replace(line, ',', ', ') WHERE idx = 2", "another spelling"),
        ("UPDATE content SET raw = raw || ' '", "has a value of a wrong type (raw is text)"),
        ("UPDATE content SET raw = CAST(raw || ' ' AS BLOB)", "the bytes have digest"),
        ("UPDATE manifest SET size = 1", "the row says 1"),
        ("DELETE FROM content", "the manifest's bytes are missing"),
        ("DELETE FROM link WHERE kind = 'config'", "the links differ from the bytes"),
        ("DELETE FROM blob WHERE size = 9", "the sealed tag needs"),
        ("UPDATE ledger_head SET size = 2", "its head row says that 2"),
        ("UPDATE ledger_head SET rules = CAST(x'80' AS TEXT)", "a text of the column 'rules' is not UTF-8"),
        ("UPDATE tag SET changed_by = CAST(x'80' AS TEXT)", "a text of the column 'changed_by' is not UTF-8"),
    ],
)
async def test_each_change_in_the_database_is_found(
    shop: BareRegistry, look: Callable[[], Examined], by_hand: Callable[..., None], sql: str, says: str
) -> None:
    """Rows changed in the database are found, since they contradict the ledger, the bytes or each other."""
    await publish(shop)
    by_hand(
        sql.replace("replace(line", "CAST(replace(CAST(line AS TEXT)").replace(") WHERE idx", ") AS BLOB) WHERE idx")
    )
    found = problems(look())

    assert any(says in problem for problem in found), found


WRONG_VALUES = [
    ("UPDATE tag SET digest = x'00ff' WHERE name = '1.4.2'", 'name "1.4.2" of the table tag', "(digest is blob)"),
    ("UPDATE manifest SET size = 'many'", "of the table manifest", "(size is text)"),
    ("UPDATE blob SET size = x'01' WHERE size = 9", "of the table blob", "(size is blob)"),
    ("UPDATE entry SET time_us = 'then' WHERE idx = 2", 'the row with idx "2" of the table entry', "(time_us is text)"),
    ("UPDATE ledger_head SET size = 'x'", "of the table ledger_head", "(size is text)"),
    ("UPDATE repository SET name = x'ff'", "of the table repository", "(name is blob)"),
    ("UPDATE link SET kind = x'ff'", "of the table link", "(kind is blob)"),
    ("UPDATE usage SET size = 'x'", "of the table usage", "(size is text)"),
]


@pytest.mark.parametrize(("sql", "row", "value"), WRONG_VALUES)
async def test_a_row_with_a_value_of_a_wrong_type_is_named_and_everything_else_is_checked(
    shop: BareRegistry,
    look: Callable[[], Examined],
    by_hand: Callable[..., None],
    tmp_path: Path,
    sql: str,
    row: str,
    value: str,
) -> None:
    """The row is named with its key; another problem, in the files, is found as well, and the database is not changed."""
    await publish(shop)
    path = shop.blobs.path(LAYER)
    assert path is not None
    path.chmod(0o640)
    path.write_bytes(b"lAyer one")
    by_hand(sql)
    before = (tmp_path / "data" / DATABASE_NAME).read_bytes()
    found = problems(look())
    wrong = [each for each in found if "has a value of a wrong type" in each]

    assert any(row in each and value in each for each in wrong), found
    assert any(str(LAYER) in each for each in found), found
    assert (tmp_path / "data" / DATABASE_NAME).read_bytes() == before


async def test_a_keep_of_days_is_compared_with_its_entry(
    open_shop: Opener, tmp_path: Path, by_hand: Callable[..., None]
) -> None:
    """A row changed to shorten a sealed tag's `keep` differs from the ledger entry and is found."""
    shop = open_shop({"tag": "*", "mode": "sealed", "keep": "30d"})
    await publish(shop)
    before = examine(open_snapshot(tmp_path / "data" / DATABASE_NAME), shop.blobs.maintenance)
    by_hand("UPDATE tag SET keep_until_us = keep_until_us - ?", DAY_US)
    after = examine(open_snapshot(tmp_path / "data" / DATABASE_NAME), shop.blobs.maintenance)

    assert problems(before) == []
    assert problems(after) == ["shop/app:1.4.2: the tag is not kept as long as 30d says"]


async def test_a_keep_that_cannot_be_parsed_is_a_finding(
    shop: BareRegistry, look: Callable[[], Examined], by_hand: Callable[..., None]
) -> None:
    """A `keep` that can't be parsed is a finding, even if row and ledger agree on it."""
    await publish(shop)
    by_hand("UPDATE tag SET keep = 'a while'")
    line = "UPDATE entry SET line = CAST(replace(CAST(line AS TEXT), ?, ?) AS BLOB) WHERE idx = 2"
    by_hand(line, '"keep":"forever"', '"keep":"a while"')

    assert "shop/app:1.4.2: the tag is not kept as long as a while says" in problems(look())


async def test_repositories_that_disagree_on_a_size_are_found(
    shop: BareRegistry, look: Callable[[], Examined], by_hand: Callable[..., None]
) -> None:
    """Two repositories with different sizes for one blob are a finding."""
    for name in ("shop/app", "shop/other"):
        await shop.blob(b"one size", Repository(name))
    by_hand("UPDATE blob SET size = 9 WHERE repository_id = (SELECT max(id) FROM repository)")
    by_hand("UPDATE usage SET size = size + 1")

    assert problems(look()) == [f"{Digest.of(b'one size')}: one repository says the blob has 8 bytes, another says 9"]


async def test_a_total_that_differs_from_its_rows_is_found(
    shop: BareRegistry, look: Callable[[], Examined], by_hand: Callable[..., None], tmp_path: Path
) -> None:
    """A total that differs from its rows is a finding, which `admin gc --full` corrects."""
    await publish(shop)
    before = problems(look())
    by_hand("UPDATE usage SET size = size + 5 WHERE holder = 'anonymous'")
    by_hand("INSERT INTO usage VALUES ('unknown', 0, 1)")
    found = problems(look())
    correct_usage(shop.database, FileLeases(tmp_path / "data"))

    assert before == []
    assert [line.partition(":")[0] for line in found] == ["user anonymous", "user unknown"]
    assert problems(look()) == []


class InterruptedReads:
    """A database at which another process corrects the totals after the n-th read of this one, before it writes."""

    def __init__(self, database: Metadata, after: int, other: Callable[[], None]) -> None:
        self._database = database
        self._after = after
        self._other = other

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def read_and_wait(self, query: Query[T]) -> T:
        found = self._database.read_and_wait(query)
        self._after -= 1
        if self._after == 0:
            self._other()
        return found


@pytest.mark.parametrize("after", [1, 2])
async def test_two_corrections_at_once_correct_a_total_once(
    shop: BareRegistry, look: Callable[[], Examined], by_hand: Callable[..., None], tmp_path: Path, after: int
) -> None:
    """Of two `admin gc` that find the same wrong total, whichever is slower does not add the difference again."""
    await publish(shop)
    by_hand("UPDATE usage SET size = size + 5 WHERE holder = 'anonymous'")

    def other() -> None:
        correct_usage(shop.database, FileLeases(tmp_path / "data"))

    correct_usage(cast("Metadata", InterruptedReads(shop.database, after, other)), FileLeases(tmp_path / "data"))

    assert problems(look()) == []


async def test_a_signature_tag_without_its_link_is_found(
    shop: BareRegistry, look: Callable[[], Examined], by_hand: Callable[..., None]
) -> None:
    """A signature tag without the link that keeps it while its image is sealed is a finding."""
    subject = Digest.of(await publish(shop))
    await shop.push(await shop.image("signature"), f"sha256-{subject.hex}.sig")
    before = problems(look())
    by_hand("DELETE FROM link WHERE kind = 'signature-tag'")

    assert before == []
    assert problems(look()) == [
        f"shop/app:sha256-{subject.hex}.sig: the tag signs {subject}, but its manifest has no link to it"
    ]


async def test_a_sealed_tag_with_two_digests_is_found(
    shop: BareRegistry, look: Callable[[], Examined], by_hand: Callable[..., None]
) -> None:
    """Rows whose seal was removed do not hide what the ledger has, nor does a forged entry that moves the tag."""
    await publish(shop)
    by_hand("UPDATE tag SET sealed_digest = NULL, sealed_canonical = NULL, sealed_media_type = NULL")
    by_hand("UPDATE tag SET digest = NULL, canonical = NULL, media_type = NULL")
    two = Digest.of(await shop.image("two"))

    def forge(tx: UnitOfWork) -> None:
        sequencer.append(tx, EntryKind.TAG_MOVED, repository=SHOP, tag=Tag("1.4.2"), digest=str(two), media_type=OCI)

    await shop.database.write(forge)
    found = problems(look())

    assert any("the tag is sealed at" in problem for problem in found)


async def test_a_blob_deleted_while_it_is_read_is_no_finding(shop: BareRegistry, tmp_path: Path) -> None:
    """A blob that a running server deletes between fsck's row and file reads is no finding."""
    digest = Digest.of(b"goes soon")
    await shop.blob(b"goes soon")

    class Going:
        """A store in which the blob is deleted at the first look."""

        def __getattr__(self, name: str) -> object:
            return getattr(shop.blobs.maintenance, name)

        def look(self, wanted: Digest) -> StoredBlob | None:
            with sqlite3.connect(tmp_path / "data" / DATABASE_NAME) as connection:
                connection.execute("DELETE FROM blob")
            connection.close()
            remove(shop.blobs, wanted)
            return shop.blobs.maintenance.look(wanted)

    examined = examine(open_snapshot(tmp_path / "data" / DATABASE_NAME), Going())  # type: ignore[arg-type]  # the rest by __getattr__

    assert problems(examined) == []
    assert shop.blobs.maintenance.look(digest) is None


async def test_fsck_can_not_write(shop: BareRegistry, look: Callable[[], Examined], tmp_path: Path) -> None:
    """fsck can't write to the database."""
    await publish(shop)
    before = (tmp_path / "data" / DATABASE_NAME).read_bytes()
    look()

    assert (tmp_path / "data" / DATABASE_NAME).read_bytes() == before


async def test_every_kind_of_content_has_no_findings(shop: BareRegistry, look: Callable[[], Examined]) -> None:
    """Indexes, referrers with annotations, foreign layers, sha512 and missing children of mutable tags are no findings."""
    one = await shop.image("one", annotations={"ä": "ö"})
    child = {"mediaType": OCI, "digest": str(Digest.of(one)), "size": len(one)}
    foreign = {"mediaType": "a/b", "digest": str(Digest.of(b"elsewhere")), "size": 9, "urls": ["https://example.com/x"]}
    await shop.push(one, Digest.of(one, "sha512"))
    await shop.push(one, Digest.of(one))
    await shop.push(await shop.image("about one", subject=child, artifactType="text/x.note"), "note-1")
    await shop.push(await shop.image("partly elsewhere", layers=[foreign]), "1.0.0")
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]}
    await shop.push(json.dumps(index).encode(), "1.4.2", media_type=INDEX)
    sparse = {**index, "manifests": [{**child, "digest": str(Digest.of(b"not here"))}]}
    await shop.push(json.dumps(sparse).encode(), "latest", media_type=INDEX)

    assert problems(look()) == []


async def test_a_blob_that_is_repaired_while_it_is_read_is_no_finding(shop: BareRegistry, tmp_path: Path) -> None:
    """A damaged blob that a push replaces during fsck is no finding, because fsck reads it again."""
    await publish(shop)
    path = tmp_path / "data" / "blobs" / "sha256" / LAYER.hex[:2] / LAYER.hex
    path.write_bytes(b"lAyer one")
    looks = 0

    class Mended:
        """A store in which the layer is intact from the second read on."""

        def __getattr__(self, name: str) -> object:
            return getattr(shop.blobs.maintenance, name)

        def scan(self, wanted: Digest) -> Iterator[bytes]:
            nonlocal looks
            yield from shop.blobs.maintenance.scan(wanted)
            if wanted == LAYER:
                looks += 1
                path.write_bytes(b"layer one")

    examined = examine(open_snapshot(tmp_path / "data" / DATABASE_NAME), Mended())  # type: ignore[arg-type]  # the rest by __getattr__

    assert problems(examined) == []
    assert looks == 2


@pytest.mark.parametrize("instead", ["a link", "a folder"])
async def test_a_link_in_place_of_a_blob_is_a_finding(
    shop: BareRegistry, look: Callable[[], Examined], tmp_path: Path, instead: str
) -> None:
    """A symbolic link to the right bytes is a finding, because its target's owner could change them."""
    await publish(shop)
    path = shop.blobs.path(LAYER)
    assert path is not None
    path.unlink()
    if instead == "a link":
        (tmp_path / "elsewhere").write_bytes(b"layer one")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.mkdir()
    stray = path.relative_to(tmp_path / "data")

    assert problems(look()) == [
        f"{LAYER}: the blob's bytes are missing",
        f"{stray}: a file in the store that is neither blob nor upload",
    ]


async def test_an_unreadable_blob_is_unknown_and_the_rest_is_checked(shop: BareRegistry, tmp_path: Path) -> None:
    """A blob whose disk gives a read error is unknown with the reason: exit code 3."""
    await publish(shop)
    disk = FailingDisk()
    disk.fail("read_at", errno.EIO)
    blobs = LocalBlobs(tmp_path / "data", create=False, disk=disk)
    examined = examine(open_snapshot(tmp_path / "data" / DATABASE_NAME), blobs.maintenance)
    blobs.close()

    assert [finding.status for finding in examined.findings] == [FindingStatus.UNKNOWN]
    assert "could not read the blob" in examined.findings[0].problem
    assert "Input/output error" in examined.findings[0].problem
    assert examined.outcome is FindingStatus.UNKNOWN
    assert examined.counts.blobs == 2


async def test_a_killed_run_is_continued(shop: BareRegistry, tmp_path: Path) -> None:
    """With a file for its position a run that was killed is continued, with what it had found; the file goes at the end."""
    await publish(shop)
    first, second = sorted(stored.digest for stored in shop.blobs.maintenance.walk())
    path, read = tmp_path / "position", list[Digest]()
    remove(shop.blobs, first)

    class Killed:
        """A store whose reader is killed at its second blob, the first time."""

        def __getattr__(self, name: str) -> object:
            return getattr(shop.blobs.maintenance, name)

        def scan(self, wanted: Digest) -> Iterator[bytes]:
            read.append(wanted)
            if len(read) == 1:
                raise KeyboardInterrupt
            return shop.blobs.maintenance.scan(wanted)

    def run() -> Examined:
        database = open_snapshot(tmp_path / "data" / DATABASE_NAME)
        return examine(database, Killed(), position=FsckPosition(path, saved_every_bytes=1))  # type: ignore[arg-type]  # the rest by __getattr__

    with pytest.raises(KeyboardInterrupt):
        run()
    was_kept = path.exists()
    examined = run()

    assert was_kept
    assert read == [second, second]
    assert problems(examined) == [f"{first}: the blob's bytes are missing"]
    assert examined.counts.blobs == 2
    assert not path.exists()


async def test_a_store_that_does_not_answer_is_asked_a_few_times(shop: BareRegistry, tmp_path: Path) -> None:
    """Each request to a server that is down is retried for a while, so the rest is one finding; the position stays for later."""
    for number in range(4):
        await shop.push(await shop.image(f"image {number}"), f"1.{number}.0")
    down, path, asked = [True], tmp_path / "position", list[Digest]()

    class Down:
        """A store whose server is down."""

        def __getattr__(self, name: str) -> object:
            return getattr(shop.blobs.maintenance, name)

        def look(self, wanted: Digest) -> StoredBlob | None:
            asked.append(wanted)
            if down[0]:
                raise StoreUnanswered("the S3 server refuses connections")
            return shop.blobs.maintenance.look(wanted)

    def run() -> Examined:
        database = open_snapshot(tmp_path / "data" / DATABASE_NAME)
        return examine(database, Down(), position=FsckPosition(path, saved_every_bytes=1))  # type: ignore[arg-type]  # the rest by __getattr__

    examined, tries = run(), len(asked)
    down[0] = False
    again = run()

    assert tries == MAX_UNANSWERED
    assert examined.outcome is FindingStatus.UNKNOWN
    assert len(examined.findings) == MAX_UNANSWERED + 1
    assert "could not check the other blobs: the store does not answer" in examined.findings[-1].problem
    assert again.outcome is FindingStatus.HOLDS
    assert again.counts.blobs > MAX_UNANSWERED
    assert not path.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no JSON", "it is not JSON"),
        ("[]", "a field is missing"),
        ('{"schema": "boltseal.fsck-position/9", "step": "blobs"}', "boltseal.fsck-position/9"),
        ('{"schema": "boltseal.fsck-position/1", "step": "blobs", "registry": "other"}', "of the registry other"),
    ],
)
async def test_the_position_of_another_check_is_refused(
    shop: BareRegistry, tmp_path: Path, content: str, message: str
) -> None:
    """A file that is not the position of a check of this registry is refused with the reason, and left as it is."""
    await publish(shop)
    path = tmp_path / "position"
    path.write_text(content, encoding="utf-8")
    database = open_snapshot(tmp_path / "data" / DATABASE_NAME)
    with pytest.raises(Invalid, match=message):
        examine(database, shop.blobs.maintenance, position=FsckPosition(path, saved_every_bytes=1))

    assert path.read_text(encoding="utf-8") == content


async def test_a_folder_that_can_not_be_read_is_unknown(shop: BareRegistry, tmp_path: Path) -> None:
    """If a blob folder can't be listed, unreferenced files are unknown."""
    await publish(shop)

    class Closed:
        """A store whose folders can't be listed."""

        def __getattr__(self, name: str) -> object:
            return getattr(shop.blobs.maintenance, name)

        def walk(self, _after: str = "") -> Iterator[StoredBlob]:
            raise StoreBroken("a folder of the store can't be read (Permission denied)")

    examined = examine(open_snapshot(tmp_path / "data" / DATABASE_NAME), Closed())  # type: ignore[arg-type]  # the rest by __getattr__

    assert examined.outcome is FindingStatus.UNKNOWN
    assert [finding.what for finding in examined.findings] == ["store"]


async def test_a_damaged_database_is_a_finding_and_the_rest_is_verified(open_shop: Opener, tmp_path: Path) -> None:
    """Overwritten pages of the database are a finding, and what can be read is verified."""
    shop = open_shop()
    for number in range(40):
        await shop.push(await shop.image(f"{number}"), f"1.0.{number}")
    shop.database.close()
    database = tmp_path / "data" / DATABASE_NAME
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'manifest'").fetchone()
    connection.close()
    with database.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)
    examined = examine(open_snapshot(database), shop.blobs.maintenance)
    found = problems(examined)

    assert examined.outcome is FindingStatus.DIFFERS
    assert any(problem.startswith("database: the registry's database is damaged") for problem in found), found
    assert examined.counts.entries == 42
    assert examined.counts.blobs == 80


async def test_progress_is_reported_with_totals(shop: BareRegistry, tmp_path: Path) -> None:
    """Each step of fsck reports its total at the end."""
    await publish(shop)
    reported: list[tuple[str, int, int]] = []
    examine(
        open_snapshot(tmp_path / "data" / DATABASE_NAME), shop.blobs.maintenance, lambda *step: reported.append(step)
    )
    ends = {step: (done, total) for step, done, total in reported}

    assert ends == {"ledger": (3, 3), "tags": (1, 1), "manifests": (1, 1), "blobs": (23, 23)}


@pytest.mark.slow
async def test_nothing_is_found_beside_a_working_server(shop: BareRegistry, look: Callable[[], Examined]) -> None:
    """Concurrent pushes, moves, deletions and returns are never reported as damage."""
    done = asyncio.Event()

    async def work(name: str) -> None:
        number = 0
        while not done.is_set():
            number += 1
            body = await shop.image(f"{name}{number}")
            await shop.push(body, f"{name}-1.0.{number}", "latest")
            await shop.registry.seals.unseal(SHOP, Tag(f"{name}-1.0.{number}"), ADMIN, "goes")
            await shop.registry.deletes.manifest(SHOP, Digest.of(body), UNCONDITIONAL, ADMIN)
            await shop.registry.deletes.blob(SHOP, Digest.of(f"layer {name}{number}".encode()), ADMIN)
            if number % 2:
                await shop.push(await shop.image(f"{name}{number}"), f"{name}-1.0.{number}")

    workers = [asyncio.create_task(work(name)) for name in "abc"]
    try:
        examinations = [await asyncio.to_thread(look)]
        while examinations[-1].counts.entries < 60:
            examinations.append(await asyncio.to_thread(look))
    finally:
        done.set()
        await asyncio.gather(*workers)

    assert [problem for examined in examinations for problem in problems(examined)] == []
    assert problems(look()) == []


def test_a_new_store_has_no_findings(shop: BareRegistry, look: Callable[[], Examined]) -> None:
    """A store after its first start has no findings."""
    examined = look()

    assert examined.outcome is FindingStatus.HOLDS
    assert examined.counts.entries == 2


async def test_progress_is_reported_within_a_big_blob(
    shop: BareRegistry, tmp_path: Path, by_hand: Callable[..., None]
) -> None:
    """fsck reports progress within a blob of many gigabytes."""
    zeros, size = hashlib.sha256(), 129 * 1024 * 1024
    for _ in range(129):
        zeros.update(bytes(1024 * 1024))
    digest = Digest("sha256", zeros.hexdigest())
    await shop.blob(b"small")
    path = shop.blobs.path(digest)
    assert path is not None
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.truncate(path, size)
    by_hand(
        "INSERT INTO blob (repository_id, digest, size, added_us) SELECT repository_id, ?, ?, added_us FROM blob",
        str(digest),
        size,
    )
    reported: list[tuple[str, int, int]] = []
    examined = examine(
        open_snapshot(tmp_path / "data" / DATABASE_NAME), shop.blobs.maintenance, lambda *step: reported.append(step)
    )

    assert problems(examined) == []
    assert len([step for step in reported if step[0] == "blobs"]) == 4


async def test_a_blob_that_is_deleted_between_look_and_read_is_missing(shop: BareRegistry, tmp_path: Path) -> None:
    """A blob deleted between look and read, whose row stays, is missing."""
    await shop.blob(b"goes")

    class Going:
        """A store in which the file is deleted when it is opened."""

        def __getattr__(self, name: str) -> object:
            return getattr(shop.blobs.maintenance, name)

        def scan(self, wanted: Digest) -> Iterator[bytes]:
            remove(shop.blobs, wanted)
            return shop.blobs.maintenance.scan(wanted)

    examined = examine(open_snapshot(tmp_path / "data" / DATABASE_NAME), Going())  # type: ignore[arg-type]  # the rest by __getattr__

    assert problems(examined) == [f"{Digest.of(b'goes')}: the blob's bytes are missing"]
