"""Calls a function for each of several hosts, in threads."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

AT_ONCE: Final = 8
"""How many hosts are asked at the same time."""
T = TypeVar("T")


def on_each(hosts: Sequence[str], at_once: int, call: Callable[[str], T]) -> list[T]:
    """Return the result of a call for each host, in their order, at most `at_once` at the same time."""
    if at_once == 1 or len(hosts) == 1:
        return [call(each) for each in hosts]
    with ThreadPoolExecutor(at_once) as pool:
        waiting = [pool.submit(contextvars.copy_context().run, call, each) for each in hosts]
        return [each.result() for each in waiting]
