"""Clients that push and pull through a load balancer without a pause, while a test kills the servers behind it."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx2

from tests.images import Document, image, meaning, push, push_parts, put
from tests.polling import until

APP = "shop/app"
PUSHERS, PULLERS = 3, 3
IS_PUSHED, IS_PULLED = 5, 50


@dataclass(slots=True)
class Load:
    """What the clients saw. `acknowledged`: digests by tag; `refused`: statuses of pushes other than 201, and names of errors.

    `pulls`: the same of pulls; 200 is a complete one. A pull whose server ended in the middle of the body is an error.
    """

    client: httpx2.AsyncClient
    acknowledged: dict[str, str] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    pulls: Counter[str] = field(default_factory=Counter)

    async def goes_on(self) -> None:
        """Wait until several more pushes were acknowledged, and many more pulls were complete."""
        pushed, pulled = len(self.acknowledged) + IS_PUSHED, self.pulls["200"] + IS_PULLED
        await until(
            lambda: len(self.acknowledged) >= pushed and self.pulls["200"] >= pulled, "pushes and pulls go on", 120
        )

    async def lost(self, client: httpx2.AsyncClient) -> list[str]:
        """Return the tags whose push was acknowledged, and that do not resolve to what was pushed."""
        return [tag for tag, digest in self.acknowledged.items() if await meaning(client, APP, tag) != digest]

    async def _push(self, pusher: int) -> None:
        for number in itertools.count():
            tag, document = f"{pusher}.{number}", image(f"{number} of {pusher}")
            try:
                await push_parts(self.client, APP, document)
                answer = await put(self.client, APP, tag, document)
            except (AssertionError, httpx2.HTTPError) as error:
                self.refused[str(error)[-60:] if isinstance(error, AssertionError) else type(error).__name__] += 1
                continue
            if answer.status_code == httpx2.codes.CREATED:
                self.acknowledged[tag] = document.digest
            else:
                self.refused[str(answer.status_code)] += 1

    async def _pull(self, paths: list[str]) -> None:
        for path in itertools.cycle(paths):
            try:
                answer = await self.client.get(path)
            except httpx2.HTTPError as error:
                self.pulls[type(error).__name__] += 1
            else:
                self.pulls[str(answer.status_code)] += 1


@asynccontextmanager
async def load(client: httpx2.AsyncClient) -> AsyncIterator[Load]:
    """Push new images, and pull one sealed and one mutable tag with its blobs, until the block is left."""
    released, newest = image("a release"), image("of today")
    for tag, document in (("1.0.0", released), ("latest", newest)):
        assert (await push(client, APP, tag, document)).status_code == httpx2.codes.CREATED
    made = Load(client)
    paths = [*_paths(released, "1.0.0"), *_paths(newest, "latest")]
    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(made._push(number)) for number in range(PUSHERS)]
        clients += [group.create_task(made._pull(paths)) for _ in range(PULLERS)]
        try:
            yield made
        finally:
            for each in clients:
                each.cancel()


def _paths(document: Document, tag: str) -> list[str]:
    return [f"/v2/{APP}/manifests/{tag}", *(f"/v2/{APP}/blobs/{blob.digest}" for blob in document.blobs)]
