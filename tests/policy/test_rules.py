"""Parsing rules: allowed keys, the error for each mistake, and how a rule is printed."""

from __future__ import annotations

import json
import tomllib

import pytest

from boltseal.errors import Invalid, exit_code
from boltseal.policy.rules import (
    BUILT_IN,
    DELETABLE,
    FLOATING_TAGS,
    FOREVER,
    MAX_RULES,
    Keep,
    Mode,
    RuleInvalid,
    RuleSet,
    parse_rules,
)

DAY_US = 86_400_000_000


def refusal(*tables: dict[str, object]) -> str:
    with pytest.raises(RuleInvalid) as caught:
        parse_rules(tables)
    return caught.value.message


def test_a_rule_without_keys_seals_everything_for_ever() -> None:
    """A rule without keys seals everything for ever, which is the safe default."""
    (rule,) = parse_rules([{}]).user

    assert (str(rule.repository), str(rule.tag), rule.mode, rule.keep) == ("**", "*", Mode.SEALED, FOREVER)
    assert rule.number == 1
    assert str(rule) == "every name"


def test_a_rule_has_the_keys_of_its_table() -> None:
    """A rule has all four keys of its table."""
    rules = parse_rules(
        [
            {"repository": "shop/*", "tag": "1.*", "mode": "sealed", "keep": "365d"},
            {"repository": "shop/*", "tag": "*-dev", "mode": "floating", "keep": "deletable"},
            {"tag": "sigs", "mode": "append-only"},
        ]
    )

    assert [rule.mode for rule in rules.user] == [Mode.SEALED, Mode.FLOATING, Mode.APPEND_ONLY]
    assert [rule.keep for rule in rules.user] == [Keep(365), DELETABLE, DELETABLE]
    assert [rule.number for rule in rules.user] == [1, 2, 3]
    assert rules.user[0].matches("shop/app", "1.4.2")
    assert not rules.user[0].matches("shop/app", "2.0")
    assert not rules.user[0].matches("shop/app/x", "1.4.2")
    assert rules.rules == (*rules.user, *BUILT_IN)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"repositry": "a"},
            'rule 1: unknown key "repositry"; did you mean repository? (a rule has repository, tag, mode, keep, settle, require)',
        ),
        ({"x": "a"}, 'rule 1: unknown key "x" (a rule has repository, tag, mode, keep, settle, require)'),
        ({"tag": 1}, "rule 1: tag is of type int; expected a string in quotes"),
        ({"tag": ["a"]}, "rule 1: tag is of type list; expected a string in quotes"),
        ({"mode": "mutable"}, 'rule 1: mode is "mutable"; expected "sealed", "floating" or "append-only"'),
        ({"mode": "\x1b"}, 'rule 1: mode is "\\x1b"; expected "sealed", "floating" or "append-only"'),
        ({"keep": "1y"}, 'rule 1: keep is "1y"; expected "forever", "deletable" or days from "1d" to "36500d"'),
        ({"keep": "0d"}, 'rule 1: keep is "0d"; expected "forever", "deletable" or days from "1d" to "36500d"'),
        ({"keep": "36501d"}, 'rule 1: keep is "36501d"; expected "forever", "deletable" or days from "1d" to "36500d"'),
        (
            {"mode": "floating", "keep": "30d"},
            'rule 1: keep = "30d" protects only what is sealed, and mode is "floating"; leave keep out, or seal these names',
        ),
        (
            {"mode": "append-only", "keep": "forever"},
            'rule 1: keep = "forever" protects only what is sealed, and mode is "append-only"; '
            "leave keep out, or seal these names",
        ),
        (
            {"repository": "Shop/*"},
            'rule 1: repository = "Shop/*": "S" can\'t be in a repository name: they are lower-case',
        ),
        ({"tag": "a[b"}, 'rule 1: tag = "a[b": "a[b" opens a class with "[" and never closes it with "]"'),
        (
            {"mode": "floating", "settle": "60s"},
            'rule 1: settle = "60s" delays a seal, and mode is "floating"; leave settle out',
        ),
        ({"settle": "0s"}, 'rule 1: settle is "0s"; expected "1s" to "1h"'),
        ({"settle": "2h"}, 'rule 1: settle is "2h"; expected "1s" to "1h"'),
        (
            {"settle": "60"},
            'rule 1: settle is "60"; expected a whole number and a unit (s, m, h or d), such as "10m" or "7d"',
        ),
        ({"tag": "-*"}, 'rule 1: no valid name matches tag "-*", so it can never apply'),
    ],
)
def test_an_invalid_rule_is_refused_with_number_what_got_and_expected(table: dict[str, object], message: str) -> None:
    """An invalid rule is refused with its number, what was got and what was expected, and the server does not start."""

    assert refusal(table) == message


def test_the_number_is_that_of_the_invalid_rule() -> None:
    """Rules are numbered from 1 in errors."""

    assert refusal({"tag": "1.*"}, {"tag": "2.*"}, {"tag": ""}).startswith("rule 3: tag = ")


def test_a_rule_that_can_never_decide_is_refused() -> None:
    """A rule that can never decide is refused, because the operator expects an effect of it."""

    assert refusal({"repository": "shop/**"}, {"repository": "shop/app", "mode": "floating"}) == (
        'rule 2: rule 1 takes every name that repository "shop/app" matches, so it can never apply; move it up or remove it'
    )
    assert refusal({}, {"tag": "1.*"}) == (
        'rule 2: rule 1 takes every name that tag "1.*" matches, so it can never apply; move it up or remove it'
    )
    assert refusal({"tag": "1"}, {"tag": "[a-z]*"}, {"tag": "[a-m]*"}).startswith("rule 3: rule 2 takes every name")


def test_a_rule_that_only_several_rules_cover_is_accepted() -> None:
    """A rule that only several earlier rules cover together is accepted, since rules are compared one by one (ADR
    0031)."""

    assert len(parse_rules([{"tag": "[a-m]*"}, {"tag": "[n-z]*"}, {"tag": "[a-z]*"}]).user) == 3


def test_built_in_rules_may_be_covered_by_the_operators() -> None:
    """An operator's rule may cover a built-in one, for example to seal `latest`."""

    assert parse_rules([{}]).rules[1:] == BUILT_IN


def test_there_may_be_a_thousand_rules_and_no_more() -> None:
    """At most a thousand rules are accepted, which bounds their cost."""

    assert refusal(*[{}] * (MAX_RULES + 1)) == "1001 rules; at most 1000 are allowed"


def test_an_invalid_rule_is_a_usage_error() -> None:
    """An invalid rule is a usage error with exit code 2, as any invalid configuration."""

    assert exit_code(RuleInvalid("x")) == 2
    assert issubclass(RuleInvalid, Invalid)


@pytest.mark.parametrize("text", ["forever", "deletable", "1d", "365d", "36500d"])
def test_keep_is_written_as_it_was_read(text: str) -> None:
    """`keep` is written as it was read, which is the text in the database."""

    assert str(Keep.parse(text)) == text


@pytest.mark.parametrize(
    ("keep", "until_us"),
    [(FOREVER, None), (DELETABLE, None), (Keep(1), 1000 + DAY_US), (Keep(365), 1000 + 365 * DAY_US)],
)
def test_keep_counts_from_the_sealing(keep: Keep, until_us: int | None) -> None:
    """`keep` counts from the sealing, a day is 24 hours, and the bytes may be deleted at its end."""

    assert keep.until(1000) == until_us


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({}, '[[rule]]\nmode = "sealed"'),
        (
            {"repository": "shop/*", "tag": "[a-z]*", "mode": "floating"},
            '[[rule]]\nrepository = "shop/*"\ntag = "[a-z]*"\nmode = "floating"',
        ),
        ({"tag": "1.*", "keep": "7d"}, '[[rule]]\ntag = "1.*"\nmode = "sealed"\nkeep = "7d"'),
        ({"settle": "60s"}, '[[rule]]\nmode = "sealed"\nsettle = "1m"'),
    ],
)
def test_a_rule_can_be_written_back(table: dict[str, object], text: str) -> None:
    """A rule that is printed and parsed again is equal."""
    (rule,) = parse_rules([table]).user

    assert rule.as_toml() == text
    assert parse_rules(tomllib.loads(text)["rule"]).user == (rule,)


def test_rules_that_decide_equally_have_one_canonical_text() -> None:
    """Equal rules have one canonical text, which is compared at start with the last one in the ledger."""
    text = parse_rules([{"tag": "1.*", "keep": "7d"}]).canonical()

    assert text == parse_rules([{"keep": "7d", "tag": "1.*", "mode": "sealed", "repository": "**"}]).canonical()
    assert text != RuleSet().canonical()
    assert json.loads(text)[0] == ["**", "1.*", "sealed", "7d"]
    assert json.loads(parse_rules([{"settle": "60s"}]).canonical())[0] == ["**", "*", "sealed", "forever", "settle 1m"]
    assert len(json.loads(text)) == 1 + len(FLOATING_TAGS) + 2
    assert "\n" not in text
    assert (
        RuleSet()
        .canonical()
        .startswith('[["**","latest","floating","deletable"],["**","edge","floating","deletable"],')
    )
