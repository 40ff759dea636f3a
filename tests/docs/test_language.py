"""Names, docstrings, comments, help texts, messages, pages and tests use the project's terms (retired_words.toml)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.language import (
    DEVELOPMENT_CONTEXTS,
    PAGES_UNIT,
    TESTS,
    allowed_pattern,
    excerpt_of_page,
    excerpts,
    excerpts_of_module,
    findings,
    findings_in,
    word_list,
)
from tests.docs.pages import ROOT

SAMPLE = ROOT / "src/boltseal/sample.py"


def found_in_source(source: str) -> list[tuple[str, int, str]]:
    """Return context, line and word of each finding in the source of a module."""
    excerpts = excerpts_of_module("boltseal.sample", SAMPLE, source)
    return [(each.excerpt.context, each.line, each.word) for excerpt in excerpts for each in findings_in(excerpt)]


def found_in_page(content: str) -> list[tuple[int, str]]:
    return [(each.line, each.word) for each in findings_in(excerpt_of_page(Path("page.md"), content))]


def test_no_retired_word_is_used() -> None:
    """No name and no text has a retired word; a failure shows the place and what to write instead."""
    pending = word_list().pending

    assert [str(finding) for finding in findings() if finding.excerpt.unit not in pending] == []


def test_every_pending_package_still_has_a_retired_word() -> None:
    """A package without a finding is removed from the list, so that the list can only shrink."""
    pending = word_list().pending

    assert set(pending) - {finding.excerpt.unit for finding in findings()} == set()
    assert PAGES_UNIT not in pending
    assert len(set(pending)) == len(pending)


def test_every_allowed_phrase_is_used() -> None:
    """Each allowed phrase of the list is used somewhere."""
    used = {match[0] for each in excerpts() for match in allowed_pattern().finditer(each.text)}
    unused = [each for each in word_list().allowed if not any(allowed_pattern(each).fullmatch(text) for text in used)]

    assert unused == []


def test_names_docstrings_and_comments_of_every_test_module_are_searched() -> None:
    """The search reads each module below `tests/`, without its other strings, which are data."""
    of_tests = [excerpt for excerpt in excerpts() if excerpt.unit == "tests"]
    modules = {path for path in TESTS.rglob("*.py") if "data" not in path.relative_to(TESTS).parts}

    assert {excerpt.context for excerpt in of_tests} == set(DEVELOPMENT_CONTEXTS)
    assert {excerpt.path for excerpt in of_tests} == modules
    assert len(modules) > 500


def first_paragraphs() -> Iterator[tuple[str, str]]:
    """Yield each test with the first paragraph of its docstring."""
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                docstring = ast.get_docstring(node) or ""
                yield f"{path.relative_to(TESTS)}::{node.name}", docstring.partition("\n\n")[0]


def test_the_docstring_of_a_test_is_one_short_paragraph() -> None:
    """A test's docstring begins with 5 to 30 words that end with a full stop."""
    unclear = {
        test: text for test, text in first_paragraphs() if not 5 <= len(text.split()) <= 30 or not text.endswith(".")
    }

    assert unclear == {}


@pytest.mark.parametrize(
    ("source", "finding"),
    [
        ("def test_what_is_told() -> None: ...", ("names", 1, "test_what_is_told")),
        ("def test_x() -> None:\n    told = 1", ("names", 2, "told")),
        ("def test_x() -> None:\n    for nobody, x in (): ...", ("names", 2, "nobody")),
        ('def test_x():\n    """And once more."""', ("docstrings", 2, "And")),
        ('def test_x():\n    """Also over TLS."""', ("docstrings", 2, "Also")),
        ('def test_x():\n    """Once the lock is released, it is free."""', ("docstrings", 2, "Once")),
        ('def test_x():\n    """Both stores are checked."""', ("docstrings", 2, "Both")),
        ('def test_x():\n    """It is refused."""', ("docstrings", 2, "It")),
        ('def test_x():\n    """As `docker pull` does it."""', ("docstrings", 2, "As `")),
        ("def parse(told: str) -> None: ...", ("names", 1, "told")),
        ("def find_leads() -> None: ...", ("names", 1, "find_leads")),
        ("class LaneWorker: ...", ("names", 1, "LaneWorker")),
        ("def parse(it: str) -> None: ...", ("identifiers", 1, "it")),
        ("class Row:\n    whom: str", ("names", 2, "whom")),
        ("PAPERS = 1", ("names", 1, "PAPERS")),
        ('"""Read.\n\nStands\non a base."""', ("docstrings", 3, "Stands\non")),
        ('def read():\n    """The same, for a file."""', ("docstrings", 2, "The same")),
        ("x = 1  # the outermost shell", ("comments", 1, "outermost shell")),
        ('Option("--to", help=f"what the tag means {now}")', ("help", 1, "tag means")),
        ('raise Invalid(f"nobody may {verb}")', ("messages", 1, "nobody")),
    ],
)
def test_a_retired_word_is_found_in_each_context(source: str, finding: tuple[str, int, str]) -> None:
    """A retired word is found in each kind of text and name."""
    assert finding in found_in_source(source)


@pytest.mark.parametrize(
    "source",
    [
        "def houseboat() -> None: ...",
        '"""Read `told` from the firewall."""',
        'execute("SELECT meant FROM meant")',
        'KEY = "meant"',
        '"""Return whether a check holds, differs or is unknown."""',
        '"""Write the head of the file by means of a HEAD request."""',
    ],
)
def test_code_and_ordinary_words_are_not_reported(source: str) -> None:
    """Parts of words, code in backquotes, SQL, keys and allowed phrases are not searched."""
    assert found_in_source(source) == []


def test_of_a_code_block_in_a_page_only_comments_are_searched() -> None:
    """In a page's code block only comments are searched, since printed output is checked in its module."""
    assert found_in_page("```\nwhoever\nkeep = 1  # whom\n```\ntold") == [(3, "whom"), (5, "told")]


def test_a_page_is_searched_except_for_its_inline_code() -> None:
    """A finding in a page has the line of the word, and inline code is not searched."""
    assert found_in_page("`told`\n\nA tag\nmeans [x](told.md) it.\nwhoever") == [(3, "tag\nmeans"), (5, "whoever")]
