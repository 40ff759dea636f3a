"""Moves several blobs at once, the largest first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

from boltseal.oci.descriptor import Descriptor


async def move_largest_first(
    descriptors: Collection[Descriptor], at_once: int, move: Callable[[Descriptor], Awaitable[object]]
) -> None:
    """Move each blob, at most `at_once` at a time. The first failure ends the others and is raised as it is."""
    queue = iter(sorted(descriptors, key=lambda descriptor: -descriptor.size))

    async def work() -> None:
        for descriptor in queue:
            await move(descriptor)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(descriptors))):
                group.create_task(work())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
