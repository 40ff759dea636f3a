"""fsck finds each lie, by name, and says nothing about a store that is as it must be."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Tag
from boltseal.registry.values import UNCONDITIONAL, Actor
from boltseal.storage.fsck import Examined, examine
from boltseal.storage.migrate import DATABASE_NAME
from tests.shop import SHOP

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.shop import Shop

ADMIN = Actor("root", admin=True)
LAYER = Digest.of(b"layer one")


@pytest.fixture
def look(shop: Shop, tmp_path: Path) -> Callable[[], Examined]:
    """Examines this test's store, while it is open."""
    return lambda: examine(tmp_path / "data" / DATABASE_NAME, shop.blobs, shop.clock.now_us)


@pytest.fixture
def by_hand(tmp_path: Path) -> Callable[..., None]:
    """Changes the database behind the registry's back."""

    def execute(sql: str, *values: object) -> None:
        with sqlite3.connect(tmp_path / "data" / DATABASE_NAME) as connection:
            changed = connection.execute(sql, values)
            assert changed.rowcount > 0
        connection.close()

    return execute


async def publish(shop: Shop) -> bytes:
    body = await shop.image("one")
    await shop.push(body, "1.4.2")
    return body


def problems(examined: Examined) -> list[str]:
    return [f"{finding.what}: {finding.problem}" for finding in examined.findings]


async def test_a_store_with_a_history_is_as_it_must_be(shop: Shop, look: Callable[[], Examined]) -> None:
    """Publications, moves, seals, deletions, purges and returns leave nothing to find."""
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

    assert problems(examined) == []
    assert (examined.tags, examined.manifests, examined.blobs, examined.entries) == (3, 2, 2, 13)


async def test_bytes_of_a_refused_push_are_counted_and_no_fault(
    shop: Shop, look: Callable[[], Examined], by_hand: Callable[..., None]
) -> None:
    """What no row names is for collect, not for alarm."""
    await publish(shop)
    await shop.blob(b"never used")
    by_hand("DELETE FROM blob WHERE digest = ?", str(Digest.of(b"never used")))
    examined = look()

    assert problems(examined) == []
    assert (examined.unnamed_blobs, examined.unnamed_bytes) == (1, 10)


@pytest.mark.parametrize("damage", ["rotten", "cut", "missing"])
async def test_damaged_bytes_are_found(shop: Shop, look: Callable[[], Examined], damage: str) -> None:
    """A bit that flipped, a file cut short and a file that is gone are three findings."""
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
            "shop/app:1.4.2: the tag means",
        ),
        ("UPDATE tag SET sealed_digest = NULL WHERE name = '1.4.2'", "the tag is bound to nothing"),
        ("UPDATE tag SET entry_index = 0 WHERE name = '1.4.2'", "the tag stands on entry 0"),
        ("DELETE FROM tag WHERE name = '1.4.2'", "the ledger speaks of this tag, but it has no row"),
        ("DELETE FROM entry WHERE idx = 1", "entry 2: expected entry 1 here"),
        ("DELETE FROM entry WHERE idx = 2", "ledger: it ends at entry 1"),
        ("UPDATE entry SET line = replace(line, 'anonymous', 'anybody!!') WHERE idx = 2", None),
        (
            "UPDATE entry SET line = replace(line, '\"previous\":-1', '\"previous\":0') WHERE idx = 2",
            "its previous is 0",
        ),
        ("UPDATE entry SET line = replace(line, ',', ', ') WHERE idx = 2", "another spelling"),
        ("UPDATE content SET raw = raw || ' '", "bytes are missing"),
        ("UPDATE content SET raw = CAST(raw || ' ' AS BLOB)", "the bytes have digest"),
        ("UPDATE manifest SET size = 1", "the row says 1"),
        ("DELETE FROM content", "the manifest's bytes are missing"),
        ("DELETE FROM link WHERE kind = 'config'", "the links differ from the bytes"),
        ("DELETE FROM blob WHERE size = 9", "the sealed tag needs"),
        ("UPDATE ledger_head SET size = 2", "its head says that 2"),
    ],
)
async def test_each_lie_in_the_database_is_named(
    shop: Shop, look: Callable[[], Examined], by_hand: Callable[..., None], sql: str, says: str | None
) -> None:
    """Rows changed by hand contradict the ledger, the bytes or each other.

    One does not: an entry rewritten in its actor alone reads well by itself; only the tree of hashes can tell.
    """
    await publish(shop)
    by_hand(
        sql.replace("replace(line", "CAST(replace(CAST(line AS TEXT)").replace(") WHERE idx", ") AS BLOB) WHERE idx")
    )
    found = problems(look())

    assert (found == []) == (says is None)
    if says is not None:
        assert any(says in problem for problem in found), found


async def test_a_bound_name_with_two_digests_is_found(
    shop: Shop, look: Callable[[], Examined], by_hand: Callable[..., None]
) -> None:
    """Rows that were made to forget the seal do not hide what the ledger says."""
    await publish(shop)
    by_hand("UPDATE tag SET sealed_digest = NULL, sealed_canonical = NULL, sealed_media_type = NULL")
    by_hand("UPDATE tag SET digest = NULL, canonical = NULL, media_type = NULL")
    two = await shop.image("two")
    await shop.push(two, "1.4.2")
    found = problems(look())

    assert any("the name is bound to" in problem for problem in found)


async def test_a_blob_deleted_while_it_is_read_is_no_finding(shop: Shop, tmp_path: Path) -> None:
    """Beside a running server a blob may go between its row and its bytes."""
    digest = Digest.of(b"goes soon")
    await shop.blob(b"goes soon")

    class Going:
        """The store, in which the blob goes the moment that it is looked for."""

        def __getattr__(self, name: str) -> object:
            return getattr(shop.blobs, name)

        def path(self, wanted: Digest) -> Path | None:
            if wanted == digest and shop.blobs.present(digest):
                with sqlite3.connect(tmp_path / "data" / DATABASE_NAME) as connection:
                    connection.execute("DELETE FROM blob")
                connection.close()
                shop.blobs.remove(digest)
            return shop.blobs.path(wanted)

    examined = examine(tmp_path / "data" / DATABASE_NAME, Going(), shop.clock.now_us)  # type: ignore[arg-type]  # the rest by __getattr__

    assert problems(examined) == []
    assert not shop.blobs.present(digest)


async def test_a_read_only_look_can_not_write(shop: Shop, look: Callable[[], Examined], tmp_path: Path) -> None:
    """Looking changes no byte of the database."""
    await publish(shop)
    before = (tmp_path / "data" / DATABASE_NAME).read_bytes()
    look()

    assert (tmp_path / "data" / DATABASE_NAME).read_bytes() == before
