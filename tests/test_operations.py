"""Operation: read-only mode, a nearly full disk, /readyz for both, and what a reload leaves out."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx2

from boltseal.server.app import create_app
from boltseal.server.settings import Settings
from tests import images
from tests.asgi import running
from tests.polling import until_answer
from tests.serving import FLOATING, serving, settings_of

MORE_THAN_ANY_DISK = 2**62


async def test_a_read_only_registry_serves_pulls_and_refuses_every_change(tmp_path: Path) -> None:
    """A read-only registry answers changes with 405 and one sentence; everything that was pushed stays."""
    async with serving(tmp_path / "data") as registry:
        image = images.image("words")
        await images.push(registry.client, "shop/app", "1.4.2", image)
    async with serving(tmp_path / "data", read_only=True) as registry:
        client = registry.client
        pulled = await client.get("/v2/shop/app/manifests/1.4.2")
        changes = [
            await client.post("/v2/shop/app/blobs/uploads/"),
            await client.put("/v2/shop/app/manifests/1.4.3", content=pulled.content),
            await client.delete("/v2/shop/app/manifests/1.4.2"),
        ]
        ready = await client.get("/readyz")

    assert pulled.status_code == 200
    assert [answer.status_code for answer in changes] == [405, 405, 405]
    assert all("read-only" in answer.json()["errors"][0]["message"] for answer in changes)
    assert all("POST" not in answer.headers["allow"] for answer in changes)
    assert ready.status_code == 200
    assert "read-only" in ready.json()["warnings"][0]


async def test_a_read_only_start_records_no_rules(tmp_path: Path) -> None:
    """A read-only start records no rules in the ledger, since it decides nothing by them."""
    async with serving(tmp_path / "data"):
        pass
    before = (tmp_path / "data" / "boltseal.db").stat().st_size
    async with serving(tmp_path / "data", FLOATING, read_only=True):
        pass
    async with serving(tmp_path / "data", read_only=True) as registry:
        code = (await registry.client.get("/v2/")).status_code

    assert code == 200
    assert (tmp_path / "data" / "boltseal.db").stat().st_size == before


async def test_uploads_are_refused_before_the_disk_is_full(tmp_path: Path) -> None:
    """An upload is refused with 507 before the disk is full, while tags and deletes still work."""
    async with serving(tmp_path / "data", FLOATING) as registry:
        image = images.image("words")
        await images.push(registry.client, "shop/app", "one", image)
        body = (await registry.client.get("/v2/shop/app/manifests/one")).content
    async with serving(tmp_path / "data", FLOATING, disk_reserve_bytes=MORE_THAN_ANY_DISK) as registry:
        client = registry.client
        upload = await client.post("/v2/shop/app/blobs/uploads/")
        kind = {"content-type": images.OCI_MANIFEST}
        tagged = await client.put("/v2/shop/app/manifests/two", content=body, headers=kind)
        deleted = await client.delete("/v2/shop/app/manifests/one")
        ready = await client.get("/readyz")

    assert upload.status_code == 507
    assert "nearly full" in upload.json()["errors"][0]["message"]
    assert (tagged.status_code, deleted.status_code) == (201, 202)
    assert ready.status_code == 200
    assert "nearly full" in ready.json()["warnings"][0]


async def test_a_chunk_that_would_use_the_reserve_leaves_the_session_unchanged(tmp_path: Path) -> None:
    """A chunk that would use the disk reserve is refused, and its session continues after space was freed."""
    async with serving(tmp_path / "data") as registry:
        location = await images.start_upload(registry.client, "shop/app")
        await registry.client.patch(location, content=b"acknowledged")
    async with serving(tmp_path / "data", disk_reserve_bytes=MORE_THAN_ANY_DISK) as registry:
        refused = await registry.client.patch(location, content=b"more")
        held = await registry.client.get(location)
    async with serving(tmp_path / "data") as registry:
        goes_on = await registry.client.patch(location, content=b" and more")

    assert refused.status_code == 507
    assert held.headers["range"] == "0-11"
    assert goes_on.headers["range"] == "0-20"


async def test_a_reload_applies_what_it_can_and_names_the_rest(tmp_path: Path) -> None:
    """A reload applies read-only mode at once; /readyz names settings that need a restart, such as the address."""
    before = settings_of(tmp_path / "data")
    after = settings_of(tmp_path / "data", read_only=True, workers=7, max_connections=99)
    app = create_app(before, reload=lambda: after)

    async with running(app):
        os.kill(os.getpid(), signal.SIGHUP)
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://localhost") as client:

            async def reported() -> list[str]:
                found: list[str] = (await client.get("/readyz")).json().get("warnings", [])
                return found

            warnings = await until_answer(reported, "/readyz has warnings")
            upload = await client.post("/v2/shop/app/blobs/uploads/")

    assert upload.status_code == 405
    assert "[server] workers, [server] max_connections" in warnings[0]
    assert "read-only" in warnings[1]


def test_what_a_reload_leaves_out_is_compared_setting_by_setting(tmp_path: Path) -> None:
    """After a reload, settings that need a restart are named one by one; grants and rules apply at once."""
    before = settings_of(tmp_path / "data")
    after = Settings.model_validate(
        {
            "server": {"data": tmp_path / "data", "log_level": "debug"},
            "auth": {"htpasswd": tmp_path / "users", "anonymous_pull": True},
            "ledger": {"origin": "a.example.com"},
            "outdated": {"ignore": ["shop/*"]},
            "rule": list(FLOATING),
            "tags": [{"repositories": "shop/*", "watch": ["1.0"]}],
        }
    )

    restart = ("[server] log_level", "[auth] htpasswd", "[ledger] origin", "[outdated] ignore", "[[tags]]")
    assert before.restart_required(after) == restart
    assert after.with_live_changes(before).outdated.ignore == ("shop/*",), "a reload keeps what needs a restart"
    assert before.with_live_changes(after).auth.anonymous_pull is True
    assert before.with_live_changes(after).rule == tuple(FLOATING)
    assert not before.with_live_changes(settings_of(tmp_path / "other")).auth.configured
