"""A registry whose blobs are in an object store, over HTTP: redirects, lost objects, readiness, a full spool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import obstore
import pytest

from boltseal.config import ConfigInvalid
from boltseal.errors import Invalid
from boltseal.server.app import create_app
from boltseal.server.configuration import load
from boltseal.server.settings import Settings
from boltseal.server.store_factory import examine_store
from tests.asgi import running
from tests.images import Blob, image, push, push_blob
from tests.object_faults import Fault, faulty
from tests.polling import until, until_signed
from tests.serving import ORIGIN, serving_as
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectServer

LARGE, SMALL = Blob(b"large" * 200_000), Blob(b"small" * 100)


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the credentials of the S3 server, which obstore reads."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


def settings_on(endpoint: str, data: Path, **s3: object) -> Settings:
    """Return settings of a registry with its blobs on an S3 server."""
    storage = {"blobs": f"s3://{BUCKET}/{data.parent.name}", "s3": {"endpoint": endpoint, **s3}}
    return Settings.model_validate({"server": {"data": data}, "storage": storage})


@pytest.fixture
async def redirecting(object_server: ObjectServer, data: Path) -> AsyncIterator[tuple[httpx2.AsyncClient, list[str]]]:
    """A client of a registry with redirects, and the lines of its access log."""
    lines: list[str] = []
    app = create_app(
        settings_on(object_server.endpoint, data, redirect=True), access_log=lambda line: lines.append(str(line))
    )
    transport = httpx2.ASGITransport(app=app)
    async with running(app), httpx2.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        yield client, lines


async def test_a_large_blob_is_fetched_from_the_object_store(
    redirecting: tuple[httpx2.AsyncClient, list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    """GET of a large blob gets 307 with an address that returns it, which no cache may keep and no log shows."""
    client, lines = redirecting
    await push_blob(client, "shop/app", LARGE)
    answer = await client.get(f"/v2/shop/app/blobs/{LARGE.digest}")
    async with httpx2.AsyncClient() as without_login:
        fetched = await without_login.get(answer.headers["location"])
    await until(lambda: any("blobs/sha256" in line for line in lines), "the access log has the request")
    logged = "".join(lines) + "".join(capfd.readouterr())

    assert (answer.status_code, answer.headers["cache-control"]) == (307, "no-store")
    assert fetched.content == LARGE.data
    assert fetched.headers["content-type"] == "application/octet-stream"
    assert "Signature" not in logged
    assert "s3" not in logged.lower()


async def test_other_bytes_of_a_small_blob_are_not_kept_in_memory(object_server: ObjectServer, data: Path) -> None:
    """Other bytes than the digest's get 404, and when the object has the right bytes again, they are returned."""
    settings = settings_on(object_server.endpoint, data)
    app, address = create_app(settings), f"/v2/shop/app/blobs/{SMALL.digest}"
    store = object_server.store(data.parent.name)
    async with running(app), httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=ORIGIN) as client:
        await push_blob(client, "shop/app", SMALL)
        [key] = [each["path"] for page in obstore.list(store, "blobs/") for each in page]
        obstore.put(store, key, b"X" * len(SMALL.data))
        damaged = await client.get(address)
        obstore.put(store, key, SMALL.data)
        repaired = await client.get(address)

    assert (damaged.status_code, damaged.json()["errors"][0]["code"]) == (404, "BLOB_UNKNOWN")
    assert (repaired.status_code, repaired.content) == (200, SMALL.data)


async def test_only_get_of_large_blobs_is_redirected(redirecting: tuple[httpx2.AsyncClient, list[str]]) -> None:
    """HEAD requests, small blobs and 304 are answered by the registry, because a signed address answers GET only."""
    client, _ = redirecting
    for blob in (LARGE, SMALL):
        await push_blob(client, "shop/app", blob)
    large, small = (f"/v2/shop/app/blobs/{blob.digest}" for blob in (LARGE, SMALL))
    head, got = await client.head(large), await client.get(small)
    unchanged = await client.get(large, headers={"If-None-Match": head.headers["etag"]})

    assert (head.status_code, head.headers["content-length"]) == (200, str(len(LARGE.data)))
    assert (got.status_code, got.content) == (200, SMALL.data)
    assert unchanged.status_code == 304


async def test_another_repository_gets_no_address(redirecting: tuple[httpx2.AsyncClient, list[str]]) -> None:
    """A blob of another repository is unknown: its address is not given out either."""
    client, _ = redirecting
    await push_blob(client, "shop/app", LARGE)
    await push_blob(client, "other/app", SMALL)
    answer = await client.get(f"/v2/other/app/blobs/{LARGE.digest}")

    assert answer.status_code == 404
    assert "location" not in answer.headers


@pytest.mark.parametrize("blob", [SMALL, LARGE], ids=["small", "large"])
async def test_a_lost_object_is_a_miss_and_a_push_repairs_it(
    object_server: ObjectServer, data: Path, blob: Blob
) -> None:
    """A blob whose object was deleted gets 404, also for HEAD, so that a client pushes it again."""
    async with serving_as(settings_on(object_server.endpoint, data)) as registry:
        url = f"/v2/shop/app/blobs/{blob.digest}"
        await push_blob(registry.client, "shop/app", blob)
        bucket = object_server.store(data.parent.name)
        obstore.delete(bucket, [each["path"] for page in obstore.list(bucket, "blobs/") for each in page])
        head, got = await registry.client.head(url), await registry.client.get(url)
        await push_blob(registry.client, "shop/app", blob)

        assert (head.status_code, got.status_code) == (404, 404)
        assert (await registry.client.get(url)).content == blob.data


async def test_a_client_should_come_back_when_the_spool_is_full(object_server: ObjectServer, data: Path) -> None:
    """A body that does not fit into the spool gets 503 with Retry-After, and its session keeps its offset."""
    async with serving_as(settings_on(object_server.endpoint, data, spool_bytes=64 * 1024 * 1024)) as registry:
        begun = await registry.client.post("/v2/shop/app/blobs/uploads/")
        first = await registry.client.patch(begun.headers["location"], content=b"kept")
        full = await registry.client.patch(first.headers["location"], content=bytes(65 * 1024 * 1024))
        status = await registry.client.get(first.headers["location"])

    assert (full.status_code, "retry-after" in full.headers) == (503, True)
    assert status.headers["range"] == "0-3"


async def test_the_metrics_count_the_sessions_of_the_object_store(object_server: ObjectServer, data: Path) -> None:
    """An upload that is not finished counts as open, as with files."""
    async with serving_as(settings_on(object_server.endpoint, data)) as registry:
        await registry.client.post("/v2/shop/app/blobs/uploads/")
        text = (await registry.client.get("/metrics")).text

    assert "\nboltseal_uploads_open 1.0\n" in text


async def test_readiness_reports_whether_the_object_store_answers(object_server: ObjectServer, data: Path) -> None:
    """The registry is ready while something can be stored, and its reason names no address when it is not."""
    async with serving_as(settings_on(object_server.endpoint, data)) as registry:
        ready = await registry.client.get("/readyz")
    async with serving_as(settings_on("http://127.0.0.1:9", data)) as registry:
        unready = await registry.client.get("/readyz")

    assert ready.status_code == 200
    assert unready.status_code == 503
    assert "127.0.0.1" not in unready.text


async def test_many_questions_about_readiness_cost_one_write(object_server: ObjectServer, data: Path) -> None:
    """Any client may ask for readiness, so requests within some seconds share one write; after a failure the next one writes again."""
    with faulty(object_server) as proxy:
        async with serving_as(settings_on(proxy.endpoint, data)) as registry:
            written: list[str] = []
            answer: Fault | None = Fault.REFUSED

            def count(method: str, path: str) -> Fault | None:
                if method == "PUT" and path.partition("?")[0].endswith("/health"):
                    written.append(path)
                    return answer
                return None

            proxy.plan = count
            failed = [(await registry.client.get("/readyz")).status_code for _ in range(2)]
            between, answer = len(written), None
            together = await asyncio.gather(*(registry.client.get("/readyz") for _ in range(20)))
            later = [await registry.client.get("/readyz") for _ in range(5)]

    assert failed == [503, 503]
    assert between >= 2
    assert {each.status_code for each in (*together, *later)} == {200}
    assert len(written) == between + 1


async def test_fsck_finds_nothing_in_a_bucket_that_has_the_ledger_as_well(
    object_server: ObjectServer, data: Path
) -> None:
    """The tiles and the checkpoint of the ledger are no foreign objects; one that boltseal did not write is found."""
    settings = settings_on(object_server.endpoint, data)
    async with serving_as(settings) as registry:
        await push(registry.client, "shop/app", "1.0", image("one"))
        await until_signed(registry.client, 3)
    clean = examine_store(settings, lambda *_: None)
    obstore.put(object_server.store(data.parent.name), "ledger/notes.txt", b"foreign")
    foreign = examine_store(settings, lambda *_: None)

    assert not clean.findings
    assert [each.what for each in foreign.findings] == ["ledger/notes.txt"]


async def test_a_changed_place_of_blobs_is_refused_at_the_start(object_server: ObjectServer, data: Path) -> None:
    """A server does not start when its blobs are objects and the setting says files, or the reverse."""
    in_objects, in_files = (
        settings_on(object_server.endpoint, data),
        Settings.model_validate({"server": {"data": data}}),
    )
    async with serving_as(in_objects) as registry:
        await push(registry.client, "shop/app", "1.0", image("one"))
    with pytest.raises(Invalid, match="change it back"):
        async with serving_as(in_files):
            pass
    async with serving_as(in_objects) as registry:
        assert (await registry.client.get("/v2/shop/app/manifests/1.0")).status_code == 200


async def test_blobs_that_are_files_are_not_looked_for_in_a_bucket(object_server: ObjectServer, data: Path) -> None:
    """A server whose blobs are files does not start on an object store."""
    in_objects, in_files = (
        settings_on(object_server.endpoint, data),
        Settings.model_validate({"server": {"data": data}}),
    )
    async with serving_as(in_files) as registry:
        await push(registry.client, "shop/app", "1.0", image("one"))
    with pytest.raises(Invalid, match="files in the data folder"):
        async with serving_as(in_objects):
            pass


@pytest.mark.parametrize("text", ["bucket", "s3://", "s3://Bucket", "s3://bucket/../x y", "https://s3/bucket"])
def test_an_address_that_is_no_bucket_is_refused(tmp_path: Path, text: str) -> None:
    """`blobs` must be s3://bucket or s3://bucket/prefix."""
    (tmp_path / "boltseal.toml").write_text(f'[storage]\nblobs = "{text}"\n')
    with pytest.raises(ConfigInvalid, match="s3://bucket/prefix"):
        load(tmp_path / "boltseal.toml")


@pytest.mark.parametrize(
    "text", ["s3.example.com", "https://key:secret@s3.example.com", "https://s3/bucket", "ftp://s3"]
)
def test_an_endpoint_is_scheme_and_host(tmp_path: Path, text: str) -> None:
    """`endpoint` has no path and no login, which would be shown."""
    (tmp_path / "boltseal.toml").write_text(f'[storage.s3]\nendpoint = "{text}"\n')
    with pytest.raises(ConfigInvalid, match="without a login") as refused:
        load(tmp_path / "boltseal.toml")

    assert "secret" not in refused.value.message
