"""fsck rebuilds the ledger's tree and compares it with the signed checkpoint."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from boltseal.ledger.entry import EntryKind
from boltseal.server.registry import sequencer
from boltseal.server.settings import Settings
from boltseal.server.storage.findings import FindingStatus
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from boltseal.server.store_factory import examine_store, open_store, prepare
from tests.serving import settings_of


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A store whose ledger has six hundred entries, signed."""
    made = settings_of(tmp_path / "data")
    prepare(made)
    with open_store(made) as store:
        store.database.write_and_wait(lambda tx: [sequencer.append(tx, EntryKind.BUILT, actor="x") for _ in range(600)])
    return made


@pytest.fixture
def by_hand(settings: Settings) -> Callable[..., None]:
    """Change the database directly, without the registry."""

    def execute(sql: str, *values: object) -> None:
        with sqlite3.connect(settings.server.data / DATABASE_NAME) as connection:
            assert connection.execute(sql, values).rowcount > 0
        connection.close()

    return execute


def problems(settings: Settings, status: FindingStatus = FindingStatus.DIFFERS) -> list[str]:
    examined = examine_store(settings, lambda *_: None)
    return [f"{one.what}: {one.problem}" for one in examined.findings if one.status is status]


def test_a_signed_store_has_no_findings(settings: Settings) -> None:
    """A signed store with full tiles, partial ones, checkpoint and mark has no findings."""
    examined = examine_store(settings, lambda *_: None)

    assert examined.findings == ()
    assert examined.counts.entries > 600


def test_a_rewritten_entry_is_found(settings: Settings, by_hand: Callable[..., None]) -> None:
    """A rewritten canonical entry that keeps every rule is found by the tree."""
    by_hand(
        """UPDATE entry SET line = CAST(replace(CAST(line AS TEXT), '"actor":"x"', '"actor":"y"') AS BLOB) WHERE idx = 300"""
    )
    found = problems(settings)

    assert any("tile/0/001 of its tree is not over these entries" in one for one in found)
    assert any("are not the ones that the checkpoint is over" in one for one in found)
    assert any("are not the ones that the high-water mark is over" in one for one in found)


def test_a_truncated_ledger_is_found(settings: Settings, by_hand: Callable[..., None]) -> None:
    """A truncated ledger, with its state row changed too, is found."""
    by_hand("DELETE FROM entry WHERE idx >= 500")
    by_hand("UPDATE ledger_head SET size = 500, last_time_us = (SELECT max(time_us) FROM entry)")
    found = problems(settings)

    assert any("the checkpoint is over" in one and "the store has 500" in one for one in found)


def test_a_changed_tile_is_found(settings: Settings, by_hand: Callable[..., None]) -> None:
    """A changed tile is found, also if no newer checkpoint needs it."""
    by_hand("UPDATE ledger_tile SET hashes = zeroblob(8192) WHERE level = 0 AND idx = 0")

    assert problems(settings) == ["ledger: tile/0/000 of its tree is not over these entries"]


@pytest.mark.parametrize("where", ["level = 0 AND idx = 1", "level = 1", "idx = 2"])
def test_a_missing_tile_is_found(settings: Settings, by_hand: Callable[..., None], where: str) -> None:
    """A missing tile, full or partial, is found."""
    by_hand(f"DELETE FROM ledger_tile WHERE {where}")  # noqa: S608 - constants of this test

    assert any("of its tree is missing" in one for one in problems(settings))


def test_a_checkpoint_by_another_key_is_found(settings: Settings) -> None:
    """A checkpoint that another key signed is found."""
    keys = LedgerKeys(settings.keys)
    key = keys.key()
    assert key is not None
    keys.put_key(type(key)(key.name, bytes(32)))

    assert any("what was signed of it is not valid" in one for one in problems(settings))


def test_a_missing_key_is_an_unknown_finding(settings: Settings) -> None:
    """A missing key is reported as unknown, not as a difference."""
    (settings.keys / "ledger.key").unlink()

    assert problems(settings) == []
    assert any("its key is missing" in one for one in problems(settings, FindingStatus.UNKNOWN))


def test_an_old_copy_is_behind_the_mark(settings: Settings, by_hand: Callable[..., None]) -> None:
    """A restored backup beside its keys is behind the mark."""
    by_hand("DELETE FROM entry WHERE idx >= 400")
    by_hand("UPDATE ledger_head SET size = 400, last_time_us = (SELECT max(time_us) FROM entry)")
    by_hand("DELETE FROM ledger_checkpoint")
    by_hand("DELETE FROM ledger_tile")

    assert any("the high-water mark is over" in one and "the store has 400" in one for one in problems(settings))
