"""Which rules are found to be unreachable: never a wrong one, and every one of the common forms."""

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
def test_no_rule_is_called_unreachable_while_a_name_reaches_it(
    pair: tuple[str, str], earlier: list[tuple[str, str]]
) -> None:
    """A subset construction finds a name that reaches the rule, checked with a third reading of globs."""
    escaped = escaping(pair, earlier, characters=ALPHABET)
    if escaped is None:
        return

    assert not unreachable(pair, earlier)
    assert [one for one in earlier if all(map(oracle_matches, one, escaped))] == []


@given(simple_pairs, st.lists(simple_pairs, max_size=4))
@settings(max_examples=3 * settings().max_examples)
def test_the_answer_is_exact_for_literals_and_prefixes(pair: tuple[str, str], earlier: list[tuple[str, str]]) -> None:
    """Where no name reaches such a rule, it is found, and one earlier rule is enough to show it."""

    assert unreachable(pair, earlier) == (escaping(pair, earlier, characters=ALPHABET) is None)


@given(pairs)
def test_a_rule_that_no_valid_name_matches_is_always_found(pair: tuple[str, str]) -> None:
    """The example that is tried is valid whenever any name is."""

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
def test_the_answer_for_rules_as_people_write_them(
    pair: tuple[str, str], earlier: list[tuple[str, str]], expected: bool
) -> None:
    """The order matters: a wide rule before a narrow one hides it."""

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
    """Several earlier rules that only together match all names, and equal globs of another form, are not compared."""

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
    """Its globs parse, and still no repository or tag can have such a name."""

    assert matches_no_name(*parsed(pair))


def test_length_limits_hold_to_the_character() -> None:
    """A name is at most 255 characters and a tag at most 128; one more star may match no character."""

    assert not matches_no_name(*parsed(("?" * 255, "?" * 128)))
    assert not matches_no_name(*parsed(("?" * 255 + "*", "?" * 128 + "*")))


def test_a_class_of_separators_is_not_called_unmatched() -> None:
    """Which separator fits depends on its neighbours, and only one is tried."""

    assert not matches_no_name(*parsed(("a-[-._]b", "*")))
