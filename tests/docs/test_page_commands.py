"""Every command of the pages is run by a test, or in a list with the reason why not."""

from __future__ import annotations

import re

import pytest

from tests.docs.page_commands import NOT_RUN, PLAYS, RUN_ELSEWHERE, reason_not_run
from tests.docs.pages import PAGES, ROOT, text, typed_lines

WITH_COMMANDS = [
    name
    for page in PAGES
    if (name := page.relative_to(ROOT).as_posix()) != "ARCHITECTURE.md" and any(typed_lines(text(name)))
]


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_every_command_of_a_page_is_run_or_listed_with_a_reason(name: str) -> None:
    """Each command of a page is run by a play or another test, or has a reason why not."""
    run = name in PLAYS or name in RUN_ELSEWHERE
    lines = [line for line in typed_lines(text(name)) if line]

    assert [line for line in lines if not run and reason_not_run(name, line) is None] == []


def test_the_lists_have_no_page_or_command_that_is_gone() -> None:
    """Each page has commands, and each beginning of a command is the beginning of one."""
    lines = {name: typed_lines(text(name)) for name in {*PLAYS, *RUN_ELSEWHERE, *NOT_RUN}}

    assert {name for name in lines if not lines[name]} == set()
    assert [
        (name, begin)
        for name, begins in NOT_RUN.items()
        for begin in begins
        if not any(line.startswith(begin) for line in lines[name])
    ] == []
    assert [
        (name, begin)
        for name, play in PLAYS.items()
        for begin in (*play.before, *play.codes)
        if begin and not any(line.startswith(begin) for line in lines[name])
    ] == []


def test_every_test_that_is_named_exists() -> None:
    """Each test module exists that a reason or the list of pages run elsewhere names."""
    named = {
        path for begins in NOT_RUN.values() for why in begins.values() for path in re.findall(r"tests/[\w/]+\.py", why)
    }

    assert {path for path in (named | set(RUN_ELSEWHERE.values())) if not (ROOT / path).exists()} == set()
