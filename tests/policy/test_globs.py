"""Globs: the meaning of each sign, what is refused, and that no glob is slow."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boltseal.policy.globs import MAX_GLOB_LENGTH, GlobInvalid, parse_repository_glob, parse_tag_glob
from tests.policy.glob_oracle import every_name, oracle_matches

pieces = st.sampled_from(["a", "b", "/", "-", "*", "**", "?", "[ab]", "[!a]", "[a-b]", "[b-]"])
globs = st.lists(pieces, min_size=1, max_size=9).map("".join)
names = st.text("ab/-", max_size=14)


@given(globs, names)
@settings(max_examples=6 * settings().max_examples)
def test_a_glob_agrees_with_a_simple_matcher(glob: str, name: str) -> None:
    """A glob, whose expression uses atomic groups, agrees with a matcher that tries everything."""

    assert parse_repository_glob(glob).matches(name) == oracle_matches(glob, name)


@given(st.lists(st.sampled_from(["a", "/", "*", "**", "?"]), min_size=1, max_size=7).map("".join))
@settings(max_examples=settings().max_examples * 6 // 10)
def test_short_names_agree_one_by_one(glob: str) -> None:
    """Globs agree with the simple matcher for all words over two letters and the slash, up to six characters."""
    parsed = parse_repository_glob(glob)
    wrong = [name for name in ALL_SHORT if parsed.matches(name) != oracle_matches(glob, name)]

    assert wrong == []


ALL_SHORT = every_name("ab/", 6)


@given(
    st.lists(st.sampled_from(["A", "b", ".", "*", "**", "?", "[A-Z]"]), min_size=1, max_size=8).map("".join),
    st.text("AbC.", max_size=9),
)
def test_a_glob_over_tags_agrees_too(glob: str, name: str) -> None:
    """Globs over tags, which have capitals and no slash, agree with the simple matcher."""

    assert parse_tag_glob(glob).matches(name) == oracle_matches(glob, name)


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("shop/app", ["shop/app"], ["shop/app2", "xshop/app", "shop/app\n", "shop/app/x", "Shop/app"]),
        ("shop/*", ["shop/app", "shop/"], ["shop/app/x", "shop", "infra/shop/app"]),
        ("shop/**", ["shop/app", "shop/app/x"], ["shop", "shopping/app"]),
        ("*/app", ["shop/app"], ["app", "a/shop/app"]),
        ("**/app", ["shop/app", "a/shop/app"], ["app", "shop/app2"]),
        ("**", ["a", "a/b", ""], []),
        ("*", ["a", "a-b"], ["a/b"]),
        ("a?c", ["abc", "a-c"], ["a/c", "ac", "abbc"]),
        ("v[0-9]", ["v1"], ["v", "vx", "v12"]),
        ("v[!0-9]", ["vx"], ["v1", "v/", "v"]),
        ("a[-x]", ["a-", "ax"], ["ab"]),
        ("**a*b", ["a/ab", "xaxb"], ["a/b", "ab/"]),
        ("a.c", ["a.c"], ["abc"]),
    ],
)
def test_each_sign_has_the_grammars_meaning(glob: str, yes: list[str], no: list[str]) -> None:
    """Globs are anchored and case-sensitive; * ? and classes do not match a slash, ** does."""
    parsed = parse_repository_glob(glob)

    assert [name for name in yes if not parsed.matches(name)] == []
    assert [name for name in no if parsed.matches(name)] == []


@pytest.mark.parametrize(
    ("glob", "message"),
    [
        ("", 'an empty glob matches no repository; "**" matches every one'),
        ("Shop/*", '"S" can\'t be in a repository name: they are lower-case'),
        ("app:1.*", '":" can\'t be in a repository name; the glob of the tag goes into tag'),
        ("a b", '" " can\'t be in a repository; expected a-z 0-9 . _ - / or * ? [ ]'),
        ("a\\*", '"\\" can\'t be in a repository; expected a-z 0-9 . _ - / or * ? [ ]'),
        ("a]", '"]" can\'t be in a repository; expected a-z 0-9 . _ - / or * ? [ ]'),
        ("{a,b}", '"{" can\'t be in a repository; expected a-z 0-9 . _ - / or * ? [ ]'),
        ("\x1b[0m", '"\\x1b" can\'t be in a repository; expected a-z 0-9 . _ - / or * ? [ ]'),
        ("a[bc", '"a[bc" opens a class with "[" and never closes it with "]"'),
        ("a[]", 'class "[]" is empty; expected characters or ranges, such as "[a-f0-9]"'),
        ("a[!]", 'class "[!]" is empty; expected characters or ranges, such as "[a-f0-9]"'),
        ("a[!a-z0-9._-]", 'class "[!a-z0-9._-]" excludes every character, so it matches no repository'),
        ("a[^b]", 'class "[^b]" is negated with ^; write "[!b]"'),
        ("a[z-a]", 'range "z-a" runs backwards; write "a-z"'),
        ("a[b/]", '"/" can\'t be in a class'),
        ("a[*]", '"*" can\'t be in a repository; expected a-z 0-9 . _ - / or * ? [ ]'),
        ("a" * 513, f"a glob of 513 characters; at most {MAX_GLOB_LENGTH} are allowed"),
    ],
)
def test_a_broken_glob_is_refused_with_what_was_expected(glob: str, message: str) -> None:
    """A glob that could match nothing is refused with the expected form."""
    with pytest.raises(GlobInvalid) as caught:
        parse_repository_glob(glob)

    assert caught.value.message == message


@pytest.mark.parametrize(
    ("glob", "message"),
    [
        ("", 'an empty glob matches no tag; "*" matches every one'),
        ("a/b", '"/" can\'t be in a tag'),
        ("1+2", '"+" can\'t be in a tag; expected A-Z a-z 0-9 . _ - or * ? [ ]'),
    ],
)
def test_a_broken_tag_glob_is_refused_too(glob: str, message: str) -> None:
    """A glob of tags with characters that tags can't have is refused."""
    with pytest.raises(GlobInvalid) as caught:
        parse_tag_glob(glob)

    assert caught.value.message == message


def test_a_glob_is_printed_as_written() -> None:
    """A glob is printed as the user wrote it."""

    assert str(parse_repository_glob("shop/[a-c]**")) == "shop/[a-c]**"


@pytest.mark.parametrize(
    ("parse", "glob"), [(parse_repository_glob, "**"), (parse_repository_glob, "***"), (parse_tag_glob, "*")]
)
def test_a_glob_that_matches_everything_is_recognised(parse: type, glob: str) -> None:
    """A glob that matches everything is recognised, so that messages and files leave it out."""

    assert parse(glob).matches_all


@pytest.mark.parametrize("glob", ["*", "**a", "?**"])
def test_a_repository_glob_that_misses_something_is_recognised(glob: str) -> None:
    """A repository glob of one star, which stops at the slash, is not taken for one that matches everything."""

    assert not parse_repository_glob(glob).matches_all


@pytest.mark.parametrize(
    "glob",
    [
        "**a" * 100 + "b",
        "*a" * 100 + "b",
        "**a*" * 60 + "b",
        "**" + "a*" * 100 + "b",
        "**[ab]*?" * 60 + "/",
        "**a*a*a*a*b",
    ],
)
def test_no_glob_is_slow(glob: str) -> None:
    """No glob needs backtracking, which would take practically for ever here."""
    parsed = parse_repository_glob(glob)

    for name in ("a" * 255, "a/" * 127 + "a", "ab" * 127, "a" * 254 + "b"):
        assert parsed.matches(name) is oracle_matches(glob, name)
