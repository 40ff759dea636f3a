"""Tag rows that another program changed are found at the start and at each change of a tag."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from boltseal.oci.reference import Tag
from boltseal.server.maintenance import check_tags_alone
from boltseal.server.registry.tag_check import StoreCheck
from boltseal.server.storage.coordination.factory import open_leases
from boltseal.server.storage.metadata import doubt_table
from boltseal.server.storage.metadata.protocol import LEDGER
from boltseal.server.store_factory import begin, now_us, open_metadata, open_store, prepare
from tests import servers
from tests.cli import program
from tests.images import OCI_MANIFEST, Document, image, push, put
from tests.polling import until_answer, until_signed, wait_until
from tests.server.seal.admin import ADMIN, APP, seals_of
from tests.serving import Serving, serving, settings_of
from tests.storage_choice import change_rows

RIGHT, WRONG = image("the published image"), image("another image")
NULLED = "digest = NULL, canonical = NULL, media_type = NULL"
UNSEALED = "sealed_digest = NULL, sealed_canonical = NULL, sealed_media_type = NULL, keep = NULL"
OTHER = f"digest = '{WRONG.digest}', canonical = '{WRONG.digest}'"
OTHER_SEAL = f"sealed_digest = '{WRONG.digest}', sealed_canonical = '{WRONG.digest}'"
SET = "UPDATE tag SET {} WHERE name = '{}'"
INSERT = """
INSERT INTO tag (repository_id, name, digest, canonical, media_type, entry_index, changed_us, changed_by)
SELECT id, '6.6.6', '{0}', '{0}', '{1}', 4, 1, 'ci' FROM repository
"""
LINE = "UPDATE entry SET line = CAST(replace(CAST(line AS TEXT), '{}', '{}') AS BLOB) WHERE tag = '{}'"

FOUND_AT_ANY_TIME = {
    "row nulled": [SET.format(NULLED, "1.4.2")],
    "row nulled and unsealed": [SET.format(f"{NULLED}, {UNSEALED}", "1.4.2")],
    "row deleted": ["DELETE FROM tag WHERE name = '1.4.2'"],
    "row repointed": [SET.format(f"{OTHER}, {OTHER_SEAL}", "1.4.2")],
    "sha256 repointed": [SET.format(f"canonical = '{WRONG.digest}', sealed_canonical = '{WRONG.digest}'", "1.4.2")],
    "seal removed": [SET.format(UNSEALED, "1.4.2")],
    "protection lowered": ["UPDATE tag SET keep = 'deletable' WHERE name = '1.4.2'"],
    "protection ended": ["UPDATE tag SET keep_until_us = 1 WHERE name = '1.4.2'"],
    "entry rewritten": [LINE.format(RIGHT.digest, WRONG.digest, "1.4.2")],
    "entry and row rewritten": [
        LINE.format(RIGHT.digest, WRONG.digest, "1.4.2"),
        SET.format(f"{OTHER}, {OTHER_SEAL}", "1.4.2"),
    ],
    "previous entry broken": [LINE.format('"previous":-1', '"previous":1', "1.4.2")],
    "entry is no text": ["UPDATE entry SET line = x'ff' WHERE tag = '1.4.2'"],
    "entry removed": ["DELETE FROM entry WHERE tag = '1.4.2'"],
    "entry of another tag": ["UPDATE entry SET tag = '9.9.9' WHERE tag = '1.4.2'"],
    "row of another entry": ["UPDATE tag SET entry_index = 1 WHERE name = '1.4.2'"],
}
FOUND_AT_A_START = FOUND_AT_ANY_TIME | {
    "row and entry removed": ["DELETE FROM tag WHERE name = '1.4.2'", "DELETE FROM entry WHERE tag = '1.4.2'"],
    "row removed and entry hidden": [
        "DELETE FROM tag WHERE name = '1.4.2'",
        "UPDATE entry SET kind = 'built' WHERE tag = '1.4.2'",
    ],
    "old entry rewritten": [LINE.format(WRONG.digest, RIGHT.digest, "latest")],
    "checkpoint is no checkpoint": ["UPDATE ledger_checkpoint SET note = x'ff'"],
    "tombstone removed": [SET.format(UNSEALED, "1.0.0")],
    "tombstone replaced": [SET.format(OTHER_SEAL, "1.0.0")],
    "row without an entry": [INSERT.format(WRONG.digest, OCI_MANIFEST)],
}

FOUND_OF_A_SETTLING_TAG = {
    "made mutable": "keep = NULL, keep_until_us = NULL",
    "never sealed": f"keep_until_us = {2**62}",
    "kept for less": "keep = 'deletable'",
}


def tamper(data: Path, *statements: str) -> None:
    for statement in statements:
        assert change_rows(data, statement) > 0, statement


async def publish(registry: Serving) -> None:
    """`1.4.2` is sealed, `1.0.0` was sealed and deleted, `latest` moved from WRONG to RIGHT, and all of it is signed."""
    client = registry.client
    for tag, document in (("1.4.2", RIGHT), ("1.0.0", RIGHT), ("latest", WRONG), ("latest", RIGHT)):
        answer = await push(client, "shop/app", tag, document)
    await until_signed(client, int(answer.headers["boltseal-ledger-index"]) + 1)


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """The data folder of a server that ended properly."""
    data = tmp_path / "data"
    async with serving(data) as registry:
        await publish(registry)
        with seals_of(data) as seals:
            await seals.unseal(APP, Tag("1.0.0"), ADMIN, "a test")
        deleted = await registry.client.delete("/v2/shop/app/manifests/1.0.0")
        assert deleted.status_code == 202
    return data


@pytest.mark.parametrize("kind", FOUND_AT_A_START)
async def test_what_was_changed_between_two_starts_is_found(data: Path, kind: str) -> None:
    """A server that starts on changed rows is not ready, reports why, serves pulls and refuses pushes."""
    tamper(data, *FOUND_AT_A_START[kind])
    prepare(settings_of(data))
    async with serving(data) as registry:
        ready = await registry.client.get("/readyz")
        pushed = [await put(registry.client, "shop/app", tag, WRONG) for tag in ("1.4.2", "1.0.0", "7.7.7")]
        pulled = await registry.client.get(f"/v2/shop/app/manifests/{RIGHT.digest}")

    assert ready.status_code == 503
    assert "ledger recover --restore-tags" in ready.text or "stored checkpoint is invalid" in ready.text
    assert "1.4.2" not in ready.text
    assert all(answer.status_code == 503 for answer in pushed)
    assert pulled.status_code == 200


@pytest.mark.parametrize("kind", FOUND_AT_ANY_TIME)
async def test_what_was_changed_while_it_runs_is_found_by_the_next_push(data: Path, kind: str) -> None:
    """The next push to a changed tag is refused, and then every write."""
    async with serving(data) as registry:
        tamper(data, *FOUND_AT_ANY_TIME[kind])
        pushed = await put(registry.client, "shop/app", "1.4.2", WRONG)
        ready = await registry.client.get("/readyz")
        other = await put(registry.client, "shop/app", "7.7.7", WRONG)
        private = "shop/app" in ready.text + other.text

        assert pushed.status_code == 503
        assert ready.status_code == 503
        assert not private
        assert other.status_code == 503

        await until_answer(kept_doubt(data), "the doubt is kept")


@pytest.mark.parametrize("kind", ["protection lowered", "protection ended", "seal removed"])
async def test_a_lowered_protection_is_found_by_the_deletion_of_the_manifest(data: Path, kind: str) -> None:
    """Deleting a manifest deletes the tags that resolve to it, so each of them is compared with the ledger first."""
    async with serving(data) as registry:
        tamper(data, *FOUND_AT_ANY_TIME[kind])
        await put(registry.client, "shop/app", "latest", WRONG)
        deleted = await registry.client.delete(f"/v2/shop/app/manifests/{RIGHT.digest}")
        head = await registry.client.head("/v2/shop/app/manifests/1.4.2")

    assert deleted.status_code == 503
    assert head.headers["docker-content-digest"] == RIGHT.digest


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("2.0.0", "keep_until_us = NULL, keep = NULL"),
        ("2.0.0", "keep_until_us = NULL"),
        ("2.0.0", "keep_until_us = keep_until_us + 1"),
        ("2.0.0", "keep = 'deletable'"),
        ("latest", "keep = 'forever', keep_until_us = 1"),
    ],
)
async def test_a_changed_settling_time_is_found(tmp_path: Path, name: str, change: str) -> None:
    """A settling tag can't be made mutable by its row, and a mutable one can't be sealed by it."""
    data = tmp_path / "data"
    async with serving(data, ({"tag": "2.0.0", "settle": "1h"},)) as registry:
        await publish(registry)
        await push(registry.client, "shop/app", "2.0.0", RIGHT)
        tamper(data, SET.format(change, name))
        pushed = await put(registry.client, "shop/app", name, WRONG)
        head = await registry.client.head(f"/v2/shop/app/manifests/{name}")

    assert pushed.status_code == 503
    assert head.headers["docker-content-digest"] == RIGHT.digest


def kept_doubt(data: Path) -> Callable[[], Awaitable[bool]]:
    async def kept() -> bool:
        with open_metadata(settings_of(data)) as database:
            return database.read_and_wait(lambda snapshot: bool(doubt_table.find(snapshot, LEDGER)))

    return kept


async def test_an_honest_store_is_not_doubted(data: Path) -> None:
    """Pushes, moves, unsealing, deletion and the return of a deleted tag raise no doubt."""
    prepare(settings_of(data))
    async with serving(data) as registry:
        returned = await put(registry.client, "shop/app", "1.0.0", RIGHT)
        moved = await put(registry.client, "shop/app", "latest", WRONG)
        again = await put(registry.client, "shop/app", "1.4.2", RIGHT)
        refused = await put(registry.client, "shop/app", "1.4.2", WRONG)
        ready = await registry.client.get("/readyz")
    with open_store(settings_of(data)) as store:
        problem = StoreCheck(store.database).problem()

    assert [answer.status_code for answer in (returned, moved, again, refused, ready)] == [201, 201, 201, 409, 200]
    assert problem is None


@pytest.mark.parametrize("kind", FOUND_OF_A_SETTLING_TAG)
async def test_a_change_of_a_settling_tag_is_found(tmp_path: Path, kind: str) -> None:
    """When a settling tag is sealed, and how long it is kept then, is what its ledger entry says."""
    data = tmp_path / "data"
    async with serving(data, ({"settle": "1h"},)) as registry:
        await push(registry.client, "shop/app", "1.4.2", RIGHT)
    with open_store(settings_of(data)) as store:
        before = StoreCheck(store.database).problem()
    tamper(data, SET.format(FOUND_OF_A_SETTLING_TAG[kind], "1.4.2"))
    with open_store(settings_of(data)) as store:
        after = StoreCheck(store.database).problem()

    assert before is None
    assert after is not None
    assert after.startswith("shop/app:1.4.2: ")


async def test_a_doubt_outlives_a_restart_until_the_tags_are_restored(data: Path) -> None:
    """`ledger recover --restore-tags` sets the rows to what the ledger says; then the server takes pushes again."""
    tamper(data, *FOUND_AT_A_START["row repointed"], *FOUND_AT_A_START["row without an entry"])
    tamper(data, *FOUND_AT_A_START["tombstone removed"])
    prepare(settings_of(data))
    prepare(settings_of(data))
    recovered = program.call("ledger", "recover", "--restore-tags", "--data", data, "--json")
    prepare(settings_of(data))
    async with serving(data) as registry:
        ready = await registry.client.get("/readyz")
        head = await registry.client.head("/v2/shop/app/manifests/1.4.2")
        gone = await registry.client.head("/v2/shop/app/manifests/6.6.6")
        refused = [await put(registry.client, "shop/app", tag, WRONG) for tag in ("1.4.2", "1.0.0")]

    assert recovered.json["results"][0]["entries"] == 3
    assert recovered.json["results"][0]["tags"] == ["shop/app:1.0.0", "shop/app:1.4.2", "shop/app:6.6.6"]
    assert ready.status_code == 200
    assert head.headers["docker-content-digest"] == RIGHT.digest
    assert gone.status_code == 404
    assert [answer.status_code for answer in refused] == [409, 409]


async def test_the_restored_tags_are_printed(data: Path) -> None:
    """`ledger recover --restore-tags` prints the key and below it each restored tag; a second run restores none."""
    tamper(data, *FOUND_AT_A_START["row repointed"], *FOUND_AT_A_START["row without an entry"])
    first, second = (program.call("ledger", "recover", "--restore-tags", "--data", data) for _ in range(2))
    key, *tags = first.out.splitlines()

    assert (first.code, second.code) == (0, 0)
    assert tags == ["shop/app:1.4.2", "shop/app:6.6.6"]
    assert second.out == f"{key}\n"


async def test_tags_are_not_restored_from_entries_that_were_changed(data: Path) -> None:
    """If the entries were changed, `ledger recover --restore-tags` refuses and names a backup as the remedy."""
    tamper(data, *FOUND_AT_A_START["entry and row rewritten"])
    prepare(settings_of(data))
    refused = program.call("ledger", "recover", "--restore-tags", "--data", data)
    store = begin(settings_of(data), now_us)
    frozen = store.database.frozen
    store.close()

    assert refused.code == 3
    assert "restore a backup" in refused.err
    assert frozen is not None


@pytest.mark.slow
def test_a_server_with_several_workers_is_not_ready_in_any_of_them(tmp_path: Path) -> None:
    """One worker finds the difference at a push, and the others learn of it."""
    data = tmp_path / "data"
    with servers.boltseal(data, workers=2) as server, httpx2.Client(base_url=server.url, trust_env=False) as client:
        assert _push(client, "1.4.2", RIGHT).status_code == 201
        tamper(data, *FOUND_AT_ANY_TIME["row nulled and unsealed"])
        refused = _push(client, "1.4.2", WRONG)

        def all_refuse() -> bool:
            return all(_status(server.url) == 503 for _ in range(20))

        wait_until(all_refuse, "every worker is not ready")
    with servers.boltseal(data, workers=2, path="/healthz") as server:
        again = _status(server.url)

    assert refused.status_code == 503
    assert again == 503


def _push(client: httpx2.Client, tag: str, document: Document) -> httpx2.Response:
    for blob in document.blobs:
        client.post("/v2/shop/app/blobs/uploads/", params={"digest": blob.digest}, content=blob.data)
    headers = {"content-type": document.media_type}
    return client.put(f"/v2/shop/app/manifests/{tag}", content=document.raw, headers=headers)


def _status(url: str) -> int:
    return httpx2.get(f"{url}/readyz", trust_env=False).status_code


@pytest.mark.parametrize("kind", ["row and entry removed", "row repointed", "old entry rewritten"])
async def test_the_daily_check_finds_what_no_change_of_a_tag_shows(data: Path, kind: str) -> None:
    """A running server compares all rows and entries from time to time, one process at a time."""
    storage = settings_of(data).storage
    with (
        closing(open_leases(data, storage)) as leases,
        closing(open_leases(data, storage)) as others,
        open_store(settings_of(data)) as store,
    ):
        tamper(data, *FOUND_AT_A_START[kind])
        other = leases.acquire("tag-check")
        assert other is not None
        check_tags_alone(store, others)
        held = store.database.frozen
        other.release()
        check_tags_alone(store, others)
        found = store.database.frozen

    assert held is None
    assert found is not None
    assert "ledger recover --restore-tags" in found
