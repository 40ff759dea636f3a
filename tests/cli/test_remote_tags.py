"""`boltseal tag ... --server HOST`: the commands over the admin API print and do what they do on the data folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.admin_requests import ONE, TWO, settings_with_users
from tests.cli import program
from tests.cli.remote_registry import CONFIG, fill, logins

pytestmark = pytest.mark.slow  # each starts a server and some commands


@pytest.fixture
def server(tmp_path: Path) -> Iterator[servers.Server]:
    """A registry with an administrator and a user who may push."""
    settings_with_users(tmp_path / "data")
    with servers.boltseal(tmp_path / "data", config=CONFIG) as running:
        yield running


def without_entries(run: program.Run) -> tuple[int, Any]:
    """Return exit code and JSON of a command, without what differs: indices, messages, actors, times, and the repository."""
    printed = json.loads(run.out.replace("shop/b", "shop/a"))
    # The first purge finds the image in the other repository too, the second does not.
    printed["results"] = [row for row in printed["results"] if row["status"] != "kept"]
    for row in printed["results"]:
        row.pop("entry", None)
    for error in printed["errors"]:  # the message names the registry, and the detail who sealed the tag, and when
        error.pop("message", None)
        for key in ("since", "by"):
            error.get("detail", {}).pop(key, None)
    return run.code, printed


async def test_a_command_prints_the_same_over_the_admin_api(server: servers.Server, tmp_path: Path) -> None:
    """Each command has the same JSON, output and exit code over the admin API and on the data folder."""
    await fill(server)
    over_api = ["--server", server.address, "--registry-config", str(logins(server, tmp_path, "boss"))]
    on_data = ["--data", str(server.folder), "--config", str(server.folder.with_name("data.toml"))]
    commands = [
        ["seal", "latest", "--reason", "x"],
        ["seal", "latest", "--reason", "x"],
        ["unseal", "1.4.2", "--reason", "a mistake"],
        ["unseal", "9.9.9", "--reason", "a mistake"],
        ["restore", "latest", "--to", TWO.digest, "--reason", "x"],
        ["restore", "latest", "--to", ONE.digest, "--reason", "x"],
        ["restore", "latest", "--to", "never", "--reason", "x"],
        ["seal", "latest", "--reason", " "],
        ["purge", "1.4.2", "--reason", "a key", "--dry-run"],
        ["purge", "1.4.2", "--reason", "a key"],
        ["purge", "1.4.2", "--reason", "a key", "--yes"],
        ["purge", "1.4.2", "--reason", "a key", "--yes"],
    ]
    for word, tag, *rest in commands:
        named = [f"{server.address}/shop/{repository}:{tag}" for repository in "ab"]
        remote = program.call("tag", word, named[0], *rest, *over_api, "--json")
        local = program.run("tag", word, named[1], *rest, *on_data, "--json")

        assert without_entries(remote) == without_entries(local), (remote, local)


async def test_the_text_of_a_command_is_the_same(server: servers.Server, tmp_path: Path) -> None:
    """Without --json a command prints the same lines."""
    await fill(server)
    over_api: list[str | Path] = [
        "--server",
        f"https://{server.address}/",
        "--registry-config",
        logins(server, tmp_path, "boss"),
    ]
    on_data: list[str | Path] = ["--data", server.folder]
    remote = program.call(
        "tag", "restore", f"{server.address}/shop/a:latest", "--to", TWO.digest[7:19], "--reason", "x", *over_api
    )
    local = program.run(
        "tag", "restore", f"{server.address}/shop/b:latest", "--to", TWO.digest[7:19], "--reason", "x", *on_data
    )
    nothing = program.call("tag", "accept", *over_api)

    assert remote.code == local.code == 0
    assert remote.out == local.out.replace("shop/b", "shop/a")
    assert remote.err.split("(ledger")[0] == local.err.replace("shop/b", "shop/a").split("(ledger")[0]
    assert (nothing.code, nothing.err) == (0, "nothing is held back\n")


async def test_without_the_right_a_command_could_not_change_anything(server: servers.Server, tmp_path: Path) -> None:
    """A user without the right `admin`, or without a login, gets exit code 3 and the reason."""
    await fill(server)
    named = f"{server.address}/shop/a:latest"
    pusher = program.call(
        "tag",
        "seal",
        named,
        "--reason",
        "x",
        "--server",
        server.address,
        "--registry-config",
        logins(server, tmp_path, "ci"),
    )
    (tmp_path / "none.json").write_text("{}")
    anonymous = program.call(
        "tag", "seal", named, "--reason", "x", "--server", server.address, "--registry-config", tmp_path / "none.json"
    )

    assert (pusher.code, "ci may not admin in shop/a" in pusher.err) == (3, True)
    assert (anonymous.code, "needs a login" in anonymous.err) == (3, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.example/shop/app:1", "--server", "y.example"], "of another registry"),
        (["x.example/shop/app:1", "--server", "http://x.example"], "--plain-http"),
        (["x.example/shop/app:1", "--server", "docker.io"], "no boltseal registry"),
        (["x.example/shop/app:1", "--server", "x.example/shop"], "no boltseal registry"),
        (["x.example/shop/app:1", "--server", "https://ci:sesame@x.example"], "no registry"),
        (["x.example/shop/app", "--server", "x.example"], "has no tag"),
        (["x.example/shop/app:1", "--server", "x.example", "--data", "data"], "exclude each other"),
        (["x.example/shop/app:1", "--plain-http"], "name it with --server"),
        (["x.example/shop/app:1", "--anonymous"], "name it with --server"),
    ],
)
def test_contradicting_arguments_are_refused(arguments: list[str], message: str) -> None:
    """An image of another registry, an address that is none and options of both kinds are usage errors."""
    run = program.call("tag", "seal", *arguments, "--reason", "x")

    assert (run.code, message in run.err) == (2, True), run.err
    assert "sesame" not in run.err
