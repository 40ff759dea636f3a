"""Unreachable rules: none is reported wrongly, and all common forms are found."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boltseal.policy.globs import Glob, parse_repository_glob, parse_tag_glob
from boltseal.policy.rules import RuleInvalid, parse_rules
from boltseal.policy.unreachable_rules import EarlierRules, TooManySteps, each_included, matches_no_name
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
    rules = EarlierRules()
    for each in earlier:
        rules.add(*parsed(each))
    return matches_no_name(repository, tag) or rules.first_including(repository, tag) is not None


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


@pytest.mark.parametrize("pattern", ["*?" * 120 + "a?" * 60, "*a" * 230, "*[!bc]*[!de]*[!fg]" * 20])
def test_rules_that_cannot_be_compared_in_bounded_time_are_refused(pattern: str) -> None:
    """Hundreds of globs with hundreds of stars are refused after a number of steps, with the number of the rule."""
    tables = [{"repository": f"{pattern}{first}{second}*"} for first in "abcdefghij" for second in "abcdefghijklmn"]

    with pytest.raises(RuleInvalid, match=r"^rule \d+: the rules have too many long globs with stars .* shorter globs"):
        parse_rules(tables * 2, max_steps=100_000)


def test_the_steps_of_a_comparison_are_counted_to_the_step() -> None:
    """The last allowed step is taken, and one more refuses, wherever the budget ends."""

    def compared(steps: int) -> int | None:
        rules = EarlierRules(steps)
        rules.add(*parsed(("a*b*", "*")))
        return rules.first_including(*parsed(("ab*c", "*")))

    needed = next(steps for steps in range(1000) if not _refused(compared, steps))

    assert needed > 10
    assert all(_refused(compared, steps) for steps in range(needed))
    assert compared(needed) == 0


@given(st.lists(repositories, max_size=3), st.lists(repositories, max_size=3))
def test_globs_are_included_only_in_globs_that_match_all_of_their_names(narrow: list[str], wide: list[str]) -> None:
    """Each glob has one among the others from which no name of it escapes."""
    included = each_included(map(parse_repository_glob, narrow), map(parse_repository_glob, wide))

    assert not included or all(
        any(escaping((one, "*"), [(other, "*")], characters=ALPHABET) is None for other in wide) for one in narrow
    )


def test_globs_are_not_included_if_comparing_them_takes_too_long() -> None:
    """A comparison of too many steps ends with False, also where each glob is included by an equal one."""
    globs = [parse_repository_glob("*a" * length + "*") for length in range(1, 100)]

    assert each_included(globs, globs)
    assert not each_included(globs, globs, steps=1000)


def test_a_thousand_ordinary_rules_are_compared_within_the_budget() -> None:
    """A thousand rules with stars at both ends, which have the same characters at both ends, are accepted."""

    assert len(parse_rules([{"tag": f"*-build{at}-*"} for at in range(1000)]).user) == 1000


def _refused(compared: Callable[[int], int | None], steps: int) -> bool:
    try:
        compared(steps)
    except TooManySteps:
        return True
    return False
