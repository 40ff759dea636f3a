"""The reference pages have every setting, command, exit code, error and event of the code."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from boltseal.errors import COMMAND_CODES, EXIT_CODES, HTTP_ANSWERS, CommandErrorCode, ExitCode
from boltseal.events import EventKind
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.grants import Action
from boltseal.policy.rule_decision import decide
from boltseal.policy.rules import FLOATING_TAGS, Mode
from boltseal.server.configuration import load
from boltseal.server.settings import Settings
from tests.docs.pages import ROOT, code, fenced, section, table, text
from tests.signatures.notation_certificates import root
from tests.signatures.signers import Signer
from tests.signatures.sigstore_services import Authority

CONFIGURATION = text("docs/reference/configuration.md")
SEALS = text("docs/concepts/seals.md")
AUTHORITY = root()
KEYLESS = Authority()
LISTED = {"rule", "upstream", "witness", "notify", "on_outdated"}
"""Tables of the configuration that may be written several times."""


def documented(heading: str) -> dict[str, tuple[str, str]]:
    """Return default and description of every key in a table of the configuration page."""
    return {
        key.strip("`"): (default.strip("`"), about) for key, default, about in table(section(CONFIGURATION, heading))
    }


def test_the_generated_parts_are_current() -> None:
    """`scripts/reference.py` would change no page."""
    script: list[str | Path] = [sys.executable, ROOT / "scripts/reference.py", "--check"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")


def _is_table(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def test_every_setting_is_described_with_its_default() -> None:
    """Each table of `Settings` has a section, and each of its keys a row with a description."""
    for name, field in Settings.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys = documented(f"`[{name}]`")
            tables = {key for key, each in inner.model_fields.items() if _is_table(each.annotation)}

            assert set(keys) == set(inner.model_fields) - {"grant", "issuer", "quota"} - tables
            assert all(documented(f"`[{name}.{key}]`") for key in tables)
            assert all(about.endswith(".") for _, about in keys.values())
    assert documented("`[server]`")["max_manifest_bytes"][0] == "4MiB"
    assert documented("`[auth]`")["anonymous_pull"][0] == "false"


@pytest.mark.parametrize("name", sorted(LISTED))
def test_every_key_of_a_repeated_table_is_described(name: str) -> None:
    """The parser of a repeated table accepts exactly the keys that the page describes."""
    keys = documented(f"`[[{name}]]`")

    assert name in Settings.model_fields
    assert len(keys) >= 2
    assert all(about.endswith(".") for _, about in keys.values())


def test_every_exit_code_is_described() -> None:
    """The table of exit codes has all of them and no other."""
    rows = table(text("docs/reference/exit-codes.md"))

    assert {int(row[0]) for row in rows} == set(ExitCode)


def test_every_code_of_an_error_in_json_is_described() -> None:
    """The table has all of them and no other, each with the exit codes of its kinds."""
    rows = table(section(text("docs/reference/json.md"), "Errors"))
    exits = {
        code: {str(EXIT_CODES[kind].value) for kind, each in COMMAND_CODES.items() if each is code}
        for code in CommandErrorCode
    }

    assert {row[0].strip("`") for row in rows} == set(CommandErrorCode)
    assert {row[0].strip("`"): set(row[2].split(", ")) for row in rows} == exits | {CommandErrorCode.INTERNAL: {"3"}}


def test_every_kind_of_error_and_event_is_described() -> None:
    """The pages list every kind of error and event."""
    errors, events = (
        table(section(text("docs/reference/http-api.md"), "Errors")),
        table(text("docs/reference/events.md")),
    )

    assert {row[0].strip("`") for row in errors} == {kind.__name__ for kind in HTTP_ANSWERS}
    assert {row[0].strip("`") for row in events} == set(EventKind)


def server_examples() -> list[tuple[str, str]]:
    """Return every TOML block of the pages that has only tables of the server's configuration."""
    return [
        (page.name, block)
        for page in sorted(ROOT.glob("docs/**/*.md"))
        for block in fenced(page.read_text(encoding="utf-8"), "toml")
        if tomllib.loads(block) and set(tomllib.loads(block)) <= set(Settings.model_fields)
    ]


@pytest.mark.parametrize(("page", "block"), server_examples())
def test_every_example_of_the_configuration_loads(page: str, block: str, tmp_path: Path) -> None:
    """Each TOML block on any page is a valid configuration, once the files of its keys and certificates exist."""
    file = tmp_path / "boltseal.toml"
    for key in re.findall(r'"/etc/boltseal/([a-z]+\.pub)"', block):
        (tmp_path / key).write_bytes(Signer.on_p256().pem)
    (tmp_path / "acme-ca.pem").write_bytes(AUTHORITY.pem)
    (tmp_path / "acme.crl").write_bytes(AUTHORITY.crl())
    (tmp_path / "trusted_root.json").write_bytes(KEYLESS.trusted_root())
    block = re.sub(
        r'"/etc/boltseal/(?=(?:[a-z]+\.pub|acme-ca\.pem|acme\.crl|trusted_root\.json)")', f'"{tmp_path}/', block
    )
    file.write_text(block)
    settings = load(file)
    parsed = tomllib.loads(block)

    assert len(settings.rules.user) == len(parsed.get("rule", ()))
    assert len(settings.upstreams) == len(parsed.get("upstream", ()))
    assert len(settings.receivers) == len(parsed.get("notify", ()))
    assert len(settings.actions) == len(parsed.get("on_outdated", ()))
    assert len(settings.grants.grants) >= len(parsed.get("auth", {}).get("grant", ()))


def test_the_rules_in_the_example_decide_as_described(tmp_path: Path) -> None:
    """The example of rules loads, and decides as its comments state."""
    (example,) = fenced(SEALS, "toml")
    file = tmp_path / "boltseal.toml"
    file.write_text(example)
    rules = load(file).rules

    assert len(tomllib.loads(example)["rule"]) == len(rules.user)
    assert decide(rules, Repository("ci/app/web"), Tag("1.0.0")).mode is Mode.FLOATING
    assert decide(rules, Repository("shop/app"), Tag("preview-7")).mode is Mode.FLOATING
    assert decide(rules, Repository("archive/app"), Tag("1.0.0")).keep.days == 365
    assert decide(rules, Repository("shop/app"), Tag("1.4.2")).mode is Mode.SEALED


def test_every_mutable_tag_is_named() -> None:
    """The page lists the mutable tags of the built-in rules."""
    assert set(FLOATING_TAGS) <= code(section(SEALS, "Which tags are sealed").split("```")[0])


def test_the_grants_in_the_example_allow_as_described(tmp_path: Path) -> None:
    """The example of grants lets ci push to the shop only, and all clients pull public repositories."""
    (example,) = [block for block in fenced(CONFIGURATION, "toml") if "[[auth.grant]]" in block]
    file = tmp_path / "boltseal.toml"
    file.write_text(example)
    grants = load(file).grants

    assert grants.allowed("ci", Repository("shop/app")) == {Action.PULL, Action.PUSH}
    assert grants.allowed("ci", Repository("other/app")) == set()
    assert grants.allowed(None, Repository("public/app")) == {Action.PULL}
    assert grants.allowed(None, Repository("shop/app")) == set()
