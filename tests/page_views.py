"""Looks at the pages of a registry in tests: as a logged-in person, as text, the form of a page, and the statements that it runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape

from sqlalchemy import Connection, Engine, event

from tests.page_logins import Browser
from tests.serving import Serving

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
OWN = "127.0.0.1:5000"
"""A name of the registries of tests."""
MOST_STATEMENTS = 40
"""SQL statements of a page, however large the registry is."""


async def as_person(registry: Serving, user: str) -> Browser:
    """Return a browser in which this user is logged in."""
    browser = Browser(registry)
    answer = await browser.login(user, f"pw-{user}")
    assert answer.status_code == 303, answer.text
    return browser


def text_of(page: str) -> str:
    """Return the text of a page, without markup."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page)))


def hidden(page: str) -> dict[str, str]:
    """Return the fields of the form of a page that a browser sends as they are."""
    form = re.search(r'<form method="post".*?</form>', page, re.DOTALL)
    assert form is not None, page
    found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form[0])
    return {name: unescape(value) for name, value in found}


@contextmanager
def counted() -> Iterator[list[str]]:
    """Collect the statements that SQLAlchemy runs in the block."""
    statements: list[str] = []

    def note(_: Connection, __: object, statement: str, *___: object) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", note)
