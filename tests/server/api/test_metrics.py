"""Metrics, request IDs and the access log of a running registry."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import httpx2
import pytest

from boltseal.notify.outbox import Posting
from boltseal.server import logs
from boltseal.server.api.access_log import AccessLogLine
from boltseal.server.app import create_app
from boltseal.server.auth.logins import hash_password
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata import outbox_table
from boltseal.server.storage.metadata.protocol import WriteQueue
from boltseal.server.storage.metrics import RequestMetrics, RunFolder
from boltseal.server.storage.users import UserFile
from boltseal.server.store_factory import open_metadata
from tests import images
from tests.asgi import running
from tests.polling import until_answer
from tests.serving import Serving, serving, settings_of

UNSIGNED = 'boltseal_ledger_unsigned_entries{log="ledger"}'


def number(text: str, start: str) -> float:
    """Return the value of the line with this prefix."""
    found = [line for line in text.splitlines() if line.startswith(start)]
    assert len(found) == 1, text
    return float(found[0].rpartition(" ")[2])


async def test_requests_bytes_and_refusals_are_counted(registry: Serving) -> None:
    """Requests are counted by method, route and status, and no metric has a repository name."""
    client = registry.client
    await images.push(client, "shop/app", "1.4.2", images.image("one"))
    await images.push_parts(client, "shop/app", images.image("two"))
    await client.put(
        "/v2/shop/app/manifests/1.4.2",
        content=images.image("two").raw,
        headers={"content-type": images.OCI_MANIFEST},
    )
    await client.get("/v2/shop/app/manifests/1.4.2")
    await client.request("BREW", "/v2/")
    text = (await client.get("/metrics")).text

    assert (
        number(text, 'boltseal_http_requests_total{method="GET",route="/v2/{name}/manifests/{reference}",status="200"}')
        == 1
    )
    assert (
        number(text, 'boltseal_http_requests_total{method="PUT",route="/v2/{name}/manifests/{reference}",status="409"}')
        == 1
    )
    assert number(text, 'boltseal_http_requests_total{method="other",route="/v2/",status="405"}') == 1
    assert number(text, 'boltseal_refusals_total{reason="sealed"}') == 1
    assert (
        number(text, 'boltseal_http_request_body_bytes_total{method="PUT",route="/v2/{name}/manifests/{reference}"}')
        > 100
    )
    assert (
        number(text, 'boltseal_http_response_body_bytes_total{method="GET",route="/v2/{name}/manifests/{reference}"}')
        > 100
    )
    assert (
        number(
            text, 'boltseal_http_request_duration_seconds_count{method="GET",route="/v2/{name}/manifests/{reference}"}'
        )
        == 1
    )
    assert number(text, "boltseal_disk_free_bytes") > 0
    assert number(text, "boltseal_uploads_open") == 0
    assert "boltseal_build_info" in text
    assert "shop" not in text


async def test_every_answer_has_a_request_id(client: httpx2.AsyncClient) -> None:
    """Each answer, also a refusal, has a unique request ID, by which the log can be searched."""
    paths = ("/v2/", "/v2/", "/v2/shop/app/manifests/nothing")
    ids = [(await client.get(path)).headers["x-request-id"] for path in paths]

    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    ("server", "address", "status"),
    [
        ({}, "127.0.0.1", 200),
        ({}, "::1", 200),
        ({}, "192.0.2.7", 403),
        ({"behind_proxy": True}, "127.0.0.1", 403),
        ({"behind_proxy": True, "public_metrics": True}, "192.0.2.7", 200),
    ],
)
async def test_metrics_are_for_loopback_clients_by_default(
    tmp_path: Path, server: dict[str, object], address: str, status: int
) -> None:
    """Loopback clients may read metrics unless a proxy is in front; others only with public_metrics."""
    app = create_app(settings_of(tmp_path / "data", (), **server))
    transport = httpx2.ASGITransport(app=app, client=(address, 1234))
    async with running(app), httpx2.AsyncClient(transport=transport, base_url="http://localhost:5000") as client:
        answer = await client.get("/metrics")

    assert answer.status_code == status


async def test_a_page_in_a_browser_cannot_read_the_metrics(registry: Serving) -> None:
    """DNS rebinding: metrics are refused for a foreign host name that resolves to this machine."""
    answer = await registry.client.get("/metrics", headers={"host": "evil.example.com"})

    assert answer.status_code == 403


async def test_the_access_log_has_a_line_for_each_request(tmp_path: Path) -> None:
    """A line of the access log has actor, request and sizes, but never the query, which the client controls."""
    lines: list[AccessLogLine] = []

    def write(more: Sequence[AccessLogLine]) -> None:
        lines.extend(more)

    app = create_app(settings_of(tmp_path / "data"), access_log=write)
    transport = httpx2.ASGITransport(app=app)
    async with running(app), httpx2.AsyncClient(transport=transport, base_url="http://localhost:5000") as client:
        answer = await client.get("/v2/shop/app/tags/list?n=secret")

    (line,) = lines
    assert (line.method, line.path, line.status, line.actor) == ("GET", "/v2/shop/app/tags/list", 400, "anonymous")
    assert line.request_id == answer.headers["x-request-id"]
    assert line.bytes_out == len(answer.content)


async def test_endpoints_beside_the_api_are_logged_too(tmp_path: Path) -> None:
    """Token, health and metrics requests are logged and counted like pulls."""
    lines: list[AccessLogLine] = []
    app = create_app(settings_of(tmp_path / "data"), access_log=lines.extend)
    transport = httpx2.ASGITransport(app=app)
    paths = ("/healthz", "/readyz", "/token", "/metrics")
    async with running(app), httpx2.AsyncClient(transport=transport, base_url="http://localhost:5000") as client:
        ids = [(await client.get(path)).headers["x-request-id"] for path in paths]
        await client.put("/healthz")
        text = (await client.get("/metrics")).text

    assert [(line.path, line.request_id) for line in lines[:4]] == list(zip(paths, ids, strict=True))
    for route in paths:
        assert number(text, f'boltseal_http_requests_total{{method="GET",route="{route}",status="200"}}') == 1
        assert number(text, f'boltseal_http_request_duration_seconds_count{{method="GET",route="{route}"}}') == 1
    assert number(text, 'boltseal_http_requests_total{method="PUT",route="/healthz",status="405"}') == 1


@pytest.mark.slow
async def test_the_line_of_a_token_request_has_its_scope_and_no_password(tmp_path: Path) -> None:
    """The line of a token request has user and repositories, for GET and a form, and no password."""
    lines: list[AccessLogLine] = []
    settings = settings_of(tmp_path / "data")
    UserFile(settings.htpasswd).put("ci", hash_password("correct horse"))
    app = create_app(settings, access_log=lines.extend)
    transport = httpx2.ASGITransport(app=app)
    scope = "repository:shop/app:pull,push repository:No%0aName:pull repository:shop/web:pull"
    form = {"grant_type": "password", "username": "ci", "password": "correct horse", "scope": scope}
    asked = {"account": "ci", "password": "battery staple", "scope": scope}
    async with running(app), httpx2.AsyncClient(transport=transport, base_url="http://localhost:5000") as client:
        await client.get("/token", params=asked, auth=("ci", "correct horse"))
        await client.post("/token", data=form)
        await client.get("/token", params=asked, auth=("ci", "battery staple"))
    written = b"".join(render(line) for line in lines for render in (logs._access_json, logs._access_text))

    assert [(line.actor, line.path, line.status) for line in lines] == [
        ("ci", "/token", 200),
        ("ci", "/token", 200),
        ("anonymous", "/token", 401),
    ]
    assert {line.asked for line in lines} == {"shop/app:pull,push shop/web:pull"}
    assert b"horse" not in written
    assert b"staple" not in written
    assert b'"asked":"shop/app:pull,push shop/web:pull"' in written


@pytest.mark.slow
async def test_passwords_that_were_compared_are_counted(tmp_path: Path) -> None:
    """A metric counts bcrypt comparisons: a thousand pulls with a login need one."""
    settings = settings_of(tmp_path / "data")
    UserFile(settings.htpasswd).put("ci", hash_password("correct horse"))
    app = create_app(settings)
    transport = httpx2.ASGITransport(app=app)
    login = ("ci", "correct horse")
    async with (
        running(app),
        httpx2.AsyncClient(transport=transport, base_url="http://localhost:5000", auth=login) as client,
    ):
        await images.push(client, "shop/app", "1.4.2", images.image("one"))
        pulls = [await client.get("/v2/shop/app/manifests/1.4.2") for _ in range(1000)]
        text = (await client.get("/metrics")).text

    assert {pull.status_code for pull in pulls} == {200}
    assert number(text, "boltseal_password_checks_total") == 1


@pytest.mark.parametrize("as_json", [True, False])
def test_a_path_cannot_forge_a_line(as_json: bool, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Line ends, escape sequences and spaces of a path are escaped in the log."""
    write = logs.access_writer("info", as_json=as_json)
    path = "/v2/x\n2026-01-01 [info] request forged \x1b[31m\u0085\u2028"
    assert write is not None
    write([AccessLogLine(1_795_500_000_000_000_000, "a-1", "127.0.0.1", "eve", "GET", path, 200, 0, 7, 1.2)])
    written = capfdbinary.readouterr().err

    assert written.count(b"\n") == 1
    assert all(32 <= byte < 127 for byte in written[:-1])
    if as_json:
        assert json.loads(written)["path"] == path
    else:
        assert b"eve GET /v2/x\\n2026-01-01\\x20" in written


def test_the_log_level_also_silences_the_access_log() -> None:
    """The access log's lines have the level info, so that log_level can silence them."""
    assert logs.access_writer("warning", as_json=True) is None


async def test_the_counts_of_workers_are_added_and_outlive_them(tmp_path: Path) -> None:
    """The sums of all workers are added, and a replaced worker's counts stay."""
    folder = RunFolder.make(tmp_path)
    gone = RequestMetrics()
    gone.request(("GET", "/v2/", 200), 0.01, 0, 2)
    gone.refusal("sealed")
    gone.count("password_checks")
    gone.cpu_seconds = 1000.0
    RunFolder(folder).save(gone, WriteQueue(jobs=3, oldest_wait_s=9.5))
    (folder / "broken.json").write_text("{")
    app = create_app(settings_of(tmp_path / "data"), run=folder)
    transport = httpx2.ASGITransport(app=app)
    async with running(app), httpx2.AsyncClient(transport=transport, base_url="http://localhost:5000") as client:
        await client.get("/v2/")
        text = (await client.get("/metrics")).text
        await asyncio.sleep(0)

    assert number(text, 'boltseal_http_requests_total{method="GET",route="/v2/",status="200"}') == 2
    assert number(text, 'boltseal_refusals_total{reason="sealed"}') == 1
    assert number(text, "boltseal_password_checks_total") == 1
    assert number(text, "process_cpu_seconds_total") > 1000
    assert number(text, "boltseal_workers") == 1


def test_the_write_queues_of_running_workers_only_are_shown(tmp_path: Path) -> None:
    """A killed worker has no write queue in the metrics, although its counts stay."""
    folder = RunFolder.make(tmp_path)
    RunFolder(folder).save(RequestMetrics(), WriteQueue(jobs=3, oldest_wait_s=9.5))
    (saved,) = folder.glob("*.json")
    ended = saved.rename(saved.with_name("999999999.1.json"))

    assert RunFolder(folder).write_queues() == {}
    ended.rename(saved)
    assert RunFolder(folder).write_queues() == {os.getpid(): WriteQueue(3, 9.5)}


async def test_storage_and_process_figures_are_served(registry: Serving) -> None:
    """Metrics have the sizes of database, blobs and ledger, the write queue, and the process's memory and files."""
    await images.push(registry.client, "shop/app", "1.4.2", images.image("one"))

    async def signed() -> str:
        found = (await registry.client.get("/metrics")).text
        return "" if number(found, UNSIGNED) or number(found, "boltseal_write_queue_jobs") else found

    text = await until_answer(signed, "the checkpoint is signed, by one more write, and the queue is empty", 30.0)

    assert number(text, "boltseal_database_size_bytes") > 4096
    assert number(text, "boltseal_disk_reserve_bytes") > 0
    assert number(text, "boltseal_blobs ") == 2
    assert number(text, "boltseal_repository_blob_bytes") > 100
    assert number(text, 'boltseal_ledger_entries{log="ledger"}') == 3
    assert number(text, 'boltseal_ledger_frozen{log="ledger"}') == 0
    assert number(text, "boltseal_read_only") == 0
    assert number(text, "boltseal_write_queue_oldest_wait_seconds") < 1
    assert number(text, "process_resident_memory_bytes") > 1e6
    assert number(text, "process_open_fds") > 3
    assert time.time() - number(text, "process_start_time_seconds") < 86_400


async def test_undelivered_notifications_are_a_metric(tmp_path: Path) -> None:
    """Each receiver has a metric of undelivered events, also one without any."""
    notify = [
        {"name": name, "url": "http://127.0.0.1:9/", "networks": ["127.0.0.0/8"], "events": ["tag.refused"]}
        for name in ("chat", "mail")
    ]
    settings = Settings.model_validate({"server": {"data": tmp_path / "data", "read_only": True}, "notify": notify})
    app = create_app(settings)
    transport = httpx2.ASGITransport(app=app)
    async with running(app), httpx2.AsyncClient(transport=transport, base_url="http://localhost:5000") as client:
        events = [Posting("1", 1, b"{}", ("chat",)), Posting("2", 2, b"{}", ("chat",))]
        with open_metadata(settings) as database:
            database.write_and_wait(lambda tx: outbox_table.put(tx, events, 10))
        text = (await client.get("/metrics")).text

    assert number(text, 'boltseal_outbox_events{receiver="chat"}') == 2
    assert number(text, 'boltseal_outbox_events{receiver="mail"}') == 0


async def test_a_push_over_a_tombstone_has_its_own_reason(tmp_path: Path) -> None:
    """A push over a tombstone is counted as `tombstone`, not `sealed`; every reason is exposed from 0 on."""
    deletable = ({"repository": "**", "tag": "*", "mode": "sealed", "keep": "deletable"},)
    async with serving(tmp_path / "data", deletable) as registry:
        client = registry.client
        await images.push(client, "shop/app", "1.4.2", images.image("one"))
        await images.push_parts(client, "shop/app", images.image("two"))
        await client.delete("/v2/shop/app/manifests/1.4.2")
        before = (await client.get("/metrics")).text
        refused = await client.put(
            "/v2/shop/app/manifests/1.4.2",
            content=images.image("two").raw,
            headers={"content-type": images.OCI_MANIFEST},
        )
        after = (await client.get("/metrics")).text

    assert refused.status_code == 409
    assert number(before, 'boltseal_refusals_total{reason="tombstone"}') == 0
    assert number(after, 'boltseal_refusals_total{reason="tombstone"}') == 1
    assert number(after, 'boltseal_refusals_total{reason="sealed"}') == 0


def test_run_folders_of_ended_servers_are_removed(tmp_path: Path) -> None:
    """Folders with metrics of ended servers are removed from the data folder."""
    (tmp_path / "run" / "999999999").mkdir(parents=True)
    (tmp_path / "run" / "1").mkdir()
    folder = RunFolder.make(tmp_path)

    assert {path.name for path in (tmp_path / "run").iterdir()} == {"1", folder.name}


@pytest.mark.slow
async def test_an_admin_of_every_repository_may_read_the_metrics_from_anywhere(tmp_path: Path) -> None:
    """An admin of every repository may read metrics with a login from any address; other users may not."""
    grants = [{"users": ["boss"], "actions": ["admin"]}, {"users": ["ci"], "actions": ["pull"]}]
    settings = Settings.model_validate(
        {"server": {"data": tmp_path / "data", "behind_proxy": True}, "auth": {"grant": grants}}
    )
    for name in ("boss", "ci"):
        UserFile(settings.htpasswd).put(name, hash_password(f"the word of {name}"))
    app = create_app(settings)
    transport = httpx2.ASGITransport(app=app, client=("192.0.2.7", 1234))
    async with running(app), httpx2.AsyncClient(transport=transport, base_url="http://registry.example.com") as client:
        codes = [
            (await client.get("/metrics", auth=(name, f"the word of {name}"))).status_code for name in ("boss", "ci")
        ]

    assert codes == [200, 403]
