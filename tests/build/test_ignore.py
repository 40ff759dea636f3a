"""`.dockerignore`, as Docker's pattern matcher reads it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.build.dockerignore import MAX_PATTERNS, Ignore, IgnoreInvalid, parse_ignore


def out(text: str, path: str) -> bool:
    """Return whether a path is excluded, checking folder by folder as a walk does."""
    ignore = parse_ignore(text)
    matched: tuple[bool, ...] = ()
    left_out, parts = False, path.split("/")
    for number in range(len(parts)):
        left_out, matched = ignore.leaves_out("/".join(parts[: number + 1]), matched)
    return left_out


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        ("temp", ["temp", "temp/a/b"], ["a/temp", "temp2", "xtemp"]),
        ("/temp/", ["temp", "temp/a"], ["a/temp"]),
        ("./a/../temp", ["temp"], ["a"]),
        ("*/temp*", ["a/temp", "a/temporary.txt", "a/tempo/x"], ["temp", "a/b/temp"]),
        ("temp?", ["tempa", "temp1"], ["temp", "tempab", "temp/"[:-1]]),
        ("**/*.go", ["a.go", "x/a.go", "x/y/a.go"], ["a.gox", "go"]),
        ("**/foo", ["foo", "a/foo", "a/b/foo/c"], ["xfoo", "a/xfoo"]),
        ("foo/**", ["foo/a", "foo/a/b"], ["foo", "afoo/b"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb", "b"]),
        ("**", ["a", "a/b"], []),
        ("a**b", ["ab", "ax/b"], ["axb"]),
        ("[a-c].txt", ["a.txt", "c.txt"], ["d.txt", "ab.txt"]),
        ("[^a-c].txt", ["d.txt"], ["a.txt"]),
        ("[]a].txt", ["].txt", "a.txt"], ["b.txt"]),
        ("[a\\]-].txt", ["].txt", "-.txt"], ["b.txt"]),
        ("a\\*b", ["a*b"], ["axb"]),
        ("a.b", ["a.b"], ["axb"]),
        ("a(b|c)+", ["a(b|c)+"], ["ab", "abc"]),
    ],
)
def test_a_pattern_excludes_a_path_and_everything_below(pattern: str, inside: list[str], outside: list[str]) -> None:
    """A pattern excludes the matching path and everything below it."""
    assert [path for path in inside if not out(pattern, path)] == []
    assert [path for path in outside if out(pattern, path)] == []


def test_a_later_line_includes_what_an_earlier_one_excluded() -> None:
    """Of several matching patterns, the last decides."""
    text = "*.md\n!README*.md\nREADME-secret.md\n"

    assert [path for path in ("a.md", "README.md", "README-x.md", "README-secret.md") if out(text, path)] == [
        *("a.md", "README-secret.md")
    ]


def test_a_file_in_an_excluded_folder_can_be_included_again() -> None:
    """A file in an excluded folder can be included again, as Docker does and git does not."""
    assert parse_ignore("docs\n!docs/keep\n").takes_back
    assert out("docs\n!docs/keep\n", "docs/other")
    assert not out("docs\n!docs/keep\n", "docs/keep/a")


def test_comments_empty_lines_and_the_whole_context_exclude_nothing() -> None:
    """Comments, empty lines, a byte order mark and the whole context exclude nothing; spaces around a pattern are
    removed."""
    assert parse_ignore("\ufeff# a\n\n  \n.\n/\n") == Ignore()
    assert out("  temp  \n", "temp")
    assert not out("! temp\n", "temp")


@pytest.mark.parametrize("pattern", ["[a", "[", "a[^", "a\\"])
def test_an_invalid_pattern_is_refused_with_its_line(pattern: str) -> None:
    """An invalid pattern is refused with its line, as Docker refuses it."""
    with pytest.raises(IgnoreInvalid, match=re.escape(".dockerignore:2: ")):
        parse_ignore(f"ok\n{pattern}\n")


def test_a_file_with_very_many_patterns_is_refused() -> None:
    """A file with very many patterns is refused, because each pattern is checked for each file."""
    with pytest.raises(IgnoreInvalid, match="more than 10000 patterns"):
        parse_ignore("a\n" * (MAX_PATTERNS + 1))


def test_a_pattern_made_to_run_for_ever_is_matched_quickly() -> None:
    """A pattern that would make a backtracking matcher run for ages is matched quickly."""
    assert not out("**/a" * 40 + "/**/c", "a/" * 200 + "b")


patterns = st.lists(st.sampled_from(["a", "b", "/", "*", "?", "**", "**/", "."]), min_size=1, max_size=8).map("".join)
paths = st.lists(
    st.text("ab.", min_size=1, max_size=3).filter(lambda part: part not in (".", "..")), min_size=1, max_size=4
)


@given(patterns, paths.map("/".join))
def test_a_pattern_matches_what_its_expression_matches(pattern: str, path: str) -> None:
    """Short patterns match the same paths as Docker's regular expression for them."""
    import posixpath

    clean = posixpath.normpath(pattern).lstrip("/")
    if clean in ("", "."):
        return
    expression, at = "", 0
    while at < len(clean):
        if clean.startswith("**", at):
            at += 2
            at += clean.startswith("/", at)
            expression += ".*" if at == len(clean) else "(.*/)?"
            continue
        expression += {"*": "[^/]*", "?": "[^/]"}.get(clean[at], re.escape(clean[at]))
        at += 1
    parts = path.split("/")
    above = ["/".join(parts[: number + 1]) for number in range(len(parts))]

    assert out(pattern, path) == any(re.fullmatch(expression, each) for each in above)


@pytest.mark.parametrize("character", ["\r", "\v", "\f", "\x1c", "\x85", "\u2028"])
def test_only_a_line_feed_ends_a_pattern(character: str) -> None:
    """Only a line feed ends a pattern, as in Docker: other line separators are part of it."""
    assert not out(f"docs{character}src\n", "src/app.py")
    assert out("docs\r\nsrc\r\n", "src/app.py")
