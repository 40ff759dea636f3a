"""`boltseal history` and `boltseal tags --at`, against a listening registry."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing

import httpx2
import pytest

from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from tests.cli import program
from tests.images import Document, image, push
from tests.polling import until_signed
from tests.servers import Server

SHOP = "shop/app"
pytestmark = pytest.mark.slow


def publish(server: Server, *pushes: tuple[str, Document]) -> None:
    async def run() -> None:
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
            for tag, document in pushes:
                answer = await push(client, SHOP, tag, document)
                await until_signed(client, int(answer.headers["boltseal-ledger-index"]) + 1)

    asyncio.run(run())


async def signed(server: Server, size: int) -> None:
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        await until_signed(client, size)


def statuses(run: program.Run) -> Sequence[tuple[str, str]]:
    return [(one["status"], one["digest"]) for one in run.json["results"]]


def test_a_tag_is_shown_from_its_first_push_to_its_last(server: Server) -> None:
    """Each row has time, digest, actor, and the other tags of that digest."""
    old, new = image("old"), image("new")
    publish(server, ("latest", old), ("1.4.2", old), ("latest", new))
    ref = f"{server.address}/{SHOP}:latest"
    result, as_json = program.call("history", ref), program.call("history", ref, "--json")
    moved = as_json.json["results"][1]

    assert (result.code, as_json.code) == (0, 0)
    assert statuses(as_json) == [("created", old.digest), ("moved", new.digest)]
    assert (moved["was"], moved["proven"], moved["mode"]) == (old.digest, True, "floating")
    assert as_json.json["results"][0]["also"] == ["1.4.2"]
    assert "anonymous" in result.out
    assert "2 entries found in the ledger" in result.err


def test_a_built_entry_names_the_base(server: Server) -> None:
    """The entry of a rebuild has the tag that it rebuilds, and its base with both digests; they are in --json as well."""
    app, was, now = image("app"), image("was"), image("now")
    publish(server, ("1.4.2.1", app))
    change = {"base.name": "docker.io/library/node:16", "base.digest": now.digest, "base.was": was.digest}
    body = {"kind": "built", "tag": "1.4.2.1", "digest": app.digest, "extra": {"revision.of": "1.4.2", **change}}
    url = f"{server.url}/v2/{SHOP}/_boltseal/records"
    index = httpx2.post(url, json=body, trust_env=False).raise_for_status().json()["index"]
    asyncio.run(signed(server, index + 1))
    ref = f"{server.address}/{SHOP}:1.4.2.1"
    result, as_json = program.call("history", ref), program.call("history", ref, "--json")
    pushed, built = as_json.json["results"]

    assert (result.code, "built" in pushed) == (0, False)
    assert (built["built"]["revision_of"], built["built"]["was"], built["built"]["digest"]) == (
        "1.4.2",
        was.digest,
        now.digest,
    )
    assert "a revision of 1.4.2, base docker.io/library/node:16 changed" in " ".join(result.out.split())
    assert f"base was {was.digest}" in result.out
    assert f"base {now.digest}" in result.out


def test_the_digest_of_every_tag_at_a_time(server: Server) -> None:
    """`tags --at` lists the digests from the ledger, not those that the registry serves now."""
    old, new = image("old"), image("new")
    publish(server, ("latest", old), ("1.4.2", old))
    time.sleep(0.01)  # a moment after the push, by both clocks
    between = time.time_ns() // 1000
    publish(server, ("latest", new))
    name = f"{server.address}/{SHOP}"
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(between // 1_000_000)) + f".{between % 1_000_000:06d}"
    then = program.call("tags", name, "--at", moment, "--json")
    before = program.call("tags", name, "--at", "2001-01-01")
    wrong = program.call("tags", name, "--at", "yesterday")

    assert {one["tag"]: one["digest"] for one in then.json["results"]} == {"latest": old.digest, "1.4.2": old.digest}
    assert all(one["proven"] for one in then.json["results"])
    assert (before.code, before.out, wrong.code) == (0, "", 2)
    assert "had no tags then" in before.err


def test_a_tag_that_never_existed_has_no_history(server: Server) -> None:
    """A tag that never existed has no history: exit code 1."""
    publish(server, ("latest", image("old")))
    never = program.call("history", f"{server.address}/{SHOP}:9.9.9")

    assert never.code == 1
    assert "never there" in never.err


def test_a_tag_that_was_moved_in_the_database_is_reported(server: Server) -> None:
    """A tag whose row was changed in the database is reported, because the ledger has another digest."""
    old, evil = image("old"), image("evil")
    publish(server, ("1.4.2", old), ("latest", evil))
    with closing(sqlite3.connect(server.folder / DATABASE_NAME)) as database:
        sql = "UPDATE tag SET digest = ?, canonical = ? WHERE name = '1.4.2'"
        changed = database.execute(sql, (evil.digest, evil.digest)).rowcount
        database.commit()
    result = program.call("history", f"{server.address}/{SHOP}:1.4.2")

    assert changed == 1
    assert result.code == 1
    assert f"the tag resolves to {evil.digest}" in result.err
