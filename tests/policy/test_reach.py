"""Whether a rule can ever decide: exact, against a subset construction without short cuts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boltseal.policy.globs import parse_repository_glob, parse_tag_glob
from boltseal.policy.unreachable_rules import MAX_STEPS, Budget, Names, TooComplex, covering
from tests.policy.glob_oracle import escaping, oracle_matches

repositories = st.lists(
    st.sampled_from(["a", "b", "/", "-", "*", "**", "**", "?", "[ab]", "[!a]"]), min_size=1, max_size=4
).map("".join)
tags = st.lists(st.sampled_from(["a", "A", ".", "*", "*", "?", "[!a]"]), min_size=1, max_size=3).map("".join)
pairs = st.tuples(repositories, tags)


def parsed(pair: tuple[str, str]) -> Names:
    return parse_repository_glob(pair[0]), parse_tag_glob(pair[1])


def covered_by(pair: tuple[str, str], earlier: list[tuple[str, str]], steps: int = MAX_STEPS) -> tuple[int, ...] | None:
    return covering(parsed(pair), [parsed(other) for other in earlier], Budget(steps))


@given(pairs, st.lists(pairs, max_size=4))
@settings(max_examples=3 * settings().max_examples)
def test_a_rule_is_called_covered_exactly_when_no_name_escapes(
    pair: tuple[str, str], earlier: list[tuple[str, str]]
) -> None:
    """Where a name escapes it is shown, and checked with a third reading of globs."""
    escaped = escaping(pair, earlier, characters="abcA.-/")
    covers = covered_by(pair, earlier)

    assert (covers is None) == (escaped is not None)
    if escaped is not None:
        matching = [one for one in [pair, *earlier] if all(map(oracle_matches, one, escaped))]
        assert matching == [pair] * len(matching)
        assert pair not in earlier


@given(pairs, st.lists(pairs, max_size=4))
@settings(max_examples=2 * settings().max_examples)
def test_the_rules_named_cover_and_none_could_be_left_out(
    pair: tuple[str, str], earlier: list[tuple[str, str]]
) -> None:
    """A message that names rules must name the right ones, and only those."""
    covers = covered_by(pair, earlier)
    if covers is None:
        return

    named = [earlier[index] for index in covers]
    assert covered_by(pair, named) is not None
    for one in range(len(named)):
        assert covered_by(pair, named[:one] + named[one + 1 :]) is None


@pytest.mark.parametrize(
    ("pair", "earlier", "covers"),
    [
        (("shop/app", "*"), [("shop/*", "*")], (0,)),
        (("shop/*", "*"), [("shop/app", "*")], None),
        (("shop/*", "1.*"), [("shop/**", "*-dev"), ("**", "[0-9]*")], (1,)),
        (("**", "*"), [("*", "*"), ("*/**", "*")], (0, 1)),
        (("**", "*"), [("*", "*"), ("*/*", "*")], None),
        (("**", "[a-z]*"), [("**", "[a-m]*"), ("**", "[n-z]*")], (0, 1)),
        (("[ab]", "[cd]"), [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")], (0, 1, 2, 3)),
        (("[ab]", "[cd]"), [("a", "c"), ("a", "d"), ("b", "c")], None),
        (("[ab]", "[cd]"), [("a", "*"), ("*", "c"), ("b", "d")], (0, 1, 2)),
        (("a?", "*"), [("a[a-z0-9]", "*")], (0,)),
        (("?a", "*"), [("[a-z0-9]a", "*")], (0,)),
        (("**", "?*"), [("**", "[!_]*"), ("**", "_*")], (0, 1)),
        (("**", "*"), [], None),
    ],
)
def test_the_answer_for_rules_as_people_write_them(
    pair: tuple[str, str], earlier: list[tuple[str, str]], covers: tuple[int, ...] | None
) -> None:
    """Also that only valid names count: `a?` can't end in a dash, so `a[a-z0-9]` holds all of it."""

    assert covered_by(pair, earlier) == covers


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
def test_a_rule_that_no_valid_name_matches_is_covered_by_nothing_at_all(pair: tuple[str, str]) -> None:
    """Its globs parse, and still no repository or tag can have such a name."""

    assert covered_by(pair, []) == ()


def test_length_limits_hold_to_the_character() -> None:
    """A name is at most 255 characters, a tag at most 128: what is left over beyond that reaches no rule."""

    assert covered_by(("?" * 255, "?" * 128), []) is None
    assert covered_by(("?" * 254 + "*", "*"), [("?" * 254, "*"), ("?" * 255, "*")]) == (0, 1)
    assert covered_by(("?" * 253 + "*", "*"), [("?" * 254, "*"), ("?" * 255, "*")]) is None
    assert covered_by(("*", "?" * 127 + "*"), [("*", "?" * 128), ("*", "?" * 127)]) == (0, 1)


def test_two_hundred_rules_cost_a_few_thousand_steps() -> None:
    """Ordinary rule sets stay far below the bound."""
    rules = [(f"team{n}/**", f"{n}.*") for n in range(100)] + [(f"**/svc{n}-*", "*-dev") for n in range(100)]
    budget = Budget(100_000)
    earlier: list[Names] = []
    for pair in rules:
        names = parsed(pair)

        assert covering(names, earlier, budget) is None
        earlier.append(names)


def test_a_rule_is_found_reachable_also_when_its_first_example_is_taken() -> None:
    """One example is only a short cut: where it is covered, all names are looked at."""

    assert covered_by(("*", "*"), [("z", "*")]) is None
    assert covered_by(("[-z]", "*"), [("z", "*")]) == (0,)
    assert covered_by(("*-*", "*"), [("z-z", "z")]) is None


def nth_from_the_end(n: int) -> list[tuple[str, str]]:
    """Names whose nth character from the end is an a, then all others: a deterministic automaton needs 2^n states."""
    return [("*a" + "?" * n, "*"), ("*[!a]" + "?" * n, "*"), *(("?" * length, "*") for length in range(1, n + 1))]


def test_too_complex_globs_end_the_search_with_an_error() -> None:
    """The walk is exponential at worst; over the bound the answer is that it is not known."""
    assert covered_by(("*", "*"), nth_from_the_end(7)) == tuple(range(9))
    with pytest.raises(TooComplex, match="too many and too complex"):
        covered_by(("*", "*"), nth_from_the_end(16), MAX_STEPS // 20)


def test_when_the_bound_ends_the_search_for_a_short_explanation_the_long_one_is_given() -> None:
    """That the rule is covered is known by then."""
    pair = ("a", "*")
    earlier = [("b", "*"), ("a", "*"), ("c", "*")]
    spent = next(steps for steps in range(1, 100) if _answers(pair, earlier, steps))

    assert covered_by(pair, earlier, spent) == (0, 1, 2)
    assert covered_by(pair, earlier) == (1,)


def _answers(pair: tuple[str, str], earlier: list[tuple[str, str]], steps: int) -> bool:
    try:
        return covered_by(pair, earlier, steps) is not None
    except TooComplex:
        return False
