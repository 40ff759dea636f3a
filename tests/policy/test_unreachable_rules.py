"""Unreachable rules: none is reported wrongly, and all common forms are found."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boltseal.policy.globs import Glob, parse_repository_glob, parse_tag_glob
from boltseal.policy.unreachable_rules import first_including, matches_no_name
from tests.policy.glob_oracle import escaping, oracle_matches

repositories = st.lists(
    st.sampled_from(["a", "b", "/", "-", "*", "**", "**", "?", "[ab]", "[!a]"]), min_size=1, max_size=4
).map("".join)
tags = st.lists(st.sampled_from(["a", "A", ".", "*", "*", "?", "[!a]"]), min_size=1, max_size=3).map("".join)
pairs = st.tuples(repositories, tags)

simple_repositories = st.tuples(st.text("ab/-", max_size=4), st.sampled_from(["", "*", "**"])).map("".join).filter(bool)
simple_tags = st.tuples(st.text("aA.", max_size=3), st.sampled_from(["", "*"])).map("".join).filter(bool)
simple_pairs = st.tuples(simple_repositories, simple_tags)

ALPHABET = "abcA.-/"


def parsed(pair: tuple[str, str]) -> tuple[Glob, Glob]:
    return parse_repository_glob(pair[0]), parse_tag_glob(pair[1])


def unreachable(pair: tuple[str, str], earlier: list[tuple[str, str]]) -> bool:
    repository, tag = parsed(pair)
    return matches_no_name(repository, tag) or first_including(repository, tag, map(parsed, earlier)) is not None


@given(pairs, st.lists(pairs, max_size=4))
@settings(max_examples=3 * settings().max_examples)
def test_no_reachable_rule_is_reported_as_unreachable(pair: tuple[str, str], earlier: list[tuple[str, str]]) -> None:
    """No rule is reported as unreachable if a subset construction, with a third implementation of globs, finds a name
    for it."""
    escaped = escaping(pair, earlier, characters=ALPHABET)
    if escaped is None:
        return

    assert not unreachable(pair, earlier)
    assert [one for one in earlier if all(map(oracle_matches, one, escaped))] == []


@given(simple_pairs, st.lists(simple_pairs, max_size=4))
@settings(max_examples=3 * settings().max_examples)
def test_the_answer_is_exact_for_literals_and_prefixes(pair: tuple[str, str], earlier: list[tuple[str, str]]) -> None:
    """For literals and prefixes, a rule is unreachable exactly if one earlier rule covers it."""

    assert unreachable(pair, earlier) == (escaping(pair, earlier, characters=ALPHABET) is None)


@given(pairs)
def test_a_rule_that_no_valid_name_matches_is_always_found(pair: tuple[str, str]) -> None:
    """If no valid name can match a rule's globs, the rule is found; the tried example is valid if any name is."""

    assert matches_no_name(*parsed(pair)) == (escaping(pair, [], characters=ALPHABET) is None)


@pytest.mark.parametrize(
    ("pair", "earlier", "expected"),
    [
        (("shop/app", "*"), [("shop/*", "*")], True),
        (("shop/*", "*"), [("shop/app", "*")], False),
        (("shop/*", "1.*"), [("shop/**", "*-dev"), ("**", "[0-9]*")], True),
        (("shop/*", "*"), [("shop/**", "*")], True),
        (("shop/**", "*"), [("shop/*", "*")], False),
        (("**", "*"), [("*", "*"), ("*/*", "*")], False),
        (("[ab]", "[cd]"), [("[a-c]", "[cd]*")], True),
        (("[ab]", "[cd]"), [("a", "c"), ("a", "d"), ("b", "c")], False),
        (("**/app", "1.2.*"), [("**", "1.*")], True),
        (("team-*/app", "*"), [("team-a*/app", "*"), ("team-*/*", "*")], True),
        (("*", "*"), [("z", "*")], False),
        (("**", "*"), [], False),
    ],
)
def test_common_rules_are_judged_correctly(
    pair: tuple[str, str], earlier: list[tuple[str, str]], expected: bool
) -> None:
    """A wide rule before a narrow one makes the narrow one unreachable."""

    assert unreachable(pair, earlier) == expected


@pytest.mark.parametrize(
    ("pair", "earlier"),
    [
        (("**", "*"), [("*", "*"), ("*/**", "*")]),
        (("[ab]", "*"), [("a", "*"), ("b", "*")]),
        (("**/*", "*"), [("*/**", "*")]),
        (("a?", "*"), [("a[a-z0-9]", "*")]),
    ],
)
def test_a_rule_that_is_not_proven_unreachable_is_accepted(
    pair: tuple[str, str], earlier: list[tuple[str, str]]
) -> None:
    """Earlier rules that cover a rule only together, or equal globs in another form, do not make it unreachable."""

    assert escaping(pair, earlier, characters=ALPHABET) is None
    assert not unreachable(pair, earlier)


@pytest.mark.parametrize(
    "pair",
    [
        ("/shop", "*"),
        ("shop//*", "*"),
        ("a.-b", "*"),
        ("**", ".*"),
        ("**", "-*"),
        ("a/", "*"),
        ("?" * 256, "*"),
        ("**", "?" * 129),
        ("_*", "*"),
        ("a___b", "*"),
    ],
)
def test_a_rule_that_no_valid_name_matches_is_unreachable(pair: tuple[str, str]) -> None:
    """A rule whose globs are well-formed but match no valid repository or tag is unreachable."""

    assert matches_no_name(*parsed(pair))


def test_length_limits_hold_to_the_character() -> None:
    """The limits of 255 characters for names and 128 for tags are exact, and a star may match no character."""

    assert not matches_no_name(*parsed(("?" * 255, "?" * 128)))
    assert not matches_no_name(*parsed(("?" * 255 + "*", "?" * 128 + "*")))


def test_a_class_of_separators_is_not_reported_as_unmatched() -> None:
    """A class of separators is not reported as unmatched, because which one fits depends on its neighbours."""

    assert not matches_no_name(*parsed(("a-[-._]b", "*")))
