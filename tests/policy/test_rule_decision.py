"""Which rule decides for a tag: the operator's, then the built-in ones, then sealed by default."""

from __future__ import annotations

import pytest

from boltseal.oci.digest import Digest
from boltseal.policy.rule_decision import decide, sha512_beginning, signature_subject
from boltseal.policy.rules import DELETABLE, FOREVER, Keep, Mode, RuleSet, parse_rules

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "tag", ["1.4.2", "1.4", "v2", "Latest", "latest-1", "mainline", "sha256-ab", "sha256-" + HEX.upper()]
)
def test_a_tag_without_a_rule_is_sealed_for_ever(tag: str) -> None:
    """A tag without a matching rule is sealed for ever, since version tags are what users deploy."""
    decision = decide(RuleSet(), "shop/app", tag)

    assert decision.mode is Mode.SEALED
    assert decision.keep == FOREVER
    assert decision.why == "no rule matches; by default a tag is sealed and kept for ever"


@pytest.mark.parametrize("tag", ["latest", "edge", "nightly", "main", "master", "dev", "stable"])
def test_customary_moving_tags_are_mutable(tag: str) -> None:
    """`latest` and similar tags are mutable by the built-in rules."""
    decision = decide(RuleSet(), "shop/app", tag)

    assert decision.mode is Mode.FLOATING
    assert decision.keep == DELETABLE
    assert decision.why == f'built-in rule (tag "{tag}")'


@pytest.mark.parametrize("suffix", ["", ".sig", ".att", ".sbom"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_signature_tags_are_append_only(algorithm: str, suffix: str) -> None:
    """Signature tags are append-only; for a sha512 digest they have its first 64 digits."""
    tag = f"{algorithm}-{HEX}{suffix}"
    decision = decide(RuleSet(), "shop/app", tag)

    assert decision.mode is Mode.APPEND_ONLY
    assert decision.why.startswith("built-in rule (tag ")
    assert signature_subject(tag) == (Digest("sha256", HEX) if algorithm == "sha256" else None)
    assert sha512_beginning(tag) == (f"sha512:{HEX}" if algorithm == "sha512" else None)


@pytest.mark.parametrize(
    "tag",
    [
        "latest",
        "sha256-" + HEX[:-1],
        "sha512-" + HEX + HEX,
        "sha384-" + HEX,
        "sha256-" + HEX + ".sigs",
        "sha256-" + HEX + ".",
        "sha256-" + HEX + "\n",
    ],
)
def test_a_tag_that_only_resembles_a_signature_tag_is_none(tag: str) -> None:
    """A signature tag is exactly algorithm, digest and a known suffix; similar tags are ordinary ones."""

    assert signature_subject(tag) is None
    assert sha512_beginning(tag) is None


def test_the_operators_rules_come_first_and_in_order() -> None:
    """The first matching rule decides, and the operator's rules precede the built-in ones."""
    rules = parse_rules(
        [
            {"repository": "shop/*", "tag": "latest", "mode": "sealed", "keep": "30d"},
            {"repository": "shop/**", "mode": "floating"},
        ]
    )

    assert decide(rules, "shop/app", "latest").mode is Mode.SEALED
    assert decide(rules, "shop/app", "latest").keep == Keep(30)
    assert decide(rules, "shop/app", "latest").why == 'rule 1 (repository "shop/*" tag "latest")'
    assert decide(rules, "shop/app", "1.4.2").why == 'rule 2 (repository "shop/**")'
    assert decide(rules, "shop/app/x", "latest").mode is Mode.FLOATING
    assert decide(rules, "other", "latest").why == 'built-in rule (tag "latest")'
    assert decide(rules, "other", "1.4.2").mode is Mode.SEALED


def test_an_operators_rule_may_match_signature_tags() -> None:
    """An operator's rule for signature tags takes precedence over the built-in one."""
    rules = parse_rules([{"mode": "floating"}])

    assert decide(rules, "shop/app", "sha256-" + HEX).why == "rule 1 (every name)"
