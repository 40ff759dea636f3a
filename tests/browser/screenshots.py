"""Writes a screenshot of each page: `python -m tests.browser.screenshots FOLDER` (`make screenshots` runs it for docs/)."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, Page

from tests.browser.chromium import chromium
from tests.browser.shown_registry import PATHS, shown_registry

WIDTH: Final = 1100
MAX_HEIGHT: Final = 900
PREVIEW: Final = "restore-preview"
"""The page that follows the form `restore`."""
NAMES: Final = (*PATHS, PREVIEW)


def write_screenshots(folder: Path) -> None:
    """Run a registry, open its pages in Chromium, and write NAME.png of each into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as data,
        shown_registry(Path(data)) as registry,
        chromium() as browser,
    ):
        page = _logged_in(browser, registry.url)
        for name, path in registry.paths.items():
            page.goto(registry.url + path)
            if page.locator("#proof").count():
                page.wait_for_selector("#proof[data-outcome]")
            _write(page, folder / f"{name}.png")
            if name == "restore":
                page.fill("#reason", "the build of today does not start")
                page.click("main button")
                page.wait_for_selector("h2")
                _write(page, folder / f"{PREVIEW}.png")


def _logged_in(browser: Browser, url: str) -> Page:
    page = browser.new_context(viewport={"width": WIDTH, "height": MAX_HEIGHT}, color_scheme="light").new_page()
    page.goto(f"{url}/ui/login")
    page.fill("#user", "boss")
    page.fill("#password", "pw-boss")
    page.click("main button")
    page.wait_for_url(f"{url}/ui/")
    return page


def _write(page: Page, file: Path) -> None:
    """Write the upper part of a page, as far down as it has something."""
    height = min(MAX_HEIGHT, int(page.evaluate("document.body.scrollHeight")))
    page.screenshot(path=file, full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": height})


if __name__ == "__main__":
    write_screenshots(Path(sys.argv[1]))
