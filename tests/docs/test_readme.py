"""The README's settings, commands, exit codes, rules and refusals match the program."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import typer
from pydantic import BaseModel

from boltseal.cli.root import CommandOnDemand, build
from boltseal.errors import ExitCode
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.grants import Action
from boltseal.policy.notifications import NOTIFY_KEYS
from boltseal.policy.rebuild_actions import KEYS as ON_OUTDATED_KEYS
from boltseal.policy.rule_decision import decide
from boltseal.policy.rules import FLOATING_TAGS, Mode
from boltseal.policy.upstreams import UPSTREAM_KEYS, UPSTREAM_RULE_KEYS
from boltseal.server.configuration import load
from boltseal.server.settings import Settings
from tests.docs.pages import PAGES, code, section, table, text, typed_lines
from tests.images import error_of, image, push

README = text("README.md")


def settings_of(model: type[BaseModel], at: str = "") -> dict[str, object]:
    """Return `[table] name` of every setting with its default."""
    found: dict[str, object] = {}
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= settings_of(inner, f"[{name}] ")
        elif at:
            found[at + name] = field.default
    return found


def documented_settings() -> dict[str, str]:
    return {name.strip("`"): default.strip("`") for name, default, _ in table(section(README, "Settings"))}


def commands() -> dict[str, set[str]]:
    """Return every command of the program that help lists, subcommands included, with its options."""

    def below(command: Any, at: str) -> Iterator[tuple[str, set[str]]]:
        if isinstance(command, CommandOnDemand):
            command = command.loaded()
        if command.hidden:
            return
        if at:
            yield at, {option for parameter in command.params for option in parameter.opts}
        for name, child in getattr(command, "commands", {}).items():
            yield from below(child, f"{at} {name}".strip())

    return dict(below(typer.main.get_command(build()), ""))


def test_every_setting_is_documented_with_its_default_and_no_other() -> None:
    """The table of settings is complete, and has the defaults of the code."""
    actual = {
        name: default for name, default in settings_of(Settings).items() if name not in ("[auth] grant", "[auth] quota")
    }
    documented = {name: default for name, default in documented_settings().items() if not name.startswith("[[")}

    assert set(documented) == set(actual)
    assert {name: shown(actual[name]) for name in actual} == documented


def shown(default: object) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, int) and default >= 1024 * 1024:
        return f"{default // (1024 * 1024)}MiB"
    return "[]" if default == () else str(default)


def test_every_key_of_an_upstream_is_documented() -> None:
    """An upstream and its rules have exactly the keys that the table of settings names."""
    documented = {name for name in documented_settings() if name.startswith("[[upstream")}

    assert documented == {f"[[upstream]] {key}" for key in UPSTREAM_KEYS if key != "rule"} | {
        f"[[upstream.rule]] {key}" for key in UPSTREAM_RULE_KEYS
    }


def test_every_key_of_a_receiver_is_documented() -> None:
    """A receiver has exactly the keys that the table of settings names."""
    documented = {name.removeprefix("[[notify]] ") for name in documented_settings() if name.startswith("[[notify]]")}

    assert documented == set(NOTIFY_KEYS)


def test_every_key_of_an_outdated_action_is_documented() -> None:
    """An `[[on_outdated]]` has exactly the keys that the table of settings names."""
    named = "[[on_outdated]] "
    documented = {name.removeprefix(named) for name in documented_settings() if name.startswith(named)}

    assert documented == set(ON_OUTDATED_KEYS)


def test_every_key_of_a_rule_is_documented() -> None:
    """A rule has exactly the keys that the table of settings names."""
    documented = {name.removeprefix("[[rule]] ") for name in documented_settings() if name.startswith("[[rule]]")}

    assert documented == {"repository", "tag", "mode", "keep"}


def test_every_key_of_a_grant_is_documented() -> None:
    """A grant has exactly the keys that the table of settings names."""
    documented = {
        name.removeprefix("[[auth.grant]] ") for name in documented_settings() if name.startswith("[[auth.grant")
    }

    assert documented == {"users", "repository", "actions"}


def test_every_key_of_a_quota_is_documented() -> None:
    """A quota has exactly the keys that the table of settings names."""
    documented = {
        name.removeprefix("[[auth.quota]] ") for name in documented_settings() if name.startswith("[[auth.quota")
    }

    assert documented == {"users", "max_bytes", "max_repositories"}


def test_every_command_is_listed_and_every_listed_command_exists() -> None:
    """The table of commands is complete."""
    documented = {cells[0].split("`")[1].removeprefix("boltseal ") for cells in table(section(README, "Verbs"))}

    assert {re.sub(r" [A-Z].*", "", verb) for verb in documented} == set(commands())


@pytest.mark.slow
def test_every_command_in_the_pages_exists() -> None:
    """Each `boltseal COMMAND --option` in a line or block of a page is a command with that option."""
    wrong, known = [], commands()
    for page in PAGES:
        content = page.read_text(encoding="utf-8")
        for typed in [*code(content), *typed_lines(content)]:
            found = re.match(r"boltseal ([a-z][a-z-]*)( [a-z]+)?( [a-z]+)?\b", typed)
            if found is None:
                continue
            words = [word.strip() for word in found.groups("") if word]
            named = [" ".join(words[:length]) for length in range(len(words), 0, -1)]
            options = next((known[name] for name in named if name in known), None)
            if options is None or not set(re.findall(r"--[a-z-]+", typed)) <= options:
                wrong.append((page.name, typed))

    assert wrong == []


def test_every_exit_code_is_documented() -> None:
    """The table of exit codes is complete."""
    documented = {int(cells[0]) for cells in table(section(README, "Exit codes"))}

    assert documented == set(ExitCode)


def toml_blocks() -> list[str]:
    return re.findall(r"```toml\n(.*?)```", README, re.DOTALL)


def test_the_rules_in_the_readme_decide_as_described(tmp_path: Path) -> None:
    """The example loads, and decides as its comments state."""
    (example,) = [block for block in toml_blocks() if "[[rule]]" in block]
    file = tmp_path / "boltseal.toml"
    file.write_text(example)
    rules = load(file).rules

    assert len(tomllib.loads(example)["rule"]) == len(rules.user)
    assert decide(rules, Repository("ci/app/web"), Tag("1.0.0")).mode is Mode.FLOATING
    assert decide(rules, Repository("shop/app"), Tag("preview-7")).mode is Mode.FLOATING
    assert decide(rules, Repository("archive/app"), Tag("1.0.0")).keep.days == 365
    assert decide(rules, Repository("shop/app"), Tag("1.4.2")).mode is Mode.SEALED


def test_the_grants_in_the_readme_allow_as_described(tmp_path: Path) -> None:
    """The example lets ci push to the shop only, and all clients pull public repositories."""
    (example,) = [block for block in toml_blocks() if "[[auth.grant]]" in block]
    file = tmp_path / "boltseal.toml"
    file.write_text(example)
    grants = load(file).grants

    assert grants.allowed("ci", Repository("shop/app")) == {Action.PULL, Action.PUSH}
    assert grants.allowed("ci", Repository("other/app")) == set()
    assert grants.allowed(None, Repository("public/app")) == {Action.PULL}
    assert grants.allowed(None, Repository("shop/app")) == set()


async def test_the_refusal_in_the_readme_is_the_one_that_is_sent(client: httpx2.AsyncClient) -> None:
    """The texts are equal except for digests and the day."""
    (documented,) = re.findall(r"^denied: (.+)$", README, re.MULTILINE)

    await push(client, "shop/app", "1.4.2", image("first"))
    code, message = error_of(await push(client, "shop/app", "1.4.2", image("second")))

    def blurred(text: str) -> str:
        return re.sub(r"\d{4}-\d\d-\d\d", "DAY", re.sub(r"sha256:[0-9a-f]{12}\b", "DIGEST", text))

    assert code == "DENIED"
    assert blurred(message) == blurred(documented)


def test_the_readme_names_every_floating_tag() -> None:
    """The text lists the tags of the built-in rules."""
    documented = code(section(README, "Which tags are sealed").split("```")[0])

    assert set(FLOATING_TAGS) <= documented


def test_the_outputs_in_the_first_table_are_those_of_the_questions_page() -> None:
    """A test runs that page, so that no row shows a text that boltseal does not print any more."""
    page = text("docs/questions.md")
    shown = [part.strip() for row in table(section(README, "What it answers")) for part in code_parts(row[2])]

    assert [part for part in shown if part not in page] == []
    assert len(shown) >= 10


def code_parts(cell: str) -> list[str]:
    """Return the texts between backquotes in a cell, split where `...` leaves something out."""
    return [part for quoted in code(cell) for part in quoted.split("...") if part.strip()]
