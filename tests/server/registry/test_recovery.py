"""A ledger behind its signed checkpoint: writes are refused until the entries are recovered or their loss is recorded."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from boltseal.ledger.audit import Audit
from boltseal.ledger.entry import EntryKind, parse
from boltseal.ledger.tiles import BundleId, encode_bundle
from boltseal.policy.rules import RuleSet
from boltseal.server.registry import sequencer
from boltseal.server.registry.integrator import Integrator
from boltseal.server.registry.recovery import RecoveryRefused, accept_loss, bring_back, next_origin, restore_tags
from boltseal.server.registry.tag_writer import TagWriter
from boltseal.server.settings import Settings
from boltseal.server.storage.findings import FindingStatus
from boltseal.server.storage.ledger_copy import CopyInvalid, FolderCopy
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.ledger_mark import LedgerKeyUnreadable
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.storage.metadata.migrate import DATABASE_NAME, GENERATION_NAME
from boltseal.server.storage.metadata.protocol import UnitOfWork
from boltseal.server.storage.metadata.sqlite import open_database
from boltseal.server.store_factory import examine_store, open_store
from tests import images
from tests.cli import program
from tests.fakes.disk import FailingDisk
from tests.polling import until_answer
from tests.server.registry.ledgers import NOW_US, BareLedger
from tests.servers import boltseal
from tests.serving import Clock, serving, settings_of
from tests.storage_choice import put_back, take_copy

PUSHED = images.image("pushed after the copy was taken")
OTHER = images.image("what another user would publish under the same name")


@pytest.fixture
async def behind(tmp_path: Path) -> Settings:
    """A data folder from before a sealed tag was published, beside the present keys; the newer folder is `lost`."""
    data = tmp_path / "data"
    async with serving(data) as registry:
        await images.push(registry.client, "shop/app", "1.0.0", images.image("old"))
        await images.push(registry.client, "shop/app", "latest", images.image("old"))
    take_copy(data, tmp_path / "old")
    async with serving(data) as registry:
        await images.push(registry.client, "shop/app", "2.0.0", PUSHED)
        await images.push(registry.client, "shop/app", "latest", PUSHED)
        await images.push(registry.client, "shop/new", "1.0.0", PUSHED)
        gone = await registry.client.delete("/v2/shop/new/manifests/1.0.0")
        assert gone.status_code == 405
    shutil.copytree(data, tmp_path / "lost")
    put_back(tmp_path / "old", data)
    return settings_of(data)


def recover(settings: Settings, source: Path) -> int:
    copy = FolderCopy(source)
    with open_store(settings) as store:
        done = bring_back(store.database, store.keys, TagWriter(settings.rules), copy.lines, copy.head())
    return done.brought


async def test_it_refuses_writes_with_the_reason(behind: Settings) -> None:
    """Pulls work, pushes and deletes are refused with the reason, and tags sealed since then do not become free."""
    async with serving(behind.server.data) as registry:
        pulled = await registry.client.get("/v2/shop/app/manifests/1.0.0")
        pushed = await images.put(registry.client, "shop/app", "2.0.0", images.image("old"))
        upload = await registry.client.post("/v2/shop/app/blobs/uploads/")
        deleted = await registry.client.delete("/v2/shop/app/manifests/latest")
        ready = await registry.client.get("/readyz")

    assert pulled.status_code == 200
    assert {pushed.status_code, upload.status_code, deleted.status_code} == {503}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in (pushed, upload, deleted))
    [error] = pushed.json()["errors"]
    assert (error["code"], error["detail"]) == ("UNAVAILABLE", {"reason": "ledger"})
    assert "were signed, but the data has" in pushed.json()["errors"][0]["message"]
    assert any("were signed" in reason for reason in ready.json()["reasons"])


@pytest.mark.files_only("recovers entries from another data folder")
async def test_the_entries_are_recovered_from_the_newer_folder(behind: Settings, tmp_path: Path) -> None:
    """Entries are recovered from the newer folder: tags are sealed as before; fsck reports missing bytes, which a push
    restores."""
    brought = recover(behind, tmp_path / "lost")
    missing = [one.problem for one in examine_store(behind, lambda *_: None).findings]
    async with serving(behind.server.data) as registry:
        refused = await images.put(registry.client, "shop/app", "2.0.0", images.image("old"))
        await images.push(registry.client, "shop/app", "2.0.0", PUSHED)
        await images.push(registry.client, "shop/new", "1.0.0", PUSHED)
        latest = await images.meaning(registry.client, "shop/app", "latest")
    examined = examine_store(behind, lambda *_: None)

    assert brought == 3
    assert any("which the repository does not have" in one for one in missing)
    assert refused.status_code == 409
    assert latest == PUSHED.digest
    assert examined.outcome is FindingStatus.HOLDS


@pytest.mark.files_only("recovers entries from another data folder")
async def test_a_settling_tag_comes_back_settling(tmp_path: Path) -> None:
    """The ledger has its deadline: after a recovery the tag neither moves nor waits for ever."""
    data, rules, clock = tmp_path / "data", [{"settle": "60s", "keep": "30d"}], Clock(1_790_000_000_000_000)
    settings = settings_of(data, rules)
    async with serving(data, rules, clock=clock) as registry:
        await images.push(registry.client, "shop/app", "1.0.0", images.image("old"))
    shutil.copytree(data, tmp_path / "old")
    async with serving(data, rules, clock=clock) as registry:
        await images.push(registry.client, "shop/app", "2.0.0", PUSHED)
    data.rename(tmp_path / "lost")
    (tmp_path / "old").rename(data)
    recover(settings, tmp_path / "lost")
    async with serving(data, rules, clock=clock) as registry:
        refused = await images.push(registry.client, "shop/app", "2.0.0", images.image("old"))
        again = await images.push(registry.client, "shop/app", "2.0.0", PUSHED)
        clock.advance(seconds=60)
        sealed = await images.push(registry.client, "shop/app", "2.0.0", PUSHED)
    examined = examine_store(settings, lambda *_: None)

    assert refused.status_code == 409
    assert again.headers["boltseal-settles"] == "2026-09-21T14:14:20.000000Z"
    assert "boltseal-ledger-index" in sealed.headers
    assert examined.outcome is FindingStatus.HOLDS


@pytest.mark.files_only("recovers entries from another data folder")
async def test_the_entries_are_recovered_from_tiles(behind: Settings, tmp_path: Path) -> None:
    """Entries are recovered from the tiles of /ledger/, as any C2SP tool stores them."""
    tree = tmp_path / "tree"
    lost = FolderCopy(tmp_path / "lost")
    head = lost.head()
    assert head is not None
    size = int(head.split(b"\n")[1])
    bundle = tree / BundleId(0, size).path()
    bundle.parent.mkdir(parents=True)
    bundle.write_bytes(encode_bundle(list(lost.lines(0, size))))
    (tree / "checkpoint").write_bytes(head)

    assert recover(behind, tree) == 3


@pytest.mark.files_only("recovers entries from another data folder")
async def test_entries_that_were_not_signed_are_refused(behind: Settings, tmp_path: Path) -> None:
    """A copy with a rewritten entry is refused and changes nothing."""
    lost = FolderCopy(tmp_path / "lost")
    with open_store(behind) as store:
        before = store.database.read_and_wait(lambda held: list(ledger_store.lines(held)))

        def lying(start: int, end: int) -> list[bytes]:
            return [line.replace(b'"anonymous"', b'"somebody_"') for line in lost.lines(start, end)]

        with pytest.raises(RecoveryRefused, match="not the ones that were signed"):
            bring_back(store.database, store.keys, TagWriter(behind.rules), lying, None)
        after = store.database.read_and_wait(lambda held: list(ledger_store.lines(held)))

        assert store.database.frozen is not None
    assert before == after


@pytest.mark.files_only("recovers entries from another data folder")
async def test_nothing_is_recovered_where_nothing_is_missing(behind: Settings, tmp_path: Path) -> None:
    """If no entry is missing, recovery does nothing."""
    recover(behind, tmp_path / "lost")

    with pytest.raises(RecoveryRefused, match="nothing to restore"):
        recover(behind, tmp_path / "lost")


async def test_a_loss_is_accepted_under_another_origin(behind: Settings) -> None:
    """An accepted loss starts a new origin, whose first entry names the old one's last checkpoint and the missing
    entries."""
    with open_store(behind) as store:
        before = store.keys.mark() or b""
        done = accept_loss(store.database, store.keys, "operator", "the disk is gone")
        lines = [line for _, line in store.database.read_and_wait(lambda held: list(ledger_store.lines(held)))]
    recovered = parse(lines[-1])
    audit = Audit()
    problems = [audit.take(index, line) for index, line in enumerate(lines)]
    async with serving(behind.server.data) as registry:
        await images.push(
            registry.client, "shop/app", "2.0.0", OTHER
        )  # the tag is free again, as the accepted loss implies

    assert done.origin == recovered.registry == "localhost:5000/2"
    assert recovered.kind is EntryKind.RECOVERED
    assert recovered.reason == "the disk is gone"
    assert recovered.extra["previous_origin"] == "localhost:5000"
    assert recovered.extra["last_size"] == before.split(b"\n")[1].decode()
    assert recovered.extra["lost_entries"] == "3"
    assert not any(problems)
    assert examine_store(behind, lambda *_: None).outcome is FindingStatus.HOLDS


@pytest.mark.parametrize("call", ["create", "sync", "rename", "sync_folder"])
@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("done", [False, True])
def test_an_acceptance_that_fails_anywhere_is_completed_by_the_next(
    tmp_path: Path, call: str, skip: int, done: bool
) -> None:
    """If accepting a loss fails at any step, the next attempt completes it, and nothing is signed before."""
    disk = FailingDisk()
    log = BareLedger(tmp_path / "data", disk)
    log.integrator.begin()
    log.add(3)
    last = log.integrator.integrate()
    disk.fail(call, errno.EIO, done=done, skip=skip)
    with pytest.raises(LedgerKeyUnreadable):
        accept_loss(log.database, log.keys, "operator", "first")
    accept_loss(log.database, LedgerKeys(log.keys.folder), "operator", "again")
    head = Integrator(log.database, LedgerKeys(log.keys.folder)).integrate()
    audit = Audit()
    problems = [audit.take(index, line) for index, line in enumerate(log.lines())]
    recovered = next(one for one in map(parse, log.lines()) if one.kind is EntryKind.RECOVERED)
    log.database.close()

    assert last is not None
    assert head is not None
    assert (recovered.extra["previous_origin"], recovered.extra["last_root"]) == (last.origin, last.root.hex())
    assert head.origin == f"{last.origin}/3"
    assert not any(problems)


async def test_a_lost_key_is_accepted_as_a_loss(tmp_path: Path) -> None:
    """Without keys writes are refused; with another origin and key the existing entries continue."""
    data = tmp_path / "data"
    async with serving(data) as registry:
        await images.push(registry.client, "shop/app", "1.0.0", images.image("old"))
    shutil.rmtree(data.with_name("data.keys"))
    async with serving(data) as registry:
        refused = await images.put(registry.client, "shop/app", "1.0.1", images.image("new"))
    with open_store(settings_of(data)) as store:
        accept_loss(store.database, store.keys, "operator", "keys were not in the backup")
    async with serving(data) as registry:
        still = await images.put(registry.client, "shop/app", "1.0.0", images.image("new"))
        await images.push(registry.client, "shop/app", "1.0.1", images.image("new"))

    assert refused.status_code == 401  # without the folder of keys a login is required
    assert still.status_code == 409


@pytest.mark.parametrize("added", [False, True])
async def test_a_loss_of_the_keys_warns_that_the_users_are_lost_too(tmp_path: Path, added: bool) -> None:
    """After an accepted loss of the keys, the command warns that without users the next start requires no login."""
    data = tmp_path / "data"
    async with serving(data) as registry:
        await images.push(registry.client, "shop/app", "1.0.0", images.image("old"))
    shutil.rmtree(data.with_name("data.keys"))
    if added:
        program.call("admin", "user", "add", "ci", "--data", data, typed="pw")
    done = program.call("ledger", "recover", "--accept-loss", "--reason", "keys lost", "--data", data)

    assert done.code == 0, done.err
    assert ("serves every client without a login" in done.err) is not added


@pytest.mark.files_only("recovers entries from another data folder")
@pytest.mark.slow
async def test_a_running_server_accepts_writes_again_by_itself(behind: Settings, tmp_path: Path) -> None:
    """A running server checks once a second, and accepts writes without a restart."""
    async with serving(behind.server.data) as registry:
        refused = await images.put(registry.client, "shop/app", "3.0.0", images.image("old"))
        recover(behind, tmp_path / "lost")

        async def accepted() -> bool:
            return (await registry.client.post("/v2/shop/app/blobs/uploads/")).status_code == 202

        await until_answer(accepted, "the registry accepts uploads", 20.0)

    assert refused.status_code == 503


def test_a_folder_that_is_no_copy_is_refused(tmp_path: Path) -> None:
    """A folder that is no copy of this ledger is refused in one line."""
    with pytest.raises(CopyInvalid, match="contains no copy of a ledger"):
        FolderCopy(tmp_path)


@pytest.mark.parametrize(
    ("origin", "after"), [("reg.example", "reg.example/2"), ("reg.example/2", "reg.example/3"), ("a/0", "a/0/2")]
)
def test_the_next_origin_counts_up(origin: str, after: str) -> None:
    """The proposed new origin counts up: registry.example.com, then /2, then /3."""
    assert next_origin(origin) == after


@pytest.mark.files_only("recovers entries from another data folder")
@pytest.mark.slow
async def test_the_entries_are_recovered_from_a_running_registry(behind: Settings, tmp_path: Path) -> None:
    """Entries are recovered from a running server on the newer folder, or any mirror of its ledger."""
    shutil.copytree(tmp_path / "data.keys", tmp_path / "lost.keys")
    with boltseal(tmp_path / "lost") as server:
        back = program.call("ledger", "recover", "--from", server.url, "--data", behind.server.data, "--json")

    assert back.code == 0, back.err
    assert back.json["results"][0]["entries"] == 3


@pytest.mark.files_only("recovers entries from another data folder")
@pytest.mark.slow
async def test_the_command_recovers_and_accepts(behind: Settings, tmp_path: Path) -> None:
    """The command recovers entries and accepts a loss."""
    data = behind.server.data
    neither = program.call("ledger", "recover", "--data", data)
    without = program.call("ledger", "recover", "--accept-loss", "--data", data)
    back = program.call("ledger", "recover", "--from", tmp_path / "lost", "--data", data, "--json")
    again = program.call("ledger", "recover", "--from", tmp_path / "lost", "--data", data)

    assert (neither.code, without.code, back.code, again.code) == (2, 2, 0, 2)
    assert "--from URL|FOLDER" in neither.err
    assert "--reason is empty" in without.err
    assert back.json["results"][0]["entries"] == 3


@pytest.mark.files_only("opens SQLite without time for a write")
def test_the_tags_of_a_long_ledger_are_restored(tmp_path: Path) -> None:
    """However many entries it has to read, a restoration of tags is not stopped as other writes that take long are."""
    data = tmp_path / "data"
    ledger = BareLedger(data)
    ledger.integrator.begin()

    def add(tx: UnitOfWork) -> None:
        for _ in range(3000):
            sequencer.append(tx, EntryKind.RULES_CHANGED, actor="x")

    ledger.database.write_and_wait(add, limited=False)
    ledger.integrator.integrate()
    ledger.database.close()
    hurried = open_database(data / DATABASE_NAME, data / GENERATION_NAME, lambda: NOW_US, budget_s=0.0)
    restored = restore_tags(hurried, ledger.keys, TagWriter(RuleSet()))
    hurried.close()

    assert restored == ()
