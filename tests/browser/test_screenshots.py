"""The screenshots of the documentation are those of every page, and can be made again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from boltseal.server.web.pages import FORMS, PAGES
from tests.browser.screenshots import NAMES, write_screenshots
from tests.browser.shown_registry import PATHS
from tests.docs.pages import ROOT, text

pytestmark = pytest.mark.real

FOLDER = "docs/operations/pages"
NOT_SHOWN = {"/ui/repositories", "/ui/entry", *FORMS} - {"/ui/restore", "/ui/rules", "/ui/create-token"}
"""A list of names, an entry as it is in a timeline, and forms that look as the one that is shown."""
PNG = b"\x89PNG\r\n\x1a\n"


def test_every_page_has_a_screenshot(tmp_path: Path) -> None:
    """Each page is opened and written as a picture of its own."""
    write_screenshots(tmp_path)
    pictures = {file.stem: file.read_bytes() for file in tmp_path.iterdir()}

    assert set(pictures) == set(NAMES)
    assert all(picture.startswith(PNG) for picture in pictures.values())
    assert len(set(pictures.values())) == len(NAMES)


def test_the_documentation_shows_all_of_them() -> None:
    """The page about pages has each picture, with a text in its place; a new page needs one."""
    shown = re.findall(r"!\[([^\]]+)\]\(pages/([a-z-]+)\.png\)", text("docs/operations/pages.md"))
    paths = {path.partition("?")[0] for path in PATHS.values()}

    assert {name for _, name in shown} == set(NAMES)
    assert {file.stem for file in (ROOT / FOLDER).iterdir()} == set(NAMES)
    assert set(PAGES) - paths == NOT_SHOWN
