"""Sends several requests at once, a bounded number, and returns the answers in the order of the questions."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Final, TypeVar

from boltseal.client.errors import RemoteNotFound
from boltseal.client.registry_client import RegistryClient
from boltseal.oci.reference import Reference, Repository, Tag

K = TypeVar("K")
V = TypeVar("V")

AT_ONCE: Final = 8
"""How many repositories of a registry are asked at once."""


async def ask_each(keys: Iterable[K], ask: Callable[[K], Awaitable[V]], at_once: int = AT_ONCE) -> dict[K, V]:
    """Ask about each key once; the answers have the order of the keys. The first error ends all requests, and is raised."""
    gate = asyncio.Semaphore(at_once)

    async def answer(key: K) -> V:
        async with gate:
            return await ask(key)

    wanted = list(dict.fromkeys(keys))
    tasks = [asyncio.ensure_future(answer(key)) for key in wanted]
    try:
        return dict(zip(wanted, await asyncio.gather(*tasks), strict=True))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def list_tags(client: RegistryClient, repositories: AsyncIterator[Repository]) -> AsyncGenerator[Reference]:
    """Yield the tags of repositories in their order; the first pages of the next AT_ONCE ones are read ahead.

    A repository that is gone is left out. Raises: as `RegistryClient.tags`, and what `repositories` raises.
    """
    ahead: deque[_TagList] = deque()
    try:
        async for repository in repositories:
            ahead.append(_TagList(client, repository))
            if len(ahead) == AT_ONCE:
                async with aclosing(ahead[0].references()) as references:
                    async for reference in references:
                        yield reference
                ahead.popleft()
        while ahead:
            async with aclosing(ahead[0].references()) as references:
                async for reference in references:
                    yield reference
            ahead.popleft()
    finally:
        for each in ahead:
            await each.close()


class _TagList:
    """The tags of a repository, whose first page is being read."""

    def __init__(self, client: RegistryClient, repository: Repository) -> None:
        self._registry = client.registry
        self._repository = repository
        self._tags = client.tags(repository)
        self._first: asyncio.Task[Tag | None] = asyncio.ensure_future(self._read_first())

    async def references(self) -> AsyncGenerator[Reference]:
        try:
            first = await self._first
            if first is not None:
                yield Reference(self._registry, self._repository, first)
                async for tag in self._tags:
                    yield Reference(self._registry, self._repository, tag)
        except RemoteNotFound:
            return

    async def close(self) -> None:
        self._first.cancel()
        await asyncio.gather(self._first, return_exceptions=True)

    async def _read_first(self) -> Tag | None:
        return await anext(aiter(self._tags), None)
