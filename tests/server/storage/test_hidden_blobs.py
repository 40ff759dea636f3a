"""A repository loses an unused blob, and no client that found it within the last hour pushes an image that lacks it."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from boltseal.server.settings import Settings
from boltseal.server.storage.blobs.object_failures import BLOBS
from boltseal.server.storage.blobs.object_store import ObjectBlobs
from boltseal.server.storage.blobs.protocol import BlobStore
from boltseal.server.storage.bucket_owner import BucketOwner
from boltseal.server.storage.garbage_collection import HIDDEN_BLOB, REPOSITORY_BLOB, GarbageItem
from boltseal.server.storage.metadata import usage
from boltseal.server.storage.metadata.protocol import Metadata
from boltseal.server.storage.object_client import ObjectClient
from boltseal.server.storage_settings import DatabaseUrl, StorageSettings
from boltseal.server.store_factory import collect_store, now_us, open_store
from tests.bare_registry import BareRegistry
from tests.images import Document, error_of, image, layer, push, push_blob, push_parts, put, start_upload, with_digest
from tests.polling import until, until_answer
from tests.server.mirror.observed import rows
from tests.server.storage.hiding import open_world, play, random_steps
from tests.server.storage.sqlite_session import driver
from tests.serving import Clock, Serving, serving, serving_as, settings_of
from tests.soak.scale import IS_FULL
from tests.storage_servers import ObjectServer

APP, OTHER = "shop/app", "shop/other"
HOUR_S = 3600

STEPS = 1000 if IS_FULL else 150


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_no_accepted_image_lacks_a_blob_that_its_client_found(tmp_path: Path, seed: int) -> None:
    """Whatever clients, time and collections do: accepted images are whole, and everything unreferenced goes in time."""
    async with open_world(tmp_path / "data") as world:
        await play(world, random_steps(random.Random(seed), STEPS))  # noqa: S311 - not for secrets
        await world.check_nothing_is_left()


@pytest.mark.real
@pytest.mark.slow
async def test_no_image_lacks_a_blob_on_postgresql_and_objects(
    tmp_path: Path, new_database: Callable[[], str], object_server: ObjectServer
) -> None:
    """Two servers on one PostgreSQL and one bucket accept only whole images, and everything unreferenced goes in time."""
    bucket = object_server.store(uuid.uuid4().hex)

    def objects_of(database: Metadata, data: Path) -> BlobStore:
        client = ObjectClient(bucket, BLOBS)
        BucketOwner(database, client, "the bucket").claim()
        return ObjectBlobs(database, client, data)

    storage = StorageSettings(database=DatabaseUrl(new_database()))
    async with open_world(tmp_path / "data", storage, objects_of) as world:
        await play(world, random_steps(random.Random(1), STEPS))  # noqa: S311 - not for secrets
        await world.check_nothing_is_left()


# --- what clients see ---


@pytest.fixture
async def hidden(data: Path) -> AsyncIterator[Hidden]:
    """A server, and an image's blobs that are hidden now: pushed a day ago, found just before, and no manifest came."""
    clock = Clock(now_us())
    async with serving(data, clock=clock) as registry:
        made = Hidden(registry, clock, image("app"))
        await push_parts(registry.client, APP, made.image)
        clock.advance(days=1)
        assert await made.heads() == {200}
        collected = await made.collect()
        assert [item.what for item in collected] == [HIDDEN_BLOB] * 2
        yield made


@dataclass
class Hidden:
    """A running registry with hidden blobs. `collect`: as another process does, which the server's caches do not see."""

    registry: Serving
    clock: Clock
    image: Document

    @property
    def client(self) -> httpx2.AsyncClient:
        """The client of the server."""
        return self.registry.client

    async def heads(self) -> set[int]:
        """Return what HEAD of the blobs gets."""
        return {(await self.client.head(f"/v2/{APP}/blobs/{blob.digest}")).status_code for blob in self.image.blobs}

    async def collect(self) -> list[GarbageItem]:
        """Run `admin gc`."""
        settings = settings_of(self.registry.data)
        return await asyncio.to_thread(lambda: list(collect_store(settings, dry_run=False, clock=self.clock)))


async def test_a_hidden_blob_is_not_there_for_clients(hidden: Hidden) -> None:
    """HEAD, GET and DELETE get 404 and a mount gets an upload session, also from a server that had the answer in memory."""
    blob = hidden.image.blobs[1]
    path = f"/v2/{APP}/blobs/{blob.digest}"
    answers = [await hidden.client.request(method, path) for method in ("HEAD", "GET", "DELETE")]
    mounted = await hidden.client.post(f"/v2/{OTHER}/blobs/uploads/", params={"mount": blob.digest, "from": APP})

    assert [answer.status_code for answer in answers] == [404] * 3
    assert error_of(answers[1])[0] == "BLOB_UNKNOWN"
    assert mounted.status_code == 202


@pytest.mark.parametrize("tag", ["latest", "1.4.2"])
async def test_a_manifest_within_the_hour_takes_hidden_blobs_back(hidden: Hidden, tag: str) -> None:
    """A manifest that comes an hour after its client's HEAD is accepted, and its blobs are visible and stay."""
    hidden.clock.advance(seconds=HOUR_S)
    await hidden.collect()
    answer = await put(hidden.client, APP, tag, hidden.image)
    hidden.clock.advance(days=3)
    await hidden.collect()

    assert answer.status_code == 201
    assert await hidden.heads() == {200}
    assert await hidden.collect() == []


@pytest.mark.parametrize("how", ["upload", "mount"])
async def test_an_upload_or_a_mount_takes_a_hidden_blob_back_for_a_day(hidden: Hidden, how: str) -> None:
    """A client that uploads a hidden blob again, or mounts it from another repository, begins its day anew."""
    for blob in hidden.image.blobs:
        if how == "upload":
            answer = await push_blob(hidden.client, APP, blob)
        else:
            await push_blob(hidden.client, OTHER, blob)
            params = {"mount": blob.digest, "from": OTHER}
            answer = await hidden.client.post(f"/v2/{APP}/blobs/uploads/", params=params)
        assert answer.status_code == 201
    heads = [await hidden.heads()]
    hidden.clock.advance(hours=23)
    nothing = await hidden.collect()
    heads.append(await hidden.heads())

    assert heads == [{200}, {200}]
    assert nothing == []


@pytest.mark.parametrize("tag", ["latest", "1.4.2"])
async def test_a_manifest_after_its_blobs_went_is_refused(hidden: Hidden, tag: str) -> None:
    """A manifest that comes too late gets MANIFEST_BLOB_UNKNOWN, also under a mutable tag; after a new push it is accepted."""
    hidden.clock.advance(hours=2)
    gone = await hidden.collect()
    refused = await put(hidden.client, APP, tag, hidden.image)
    answer = await push(hidden.client, APP, tag, hidden.image)

    assert [item.what for item in gone] == [REPOSITORY_BLOB] * 2
    assert (refused.status_code, error_of(refused)[0]) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert "push what is missing, then the manifest again" in error_of(refused)[1]
    assert answer.status_code == 201


async def test_a_user_at_the_quota_takes_hidden_blobs_back(data: Path) -> None:
    """A hidden blob does not count: its user uploads it again without another byte of quota, and nothing beyond it."""
    clock, app, other = Clock(now_us()), image("app"), layer("other")
    settings = _with_quota(data, sum(len(blob.data) for blob in app.blobs))
    async with serving_as(settings, clock=clock) as registry:
        hidden = Hidden(registry, clock, app)
        await push_parts(registry.client, APP, app)
        full = await registry.client.post(f"/v2/{APP}/blobs/uploads/")
        clock.advance(days=1)
        await hidden.collect()
        assert await hidden.heads() == {404}
        begun = await start_upload(registry.client, APP)
        again = [await push_blob(registry.client, APP, blob) for blob in app.blobs]
        heads = await hidden.heads()
        beyond = await registry.client.put(with_digest(begun, other.digest), content=other.data)
        wrong = await asyncio.to_thread(_wrong_totals, settings)

    assert full.status_code == 403
    assert [answer.status_code for answer in again] == [201] * 2
    assert heads == {200}
    assert (beyond.status_code, error_of(beyond)[0]) == (403, "DENIED")
    assert wrong == {}


async def test_a_hidden_blob_is_not_taken_back_into_a_quota_that_was_used_meanwhile(data: Path) -> None:
    """The quota that a hidden blob leaves is free: a user that used it must delete something before the blob can come back."""
    clock, first, second = Clock(now_us()), layer("first " * 9), layer("other " * 9)
    settings = _with_quota(data, max(len(first.data), len(second.data)))
    async with serving_as(settings, clock=clock) as registry:
        hidden = Hidden(registry, clock, image("none"))
        await push_blob(registry.client, APP, first)
        clock.advance(days=1)
        await hidden.collect()
        used = await push_blob(registry.client, APP, second)
        back = await registry.client.post(
            f"/v2/{APP}/blobs/uploads/", params={"digest": first.digest}, content=first.data
        )
        wrong = await asyncio.to_thread(_wrong_totals, settings)

    assert used.status_code == 201
    assert back.status_code == 403
    assert wrong == {}


def _with_quota(data: Path, size_bytes: int) -> Settings:
    auth = {"quota": [{"users": ["anonymous"], "max_bytes": size_bytes}]}
    return Settings.model_validate({"server": {"data": data}, "auth": auth})


def _wrong_totals(settings: Settings) -> dict[str, object]:
    with open_store(settings) as store:
        return dict(store.database.read_and_wait(usage.wrong_totals))


async def test_a_push_without_hidden_blobs_takes_no_more_statements(shop: BareRegistry) -> None:
    """A manifest whose blobs are not hidden takes no statement about hidden blobs."""
    body, statements = await shop.image("app"), list[str]()
    await shop.database.write(lambda tx: driver(tx).set_trace_callback(statements.append))
    await shop.push(body, "latest")

    assert any("INSERT INTO link" in each for each in statements)
    assert not [each for each in statements if "SET hidden_us" in each or "removed_us" in each or "blob_review" in each]


async def test_a_running_server_takes_unused_blobs_by_itself(data: Path) -> None:
    """The cleanup of a server hides, removes and deletes the blobs of a push that was not completed."""
    clock, app = Clock(now_us()), image("app")
    async with serving_as(settings_of(data), clock=clock, janitor_every_s=0.05) as registry:
        await push_parts(registry.client, APP, app)
        hidden = Hidden(registry, clock, app)

        async def are_hidden() -> bool:
            return await hidden.heads() == {404}

        clock.advance(hours=25)
        await until_answer(are_hidden, "the blobs are hidden")
        clock.advance(hours=2)
        await until(lambda: rows(data, "SELECT digest FROM blob") == [], "the repository has no blobs")
        clock.advance(hours=2)
        await until(lambda: not [each for each in (data / "blobs").rglob("*") if each.is_file()], "no bytes are left")
