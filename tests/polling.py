"""Waits for conditions that no event reports, which another process, thread or task makes true.

There are three functions, for code with and without an event loop and for conditions that are awaited. Each checks
every 20 ms until the condition is true, returns its value, and fails after a time limit with the caller's sentence:
"not within 60 s: the ledger is signed".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import httpx2

PAUSE_S: Final = 0.02
LIMIT_S: Final = 60.0

T = TypeVar("T")


def wait_until(condition: Callable[[], T], expected: str, within_s: float = LIMIT_S) -> T:
    """Block until a condition is true and return what it returned. `expected`: the condition as a sentence."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(_failure(expected, within_s))
        time.sleep(PAUSE_S)
    return found


async def until(condition: Callable[[], T], expected: str, within_s: float = LIMIT_S) -> T:
    """Wait until a condition is true, while other tasks run, and return what it returned."""

    async def asked() -> T:
        return condition()

    return await until_answer(asked, expected, within_s)


async def until_answer(condition: Callable[[], Awaitable[T]], expected: str, within_s: float = LIMIT_S) -> T:
    """Wait until an awaited condition, such as a request, is true, and return what it returned."""
    deadline = time.monotonic() + within_s
    while not (found := await condition()):
        if time.monotonic() > deadline:
            raise AssertionError(_failure(expected, within_s))
        await asyncio.sleep(PAUSE_S)
    return found


async def until_signed(client: httpx2.AsyncClient, size: int) -> None:
    """Wait until the ledger's checkpoint covers so many entries, which are signed a moment after they are written."""

    async def signed() -> bool:
        return is_signed(await client.get("/ledger/checkpoint"), size)

    await until_answer(signed, f"the ledger's checkpoint covers {size} entries")


def is_signed(checkpoint: httpx2.Response, size: int) -> bool:
    """Return whether an answer is a checkpoint that covers so many entries."""
    return checkpoint.status_code == 200 and int(checkpoint.text.split("\n")[1]) >= size


def _failure(expected: str, within_s: float) -> str:
    return f"not within {within_s:g} s: {expected}"
