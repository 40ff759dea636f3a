"""Runs Debian's Chromium, driven by playwright.

While a browser runs, its thread has an event loop. So tests with a browser are not coroutines, and `apart` runs a coroutine elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from playwright.sync_api import Browser, sync_playwright

PROGRAM = "/usr/bin/chromium"
OPTIONS = ("--no-sandbox", "--disable-dev-shm-usage")

_Value = TypeVar("_Value")


@contextmanager
def chromium(options: Sequence[str] = ()) -> Iterator[Browser]:
    """Run a browser until the block is left. `options`: more of its command line."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=[*OPTIONS, *options])
        try:
            yield browser
        finally:
            browser.close()


def apart(work: Coroutine[Any, Any, _Value]) -> _Value:
    """Run a coroutine to its end in a thread of its own."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, work).result()
