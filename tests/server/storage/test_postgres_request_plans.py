"""Every query of real requests uses an index on PostgreSQL, in a repository of 50,000 tags, and of a million at full size.

PostgreSQL's `auto_explain` writes the plan of every statement into its log, so no statement of a request is left out. With fewer
tags (10,000) PostgreSQL reads the whole table for some statements, since that costs less than a hundred look-ups in an index.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psycopg
import pytest

from boltseal.server.settings import Settings
from boltseal.server.store_factory import prepare
from tests.images import image, push, push_blob
from tests.polling import until_signed
from tests.serving import Serving, serving_as
from tests.soak.scale import IS_FULL
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectServer, Postgres

pytestmark = [pytest.mark.real, pytest.mark.slow]

TAGS = 1_000_000 if IS_FULL else 50_000
REPOSITORIES = 1000
FILL = f"""
INSERT INTO repository (id, name, created_us) SELECT 1000 + n, 'many/app' || n, 1 FROM generate_series(1, {REPOSITORIES}) n;
CREATE TEMPORARY VIEW r AS SELECT id FROM repository WHERE name = 'shop/app';
INSERT INTO manifest (repository_id, digest, canonical, media_type, size, subject, pushed_us, pushed_by)
  SELECT r.id, 'sha256:m' || n, 'sha256:m' || n, 'm', 500, 'sha256:m' || n / 2, 1, 'ci' FROM r, generate_series(1, {TAGS}) n;
INSERT INTO content SELECT 'sha256:m' || n, 'raw' FROM generate_series(1, {TAGS}) n;
INSERT INTO blob (repository_id, digest, size, added_us, added_by)
  SELECT CASE WHEN n % 2 = 0 THEN r.id ELSE 1001 + n % {REPOSITORIES} END, 'sha256:b' || n, 500, 1, 'ci'
  FROM r, generate_series(1, {TAGS}) n;
INSERT INTO stored_blob SELECT 'sha256:b' || n, 500, 1, 'v' || n, 'i' || n FROM generate_series(1, {TAGS}) n;
INSERT INTO blob_key SELECT 'sha256:b' || n, 0, 'blobs/' || n, 500 FROM generate_series(1, {TAGS}) n;
INSERT INTO link SELECT r.id, 'sha256:m' || n, 'sha256:b' || n, 'layer' FROM r, generate_series(1, {TAGS}) n;
INSERT INTO tag (repository_id, name, digest, canonical, media_type, entry_index, changed_us, changed_by, sealed_digest, keep)
  SELECT r.id, '0.0.' || n, 'sha256:m' || n, 'sha256:m' || n, 'm', n, 1, 'ci', 'sha256:m' || n, 'forever'
  FROM r, generate_series(1, {TAGS}) n;
INSERT INTO entry SELECT -n, n, 'tag.created', 'shop/app', '0.0.' || n, 'line' FROM generate_series(1, {TAGS}) n;
INSERT INTO layer_chain SELECT r.id, 'sha256:m' || n, '[]' FROM r, generate_series(1, {TAGS}) n;
INSERT INTO released SELECT 'sha256:r' || n, {10**15} + n FROM generate_series(1, {TAGS}) n;
INSERT INTO upload_session SELECT 'u' || n, 'shop/app', 'o' || n % 50, 1, {10**16} FROM generate_series(1, {TAGS}) n;
INSERT INTO upload_progress SELECT 'u' || n, 0, NULL, 1, NULL, 0 FROM generate_series(1, {TAGS}) n;
INSERT INTO upload_part SELECT 'u' || n, 0, 'parts/' || n, 5 FROM generate_series(1, {TAGS}) n;
INSERT INTO dead_key SELECT 'dead/' || n, {10**16} + n FROM generate_series(1, {TAGS}) n;
INSERT INTO failed_login SELECT '192.0.2.' || n, 1, n FROM generate_series(1, {TAGS}) n;
INSERT INTO usage SELECT 'user' || n, 1, 1 FROM generate_series(1, {TAGS}) n;
ANALYZE;
"""  # noqa: S608 - constants
LARGE = (
    "repository|manifest|content|blob|stored_blob|blob_key|dead_key|link|tag|entry|layer_chain|released|upload_session|"
    "upload_progress|upload_part|failed_login|usage"
)


@pytest.fixture
def settings(tmp_path: Path, postgres_server: Postgres, schema_template: str, object_server: ObjectServer) -> Settings:
    """The settings of a server on a database whose every statement is explained in PostgreSQL's log."""
    name = postgres_server.create_database(schema_template)
    postgres_server.execute(f"ALTER DATABASE {name} SET session_preload_libraries = 'auto_explain'")
    postgres_server.execute(f"ALTER DATABASE {name} SET auto_explain.log_min_duration = 0")
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
    """Send every kind of request of the distribution API, and those for the ledger."""
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


def plans(log: str) -> Iterator[str]:
    """Yield the statements with their plans that `auto_explain` logged. Only the database of this test has it."""
    for part in re.split(r"^(?=\S.*\bLOG:  duration: )", log, flags=re.MULTILINE)[1:]:
        yield re.split(r"^\S.* (?:LOG|ERROR|STATEMENT|FATAL|WARNING):  (?!duration)", part, flags=re.MULTILINE)[0]


@pytest.mark.usefixtures("_login")
async def test_no_query_of_a_request_reads_a_whole_table(settings: Settings, postgres_server: Postgres) -> None:
    """No statement that requests cause, in a repository of very many tags, reads all rows of it or of a table."""
    prepare(settings)
    url = settings.storage.database
    assert url is not None
    async with serving_as(settings) as registry:
        await requests(registry)
        with psycopg.connect(url.with_password, autocommit=True) as connection:
            connection.execute(FILL.encode())
            (large,) = connection.execute("SELECT id FROM repository WHERE name = 'shop/app'").fetchall()[0]
        before = postgres_server.log.stat().st_size
        await requests_again(registry)
    with postgres_server.log.open("rb") as log:
        log.seek(before)
        found = list(plans(log.read().decode(errors="replace")))
    whole = {plan for plan in found if reads_all(plan, large)}

    assert len(found) > 200
    assert not whole, f"{len(whole)} of {len(found)}:\n" + "\n".join(sorted(whole)[:10])


async def requests_again(registry: Serving) -> None:
    """Send the requests to the filled repository."""
    client: httpx2.AsyncClient = registry.client
    assert (await client.get("/v2/shop/app/tags/list?n=1")).json()["tags"] == ["0.0.1"]
    await requests(registry)
