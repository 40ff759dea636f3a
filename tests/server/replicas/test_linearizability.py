"""All answers about a tag, of all servers of one registry, are those of a single registry: each history is linearizable."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from os import kill
from pathlib import Path

import httpx2
import pytest

from tests.images import Document, image, push_parts
from tests.polling import until
from tests.replicas import RULES, Replicas, processes_of, replicas
from tests.server.replicas.linear_checker import LOST, Answer, Kind, Lost, Operation
from tests.server.replicas.promises import not_linearizable
from tests.server.replicas.tag_operations import TagClient
from tests.soak.scale import IS_FULL, SEED
from tests.storage_servers import ObjectServer

pytestmark = [pytest.mark.real, pytest.mark.slow]

SERVERS, CLIENTS = 3, 16
ROUNDS = 40 if IS_FULL else 4
OPERATIONS = 8
"""Of each client in a round. A round has tags of its own, so that a history stays short enough to be checked in any case."""
TAGS = ("floating", "deletable")
APP = "shop/linear"
CHANGES = (Kind.PUT, Kind.PUT, Kind.CREATE, Kind.REPLACE, Kind.REPLACE, Kind.DELETE)


@pytest.fixture
def registry(tmp_path: Path, new_database: Callable[[], str], object_server: ObjectServer) -> Iterator[Replicas]:
    """A registry with tags that move, and with sealed tags that may be deleted."""
    sys.stdout.write(f"TEST_SEED={SEED}\n")
    with replicas(tmp_path, new_database(), object_server, RULES) as prepared:
        yield prepared


@dataclass(slots=True)
class Recorder:
    """Clients of all servers, and by tag what they asked and got."""

    registry: Replicas
    clients: list[httpx2.AsyncClient]
    images: list[Document]
    histories: dict[str, list[Operation]] = field(default_factory=lambda: defaultdict(list))

    async def round(self, number: int) -> None:
        """Let all clients work on the tags of one round at the same time; one of them also seals a moving tag.

        At the end each server is asked for each tag, so that servers which do not agree have no linearizable history.
        """
        tags = [f"{kind}-{number}" for kind in TAGS]
        async with asyncio.TaskGroup() as group:
            for client in range(CLIENTS):
                dice = random.Random(f"{SEED} {number} {client}")  # noqa: S311 - not for secrets
                group.create_task(self._work(client, tags, dice))
        for tag in tags:
            for client in range(SERVERS):
                self.histories[tag].append(await TagClient(self.clients[client], APP, tag, client).get())

    async def _work(self, client: int, tags: list[str], dice: random.Random) -> None:
        seen = self.images[0].digest
        for each in range(OPERATIONS):
            kind = Kind.GET if dice.random() < 0.4 else dice.choice(CHANGES)
            tag = dice.choice(tags)
            if client == 0 and each == OPERATIONS // 2:
                kind, tag = Kind.SEAL, tags[0]
            asking = TagClient(self.clients[client], APP, tag, client)
            done = await self._perform(asking, kind, dice.choice(self.images), seen)
            self.histories[tag].append(done)
            if kind is Kind.GET and isinstance(done.answer, str):
                seen = done.answer

    async def _perform(self, asking: TagClient, kind: Kind, document: Document, seen: str) -> Operation:
        match kind:
            case Kind.GET:
                return await asking.get()
            case Kind.PUT:
                return await asking.put(document)
            case Kind.CREATE:
                return await asking.create(document)
            case Kind.REPLACE:
                return await asking.replace(document, seen)
            case Kind.DELETE:
                return await asking.delete()
            case Kind.SEAL:
                return await asking.seal_by_command(self.registry.settings("replica0"))

    def not_linearizable(self) -> list[str]:
        """Return the tags whose history no order of its operations explains, with these operations."""
        return not_linearizable(self.histories, {tag for tag in self.histories if tag.startswith("deletable")})

    def answers(self) -> set[Answer | Lost]:
        """Return all answers but those of gets."""
        return {each.answer for found in self.histories.values() for each in found if each.kind is not Kind.GET}


async def recorder(registry: Replicas, urls: list[str], stack: AsyncExitStack) -> Recorder:
    """Connect the clients, to all servers in turn, and push what the images refer to."""
    clients = [
        await stack.enter_async_context(httpx2.AsyncClient(base_url=urls[number % len(urls)], timeout=120.0))
        for number in range(CLIENTS)
    ]
    images = [image(f"image {number}") for number in range(4)]
    for each in images:
        await push_parts(clients[0], APP, each)
    return Recorder(registry, clients, images)


async def test_all_servers_answer_as_one_registry(registry: Replicas) -> None:
    """Puts, conditional puts, deletes, seals and gets of one tag at three servers are linearizable, and all of them do happen."""
    with registry.serving(SERVERS) as running:
        async with AsyncExitStack() as stack:
            recorded = await recorder(registry, [each.url for each in running], stack)
            for number in range(ROUNDS):
                await recorded.round(number)

    assert recorded.not_linearizable() == []
    assert recorded.answers() >= {201, 202, 404, 405, 409, 412, 200}


async def test_answers_stay_those_of_one_registry_when_a_server_is_killed(registry: Replicas) -> None:
    """A server is killed amid a round. What it answered before is kept by the others, and nothing is half done."""
    with registry.serving(SERVERS - 1) as running, registry.serve("killed") as victim:
        async with AsyncExitStack() as stack:
            recorded = await recorder(registry, [*(each.url for each in running), victim.url], stack)
            await recorded.round(0)
            during = asyncio.create_task(recorded.round(1))
            going_on = recorded.histories["floating-1"]
            await until(lambda: len(going_on) >= CLIENTS, "the round goes on", 60.0)
            for pid in processes_of(victim):
                kill(pid, signal.SIGKILL)
            await during

    assert recorded.not_linearizable() == []
    assert LOST in recorded.answers()
