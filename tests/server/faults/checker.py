"""Pushes over HTTP while something fails, and the check of what must be true afterwards.

`Checker.check` requires after a fault, on the running registry:

1. Every 201 is true: each acknowledged image is read back, byte for byte, also one whose tag was moved since; and a push that
   was refused succeeds.
2. No sealed tag moved: each resolves to the one digest it was pushed with, and refuses any other.
3. The ledger has no gap: a client that remembers the checkpoint of the previous check verifies all entries, and each tag by them.
4. Garbage collection took nothing that is referenced: `admin gc` and `admin gc --full` run, then both as two days later; then all
   that an acknowledged image refers to is read again, and `admin fsck` finds nothing.
5. Readiness is true: what it answers is what a push at the same time gets.

While a fault lasts `is_ready` compares readiness with a push as well. The only refusals are 503 with `Retry-After`, and, on a full
disk, 507.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import httpx2

from boltseal.oci.digest import Digest
from boltseal.server.storage.full_collection import FullCollection
from boltseal.server.storage.garbage_collection import collect
from boltseal.server.store_factory import open_store
from tests.cli import program
from tests.polling import until_answer
from tests.server.faults.installation import LOGIN, Installation
from tests.soak.traffic import (
    OCI_MANIFEST,
    Acknowledged,
    Body,
    Refused,
    client_of,
    expect,
    manifest_of,
    pull_all,
    push_blob,
    put_manifest,
)

UNAVAILABLE, FULL = 503, 507
TWO_DAYS_US = 2 * 24 * 3600 * 1_000_000
SIZES = (0, 100, 4096, 300_000)
LARGE = 6_000_000
"""The size of a layer that is written to the S3 server in parts."""
LARGE_EVERY, MOVED_EVERY = 5, 4
"""Of so many images of a pusher one has a large layer, and one is the mutable tag's."""
PUSHERS = 4
REPEATED, TRIED_TO_MOVE = 12, 12
"""At most so many refused pushes are repeated, and so many sealed tags are pushed with another image, in one check."""
PAUSE_S = 0.1
AGREES_WITHIN = 6
"""In so many tries readiness and a push between two of its answers agree: two, and some for what begins or ends meanwhile."""
WITHIN_S = 180.0
"""How long a change of the registry may take: four times its longest time limit, of a request to the S3 server with its repetitions."""
COMMAND_S = 600.0
"""How long a command may take that reads everything: as long as the machine needs."""
MUTABLE = "latest"


async def accepts_pushes(client: httpx2.AsyncClient) -> bool:
    """Return whether readiness answers 200 and does not add that writes are refused."""
    answer = await client.get("/readyz")
    return answer.status_code == 200 and "refused" not in answer.text


async def decided(ask: Callable[[], Awaitable[httpx2.Response]]) -> list[httpx2.Response]:
    """Return the answer to a request, nothing if it is 503: nothing was decided, as when a write of a busy machine exceeds its time."""
    answer = await ask()
    return [] if answer.status_code == UNAVAILABLE else [answer]


@dataclass(slots=True)
class Image:
    """An image to push under a tag. `note`: an annotation of its manifest, if any."""

    repository: str
    tag: str
    bodies: list[Body]
    note: str = ""

    @property
    def manifest(self) -> bytes:
        """Return the bytes of the manifest."""
        plain = manifest_of(*((body.digest, body.size) for body in self.bodies))
        return json.dumps(json.loads(plain) | {"annotations": {"note": self.note}}).encode() if self.note else plain

    async def push(self, client: httpx2.AsyncClient, into: Acknowledged) -> None:
        """Push the blobs, then the manifest. Raises: Refused, httpx2.TransportError."""
        for number, body in enumerate(self.bodies):
            await push_blob(client, self.repository, body, body.digest, into, patch=number % 2 == 1)
        await put_manifest(client, self.repository, self.tag, self.manifest, into)


@dataclass(slots=True)
class Checker:
    """Pushes to one installation and remembers every attempt and answer."""

    installation: Installation
    acknowledged: Acknowledged = field(default_factory=Acknowledged)
    """Blobs, and the manifests of sealed tags."""
    attempted: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """The one manifest that each sealed tag was ever pushed with."""
    possible: dict[str, list[bytes | None]] = field(default_factory=dict)
    """By repository, what its mutable tag may resolve to: what was acknowledged last, None at first, and what was attempted since."""
    moved: set[tuple[str, bytes]] = field(default_factory=set)
    """The manifests that were acknowledged as those of mutable tags, with their repositories."""
    refused: list[Image] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)
    lost_answers: int = 0
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @contextlib.asynccontextmanager
    async def pushing(self, pushers: int = PUSHERS) -> AsyncIterator[httpx2.AsyncClient]:
        """Push without a pause inside the block; at its end every push has its answer."""
        ended = asyncio.Event()
        async with client_of(self.installation.url) as client, asyncio.TaskGroup() as group:
            for number in range(pushers):
                group.create_task(self._push_on(client, f"shop/app{number}", ended))
            try:
                yield client
            finally:
                ended.set()

    async def _push_on(self, client: httpx2.AsyncClient, repository: str, ended: asyncio.Event) -> None:
        dice = random.Random(f"{repository} {next(self._numbers)}")  # noqa: S311 - not for secrets
        for number in itertools.count(1):
            if ended.is_set():
                return
            tag = MUTABLE if number % MOVED_EVERY == 0 else f"1.{next(self._numbers)}.0"
            sizes = [LARGE] if number % LARGE_EVERY == 1 else dice.choices(SIZES, k=dice.randrange(1, 3))
            bodies = [Body(f"{repository} {tag} {number} {each}", size) for each, size in enumerate(sizes)]
            bodies.append(Body(f"in all repositories {number}", 50_000))
            if not await self.push(client, Image(repository, tag, bodies)):
                await asyncio.sleep(PAUSE_S)

    async def push(self, client: httpx2.AsyncClient, image: Image) -> bool:
        """Push an image once; return whether it was acknowledged."""
        sealed = image.tag != MUTABLE
        into = Acknowledged(blobs=self.acknowledged.blobs)
        if sealed:
            self.attempted[image.repository, image.tag] = image.manifest
        else:
            self.possible.setdefault(image.repository, [None]).append(image.manifest)
        try:
            await image.push(client, into)
        except Refused as refused:
            self.refusals.append(refused)
            self.refused.append(image)
            return False
        except httpx2.TransportError:  # boltseal was killed: the answer is lost
            self.lost_answers += 1
            self.refused.append(image)
            return False
        if sealed:
            self.acknowledged.tags |= into.tags
        else:
            self.possible[image.repository] = [image.manifest]
            self.moved.add((image.repository, image.manifest))
        return True

    async def some_acknowledged(self, more: int = 2) -> None:
        """Wait until so many more pushes were acknowledged."""
        before = len(self.acknowledged.tags)

        async def asked() -> bool:
            return len(self.acknowledged.tags) >= before + more

        await until_answer(asked, f"{more} more pushes are acknowledged", WITHIN_S)

    async def is_ready(self, client: httpx2.AsyncClient) -> bool:
        """Return whether readiness answers that pushes are accepted, having compared it with a push at the same time.

        A success that is remembered ends with the first push that fails, so it is late by one push at most.
        """
        for _ in range(AGREES_WITHIN):
            stated = await accepts_pushes(client)
            done = await self.push(client, self.probe())
            if stated is done is await accepts_pushes(client):
                return done
        raise AssertionError(f"in {AGREES_WITHIN} tries readiness never stated what a push got; the last one: {done}")

    def probe(self, note: str = "") -> Image:
        """Return another small image."""
        number = next(self._numbers)
        return Image("shop/probe", f"2.{number}.0", [Body(f"probe {number}", 2000)], note)

    async def until_ready(self, client: httpx2.AsyncClient) -> None:
        """Wait until readiness answers that pushes are accepted."""

        async def asked() -> bool:
            try:
                return await accepts_pushes(client)
            except httpx2.TransportError:
                return False

        await until_answer(asked, "the registry is ready", WITHIN_S)

    async def check(self, *, full: bool = False) -> None:
        """Check the five statements on the running registry, without pushes beside. `full`: refusals may be 507."""
        async with client_of(self.installation.url) as client:
            await self.until_ready(client)
            assert await self.is_ready(client)
            await self._check_answers(client, {UNAVAILABLE, FULL} if full else {UNAVAILABLE})
            await self._check_sealed_tags(client)
            await asyncio.to_thread(self._check_ledger)
            self.acknowledged.blobs = self._referenced_blobs()
            await asyncio.to_thread(self._collect_garbage)
            await self._check_contents(client)
            assert await self.is_ready(client)

    async def _check_answers(self, client: httpx2.AsyncClient, statuses: set[int]) -> None:
        """1: each answer was one of those that are allowed, and what was refused can be pushed."""
        assert {each.status for each in self.refusals} <= statuses, self.refusals
        for each in self.refusals:
            assert each.status != UNAVAILABLE or int(each.headers["retry-after"]) > 0, each
        await self._check_contents(client)
        for image in self.refused[-REPEATED:]:
            again = partial(self.push, client, image)
            # more than once, since a write of a busy machine may exceed its time
            try:
                await until_answer(again, f"a refused push of {image.repository}:{image.tag} succeeds", WITHIN_S)
            except AssertionError as error:
                raise AssertionError(f"{error}; last refusals: {self.refusals[-2:]}") from error
        self.refused.clear()
        self.refusals.clear()

    async def _check_contents(self, client: httpx2.AsyncClient) -> None:
        await pull_all(client, self.acknowledged)
        for repository, manifest in self.moved:
            url = f"/v2/{repository}/manifests/{Digest.of(manifest)}"
            assert expect(await client.get(url, headers={"accept": OCI_MANIFEST}), 200).content == manifest
        for repository, manifests in self.possible.items():
            answer = await client.get(f"/v2/{repository}/manifests/{MUTABLE}", headers={"accept": OCI_MANIFEST})
            assert (None if answer.status_code == 404 else answer.content) in manifests, f"{repository}: {answer.text}"

    async def _check_sealed_tags(self, client: httpx2.AsyncClient) -> None:
        """2: also tags whose push was not acknowledged resolve to what was pushed, and acknowledged ones refuse another image."""
        for repository in {repository for repository, _ in self.attempted}:
            listed = (await client.get(f"/v2/{repository}/tags/list")).json().get("tags", [])
            for tag in set(listed) - {MUTABLE}:
                answer = await client.get(f"/v2/{repository}/manifests/{tag}", headers={"accept": OCI_MANIFEST})
                assert answer.content == self.attempted[repository, tag], f"{repository}:{tag} is another image"
        for (repository, tag), manifest in list(self.acknowledged.tags.items())[-TRIED_TO_MOVE:]:
            other = manifest + b"\n"  # another digest
            url = f"/v2/{repository}/manifests/{tag}"
            put = partial(client.put, url, content=other, headers={"content-type": OCI_MANIFEST})
            (refused,) = await until_answer(
                partial(decided, put), f"{repository}:{tag} refuses another image", WITHIN_S
            )
            assert refused.status_code == 409, f"{repository}:{tag}: {refused.status_code} {refused.text}"
            assert (await client.get(url, headers={"accept": OCI_MANIFEST})).content == manifest

    def _check_ledger(self) -> None:
        """3: `boltseal ledger monitor`, which remembers what it saw in the previous check, verifies entries and tags."""
        state = self.installation.folder / "monitor"
        asked = ("ledger", "monitor", self.installation.url, "--key", str(self.installation.key), "--state", state)
        done = program.run(*asked, "--tags", "--json", timeout_s=COMMAND_S)
        assert done.code == 0, done.out + done.err
        compared = done.json["results"][0]["compared"]
        assert compared >= len(self.acknowledged.tags), f"{compared} tags compared"

    def _referenced_blobs(self) -> dict[tuple[str, str], int]:
        """Return the blobs to which acknowledged images refer: those of a push that was refused may be deleted after a day."""
        tags = ((repository, manifest) for (repository, _), manifest in self.acknowledged.tags.items())
        return {
            (repository, part["digest"]): part["size"]
            for repository, manifest in (*tags, *self.moved)
            for document in [json.loads(manifest)]
            for part in (document["config"], *document["layers"])
        }

    def _collect_garbage(self) -> None:
        """4: garbage collection now and in two days, then fsck."""
        config, data = self.installation.config_file, self.installation.data
        server = ("--config", config, "--data", data)
        for full in ((), ("--full",)):
            done = program.run("admin", "gc", "--yes", *full, *server, environment=LOGIN, timeout_s=COMMAND_S)
            assert done.code == 0, done.out + done.err
        with open_store(self.installation.settings) as store:
            blobs, later_us = store.blobs, store.database.now_us() + TWO_DAYS_US
            assert blobs.upkeep is not None
            list(FullCollection(store.database, blobs.maintenance, blobs.upkeep, later_us).find_all(dry_run=False))
            list(collect(store.database, blobs.maintenance, blobs.upload_cleanup, later_us, dry_run=False))
            blobs.upkeep.run(later_us)
        done = program.run("admin", "fsck", "--json", *server, environment=LOGIN, timeout_s=COMMAND_S)
        assert done.json["outcome"] == "holds", done.out + done.err
