"""A browser, and a registry with something on every page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser.chromium import chromium
from tests.browser.filled_registry import FilledRegistry, filled_registry


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for the tests of one file."""
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FilledRegistry]:
    """A registry with images, refusals, hosts and users. Files about proofs have one of their own."""
    with filled_registry(tmp_path_factory.mktemp("filled")) as running:
        yield running
