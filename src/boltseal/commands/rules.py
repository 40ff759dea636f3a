"""The rules of a registry: the values of the commands `admin rules`, `admin rules test` and `admin rules plan`.

`RuleReads` has two implementations: on a configuration and a data folder (`server.commands.local_rules`), and over the admin API of a
registry (`commands.registry_rules`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from boltseal.errors import Invalid
from boltseal.files.named_files import FileMissing
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.rule_plan import RuleEffect
from boltseal.policy.rules import Mode, RuleInvalid, parse_rules

MAX_FILE_BYTES: Final = 4 * 1024 * 1024

RuleTable = dict[str, str]


@dataclass(frozen=True, slots=True)
class RuleInfo:
    """A rule. `number`: its position in the configuration, from 1; 0 for a built-in one. `settle` None: its tags do not settle.

    `require`: the evidence that an image needs for a tag.
    """

    number: int
    repository: str
    tag: str
    mode: Mode
    keep: str
    settle: str | None
    require: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RuleDecision:
    """The rule that decides about a push to a tag. `reason`: the rule in words."""

    rule: RuleInfo
    reason: str


@dataclass(frozen=True, slots=True)
class PlannedTag:
    """What other rules would do to a tag. `mode`: what it may do now. `before`, `after`: the rules that decide about it."""

    repository: str
    tag: str
    mode: str
    effect: RuleEffect
    before: RuleInfo
    after: RuleInfo


@dataclass(frozen=True, slots=True)
class RulePlan:
    """What other rules would do. `looked_at`: how many tags were compared."""

    looked_at: int
    tags: list[PlannedTag]


class RuleReads(Protocol):
    """The rules of one registry. Nothing is changed. Raises of all: Denied; errors of the data folder, or of the connection."""

    def rules(self) -> list[RuleInfo]:
        """Return the rules in the order in which they are tried."""
        ...

    def decide(self, repository: Repository, tag: Tag) -> RuleDecision:
        """Return the rule that decides about a push to a tag now."""
        ...

    def plan(self, tables: Sequence[RuleTable], *, every: bool) -> RulePlan:
        """Return what other rules would do to all tags. `every`: also list tags on which they have no effect."""
        ...


def rule_tables(file: Path) -> list[RuleTable]:
    """Return the `[[rule]]` tables of a configuration file, which are valid rules. Its other tables are not read.

    They are without `require`: it has no effect on modes, and its key files are the server's.

    Raises: FileMissing; Invalid: it can't be read, is not TOML, or has an invalid rule.
    """
    return parse_rule_tables(_read(file), str(file))


def parse_rule_tables(raw: bytes, source: str) -> list[RuleTable]:
    """Return the `[[rule]]` tables of a configuration, which are valid rules. `source`: its name in messages.

    Raises: Invalid: it is not TOML, or has an invalid rule.
    """
    try:
        tables = tomllib.loads(raw.decode("utf-8")).get("rule", [])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"{source} is not valid TOML: {error}") from error
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise Invalid(f"{source}: rule is not an array of tables; write each rule as [[rule]]")
    tables = [{key: value for key, value in table.items() if key != "require"} for table in tables]
    try:
        parse_rules(tables)
    except RuleInvalid as error:
        raise Invalid(f"{source}: {error.message}") from error
    return tables


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise FileMissing(file) from error
    except OSError as error:
        raise Invalid(f"{file} can't be read: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise Invalid(f"{file} is larger than {MAX_FILE_BYTES} bytes")
    return raw
