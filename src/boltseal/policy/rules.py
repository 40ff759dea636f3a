"""The `[[rule]]` tables: which tags are sealed, mutable or append-only, and how long their bytes are kept. Pure.

A rule set holds the user's rules in order, then the built-in ones. The first rule that matches decides; a tag that
no rule matches is sealed and kept for ever. `parse_rules` is the only way from a configuration to a rule set. An
error names the rule's number (the first is 1), what was found and what was expected. A rule that is shown never to
apply is an error too.

Which rule decides about a tag: `rule_decision`. Whether a rule can apply: `unreachable_rules`. What follows for a
push or a delete is decided in `server.registry`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NoReturn

from boltseal.errors import Invalid, quote
from boltseal.policy.durations import UNITS_US, DurationInvalid, format_duration, parse_duration
from boltseal.policy.globs import Glob, GlobInvalid, parse_repository_glob, parse_tag_glob
from boltseal.policy.requirements import KeyReader, Requirement, RequirementInvalid, parse_requirements
from boltseal.policy.setting_keys import SettingKey
from boltseal.policy.unreachable_rules import MAX_STEPS, EarlierRules, TooManySteps, matches_no_name

MAX_RULES: Final = 1000
MAX_KEEP_DAYS: Final = 36_500

MAX_SETTLE_US: Final = UNITS_US["h"]

_DAY_US = UNITS_US["d"]
RULE_KEYS: Final = {
    "repository": SettingKey("**", "Repositories of the rule."),
    "tag": SettingKey("*", "Tags of the rule."),
    "mode": SettingKey("sealed", "`sealed`, `floating` or `append-only`."),
    "keep": SettingKey(
        "forever",
        (
            "How long the bytes of a sealed tag are protected: `forever`, days such as `365d`, or `deletable`; the "
            "tag can never resolve to another digest in any case."
        ),
    ),
    "settle": SettingKey(
        "",
        (
            "For clients that push the parts of an image under its tag: how long a new tag waits for its index before it is "
            "sealed, such as `60s`; at most `1h`. Default: it is sealed at once."
        ),
    ),
    "require": SettingKey(
        "",
        (
            "Signatures and attestations that an image needs before it gets a tag of the rule, such as "
            '`[{ key = "release.pub" }]`: see "Signed before it is named" (docs/guides/require-signatures.md).'
        ),
    ),
}


class RuleInvalid(Invalid):
    """A rule that can't be read, contradicts itself, or can never be reached. The server does not start."""


class Mode(StrEnum):
    """The mode of a rule: whether a published tag may move."""

    SEALED = "sealed"
    """A tag of this mode resolves to one digest for ever."""
    FLOATING = "floating"
    """A tag of this mode is mutable: it may move, and every move is recorded."""
    APPEND_ONLY = "append-only"
    """A tag of this mode may move only to a manifest that contains all layers, or entries, of the present one."""


@dataclass(frozen=True, slots=True)
class Keep:
    """How long the bytes under a sealed tag are protected from deletion, counted from the sealing.

    `days` None is for ever, 0 not at all ("deletable"). The tag stays sealed whatever happens to the bytes.
    """

    days: int | None = None

    @classmethod
    def parse(cls, text: str) -> Keep:
        """Parse "forever", "deletable" or a number of days such as "365d". Raises: RuleInvalid."""
        if text == "forever":
            return FOREVER
        if text == "deletable":
            return DELETABLE
        match = re.fullmatch(r"([1-9][0-9]{0,4})d", text, re.ASCII)
        if match is None or int(match[1]) > MAX_KEEP_DAYS:
            raise RuleInvalid(
                f'keep is {quote(text)}; expected "forever", "deletable" or days from "1d" to "{MAX_KEEP_DAYS}d"'
            )
        return cls(int(match[1]))

    def __str__(self) -> str:
        if self.days is None:
            return "forever"
        return f"{self.days}d" if self.days else "deletable"

    def until(self, sealed_us: int) -> int | None:
        """Return when the protection of bytes sealed at `sealed_us` ends by itself (both microseconds since the epoch).

        None where no day is stated: what is kept for ever, and what is deletable.
        """
        return sealed_us + self.days * _DAY_US if self.days else None


FOREVER: Final = Keep()
DELETABLE: Final = Keep(0)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `number`: its position in the configuration, from 1; 0 for built-in rules.

    `settle_us`: how long a tag that is pushed without an index waits for one before it is sealed; 0: it is sealed at once.
    `require`: the evidence that an image needs before it gets a tag; tags of signature tools are not of such a rule.
    """

    repository: Glob
    tag: Glob
    mode: Mode = Mode.SEALED
    keep: Keep = FOREVER
    number: int = 0
    settle_us: int = 0
    require: tuple[Requirement, ...] = ()

    def matches(self, repository: str, tag: str) -> bool:
        """Return whether both globs match. A rule that requires signatures does not match the tags that have them."""
        if not (self.repository.matches(repository) and self.tag.matches(tag)):
            return False
        return not (self.require and _SIGNATURE_TAG.matches(tag))

    @property
    def why(self) -> str:
        """The rule as the reason of a decision, for `boltseal admin rules test` and for refusals."""
        if self.number:
            return f"rule {self.number} ({self})"
        if self is BUILT_IN_DEFAULT:
            return "no rule matches; by default a tag is sealed and kept for ever"
        return f"built-in rule ({self})"

    def as_toml(self) -> str:
        """Return the rule as a table for the configuration file, without defaults and without a final newline.

        `require` is left out: a rule knows its keys, and not the paths of their files.
        None of the texts can hold a quote or a backslash (`globs`), so they need no escapes.
        """
        lines = ["[[rule]]"]
        if not self.repository.matches_all:
            lines.append(f'repository = "{self.repository}"')
        if not self.tag.matches_all:
            lines.append(f'tag = "{self.tag}"')
        lines.append(f'mode = "{self.mode}"')
        if self.mode is Mode.SEALED and self.keep != FOREVER:
            lines.append(f'keep = "{self.keep}"')
        if self.settle_us:
            lines.append(f'settle = "{format_duration(self.settle_us)}"')
        return "\n".join(lines)

    def __str__(self) -> str:
        globs = [
            f'{key} "{glob}"'
            for key, glob in (("repository", self.repository), ("tag", self.tag))
            if not glob.matches_all
        ]
        return " ".join(globs) if globs else "every name"


_EVERY_REPOSITORY = parse_repository_glob("**")
_SIGNATURE_TAG = Glob(
    text="sha256-<64 hex> or sha512-<64 hex>, then .sig, .att, .sbom or nothing",
    steps=(),
    pattern=re.compile(r"sha(?:256|512)-[0-9a-f]{64}(?:\.(?:sig|att|sbom))?", re.ASCII),
)

FLOATING_TAGS: Final = ("latest", "edge", "nightly", "main", "master", "dev", "stable")

BUILT_IN_FLOATING: Final[Mapping[str, Rule]] = {
    tag: Rule(_EVERY_REPOSITORY, parse_tag_glob(tag), Mode.FLOATING, DELETABLE) for tag in FLOATING_TAGS
}
BUILT_IN_SIGNATURES: Final = Rule(_EVERY_REPOSITORY, _SIGNATURE_TAG, Mode.APPEND_ONLY, DELETABLE)
BUILT_IN_DEFAULT: Final = Rule(_EVERY_REPOSITORY, parse_tag_glob("*"), Mode.SEALED, FOREVER)
BUILT_IN: Final = (*BUILT_IN_FLOATING.values(), BUILT_IN_SIGNATURES, BUILT_IN_DEFAULT)
"""The rules after the user's own. The last one matches every tag."""


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The user's rules in order. Made by `parse_rules`; `RuleSet()` has the built-in rules only."""

    user: tuple[Rule, ...] = ()

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All rules in order of precedence."""
        return (*self.user, *BUILT_IN)

    def canonical(self) -> str:
        """Return all rules as one line of JSON: equal lines decide equally, in any process and version.

        Written into the ledger when the rules change, so the built-in rules, which may change with a
        release, are in it too.
        """
        rows = [
            [str(rule.repository), str(rule.tag), str(rule.mode), str(rule.keep)]
            + ([f"settle {format_duration(rule.settle_us)}"] if rule.settle_us else [])
            + [f"require {each.canonical()}" for each in rule.require]
            for rule in self.rules
        ]
        return json.dumps(rows, separators=(",", ":"))


def no_key_files(file: str) -> NoReturn:
    """Refuse to read the file of a key, where rules were sent and are not the configuration's own. Raises: Invalid."""
    raise Invalid(f"the key file {quote(file)} is read from the server's own configuration only")


def parse_rules(
    tables: Sequence[Mapping[str, object]], *, max_steps: int = MAX_STEPS, read_key: KeyReader = no_key_files
) -> RuleSet:
    """Read the `[[rule]]` tables of a configuration, in order; RuleInvalid names the first that is wrong.

    `max_steps`: how many steps the search for unreachable rules may take. `read_key`: reads the key files of `require`.
    """
    if len(tables) > MAX_RULES:
        raise RuleInvalid(f"{len(tables)} rules; at most {MAX_RULES} are allowed")
    rules: list[Rule] = []
    earlier = EarlierRules(max_steps)
    for number, table in enumerate(tables, start=1):
        try:
            rule = _parse_rule(table, number, read_key)
            _refuse_unreachable(rule, rules, earlier)
        except RuleInvalid as error:
            raise RuleInvalid(f"rule {number}: {error.message}") from error
        rules.append(rule)
        earlier.add(rule.repository, rule.tag)
    return RuleSet(tuple(rules))


def _parse_rule(table: Mapping[str, object], number: int, read_key: KeyReader) -> Rule:
    values: dict[str, str] = {}
    for key, value in table.items():
        if key not in RULE_KEYS:
            raise RuleInvalid(_unknown_key(key))
        if key == "require":
            continue
        if not isinstance(value, str):
            raise RuleInvalid(f"{key} is of type {type(value).__name__}; expected a string in quotes")
        values[key] = value
    mode = _parse_mode(values.get("mode", "sealed"))
    require = _parse_require(table["require"], read_key) if "require" in table else ()
    if require and "settle" in values:
        raise RuleInvalid(
            "settle and require exclude each other: a tag that settles is given before its image is complete"
        )
    return Rule(
        repository=_parse_glob(parse_repository_glob, "repository", values.get("repository", "**")),
        tag=_parse_glob(parse_tag_glob, "tag", values.get("tag", "*")),
        mode=mode,
        keep=_parse_keep(values.get("keep"), mode),
        number=number,
        settle_us=_parse_settle(values.get("settle"), mode),
        require=require,
    )


def _parse_require(value: object, read_key: KeyReader) -> tuple[Requirement, ...]:
    try:
        return parse_requirements(value, read_key)
    except RequirementInvalid as error:
        raise RuleInvalid(error.message) from error


def _parse_glob(parse: Callable[[str], Glob], key: str, text: str) -> Glob:
    try:
        return parse(text)
    except GlobInvalid as error:
        raise RuleInvalid(f"{key} = {quote(text)}: {error.message}") from error


def _parse_mode(text: str) -> Mode:
    try:
        return Mode(text)
    except ValueError as error:
        raise RuleInvalid(f'mode is {quote(text)}; expected "sealed", "floating" or "append-only"') from error


def _parse_keep(text: str | None, mode: Mode) -> Keep:
    if mode is Mode.SEALED:
        return FOREVER if text is None else Keep.parse(text)
    if text is not None and Keep.parse(text) != DELETABLE:
        raise RuleInvalid(
            f'keep = "{text}" protects only what is sealed, and mode is "{mode}"; leave keep out, or seal these names'
        )
    return DELETABLE


def _parse_settle(text: str | None, mode: Mode) -> int:
    if text is None:
        return 0
    if mode is not Mode.SEALED:
        raise RuleInvalid(f'settle = {quote(text)} delays a seal, and mode is "{mode}"; leave settle out')
    try:
        settle_us = parse_duration(text)
    except DurationInvalid as error:
        raise RuleInvalid(f"settle is {error.message}") from error
    if not 0 < settle_us <= MAX_SETTLE_US:
        raise RuleInvalid(f'settle is {quote(text)}; expected "1s" to "{format_duration(MAX_SETTLE_US)}"')
    return settle_us


def _unknown_key(key: str) -> str:
    near = difflib.get_close_matches(key, RULE_KEYS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown key {quote(key)}{hint} (a rule has {', '.join(RULE_KEYS)})"


def _refuse_unreachable(rule: Rule, rules: Sequence[Rule], earlier: EarlierRules) -> None:
    """Check that the rule can apply. Raises: RuleInvalid when it never can; `unreachable_rules` says what is found.

    `rules`: the rules before it, whose globs are `earlier`.
    """
    if matches_no_name(rule.repository, rule.tag):
        raise RuleInvalid(f"no valid name matches {rule}, so it can never apply")
    try:
        including = earlier.first_including(rule.repository, rule.tag)
    except TooManySteps as error:
        raise RuleInvalid(f"{error.message}; use fewer rules, shorter globs or fewer stars") from error
    if including is not None:
        raise RuleInvalid(
            f"rule {rules[including].number} takes every name that {rule} matches, so it can never apply; "
            "move it up or remove it"
        )
