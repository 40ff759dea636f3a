"""An attacker who can write the data folder rewrites history: fsck or the server reports each forgery.

`test_ledger_client` tests what a client with a receipt, and a monitor, detect.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import bcrypt
import httpx2
import pytest

from boltseal.ledger.entry import Entry, EntryKind, encode, parse
from boltseal.ledger.note import SigningKey
from boltseal.server.registry.recovery import accept_loss
from boltseal.server.registry.sequencer import LedgerFrozen
from boltseal.server.settings import Settings, WitnessSettings
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from boltseal.server.storage.metadata.protocol import Snapshot
from boltseal.server.store_factory import collect_store, examine_store, now_us, open_store
from tests import images
from tests.asgi import send
from tests.fakes.witness import URL, FakeWitness
from tests.logins import as_user
from tests.polling import until, until_answer
from tests.serving import Clock, Serving, serving, serving_as, settings_of
from tests.storage_choice import change_rows, put_back, take_copy

TRUE, FALSE = images.image("what was published"), images.image("what an attacker prefers")
HOUR_US = 3_600_000_000

Problems = Callable[[], list[str]]


@pytest.fixture
async def published(tmp_path: Path) -> Path:
    """A closed, signed store in which 1.0.0 is sealed and `latest` has moved; its repository also has the image FALSE."""
    data = tmp_path / "data"
    async with serving(data) as registry:
        await images.push(registry.client, "shop/app", "1.0.0", TRUE)
        await images.push(registry.client, "shop/app", "latest", FALSE)
        await images.push(registry.client, "shop/app", "latest", TRUE)
    return data


@pytest.fixture
def by_hand(published: Path) -> Callable[..., None]:
    """Change the database directly, without the registry."""

    def execute(sql: str, *values: object) -> None:
        assert change_rows(published, sql, *values) > 0

    return execute


@pytest.fixture
def problems(published: Path) -> Problems:
    """Return the findings of fsck."""
    return lambda: [
        f"{one.what}: {one.problem}" for one in examine_store(settings_of(published), lambda *_: None).findings
    ]


def entries(data: Path) -> list[Entry]:
    with open_store(settings_of(data)) as store:

        def lines(held: Snapshot) -> list[bytes]:
            return [line for _, line in ledger_store.lines(held)]

        return [parse(line) for line in store.database.read_and_wait(lines)]


async def writes(data: Path) -> tuple[int, str]:
    """Return the outcome of a push to a store."""
    async with serving(data) as registry:
        answer = await images.put(registry.client, "shop/app", "9.9.9", TRUE)
    return answer.status_code, answer.text


def test_a_changed_tag_row_is_reported(by_hand: Callable[..., None], problems: Problems) -> None:
    """fsck reports a floating tag whose row was changed to another stored image."""
    by_hand("UPDATE tag SET digest = ?, canonical = ? WHERE name = 'latest'", FALSE.digest, FALSE.digest)

    assert f"shop/app:latest: the tag resolves to {FALSE.digest}, the ledger says {TRUE.digest}" in problems()


def test_a_sealed_tag_moved_in_the_database_is_reported(by_hand: Callable[..., None], problems: Problems) -> None:
    """fsck reports a sealed tag whose row and seal were changed, because the ledger's last entry has another digest."""
    by_hand(
        "UPDATE tag SET digest = ?1, canonical = ?1, sealed_digest = ?1, sealed_canonical = ?1 WHERE name = '1.0.0'",
        FALSE.digest,
    )
    found = problems()

    assert f"shop/app:1.0.0: the tag resolves to {FALSE.digest}, the ledger says {TRUE.digest}" in found
    assert f"shop/app:1.0.0: the tag is sealed at {FALSE.digest}, the ledger says {TRUE.digest}" in found


async def test_a_sealed_tag_moved_with_a_signed_entry_is_reported(
    published: Path, by_hand: Callable[..., None], problems: Problems
) -> None:
    """fsck reports a move of a sealed tag that the stolen key signed: tree and checkpoint verify, the ledger's rules
    do not."""
    last, size = entries(published)[-1], len(entries(published))
    forged = Entry(
        kind=EntryKind.TAG_MOVED,
        time_us=last.time_us + 1,
        registry=last.registry,
        repository="shop/app",
        tag="1.0.0",
        digest=FALSE.digest,
        type=FALSE.media_type,
        size=len(FALSE.raw),
        was=TRUE.digest,
        previous=next(n for n, one in enumerate(entries(published)) if one.tag == "1.0.0"),
        actor="anonymous",
        salt="0" * 32,
        extra={"mode": "sealed", "keep": "forever"},
    )
    by_hand(
        "INSERT INTO entry VALUES (?, ?, 'tag.moved', 'shop/app', '1.0.0', ?)", size, forged.time_us, encode(forged)
    )
    by_hand("UPDATE ledger_head SET size = ?, last_time_us = ?", size + 1, forged.time_us)
    await writes(published)  # the server signs the entries in the database

    assert (
        f"entry {size}: the tag is sealed at {TRUE.digest}, and this entry lets it resolve to {FALSE.digest}"
        in problems()
    )


def test_a_rewritten_entry_is_reported(published: Path, by_hand: Callable[..., None], problems: Problems) -> None:
    """fsck reports an entry whose actor was changed in valid form, because the tree's hashes differ."""
    index = next(n for n, one in enumerate(entries(published)) if one.tag == "1.0.0")
    other = encode(replace_actor(entries(published)[index]))
    by_hand("UPDATE entry SET line = ? WHERE idx = ?", other, index)

    assert any("are not the ones that the checkpoint is over" in one for one in problems())


def replace_actor(entry: Entry) -> Entry:
    values = {name: getattr(entry, name) for name in Entry.__struct_fields__}
    return Entry(**(values | {"actor": "somebody-else"}))


async def test_a_removed_entry_is_reported(published: Path, by_hand: Callable[..., None], problems: Problems) -> None:
    """fsck reports an entry removed from the middle of the ledger, because later entries have wrong indexes."""
    by_hand("DELETE FROM entry WHERE idx = 3")

    assert any("something is missing" in one for one in problems())


async def test_a_truncated_log_is_reported(published: Path, by_hand: Callable[..., None], problems: Problems) -> None:
    """When last entry, state row and tag row were removed, the registry refuses pushes and fsck reports the reason."""
    size = len(entries(published))
    by_hand("DELETE FROM entry WHERE idx = ?", size - 1)
    by_hand("UPDATE ledger_head SET size = ?, last_time_us = (SELECT max(time_us) FROM entry)", size - 1)
    status, text = await writes(published)

    assert status == 503
    assert f"{size} entries of the ledger were signed, but the data has {size - 1}" in text
    assert any(f"is over {size} entries; the store has {size - 1}" in one for one in problems())


@pytest.mark.slow
async def test_a_log_truncated_under_a_running_server_is_noticed(published: Path) -> None:
    """A running server notices within a second that the log was truncated, and refuses writes before it signs anything."""
    async with serving(published) as registry:
        change_rows(published, "DELETE FROM entry WHERE idx >= 2")
        change_rows(published, "UPDATE ledger_head SET size = 2")

        async def refused() -> bool:
            return (await registry.client.post("/v2/shop/app/blobs/uploads/")).status_code == 503

        await until_answer(refused, "uploads are refused", 4.0)


async def test_a_replaced_signing_key_is_reported(published: Path, problems: Problems) -> None:
    """When the signing key was replaced, the high-water mark has another signer: writes are refused, and fsck reports
    it."""
    keys = LedgerKeys(published.with_name("data.keys"))
    key = keys.key()
    assert key is not None
    keys.put_key(SigningKey(key.name, bytes(32)))
    status, text = await writes(published)

    assert status == 503
    assert "mark is invalid" in text
    assert any("what was signed of it is not valid" in one for one in problems())


async def test_an_old_database_beside_current_keys_is_refused(published: Path, tmp_path: Path) -> None:
    """A restored old database is older than the high-water mark, so tags sealed since then do not become free."""
    take_copy(published, tmp_path / "backup")
    async with serving(published) as registry:
        await images.push(registry.client, "shop/app", "2.0.0", TRUE)
    put_back(tmp_path / "backup", published)
    async with serving(published) as registry:
        answer = await images.put(registry.client, "shop/app", "2.0.0", FALSE)

    assert answer.status_code == 503
    assert "it is an old copy" in answer.text


@pytest.mark.files_only("puts back the files of data and mark")
@pytest.mark.slow
async def test_an_old_database_with_old_keys_is_refused_by_a_witness(published: Path, tmp_path: Path) -> None:
    """A restore of both database and keys is detectable only by a witness, which the registry asks before it accepts
    writes."""
    trusted = LedgerKeys(published.with_name("data.keys")).key()
    assert trusted is not None
    witness = FakeWitness(trusted.verifier)
    settings = settings_of(published).model_copy(
        update={"witness": (WitnessSettings(url=URL, key=str(witness.key.verifier)),)}
    )
    shutil.copytree(published, tmp_path / "backup")
    shutil.copytree(published.with_name("data.keys"), tmp_path / "backup.keys")
    async with serving_as(settings, witness_app=witness.transport()) as registry:
        await images.push(registry.client, "shop/app", "2.0.0", TRUE)
        await until(lambda: b"\n6\n" in (witness.seen or b""), "the witness has cosigned six entries")
    for name in ("data", "data.keys"):
        shutil.rmtree(published.with_name(name))
        shutil.copytree(tmp_path / name.replace("data", "backup"), published.with_name(name))
    async with serving_as(settings, witness_app=witness.transport()) as registry:
        with_witness = await images.put(registry.client, "shop/app", "2.0.0", FALSE)

    assert with_witness.status_code == 503
    assert "it is an old copy" in with_witness.text


async def test_a_clock_that_was_set_back_is_handled(published: Path) -> None:
    """With the clock slightly back, times still rise; with the clock far back, writes are refused until it is
    corrected."""
    newest = entries(published)[-1].time_us
    clock = Clock(newest - 60_000_000)
    async with serving(published, clock=clock) as registry:
        await images.push(registry.client, "shop/app", "1.0.1", TRUE)
        clock.now_us = newest - HOUR_US
        refused = await images.put(registry.client, "shop/app", "1.0.2", TRUE)
        ready = await registry.client.get("/readyz")
    after = entries(published)

    assert [one.time_us for one in after] == sorted({one.time_us for one in after})
    assert refused.status_code == 503
    assert ready.status_code == 503


async def test_a_clock_that_was_set_forward_and_corrected_refuses_writes(published: Path) -> None:
    """After a clock error into the future, writes are refused, with the reason, until the real time passes those
    entries."""
    newest = entries(published)[-1].time_us
    clock = Clock(newest + 24 * HOUR_US)
    async with serving(published, clock=clock) as registry:
        await images.push(registry.client, "shop/app", "1.0.1", TRUE)
        clock.now_us = newest + HOUR_US
        refused = await images.put(registry.client, "shop/app", "1.0.2", TRUE)

    assert refused.status_code == 503
    assert "behind its ledger's last entry" in refused.text


async def test_an_accepted_loss_is_recorded_in_the_ledger(published: Path) -> None:
    """The first entry under a new origin names the last checkpoint of the old one."""
    with open_store(settings_of(published)) as store:
        accept_loss(store.database, store.keys, "operator", "to hide the loss")
    newest = entries(published)[-1]

    assert newest.kind is EntryKind.RECOVERED
    assert newest.extra["last_size"] == str(len(entries(published)) - 1)


@pytest.mark.files_only("replaces the file of the mark")
@pytest.mark.parametrize("mark", [b"", b"garbage\n", b"\x00" * 2_000_000, None])
async def test_a_replaced_high_water_mark_freezes_the_ledger(published: Path, mark: bytes | None) -> None:
    """A mark replaced by garbage, a large file, or (None) a pipe without a writer freezes the ledger; a loss can be
    accepted."""
    folder = published.with_name("data.keys")
    (folder / "ledger.mark").unlink()
    if mark is None:
        os.mkfifo(folder / "ledger.mark")
    else:
        (folder / "ledger.mark").write_bytes(mark)
    async with serving(published) as registry:
        pulled = await registry.client.get("/v2/shop/app/manifests/1.0.0")
        refused = await images.put(registry.client, "shop/app", "9.9.9", TRUE)
    (folder / "ledger.mark").unlink()
    (folder / "ledger.mark").write_bytes((mark or b"")[:100])
    with open_store(settings_of(published)) as store:
        accept_loss(store.database, store.keys, "operator", "the mark is gone")

    assert (pulled.status_code, refused.status_code) == (200, 503)
    assert entries(published)[-1].extra["last_size"] == str(len(entries(published)) - 1)
    assert (await writes(published))[0] == 201


@pytest.mark.files_only("puts back the file of the database")
async def test_garbage_collection_over_an_old_database_is_refused(published: Path, tmp_path: Path) -> None:
    """Garbage collection on an old database is refused, because it would delete all bytes pushed since then."""
    old = tmp_path / "old.db"
    shutil.copy(published / DATABASE_NAME, old)
    async with serving(published) as registry:
        await images.push(registry.client, "shop/app", "2.0.0", images.image("since"))
    before = sorted(path.name for path in (published / "blobs").rglob("*"))
    shutil.copy(old, published / DATABASE_NAME)
    much_later_us = now_us() + 90 * 24 * HOUR_US
    would_go = list(collect_store(settings_of(published), dry_run=True, full=True, clock=lambda: much_later_us))

    with pytest.raises(LedgerFrozen, match="nothing is deleted"):
        list(collect_store(settings_of(published), dry_run=False, full=True, clock=lambda: much_later_us))
    assert sorted(path.name for path in (published / "blobs").rglob("*")) == before
    assert would_go


@pytest.mark.parametrize(
    "target", ["/ledger%2fcheckpoint", "/ledger/%63heckpoint", "/ledger/tile/entries/000.p%2F1", "/%6cedger/receipt/0"]
)
async def test_another_spelling_of_a_path_is_not_found(registry: Serving, target: str) -> None:
    """Another spelling of a path gets no answer, so that it cannot bypass a filter in front of the registry."""
    answer = await send(registry.app, "GET", target)

    assert answer.status == 404


async def test_an_unwritable_folder_of_keys_stops_no_pull(published: Path) -> None:
    """With an unwritable key folder, also after a restart, pulls work and pushes wait for signing; readiness reports
    it."""
    lock = published.with_name("data.keys") / "ledger.lock"
    lock.unlink()
    lock.mkdir()  # as on a disk that is mounted read-only: the lock can't be taken
    async with serving(published) as registry:
        pulled = await registry.client.get("/v2/shop/app/manifests/1.0.0")
        pushed = await images.put(registry.client, "shop/app", "2.0.0", TRUE)

        async def warned() -> httpx2.Response | None:
            answer = await registry.client.get("/readyz")
            return answer if "the newest entries of the ledger are not signed" in answer.text else None

        ready = await until_answer(warned, "/readyz reports the missing signature")

    assert ready is not None
    assert (pulled.status_code, pushed.status_code, ready.status_code) == (200, 201, 200)


async def test_entries_are_not_read_without_the_grant(registry: Serving) -> None:
    """A grant on a repository, however wide, gives no right to read ledger entries."""
    keys = registry.data.with_name("data.keys")
    (keys / "htpasswd").write_text(f"dev:{bcrypt.hashpw(b'pw-dev', bcrypt.gensalt(4)).decode()}\n")
    everything = {"users": ["dev"], "repository": "**", "actions": ["pull", "push", "delete", "admin"]}
    settings = Settings.model_validate({"server": {"data": registry.data}, "auth": {"grant": [everything]}})
    async with serving_as(settings) as guarded:
        asked = [
            (await guarded.client.get("/ledger/tile/entries/000.p/1", headers=headers)).status_code
            for headers in ({}, as_user("dev"))
        ]

    assert asked == [401, 403]
