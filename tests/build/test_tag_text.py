"""Every tag scheme gives a valid tag, and equal inputs give one tag."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.build.tag_template import NoTag, as_tag, build_tag, content_tag, date_tag, describe_tag, input_tag
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.release_tags import looks_like_release
from boltseal.policy.rule_decision import decide
from boltseal.policy.rules import RuleSet, parse_rules
from tests.lockfile.locks import NOW_US


@given(st.text(min_size=1))
def test_any_text_becomes_a_valid_tag_or_is_refused(text: str) -> None:
    """Any text becomes a valid tag of at most 128 characters, or is refused."""
    try:
        tag = as_tag(text)
    except NoTag:
        return

    assert Tag(tag) == tag


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("1.4.2+build.7", "1.4.2_build.7"),
        ("release/1.4", "release-1.4"),
        ("-.v1", "v1"),
        ("für", "f-r"),
        ("v1.4.2-3-gab12cd34ef56", "v1.4.2-3-gab12cd34ef56"),
    ],
)
def test_what_can_not_be_in_a_tag_is_mapped(text: str, tag: str) -> None:
    """Characters that a tag can't have are replaced: `+` by `_`, as Helm does it, others by `-`."""
    assert as_tag(text) == tag


def test_two_long_texts_do_not_become_one_tag() -> None:
    """Long texts that differ only in the part cut off get different tags, by a hash at the end."""
    first, second = as_tag("a" * 300 + "1"), as_tag("a" * 300 + "2")

    assert len(first) == len(second) == 128
    assert first != second


def test_no_tag_is_made_without_input() -> None:
    """Without any input no tag is made, since it would identify nothing."""
    for text in ("", "...", "-"):
        with pytest.raises(NoTag, match="no tag can be made of"):
            as_tag(text)


@pytest.mark.parametrize(
    ("described", "dirt", "tag"),
    [
        ("v1.4.2", None, "v1.4.2"),
        ("v1.4.2-3-gab12cd34ef56", "f" * 64, "v1.4.2-3-gab12cd34ef56-dirty-ffffffffffff"),
        ("ab12cd34ef56", None, "gab12cd34ef56"),
    ],
)
def test_the_tag_of_a_git_state(described: str, dirt: str | None, tag: str) -> None:
    """A tag from git has a hash of uncommitted changes; the letter g distinguishes a bare commit hash from a number."""
    assert describe_tag(described, dirt) == tag


def test_the_tags_of_the_other_schemes() -> None:
    """The other schemes give the tags that the module's docstring shows."""
    assert date_tag(NOW_US) == "20261124-180000"
    assert build_tag("123") == "build-123"
    assert content_tag(Digest("sha256", "ab" * 32)) == "id-abababababababababab"
    assert input_tag("cd" * 32) == "in-cdcdcdcdcdcdcdcdcdcd"


def test_a_new_tag_is_sealed_by_the_built_in_rules() -> None:
    """A generated tag is sealed by the built-in rules: it is neither a floating nor a signature tag."""
    rules: RuleSet = parse_rules(())
    made = [date_tag(NOW_US), build_tag("1"), content_tag(Digest("sha256", "0" * 64)), input_tag("0" * 64)]

    assert [rules_mode(rules, tag) for tag in made] == ["sealed"] * 4
    assert all(looks_like_release(tag) for tag in made[:2])


def rules_mode(rules: RuleSet, tag: Tag) -> str:
    return str(decide(rules, Repository("shop/app"), tag).mode)
