"""`boltseal admin token create|ls|revoke`: on a data folder, and over the admin API of a running registry."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from boltseal.server.settings import Settings
from boltseal.server.storage.metadata.migrate import prepare_data
from tests import servers
from tests.api_tokens import ROBOT, settings_with_tokens, with_token
from tests.cli import program

CREATE = ("admin", "token", "create", "--repositories", "shop/**", "--action", "pull", "--action", "push")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_with_tokens(tmp_path / "data")


def test_a_token_is_printed_once_and_listed_without_its_secret(settings: Settings) -> None:
    """Standard output of `create` is the token alone; `ls` and `revoke` show its ID, owner and scope."""
    on_data = ("--data", settings.server.data)
    created = program.call(*CREATE, "--owner", ROBOT, "--description", "deploys", *on_data)
    text = created.out.strip()
    listed = program.call("admin", "token", "ls", *on_data, "--json")
    shown = program.call("admin", "token", "ls", *on_data)
    planned = program.call("admin", "token", "revoke", text[9:19], "--dry-run", *on_data, "--json")
    revoked = program.call("admin", "token", "revoke", text[9:19], *on_data, "--json")
    after = program.call("admin", "token", "ls", *on_data)

    assert created.code == 0, created.err
    assert created.out == f"{text}\n"
    (row,) = listed.json["results"]
    assert (row["ref"], row["owner"], row["kind"], row["status"]) == (text[9:19], ROBOT, "service", "works")
    assert (row["repositories"], row["actions"], row["description"]) == (["shop/**"], ["pull", "push"], "deploys")
    assert row["used"] is None
    assert text[9:19] in shown.out
    assert text[19:] not in listed.out + shown.out + created.err + planned.out + revoked.out
    assert [run.json["results"][0]["status"] for run in (planned, revoked)] == ["planned", "revoked"]
    assert (after.out, after.err) == ("", "no API tokens\n")


def test_a_person_who_never_logged_in_is_warned_about(settings: Settings) -> None:
    """A token that does not work before the first login says so when it is created and listed."""
    created = program.call(*CREATE, "--owner", "ci", "--data", settings.server.data)
    listed = program.call("admin", "token", "ls", "--data", settings.server.data, "--json")

    assert "does not work until ci has logged in once" in created.err
    assert [(row["status"], row["ends"]) for row in listed.json["results"]] == [("ended", None)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "--owner", ROBOT), "the scope has no repository"),
        (("create", "--repositories", "**"), "the owner is missing"),
        (("create", "--repositories", "**", "--owner", "unknown"), 'there is no user "unknown"'),
        (("create", "--repositories", "**", "--owner", ROBOT, "--action", "fly"), 'action "fly" of the scope'),
        (("create", "--repositories", "**", "--owner", ROBOT, "--life", "9999d"), "expected at most 366d"),
        (("revoke",), "give the ID of a token, or --user NAME"),
        (("revoke", "aaaaaaaaaa"), "there is no API token"),
        (("revoke", "boltseal_aaaaaaaaaaSECRET"), "that is a token; give its ID"),
        (("ls", "--user", "ci", "--all"), "exclude each other"),
    ],
)
def test_bad_input_gets_one_clear_line(settings: Settings, arguments: tuple[str, ...], words: str) -> None:
    """The message says what is wrong, and never repeats a token."""
    run = program.call("admin", "token", *arguments, "--data", settings.server.data)

    assert run.code in (1, 2, 3)
    assert words in run.err
    assert "SECRET" not in run.err


def test_a_service_account_is_added_listed_and_removed(tmp_path: Path) -> None:
    """A service account needs no password; it is neither a person nor can it become one."""
    data = tmp_path / "data"
    prepare_data(data)
    on_data = ("--data", data)
    added = [program.call("admin", "user", "add", "robot", "--service", *on_data, "--json") for _ in range(2)]
    as_person = program.call("admin", "user", "add", "robot", *on_data, typed="pw\n")
    listed = program.call("admin", "user", "ls", *on_data, "--json")
    text = program.call(*CREATE, "--owner", "robot", *on_data).out.strip()
    removed = program.call("admin", "user", "remove", "robot", *on_data)
    left = program.call("admin", "token", "ls", *on_data)

    assert [run.json["results"][0]["status"] for run in added] == ["added", "unchanged"]
    assert as_person.code == 2
    assert "robot is a service account" in as_person.err.replace('"', "")
    assert listed.json["results"] == [{"ref": "robot", "status": "service"}]
    assert text.startswith("boltseal_")
    assert removed.code == 0
    assert left.out == ""


@pytest.fixture
def server(settings: Settings) -> Iterator[servers.Server]:
    grants = 'users = ["boss"]\nactions = ["pull", "push", "admin"]\n[[auth.grant]]\nusers = ["robot", "ci"]\nactions = ["pull"]\n'
    with servers.boltseal(settings.server.data, config=f"[[auth.grant]]\n{grants}") as running:
        yield running


@pytest.mark.slow  # starts a server and some commands
def test_the_commands_work_over_the_admin_api(server: servers.Server, tmp_path: Path) -> None:
    """With --server the commands have the rights of the login: own tokens for each user, all for an operator."""

    def run(user: str, *arguments: str) -> program.Run:
        file = tmp_path / f"{user}.json"
        basic = base64.b64encode(f"{user}:pw-{user}".encode()).decode()
        file.write_text(json.dumps({"auths": {server.address: {"auth": basic}}}))
        return program.call(
            "admin", "token", *arguments, "--server", server.address, "--registry-config", file, "--json"
        )

    create = ("create", "--repositories", "**", "--life", "7d")
    own, of_robot, refused = (
        run("ci", *create),
        run("boss", *create, "--owner", ROBOT),
        run("ci", *create, "--owner", ROBOT),
    )
    mine, every = run("ci", "ls"), run("boss", "ls", "--all")
    text = of_robot.json["results"][0]["token"]
    with httpx2.Client(base_url=server.url, trust_env=False) as client:
        before = client.get("/v2/_catalog", auth=with_token(text)).status_code
        revoked = run("boss", "revoke", "--user", ROBOT)
        after = client.get("/v2/_catalog", auth=with_token(text)).status_code

    assert (own.code, of_robot.code, refused.code) == (0, 0, refused.code)
    assert refused.code != 0
    assert [row["owner"] for row in mine.json["results"]] == ["ci"]
    assert sorted(row["owner"] for row in every.json["results"]) == ["ci", ROBOT]
    assert (before, after) == (200, 401)
    assert [row["ref"] for row in revoked.json["results"]] == [text[9:19]]
