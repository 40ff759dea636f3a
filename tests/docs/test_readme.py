"""What the README says about settings, verbs, exit codes, rules and refusals is what the program does."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from boltseal.cli.root import build
from boltseal.config import Settings, load
from boltseal.errors import ExitCode
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.decide import decide
from boltseal.policy.rules import FLOATING_TAGS, Mode
from tests.docs.pages import code, section, table, text

README = text("README.md")


def settings_of(model: type[BaseModel], at: str = "") -> dict[str, object]:
    """`[table] name` of every setting -> its default."""
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


def verbs() -> set[str]:
    """Every verb of the program, those below another included."""

    def below(command: Any, at: str) -> Iterator[str]:
        if at:
            yield at
        for name, child in getattr(command, "commands", {}).items():
            yield from below(child, f"{at} {name}".strip())

    return set(below(typer.main.get_command(build()), ""))


def test_every_setting_is_documented_with_its_default_and_no_other() -> None:
    """The table of settings is the whole truth."""
    actual = {name: default for name, default in settings_of(Settings).items() if name != "[auth] grant"}
    told = {name: default for name, default in documented_settings().items() if not name.startswith("[[")}

    assert set(told) == set(actual)
    assert {name: shown(actual[name]) for name in actual} == told


def shown(default: object) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, int) and default >= 1024 * 1024:
        return f"{default // (1024 * 1024)}MiB"
    return str(default)


def test_every_key_of_a_rule_is_documented() -> None:
    """A rule has exactly the keys that the table of settings names."""
    told = {name.removeprefix("[[rule]] ") for name in documented_settings() if name.startswith("[[rule]]")}

    assert told == {"repository", "tag", "mode", "keep"}


def test_every_key_of_a_grant_is_documented() -> None:
    """A grant has exactly the keys that the table of settings names."""
    told = {name.removeprefix("[[auth.grant]] ") for name in documented_settings() if name.startswith("[[auth")}

    assert told == {"users", "repository", "actions"}


def test_every_verb_is_listed_and_every_listed_verb_exists() -> None:
    """The table of verbs is the whole truth."""
    told = {cells[0].strip("`").removeprefix("boltseal ") for cells in table(section(README, "Verbs"))}

    assert {re.sub(r" [A-Z].*", "", verb) for verb in told} == verbs()


def test_every_command_in_the_pages_is_a_verb() -> None:
    """`boltseal something` in any page can be typed."""
    pages = README + text("ARCHITECTURE.md") + text("SECURITY.md") + text("CONTRIBUTING.md")
    typed = {found[0] for c in code(pages) if (found := re.findall(r"^boltseal ([a-z]+)", c))}

    assert typed <= {verb.split()[0] for verb in verbs()}


def test_every_exit_code_is_documented() -> None:
    """The table of exit codes is the whole truth."""
    told = {int(cells[0]) for cells in table(section(README, "Exit codes"))}

    assert told == set(ExitCode)


def test_the_rules_of_the_readme_do_what_it_says(tmp_path: Path) -> None:
    """Its example is a configuration that loads, and decides as its comments say."""
    example = re.search(r"```toml\n(.*?)```", README, re.DOTALL)

    assert example is not None
    file = tmp_path / "boltseal.toml"
    file.write_text(example[1])
    rules = load(file).rules

    assert len(tomllib.loads(example[1])["rule"]) == len(rules.user)
    assert decide(rules, Repository("ci/app/web"), Tag("1.0.0")).mode is Mode.FLOATING
    assert decide(rules, Repository("shop/app"), Tag("preview-7")).mode is Mode.FLOATING
    assert decide(rules, Repository("archive/app"), Tag("1.0.0")).keep.days == 365
    assert decide(rules, Repository("shop/app"), Tag("1.4.2")).mode is Mode.SEALED


def test_the_tags_that_float_are_the_ones_the_readme_names() -> None:
    """The built-in rules in words."""
    told = code(section(README, "Which tags are sealed").split("```")[0])

    assert set(FLOATING_TAGS) <= told
