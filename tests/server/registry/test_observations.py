"""The observation log: separate from the ledger, which neither grows nor stops because of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from boltseal.ledger.checkpoint import Checkpoint, open_checkpoint
from boltseal.ledger.entry import EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.upstream_moves import MoveEvent, UpstreamAnswer
from boltseal.policy.upstreams import MoveTerms, OnMove
from boltseal.server.auth.actor import Actor
from boltseal.server.registry import sequencer
from boltseal.server.registry.integrator import Integrator
from boltseal.server.registry.observations import Observations, note
from boltseal.server.registry.recovery import accept_loss
from boltseal.server.registry.sequencer import LedgerFrozen, LedgerMissing
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata import ledger_store, ledger_tree
from boltseal.server.storage.metadata.protocol import LEDGER, OBSERVATIONS, UnitOfWork
from boltseal.server.store_factory import examine_store, open_store, prepare
from tests.bare_registry import Clock
from tests.fakes.disk import FailingDisk
from tests.ledger.tree_oracle import mth
from tests.server.registry.ledgers import ORIGIN, BareLedger
from tests.storage_choice import change_rows, with_storage

NODE, TAG = Repository("docker.io/library/node"), Tag("16.13")
DIGEST = "sha256:" + "a" * 64


def observe(tx: UnitOfWork, tag: str = TAG) -> int:
    return sequencer.append(
        tx, EntryKind.OBSERVED, repository=NODE, tag=Tag(tag), digest=DIGEST, actor="mirror:docker.io", log=OBSERVATIONS
    )


class Both(BareLedger):
    """Ledger and observation log in one database."""

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self.database.write_and_wait(lambda tx: sequencer.start_observations(tx, actor="boltseal"))
        self.observed_keys = self.keys.of(OBSERVATIONS.name)
        self.observing = Integrator(self.database, self.observed_keys, OBSERVATIONS)


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    made = Both(tmp_path / "data")
    made.integrator.begin()
    made.observing.begin()
    yield made
    made.database.close()


TERMS = MoveTerms(OnMove.ALERT)
SEEN = UpstreamAnswer(Digest.parse(DIGEST), "application/vnd.oci.image.manifest.v1+json", 100)


def settings_of(data: Path, *upstreams: str, **server: object) -> Settings:
    tables = [{"name": name, "url": "http://127.0.0.1:9"} for name in upstreams]
    return with_storage(Settings.model_validate({"server": {"data": data, **server}, "upstream": tables}))


def test_an_observation_has_its_own_log_tree_and_checkpoint(both: Both) -> None:
    """The observation log has its own origin, key and tree."""
    before = both.lines()
    both.database.write_and_wait(lambda tx: [observe(tx, f"1.{n}") for n in range(300)])
    head = both.observing.integrate()
    lines = both.database.read_and_wait(lambda held: [line for _, line in ledger_store.lines(held, log=OBSERVATIONS)])
    stored = both.database.read_and_wait(lambda held: ledger_tree.head(held, log=OBSERVATIONS))
    key = both.observed_keys.key()
    assert stored is not None
    assert key is not None

    assert head == Checkpoint(f"{ORIGIN}/observations", 301, mth(lines))
    assert open_checkpoint(stored.note, key.verifier).checkpoint == head
    assert key.verifier != getattr(both.keys.key(), "verifier", None)
    assert both.lines() == before


async def test_an_answer_that_another_process_overtook_is_not_recorded(both: Both) -> None:
    """A process that was stopped between upstream's answer and its record does not move the tag back."""
    observations, actor, clock = Observations(both.database), Actor("mirror:docker.io"), Clock()
    both.database.now_us = clock
    newer = UpstreamAnswer(Digest.parse("sha256:" + "b" * 64), SEEN.media_type, SEEN.size)
    first = await observations.note(NODE, TAG, SEEN, TERMS, actor, last_asked_us=-1)
    assert first.now is not None
    clock.now_us += 1
    second = await observations.note(NODE, TAG, newer, TERMS, actor, last_asked_us=first.now.asked_us)
    late = await observations.note(NODE, TAG, SEEN, TERMS, actor, last_asked_us=first.now.asked_us)
    never = await observations.note(NODE, TAG, SEEN, TERMS, actor, last_asked_us=-1)

    assert late.now == never.now == second.now == await observations.find(NODE, TAG)
    assert (late.event, never.event) == (MoveEvent.NOTHING, MoveEvent.NOTHING)
    assert second.now is not None
    assert second.now.known.serves == newer


@pytest.mark.parametrize("kind", [EntryKind.OBSERVED, EntryKind.HELD, EntryKind.ACCEPTED])
def test_no_observation_is_in_the_ledger(both: Both, kind: EntryKind) -> None:
    """Observations, which upstreams cause, do not make the ledger grow."""
    with pytest.raises(AssertionError, match="ledger takes no entries of kind"):
        both.database.write_and_wait(lambda tx: sequencer.append(tx, kind, repository=NODE, tag=TAG, digest=DIGEST))


def test_the_observation_log_has_no_other_entries(both: Both) -> None:
    """The observation log refuses entries about local tags."""
    with pytest.raises(AssertionError, match="observations takes no entries of kind"):
        both.database.write_and_wait(
            lambda tx: sequencer.append(
                tx, EntryKind.TAG_CREATED, repository=NODE, tag=TAG, digest=DIGEST, log=OBSERVATIONS
            )
        )


def test_a_frozen_observation_log_stops_no_push(both: Both) -> None:
    """A frozen observation log stops no push, and a frozen ledger stops no observation."""
    both.database.doubts[OBSERVATIONS.name] = "it is an old copy"
    both.add()
    with pytest.raises(LedgerFrozen, match="it is an old copy"):
        both.database.write_and_wait(observe)
    both.database.doubts.pop(OBSERVATIONS.name)
    both.database.doubts[LEDGER.name] = "it is an old copy"
    with pytest.raises(LedgerFrozen, match="it is an old copy"):
        both.add()

    assert both.database.write_and_wait(observe) == 1


def test_nothing_is_observed_before_the_log_was_started(tmp_path: Path) -> None:
    """The observation log can't be started before the ledger, whose origin it extends."""
    log = BareLedger(tmp_path / "data", FailingDisk())
    with pytest.raises(LedgerMissing, match="observations was never started"):
        log.database.write_and_wait(observe)
    log.database.write_and_wait(lambda tx: tx.sql.connection.exec_driver_sql("DELETE FROM ledger_head"))
    log.reopen()  # this process has seen the ledger's entries
    with pytest.raises(LedgerMissing):
        log.database.write_and_wait(lambda tx: sequencer.start_observations(tx, actor="boltseal"))
    log.database.close()


def test_its_key_is_rotated_and_its_loss_accepted_like_the_ledgers(both: Both) -> None:
    """The observation log's key is rotated, and its loss accepted, under its own names and files."""
    both.integrator.integrate()
    key = both.keys.key()
    both.observing.integrate()
    rotated = both.observing.rotate("boss", "once a year")
    lost = accept_loss(both.database, both.observed_keys, "boss", "the disk", OBSERVATIONS)
    head = both.observing.integrate()

    assert rotated.name == f"{ORIGIN}/observations"
    assert lost.origin == f"{ORIGIN}/observations/2"
    assert head is not None
    assert head.origin == lost.origin
    assert both.keys.key() == key


def test_only_a_mirror_has_an_observation_log(tmp_path: Path) -> None:
    """Only a registry with upstreams has an observation log, which its first start begins."""
    data = tmp_path / "data"
    prepare(settings_of(data))
    without = sorted(path.name for path in data.with_name("data.keys").iterdir())
    prepare(settings_of(data, "docker.io"))
    prepare(settings_of(data, "docker.io"))
    with open_store(settings_of(data, "docker.io")) as store:
        head = store.database.read_and_wait(lambda held: ledger_tree.head(held, log=OBSERVATIONS))

    assert not any(name.startswith("observations") for name in without)
    assert head is not None
    assert head.size == 1


def test_an_old_copy_of_the_observations_is_noticed(tmp_path: Path) -> None:
    """An old copy of the observations is behind the mark that is stored beside the data."""
    settings = settings_of(tmp_path / "data", "docker.io")
    prepare(settings)
    with open_store(settings) as store:
        store.database.write_and_wait(lambda tx: note(tx, NODE, TAG, SEEN, TERMS, Actor("mirror:docker.io")))
    with open_store(settings) as store:
        store.database.write_and_wait(
            lambda tx: tx.sql.connection.exec_driver_sql("DELETE FROM observation WHERE idx = 1")
        )
        store.database.write_and_wait(
            lambda tx: tx.sql.connection.exec_driver_sql("UPDATE observation_head SET size = 1")
        )
    with open_store(settings) as store:
        doubts = dict(store.database.doubts)
    found = examine_store(settings, lambda *_: None).findings

    assert list(doubts) == [OBSERVATIONS.name]
    assert "entries of the ledger were signed" in doubts[OBSERVATIONS.name]
    assert any(one.what == "observations" for one in found)


def test_fsck_verifies_both_logs(tmp_path: Path) -> None:
    """fsck verifies both logs, and finds a changed observation although its form is canonical."""
    settings = settings_of(tmp_path / "data", "docker.io")
    prepare(settings)
    with open_store(settings) as store:
        store.database.write_and_wait(lambda tx: note(tx, NODE, TAG, SEEN, TERMS, Actor("mirror:docker.io")))
    whole = examine_store(settings, lambda *_: None)
    change_rows(
        settings.server.data,
        "UPDATE observation SET line = CAST(replace(CAST(line AS TEXT), 'aaaa', 'bbbb') AS BLOB) WHERE idx = 1",
    )
    changed = examine_store(settings, lambda *_: None)

    assert whole.findings == ()
    assert whole.counts.observations == 2
    assert any(one.what == "observations" and "are not the ones" in one.problem for one in changed.findings)


@pytest.mark.parametrize(
    ("sql", "sentence"),
    [
        (
            "UPDATE foreign_tag SET entry_index = 0",
            "the row is of observation 0, the log's last entry of the tag is entry 1",
        ),
        ("UPDATE foreign_tag SET name = 'latest'", "the log's last entry of the tag is nothing"),
        (
            "UPDATE foreign_tag SET digest = substr(digest, 1, 7) || replace(substr(digest, 8), 'a', '0')",
            "is served, the log says",
        ),
        ("DELETE FROM foreign_tag", "has this tag, but there is no row"),
    ],
)
def test_fsck_compares_the_served_tags_with_the_log(tmp_path: Path, sql: str, sentence: str) -> None:
    """fsck finds a served tag whose row differs from the log."""
    settings = settings_of(tmp_path / "data", "docker.io")
    prepare(settings)
    with open_store(settings) as store:
        store.database.write_and_wait(lambda tx: note(tx, NODE, TAG, SEEN, TERMS, Actor("mirror:docker.io")))
        store.database.write_and_wait(lambda tx: tx.sql.connection.exec_driver_sql(sql))
    found = examine_store(settings, lambda *_: None).findings

    assert any(sentence in one.problem for one in found)


def _note(tx: UnitOfWork, tag: Tag, seen: UpstreamAnswer) -> None:
    note(tx, NODE, tag, seen, TERMS, Actor("mirror:docker.io"))


def _execute(tx: UnitOfWork, sql: str) -> None:
    tx.sql.connection.exec_driver_sql(sql)


def test_after_an_accepted_loss_of_an_observation_the_mirror_continues(tmp_path: Path) -> None:
    """After an accepted loss of observations, the loss is recorded, tags are as in the log, and new ones are accepted."""
    settings = settings_of(tmp_path / "data", "docker.io")
    prepare(settings)
    other = UpstreamAnswer(Digest.parse("sha256:" + "b" * 64), SEEN.media_type, 100)
    with open_store(settings) as store:
        for tag, seen in (("16.13", SEEN), ("16.13", other), ("18.0", SEEN)):
            store.database.write_and_wait(partial(_note, tag=Tag(tag), seen=seen))
    with open_store(settings) as store:
        for sql in ("DELETE FROM observation WHERE idx >= 2", "UPDATE observation_head SET size = 2"):
            store.database.write_and_wait(partial(_execute, sql=sql))
    with open_store(settings) as store:
        doubted = dict(store.database.doubts)
        keys = store.keys.of(OBSERVATIONS.name)
        accept_loss(store.database, keys, "boss", "an old copy", OBSERVATIONS)
        known, unknown = (
            asyncio.run(store.registry.observations.find(NODE, TAG)),
            asyncio.run(store.registry.observations.find(NODE, Tag("18.0"))),
        )
        store.database.write_and_wait(partial(_note, tag=TAG, seen=other))
    found = examine_store(settings, lambda *_: None).findings

    assert list(doubted) == [OBSERVATIONS.name]
    assert known is not None
    assert (known.known.serves, unknown) == (SEEN, None)
    assert found == ()
