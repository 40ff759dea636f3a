"""Which rule decides about a name: the user's, the built-in ones, and sealed for everything else."""

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
    """Version tags are what people deploy, so sealing is the default."""
    decision = decide(RuleSet(), "shop/app", tag)

    assert decision.mode is Mode.SEALED
    assert decision.keep == FOREVER
    assert decision.why == "no rule matches; by default a tag is sealed and kept for ever"


@pytest.mark.parametrize("tag", ["latest", "edge", "nightly", "main", "master", "dev", "stable"])
def test_customary_moving_tags_float(tag: str) -> None:
    """Tags such as `latest` are expected to move."""
    decision = decide(RuleSet(), "shop/app", tag)

    assert decision.mode is Mode.FLOATING
    assert decision.keep == DELETABLE
    assert decision.why == f'built-in rule (tag "{tag}")'


@pytest.mark.parametrize("suffix", ["", ".sig", ".att", ".sbom"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_signature_tags_are_append_only(algorithm: str, suffix: str) -> None:
    """The tags of signature tools grow, whatever they speak of; of a sha512 digest they hold the first 64 digits."""
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
def test_what_only_looks_like_a_signature_tag_is_none(tag: str) -> None:
    """A signature tag is exactly algorithm, digest and one of the known suffixes."""

    assert signature_subject(tag) is None
    assert sha512_beginning(tag) is None


def test_the_users_rules_come_first_and_in_order() -> None:
    """The first rule that matches decides, also against the built-in ones."""
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


def test_a_users_rule_may_speak_of_signature_tags() -> None:
    """The user's word goes before ours."""
    rules = parse_rules([{"mode": "floating"}])

    assert decide(rules, "shop/app", "sha256-" + HEX).why == "rule 1 (every name)"
