"""A registry in which clients push beside garbage collection, and a record of what they found, to check every push against."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from boltseal.errors import NotFound, Unavailable
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.policy.rules import parse_rules
from boltseal.server.auth.actor import ANONYMOUS
from boltseal.server.registry import build_registry
from boltseal.server.registry.models import UNCONDITIONAL
from boltseal.server.registry.pulls import BlobUnknown
from boltseal.server.registry.sequencer import start_ledger
from boltseal.server.registry.tag_refusals import ReferencesMissing
from boltseal.server.storage.blobs.local_store import LocalBlobs
from boltseal.server.storage.blobs.protocol import BlobStore
from boltseal.server.storage.full_collection import FullCollection
from boltseal.server.storage.garbage_collection import collect
from boltseal.server.storage.metadata import usage
from boltseal.server.storage.metadata.protocol import Metadata
from boltseal.server.storage.metadata_factory import open_metadata, prepare_metadata
from boltseal.server.storage_settings import StorageSettings
from tests.bare_registry import DAY_US, HOUR_US, OCI, BareRegistry, Clock
from tests.server.storage.flaky import Flaky

REPOSITORIES = [Repository("shop/app"), Repository("shop/other")]
POOL = [b"one", b"two"]
TAGS = {"mutable": "latest", "sealed": "1.0.{}"}
PAUSES_US = [HOUR_US // 3, HOUR_US // 2, HOUR_US * 2 // 3, HOUR_US - 1, HOUR_US + HOUR_US // 12]

Part = tuple[Repository, bytes]


@dataclass
class TwoServers:
    """Two servers of one registry. `found_us`: when a client last found that a repository has a blob."""

    servers: list[BareRegistry]
    flaky: Flaky
    clock: Clock
    found_us: dict[Part, int] = field(default_factory=dict)
    images: dict[tuple[Repository, Digest], list[bytes]] = field(default_factory=dict)
    incomplete: dict[tuple[Repository, Digest], list[bytes]] = field(default_factory=dict)
    """Images whose clients had found a blob a day before, and that were accepted without it."""
    pushes: int = 0

    async def pause(self, _: int, pause_us: int) -> None:
        """Let time pass."""
        self.clock.now_us += pause_us

    async def upload(self, server: int, repository: Repository, content: bytes) -> None:
        """Upload a blob, as a client does that has found none."""
        shop = self.servers[server]
        with suppress(Unavailable, NotFound):  # beside a collection: the client repeats it
            await shop.blob(content, repository)
            self._found(repository, content)
        path = shop.blobs.path(Digest.of(content))
        if path is not None:
            with suppress(FileNotFoundError):
                os.utime(path, ns=(self.clock.now_us * 1000,) * 2)

    async def head(self, server: int, repository: Repository, content: bytes) -> bool:
        """Ask whether a repository has a blob; then its bytes are there."""
        shop, digest = self.servers[server], Digest.of(content)
        try:
            await shop.registry.pulls.blob(repository, digest)
        except BlobUnknown:
            return False
        assert await read(shop, content) == content
        self._found(repository, content)
        return True

    async def mount(self, server: int, content: bytes) -> None:
        """Mount a blob of the first repository into the second."""
        source, target = REPOSITORIES
        with suppress(Unavailable):
            uploads = self.servers[server].registry.uploads
            if await uploads.mount(target, Digest.of(content), source, may_read=lambda _: True):
                self._found(target, content)

    async def push(self, server: int, repository: Repository, contents: list[bytes], tag: str) -> None:
        """Push an image of blobs that the client found at some time, and check the answer."""
        known = [each for each in contents if (repository, each) in self.found_us]
        if not known:
            return
        self.pushes += 1
        layers = [
            {"mediaType": "application/octet-stream", "digest": str(Digest.of(each)), "size": len(each)}
            for each in known
        ]
        more = {"annotations": {"number": str(self.pushes)}}
        document = {"schemaVersion": 2, "mediaType": OCI, "config": layers[0], "layers": layers[1:], **more}
        raw = json.dumps(document).encode()
        oldest_us = min(self.found_us[repository, each] for each in known)
        age_us = self.clock.now_us - oldest_us
        try:
            await self.servers[server].push(raw, TAGS[tag].format(self.pushes), repository=repository)
        except ReferencesMissing:
            assert age_us >= HOUR_US, "a push was refused although its client found every blob within the last hour"
            return
        missing = [each for each in known if not await self._has(repository, each)]
        assert not missing or age_us >= DAY_US, f"an image was accepted without {missing}"
        (self.incomplete if missing else self.images)[repository, Digest.of(raw)] = known

    async def delete_image(self, server: int, number: int) -> None:
        """Delete one of the images."""
        if self.images:
            repository, digest = sorted(self.images)[number % len(self.images)]
            self.images.pop((repository, digest))
            deletes = self.servers[server].registry.deletes
            with suppress(NotFound):
                await deletes.manifest(repository, digest, UNCONDITIONAL, ANONYMOUS)
            # A sealed image stays, and is counted no more.

    async def push_beside(self, server: int, *values: Any) -> None:
        """Push an image while the other server collects."""
        await asyncio.gather(self.clean(1 - server), self.push(server, *values))

    async def upload_beside(self, server: int, *values: Any) -> None:
        """Upload a blob while the other server collects."""
        await asyncio.gather(self.clean(1 - server), self.upload(server, *values))

    async def clean(self, server: int, failing: float = 0.0, full: bool = False) -> None:
        """Do what a server does once an hour. A write that fails ends it, as a kill does."""
        shop, self.flaky.share = self.servers[server], failing

        def work() -> None:
            now_us, blobs = self.clock.now_us, shop.blobs
            if full:
                list(FullCollection(self.flaky, blobs.maintenance, blobs.upkeep, now_us).find_all(dry_run=False))
            list(collect(self.flaky, blobs.maintenance, blobs.upload_cleanup, now_us, dry_run=False))
            if blobs.upkeep is not None:
                blobs.upkeep.run(now_us)

        with suppress(Unavailable):
            await asyncio.to_thread(work)
        self.flaky.share = 0.0

    async def clean_after_a_day(self, server: int) -> None:
        """Clean when everything is due that is not used now."""
        self.clock.now_us += DAY_US
        await self.clean(server)

    async def check(self) -> None:
        """Assert that every accepted image is whole, for clients of both servers, and the totals of users are those of the rows."""
        for (repository, _), contents in self.images.items():
            for content in contents:
                for shop in self.servers:
                    assert (await shop.registry.pulls.blob(repository, Digest.of(content))).size == len(content)
                assert await read(self.servers[0], content) == content
        assert await self.servers[0].database.read(usage.wrong_totals) == {}

    async def check_nothing_is_left(self) -> None:
        """Assert that nothing unreferenced is left a day and two times of grace after everything was deleted."""
        for repository, digest in sorted(self.images | self.incomplete):
            await self.servers[0].registry.deletes.manifest(repository, digest, UNCONDITIONAL, ANONYMOUS)
        self.images.clear()
        for wait_us in (DAY_US, HOUR_US + HOUR_US // 12, HOUR_US):
            self.clock.now_us += wait_us
            await self.clean(0)

        assert [each.digest for each in self.servers[0].blobs.maintenance.walk()] == []

    def _found(self, repository: Repository, content: bytes) -> None:
        self.found_us[repository, content] = self.clock.now_us

    async def _has(self, repository: Repository, content: bytes) -> bool:
        try:
            await self.servers[0].registry.pulls.blob(repository, Digest.of(content))
        except BlobUnknown:
            return False
        return True


EMBEDDED: Final = StorageSettings()


def files_of(_: Metadata, data: Path) -> BlobStore:
    """Return the blobs in the files of a data folder."""
    return LocalBlobs(data)


async def read(shop: BareRegistry, content: bytes) -> bytes:
    """Return the stored bytes of a blob."""
    return b"".join([piece async for piece in shop.blobs.read(Digest.of(content), 0, len(content))])


@asynccontextmanager
async def open_world(
    data: Path, storage: StorageSettings = EMBEDDED, blobs_of: Callable[[Metadata, Path], BlobStore] = files_of
) -> AsyncIterator[TwoServers]:
    """Open two servers on an empty registry."""
    clock, servers = Clock(), list[BareRegistry]()
    prepare_metadata(data, storage)
    rules = parse_rules([{"tag": "1.*", "mode": "sealed", "keep": "deletable"}])
    for _ in range(2):
        database = open_metadata(data, storage, clock)
        blobs = blobs_of(database, data)
        if not servers:
            database.write_and_wait(
                lambda tx: start_ledger(tx, origin="registry.test", rules=rules.canonical(), actor="boltseal")
            )
        servers.append(BareRegistry(build_registry(database, blobs, rules), database, blobs, clock))
    try:
        yield TwoServers(servers, Flaky(servers[1].database, random.Random(0)), clock)  # noqa: S311 - not for secrets
    finally:
        for shop in servers:
            shop.blobs.close()
            shop.database.close()


Step = tuple[Any, ...]
"""The name of a method of `TwoServers`, the number of the server, and the other arguments."""


def random_steps(dice: random.Random, number: int) -> Iterator[Step]:
    """Yield steps, mostly of one blob in one repository, so that they meet."""
    for _ in range(number):
        server, repository = dice.randrange(2), dice.choice([*REPOSITORIES[:1] * 3, *REPOSITORIES])
        content = dice.choice([*POOL[:1] * 3, *POOL])
        match dice.randrange(13):
            case 0 | 1 | 2:
                yield "pause", server, dice.choice(PAUSES_US)
            case 3:
                yield "clean_after_a_day", server
            case 4:
                yield dice.choice(["upload", "upload_beside"]), server, repository, content
            case 5 | 6:
                yield "head", server, repository, content
            case 7:
                yield "mount", server, content
            case 8 | 9:
                contents = dice.sample(POOL, dice.randrange(1, len(POOL) + 1))
                yield (
                    dice.choice(["push", "push", "push_beside"]),
                    server,
                    repository,
                    contents,
                    dice.choice(list(TAGS)),
                )
            case 10:
                yield "delete_image", server, dice.randrange(10)
            case 11:
                yield "clean", server, dice.choice([0.0, 0.4]), dice.random() < 0.3
            case _:
                yield "clean", server


async def play(world: TwoServers, steps: Iterable[Step]) -> None:
    """Do the steps in order, and check all images after each."""
    for name, *values in steps:
        await getattr(world, name)(*values)
        await world.check()
