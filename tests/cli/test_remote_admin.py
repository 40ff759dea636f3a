"""`boltseal admin ... --server HOST`: the commands over the admin API print and do what they do on the data folder."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from boltseal.client.pull_limit import PullLimit
from boltseal.server.settings import Settings
from boltseal.server.store_factory import open_store
from tests import servers
from tests.admin_requests import as_user, settings_with_users
from tests.cli import program
from tests.cli.remote_registry import CONFIG, fill, logins
from tests.images import image, push_parts
from tests.storage_choice import with_storage

pytestmark = pytest.mark.slow  # each starts a server and some commands

RULES = """
[[rule]]
repository = "shop/*"
tag = "pr-*"
keep = "30d"
[[rule]]
repository = "parts/**"
settle = "90s"
"""
OTHER_RULES = """
[server]
listen = "127.0.0.1:1"
[[rule]]
tag = "latest"
mode = "sealed"
keep = "7d"
[[rule]]
repository = "shop/**"
mode = "floating"
"""

Arguments = list[str | Path]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[servers.Server]:
    """A registry with an operator, a user who may push, and two rules."""
    settings_with_users(tmp_path / "data")
    with servers.boltseal(tmp_path / "data", config=CONFIG + RULES) as running:
        yield running


def over_api(server: servers.Server, folder: Path, user: str) -> Arguments:
    """Return the options for the admin API, with the login of a user."""
    return ["--server", server.address, "--registry-config", logins(server, folder, user)]


def on_data(server: servers.Server) -> Arguments:
    """Return the options for the data folder."""
    return ["--data", server.folder, *configured(server)]


def configured(server: servers.Server) -> Arguments:
    """Return the option for the server's configuration."""
    return ["--config", server.folder.with_name("data.toml")]


def make_reviews_due(server: servers.Server) -> None:
    """Make garbage collection look at every blob now, instead of a day after its push."""
    settings = with_storage(Settings.model_validate({"server": {"data": server.folder}}))
    with open_store(settings) as store:
        store.database.write_and_wait(lambda tx: tx.sql.plain("UPDATE blob_review SET due_us = 0"))


async def test_rules_are_the_same_over_the_admin_api(server: servers.Server, tmp_path: Path) -> None:
    """The rules, a decision and a plan have the same text and JSON over the admin API and from the configuration."""
    await fill(server)
    other = tmp_path / "other.toml"
    other.write_text(OTHER_RULES, encoding="utf-8")
    remote, config, local = over_api(server, tmp_path, "boss"), configured(server), on_data(server)
    commands: list[tuple[Arguments, Arguments]] = [
        (["admin", "rules"], config),
        (["admin", "rules", "test", "shop/a", "pr-7"], config),
        (["admin", "rules", "test", "parts/a", "1.0"], config),
        (["admin", "rules", "test", "shop/a", "latest"], config),
        (["admin", "rules", "plan", other], local),
        (["admin", "rules", "plan", other, "--all"], local),
    ]
    for command, here in commands:
        for more in ([], ["--json"]):
            there = program.call(*command, *remote, *more)
            same = program.call(*command, *here, *more)

            assert (there.code, there.out, there.err) == (0, same.out, same.err)


async def test_a_plan_shows_what_becomes_of_the_tags(server: servers.Server, tmp_path: Path) -> None:
    """A tag that would be sealed, and one that stays sealed, are listed with the rules before and after; nothing is changed."""
    await fill(server)
    other = tmp_path / "other.toml"
    other.write_text(OTHER_RULES, encoding="utf-8")
    shown = program.call("admin", "rules", "plan", other, *over_api(server, tmp_path, "boss"), "--json")
    printed = program.call("admin", "rules", "plan", other, *over_api(server, tmp_path, "boss"))
    again = program.call("admin", "rules", "plan", other, *over_api(server, tmp_path, "boss"), "--json")

    assert [(row["ref"], row["status"], row["mode"]) for row in shown.json["results"]] == [
        ("shop/a:1.4.2", "stays-sealed", "sealed"),
        ("shop/a:latest", "seals", "mutable"),
        ("shop/b:1.4.2", "stays-sealed", "sealed"),
        ("shop/b:latest", "seals", "mutable"),
    ]
    assert shown.json["results"][1]["after"]["keep"] == "7d"
    assert shown.json["results"][0]["reason"] == "a built-in rule decides now, then rule 2"
    assert "the rules have an effect on 4 of 4 tags" in printed.err
    assert again.out == shown.out


async def test_rules_without_the_right_are_refused(server: servers.Server, tmp_path: Path) -> None:
    """The rules of all repositories are for operators; a decision is for those who may pull."""
    other = tmp_path / "other.toml"
    other.write_text(OTHER_RULES, encoding="utf-8")
    remote = over_api(server, tmp_path, "ci")
    refused = [
        program.call(*words, *remote, "--json") for words in (["admin", "rules"], ["admin", "rules", "plan", other])
    ]
    decided = program.call("admin", "rules", "test", "shop/a", "pr-7", *remote)

    for each in refused:
        assert (each.code, each.json["results"], each.json["errors"][0]["code"]) == (3, [], "DENIED")
    assert (decided.code, decided.out) == (0, "sealed\n")


def test_users_are_changed_over_the_admin_api(server: servers.Server, tmp_path: Path) -> None:
    """Users, kinds and grants are the same over the admin API and on the data folder, after changes over the API."""
    remote = over_api(server, tmp_path, "boss")
    added = program.call("admin", "user", "add", "new", *remote, "--json", typed="correct horse\n")
    changed = program.call("admin", "user", "add", "new", *remote, "--json", typed="battery staple\n")
    refused = program.call("admin", "user", "add", "new", *remote, "--json", typed="\n")
    service = program.call("admin", "user", "add", "robot", "--service", *remote)
    gone = program.call("admin", "user", "remove", "nobody", *remote)
    again = program.call("admin", "user", "remove", "nobody", *remote)
    lists = [
        [program.call("admin", "user", *words, *where) for where in (remote, here)]
        for words, here in (
            (["ls"], on_data(server)),
            (["ls", "--json"], on_data(server)),
            (["grants"], configured(server)),
            (["grants", "--json"], configured(server)),
        )
    ]

    assert (added.json["results"], changed.json["results"][0]["status"]) == (
        [{"ref": "new", "status": "added"}],
        "changed",
    )
    assert (refused.code, "1 to 72 bytes" in refused.json["errors"][0]["message"]) == (2, True)
    assert (service.code, gone.code, again.code) == (0, 0, 1)
    for there, here in lists:
        assert (there.code, there.out) == (0, here.out)
    assert lists[0][0].out.split("\n")[-2] == "robot (service account)"
    assert "nobody" not in lists[0][0].out


async def test_expire_prints_the_same_over_the_admin_api(server: servers.Server, tmp_path: Path) -> None:
    """Where nothing is overdue nothing is deleted; only an operator may ask."""
    await fill(server)
    runs = [
        program.call("admin", "expire", *more, *where)
        for more in (["--dry-run"], ["--yes"], ["--json"])
        for where in (over_api(server, tmp_path, "boss"), on_data(server))
    ]
    refused = program.call("admin", "expire", *over_api(server, tmp_path, "ci"), "--json")

    for there, here in zip(runs[::2], runs[1::2], strict=True):
        assert (there.code, there.out, there.err) == (0, here.out, here.err)
    assert (refused.code, refused.json["errors"][0]["code"]) == (3, "DENIED")


async def test_gc_prints_the_same_over_the_admin_api(server: servers.Server, tmp_path: Path) -> None:
    """The items of a dry run, and that nothing is due after a run; only an operator may ask, and --full is for the data folder."""
    await fill(server)
    unused = image("unused")
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False, auth=as_user("boss")) as client:
        await push_parts(client, "shop/a", unused)
    make_reviews_due(server)
    remote = over_api(server, tmp_path, "boss")
    planned = [
        program.call("admin", "gc", "--dry-run", *more, *where)
        for more in ([], ["--json"])
        for where in (remote, on_data(server))
    ]
    done = program.call("admin", "gc", "--yes", "--json", *remote)
    runs = planned + [
        program.call("admin", "gc", *more, *where)
        for more in (["--dry-run"], ["--yes"], ["--json"])
        for where in (remote, on_data(server))
    ]
    refused = program.call("admin", "gc", *over_api(server, tmp_path, "ci"), "--json")
    full = program.call("admin", "gc", "--full", *remote)

    for there, here in zip(runs[::2], runs[1::2], strict=True):
        assert (there.code, there.out, there.err) == (0, here.out, here.err)
    items = sorted(f"shop/a@{blob.digest}" for blob in unused.blobs)
    assert sorted(row["ref"] for row in planned[2].json["results"]) == items
    assert {row["status"] for row in planned[2].json["results"]} == {"would be hidden"}
    assert sorted(row["ref"] for row in done.json["results"]) == items
    assert {row["status"] for row in done.json["results"]} == {"hidden"}
    assert (refused.code, refused.json["errors"][0]["code"]) == (3, "DENIED")
    assert (full.code, "--full works only on the data folder" in full.err) == (2, True)


async def test_the_state_of_a_registry_is_for_operators(server: servers.Server, tmp_path: Path) -> None:
    """An operator sees the logs, the audit log, held tags and requested rebuilds; another user is refused."""
    await fill(server)
    remote = over_api(server, tmp_path, "boss")
    program.call("admin", "user", "add", "robot", "--service", *remote)
    logs = program.call("admin", "ledger", *remote, "--json")
    audit = program.call("admin", "audit", "--newest", "1", *remote, "--json")
    texts = [program.call("admin", name, *remote) for name in ("ledger", "audit", "held", "rebuilds")]
    names = ("ledger", "audit", "held", "rebuilds")
    refused = [program.call("admin", name, *over_api(server, tmp_path, "ci"), "--json") for name in names]

    assert [(row["ref"], row["status"], row["size"] > 6) for row in logs.json["results"]] == [
        ("ledger", "writable", True)
    ]
    assert [(row["ref"], row["status"], row["actor"]) for row in audit.json["results"]] == [
        ("robot", "service.added", "boss")
    ]
    assert [each.code for each in texts] == [0] * 4
    assert "WITNESSED" in texts[0].out
    assert "service.added" in texts[1].out
    assert ("no tag is held back" in texts[2].err, "no rebuild was requested" in texts[3].err) == (True, True)
    for each in refused:
        assert (each.code, each.json["errors"][0]["code"]) == (3, "DENIED")


def test_pull_limits_are_the_same_over_the_admin_api(tmp_path: Path) -> None:
    """What an upstream reported last, and that nothing is known of another one, is printed as on the data folder."""
    settings = settings_with_users(tmp_path / "data")
    upstreams = '[[upstream]]\nname = "docker.io"\n[[upstream]]\nname = "quay.io"\n'
    with servers.boltseal(tmp_path / "data", config=CONFIG + RULES + upstreams) as running:
        with open_store(settings) as store:
            limit = PullLimit(100, 40, 21_600, "192.0.2.1")
            asyncio.run(store.registry.upstreams.quota("docker.io", limit, store.database.now_us()))
        remote = over_api(running, tmp_path, "boss")
        runs = [
            program.call("ratelimit", *where, *more)
            for more in ([], ["--json"])
            for where in (remote, on_data(running))
        ]
        both = program.call("ratelimit", "docker.io", *remote)

    for there, here in zip(runs[::2], runs[1::2], strict=True):
        assert (there.code, there.out, there.err) == (3, here.out, here.err)
    known, unknown = runs[2].json["results"]
    assert (known["remaining"], known["limit"], known["window_s"], known["source"]) == (40, 100, 21_600, "192.0.2.1")
    assert unknown["status"] == "unknown"
    assert both.code == 2
