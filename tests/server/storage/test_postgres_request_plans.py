"""Every query of real requests uses an index and reads few pages on PostgreSQL, with 1,000 and 50,000 tags, and a million at full size.

PostgreSQL's `auto_explain` writes the plan of every statement into its log, with the pages that it read, so no statement of a request is
left out. With 1,000 tags PostgreSQL would rather read some tables whole, since that costs less than a hundred look-ups in an index. So it is
asked to avoid that (`enable_seqscan` and joins that read whole tables): then it does so only if there is no index for a statement.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psycopg
import pytest

from boltseal.server.api.admin.paging import cursor_of
from boltseal.server.settings import Settings
from boltseal.server.store_factory import prepare
from tests.images import image, push, push_blob
from tests.polling import until_signed
from tests.serving import Serving, serving_as
from tests.soak.scale import IS_FULL
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectServer, Postgres

pytestmark = [pytest.mark.real, pytest.mark.slow]

SMALL = 1_000
MOST_PAGES = 100
"""How many pages of 8 KiB a statement may read at any number of tags. An index of a million rows has three or four levels."""
MOST_PAGES_OF_THE_CATALOG = 2_500
"""The catalog looks into at least 100 repositories at a time, here 200, for a manifest or a blob in each."""
CATALOG = "SELECT repository.name"
SIZES = (1_000_000,) if IS_FULL else (SMALL, 50_000)
FILL = """
INSERT INTO repository (id, name, created_us) SELECT 1000 + n, 'many/app' || n, 1 FROM generate_series(1, 1000) n;
CREATE TEMPORARY VIEW r AS SELECT id FROM repository WHERE name = 'shop/app';
INSERT INTO manifest (repository_id, digest, canonical, media_type, size, subject, pushed_us, pushed_by)
  SELECT r.id, 'sha256:m' || n, 'sha256:m' || n, 'm', 500, 'sha256:m' || n / 2, 1, 'ci' FROM r, generate_series(1, {tags}) n;
INSERT INTO content SELECT 'sha256:m' || n, 'raw' FROM generate_series(1, {tags}) n;
INSERT INTO blob (repository_id, digest, size, added_us, added_by)
  SELECT CASE WHEN n % 2 = 0 THEN r.id ELSE 1001 + n % 1000 END, 'sha256:b' || n, 500, 1, 'ci'
  FROM r, generate_series(1, {tags}) n;
INSERT INTO stored_blob SELECT 'sha256:b' || n, 500, 1, 'v' || n, 'i' || n FROM generate_series(1, {tags}) n;
INSERT INTO blob_key SELECT 'sha256:b' || n, 0, 'blobs/' || n, 500 FROM generate_series(1, {tags}) n;
INSERT INTO link SELECT r.id, 'sha256:m' || n, 'sha256:b' || n, 'layer' FROM r, generate_series(1, {tags}) n;
INSERT INTO tag (repository_id, name, digest, canonical, media_type, entry_index, changed_us, changed_by, sealed_digest, keep)
  SELECT r.id, '0.0.' || n, 'sha256:m' || n, 'sha256:m' || n, 'm', n, 1, 'ci', 'sha256:m' || n, 'forever'
  FROM r, generate_series(1, {tags}) n;
INSERT INTO entry SELECT -n, n, 'tag.created', 'shop/app', '0.0.' || n, 'line' FROM generate_series(1, {tags}) n;
INSERT INTO layer_chain SELECT r.id, 'sha256:m' || n, '[]' FROM r, generate_series(1, {tags}) n;
INSERT INTO released SELECT 'sha256:r' || n, 1000000000000000 + n FROM generate_series(1, {tags}) n;
INSERT INTO upload_session SELECT 'u' || n, 'shop/app', 'o' || n % 50, 1, 10000000000000000 FROM generate_series(1, {tags}) n;
INSERT INTO upload_progress SELECT 'u' || n, 0, NULL, 1, NULL, 0 FROM generate_series(1, {tags}) n;
INSERT INTO upload_part SELECT 'u' || n, 0, 'parts/' || n, 5 FROM generate_series(1, {tags}) n;
INSERT INTO dead_key SELECT 'dead/' || n, 10000000000000000 + n FROM generate_series(1, {tags}) n;
INSERT INTO failed_login SELECT '192.0.2.' || n, 1, n FROM generate_series(1, {tags}) n;
INSERT INTO manifest_object SELECT r.id, 'sha256:m' || n, 'manifests/' || n FROM r, generate_series(1, {tags}) n;
INSERT INTO blob_review SELECT 'sha256:b' || n, r.id, 10000000000000000 + n FROM r, generate_series(1, {tags}) n;
INSERT INTO usage SELECT 'user' || n, 1, 1 FROM generate_series(1, {tags}) n;
ANALYZE;
"""
LARGE = (
    "repository|manifest|content|blob|stored_blob|blob_key|dead_key|link|tag|entry|layer_chain|released|upload_session|"
    "upload_progress|upload_part|failed_login|usage|manifest_object|blob_review"
)


@pytest.fixture(params=SIZES)
def tags(request: pytest.FixtureRequest) -> int:
    """How many tags the repository has."""
    number: int = request.param
    return number


@pytest.fixture
def settings(
    tmp_path: Path, postgres_server: Postgres, schema_template: str, object_server: ObjectServer, tags: int
) -> Settings:
    """The settings of a server on a database whose every statement is explained in PostgreSQL's log."""
    name = postgres_server.create_database(schema_template)
    postgres_server.execute(f"ALTER DATABASE {name} SET session_preload_libraries = 'auto_explain'")
    for setting in ("log_min_duration = 0", "log_analyze = on", "log_buffers = on", "log_timing = off"):
        postgres_server.execute(f"ALTER DATABASE {name} SET auto_explain.{setting}")
    if tags == SMALL:
        # The last one, since what is avoided has so high a cost that PostgreSQL would compile it, for seconds.
        for setting in ("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit"):
            postgres_server.execute(f"ALTER DATABASE {name} SET {setting} = off")
    storage = {
        "database": postgres_server.url(name),
        "blobs": f"s3://{BUCKET}/{name}",
        "s3": {"endpoint": object_server.endpoint},
        "mark": {"single_replica": True},
    }
    return Settings.model_validate({"server": {"data": tmp_path / "data"}, "storage": storage})


@pytest.fixture
def _login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


async def requests(registry: Serving) -> None:
    """Send every kind of request of the distribution API, those for the ledger, and reads of repositories by the admin API."""
    client, name = registry.client, "shop/app"
    first, second = image("first", layer_count=3), image("second")
    pushed = await push(client, name, "1.0.0", first)
    await push(client, name, "latest", first)
    await push(client, name, "latest", second)
    assert (await push(client, name, "1.0.0", second)).status_code == 409
    await until_signed(client, int(pushed.headers["boltseal-ledger-index"]) + 1)
    layer = first.layers[0].digest
    begun = await client.post(f"/v2/{name}/blobs/uploads/")
    chunked = await client.patch(begun.headers["location"], content=b"chunk")
    paths = [
        *(f"/v2/{name}/manifests/{each}" for each in ("1.0.0", "latest", first.digest, "9.9.9")),
        *(f"/v2/{name}/blobs/{each}" for each in (layer, "sha256:" + "0" * 64)),
        *(f"/v2/{name}/tags/list?n=10", f"/v2/{name}/tags/list?n=10&last=0.0.5", "/v2/_catalog?n=5&last=many/app2"),
        f"/v2/{name}/referrers/{first.digest}",
        chunked.headers["location"],
        *("/api/v1/repositories?limit=5", f"/api/v1/tags?repository={name}&limit=10&deleted=true"),
        f"/api/v1/tags?repository={name}&cursor={cursor_of('tags', '0.0.5')}",
        *(f"/api/v1/tag?repository={name}&tag={each}" for each in ("1.0.0", "9.9.9")),
        *(f"/api/v1/history?repository={name}&tag={each}" for each in ("latest", "9.9.9")),
        f"/api/v1/history?repository={name}&limit=10",
        *("/ledger/checkpoint", "/ledger/tile/0/000.p/1", f"/ledger/receipt/{pushed.headers['boltseal-ledger-index']}"),
    ]
    for path in paths:
        answer = await client.get(path)
        assert answer.status_code < 500, (path, answer.text)
        assert (await client.head(path)).status_code < 500, path
    mounted = await client.post(f"/v2/other/app/blobs/uploads/?mount={layer}&from={name}")
    assert mounted.status_code == 201
    size = int((await client.get("/ledger/checkpoint")).text.split("\n")[1])
    asked = {"size": size, "tags": [f"{name}:1.0.0", f"{name}:9.9.9"]}
    assert (await client.post("/ledger/tags", json=asked)).status_code == 200
    await push_blob(client, "other/app", first.layers[1])
    assert (await client.delete(chunked.headers["location"])).status_code == 204
    for path in (
        f"/v2/{name}/manifests/latest",
        f"/v2/{name}/manifests/{second.digest}",
        f"/v2/other/app/blobs/{layer}",
    ):
        assert (await client.delete(path)).status_code == 202, path
    assert (await client.delete(f"/v2/{name}/manifests/1.0.0")).status_code == 405


def reads_all(plan: str, large: int) -> bool:
    """Return whether a plan reads all rows of a large table, or all that the large repository has in one."""
    return (
        re.search(rf"Seq Scan on ({LARGE})\b|Index Cond: \(repository_id = {large}\)$", plan, re.MULTILINE) is not None
    )


def pages(plan: str) -> int:
    """Return how many pages of the database the statement of a plan read, in memory or on disk: those of its first node contain all."""
    found = re.search(r"^\s+Buffers: shared(?: hit=(\d+))?(?: read=(\d+))?", plan, re.MULTILINE)
    return 0 if found is None else sum(int(number) for number in found.groups() if number is not None)


def plans(log: str) -> Iterator[str]:
    """Yield the statements with their plans that `auto_explain` logged. Only the database of this test has it."""
    for part in re.split(r"^(?=\S.*\bLOG:  duration: )", log, flags=re.MULTILINE)[1:]:
        yield re.split(r"^\S.* (?:LOG|ERROR|STATEMENT|FATAL|WARNING):  (?!duration)", part, flags=re.MULTILINE)[0]


@pytest.mark.usefixtures("_login")
async def test_no_query_of_a_request_reads_a_whole_table(
    settings: Settings, postgres_server: Postgres, tags: int
) -> None:
    """No statement that requests cause, in a repository of many tags, reads all rows of it or of a table."""
    prepare(settings)
    url = settings.storage.database
    assert url is not None
    async with serving_as(settings) as registry:
        await requests(registry)
        with psycopg.connect(url.with_password, autocommit=True) as connection:
            connection.execute("SET auto_explain.log_min_duration = -1")
            connection.execute("SET session_replication_role = replica")  # no checks of foreign keys: these rows fit
            connection.execute(FILL.format(tags=tags).encode())
            (large,) = connection.execute("SELECT id FROM repository WHERE name = 'shop/app'").fetchall()[0]
        before = postgres_server.log.stat().st_size
        await requests_again(registry)
    with postgres_server.log.open("rb") as log:
        log.seek(before)
        found = list(plans(log.read().decode(errors="replace")))
    whole = {plan for plan in found if reads_all(plan, large)}
    costly = {plan for plan in found if pages(plan) > (MOST_PAGES_OF_THE_CATALOG if CATALOG in plan else MOST_PAGES)}

    assert len(found) > 200
    assert min(map(pages, found)) == 0 < max(map(pages, found))
    assert not costly, f"{len(costly)} of {len(found)}:\n" + "\n".join(sorted(costly, key=pages)[-10:])
    assert not whole, f"{len(whole)} of {len(found)}:\n" + "\n".join(sorted(whole)[:10])


async def requests_again(registry: Serving) -> None:
    """Send the requests to the filled repository."""
    client: httpx2.AsyncClient = registry.client
    assert (await client.get("/v2/shop/app/tags/list?n=1")).json()["tags"] == ["0.0.1"]
    await requests(registry)
