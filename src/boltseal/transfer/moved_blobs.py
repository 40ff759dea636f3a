"""Moves several blobs at once, the largest first, and does other work on several things at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from boltseal.oci.descriptor import Descriptor

T = TypeVar("T")


async def move_largest_first(
    descriptors: Collection[Descriptor], at_once: int, move: Callable[[Descriptor], Awaitable[object]]
) -> None:
    """Move each blob, at most `at_once` at a time. The first failure ends the others and is raised as it is."""
    await each_at_once(sorted(descriptors, key=lambda descriptor: -descriptor.size), at_once, move)


async def each_at_once(items: Collection[T], at_once: int, work: Callable[[T], Awaitable[object]]) -> None:
    """Work on each item, in order, at most `at_once` at a time. The first failure ends the others and is raised as it is."""
    queue = iter(items)

    async def take() -> None:
        for item in queue:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(items))):
                group.create_task(take())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
