"""Clients that send requests to several servers of one registry at the same time, and what must be true after each round.

A round is checked by `Racing.check`, which collects what is wrong, so that a test reports all rounds. The servers that are asked, and
the order, are drawn from a seed (TEST_SEED), which is written to the output: it repeats what is asked, not the timing.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

import httpx2
import psycopg

from boltseal.server.store_factory import examine_store
from tests.images import Document, image, meaning, push_parts, put
from tests.replicas import RULES, Replicas, password
from tests.server.replicas.linear_checker import Operation, TagState, is_linearizable
from tests.servers import Server
from tests.soak.scale import SEED

SERVERS: Final = 3
CLIENTS: Final = 16
QUOTA_BYTES: Final = 64 * 1024
QUOTA_REPOSITORIES: Final = 5
CONFIG: Final = f"""{RULES}
[[auth.grant]]
users = ["boss"]
repository = "**"
actions = ["pull", "push", "delete", "admin"]
[[auth.grant]]
users = ["*"]
repository = "quota/**"
actions = ["pull", "push", "delete"]
[[auth.quota]]
users = ["boss"]
max_repositories = 1000000
[[auth.quota]]
users = ["*"]
max_bytes = {QUOTA_BYTES}
max_repositories = {QUOTA_REPOSITORIES}
"""
"""Tags that move, sealed tags that may be deleted; an administrator without a quota, and users with one."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class RunningServers:
    """The servers that the tests of one file share."""

    registry: Replicas
    servers: Sequence[Server]

    def add_user(self, name: str) -> httpx2.BasicAuth:
        """Add a user, and return the login."""
        self.registry.add_user(name)
        return httpx2.BasicAuth(name, password(name))

    @asynccontextmanager
    async def clients(self, login: httpx2.BasicAuth) -> AsyncIterator[list[httpx2.AsyncClient]]:
        """Connect clients of a user, to all servers in turn, each with connections of its own."""
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(
                    httpx2.AsyncClient(base_url=self.servers[number % SERVERS].url, timeout=120.0, auth=login)
                )
                for number in range(CLIENTS)
            ]


@dataclass(slots=True)
class Racing:
    """Clients of all servers. `dice`: seeded. `wrong`: what the rounds found."""

    running: RunningServers
    clients: list[httpx2.AsyncClient]
    dice: random.Random
    wrong: list[str] = field(default_factory=list)

    @property
    def one_of_each(self) -> list[httpx2.AsyncClient]:
        """A client of each server."""
        return self.clients[:SERVERS]

    async def each(
        self, items: Iterable[Item], ask: Callable[[httpx2.AsyncClient, Item], Awaitable[Result]]
    ) -> list[tuple[Item, Result]]:
        """Ask for every item at the same time, in a random order, each by another client as far as there are clients."""
        drawn = list(items)
        self.dice.shuffle(drawn)
        clients = self.dice.sample(self.clients, CLIENTS)
        results = await asyncio.gather(*(ask(clients[n % CLIENTS], item) for n, item in enumerate(drawn)))
        return list(zip(drawn, results, strict=True))

    async def put_each(
        self, repository: str, tag: str, documents: Iterable[Document], headers: dict[str, str] | None = None
    ) -> list[tuple[Document, httpx2.Response]]:
        """Push every manifest under one tag at the same time."""
        return await self.each(
            documents, lambda client, document: put(client, repository, tag, document, headers=headers)
        )

    async def pushed_parts(self, repository: str, words: str, count: int) -> list[Document]:
        """Push the parts of images that differ only in an annotation, and return these images."""
        await push_parts(self.clients[0], repository, image(words))
        return [image(words, annotations={"number": str(number)}) for number in range(count)]

    async def resolved(self, repository: str, reference: str) -> set[str | None]:
        """Return what all servers say that a tag or digest resolves to: one element where they agree."""
        return {await meaning(client, repository, reference) for client in self.one_of_each}

    async def blob_answers(self, repository: str, document: Document) -> Counter[object]:
        """Return whether the bytes of an image's blobs are right, or the status, counted over all blobs and servers."""
        found: Counter[object] = Counter()
        for client in self.one_of_each:
            for blob in document.blobs:
                answer = await client.get(f"/v2/{repository}/blobs/{blob.digest}")
                found[answer.content == blob.data if answer.status_code == 200 else answer.status_code] += 1
        return found

    def check(self, what: str, got: object, expected: object) -> None:
        """Record what is not as expected."""
        if got != expected:
            self.wrong.append(f"{what}: got {got}, expected {expected}")

    async def check_tag(self, repository: str, tag: str, expected: Document | None) -> None:
        """Check that all servers serve a tag as this image with all its blobs, or as absent, and that the ledger has no gap."""
        where = f"{repository}:{tag}"
        self.check(where, await self.resolved(repository, tag), {None if expected is None else expected.digest})
        if expected is not None:
            whole = Counter({True: SERVERS * len(expected.blobs)})
            self.check(f"blobs of {where}", await self.blob_answers(repository, expected), whole)
        self.check_ledger(where)

    def check_ledger(self, where: str) -> None:
        """Check that the ledger has each index from 0 to its size once."""
        first, last, count, size = self.rows(
            "SELECT min(idx), max(idx), count(*), (SELECT size FROM ledger_head) FROM entry"
        )[0]
        self.check(f"ledger after {where}", (first, last, count), (0, size - 1, size))

    def check_history(self, what: str, history: Sequence[Operation], initial: TagState) -> None:
        """Check that one order of the operations explains all answers."""
        if not is_linearizable(history, initial):
            self.wrong.append(f"{what}: no order explains {sorted(history, key=lambda each: each.start)}")

    def kinds(self, repository: str, tag: str) -> list[str]:
        """Return the kinds of the ledger's entries about a tag, in order."""
        query = "SELECT kind FROM entry WHERE repository = %(repository)s AND tag = %(tag)s ORDER BY idx"
        return [str(row[0]) for row in self.rows(query, repository=repository, tag=tag)]

    def rows(self, query: str, **values: str) -> list[tuple[int, ...]]:
        """Return rows of the database."""
        with psycopg.connect(self.running.registry.database) as connection:
            return connection.execute(query.encode(), values).fetchall()

    async def findings(self) -> list[object]:
        """Compare everything in the database and the bucket, as `admin fsck` does."""
        settings = self.running.registry.settings("replica0")
        return list((await asyncio.to_thread(examine_store, settings, lambda *_: None)).findings)


@asynccontextmanager
async def racing(running: RunningServers, name: str) -> AsyncIterator[Racing]:
    """Connect clients of the administrator. `name`: of the test, which the random choices depend on."""
    sys.stdout.write(f"TEST_SEED={SEED}\n")
    dice = random.Random(f"{SEED} {name}")  # noqa: S311 - a sample that can be repeated
    async with running.clients(httpx2.BasicAuth("boss", password("boss"))) as clients:
        yield Racing(running, clients, dice)


def details(answers: Iterable[httpx2.Response]) -> list[dict[str, object]]:
    """Return the machine-readable details of refusals."""
    return [answer.json()["errors"][0]["detail"] for answer in answers]
