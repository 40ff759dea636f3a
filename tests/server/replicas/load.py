"""A constant load on all servers of a registry, of everything that clients and operators do, whose requests and answers are recorded.

    images   push images under sealed tags, now and then two different ones under one tag at once, and mount their blobs elsewhere
    tags     put, replace, delete, seal and read a few mutable and deletable tags: the histories for `linear_checker`
    takers   purge images, and remove users who have logged in, and look for what was taken away
    readers  read sealed tags, and what was taken away, from any server
    ledger   collects every checkpoint that a server shows

A request goes to a server at random, by a seed. An answer that was lost, or 503 or 507, decides nothing. Any other refusal must be one that the
request can get without faults; the rest is `unexpected`.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Final

import httpx2

from boltseal.errors import BoltsealError
from boltseal.server.commands.users import remove_user
from tests.images import OCI_INDEX, OCI_MANIFEST, OCTETS, Document, image, with_digest
from tests.replicas import password
from tests.server.replicas.cluster import GUESTS, MAIN, SERVERS, Cluster
from tests.server.replicas.linear_checker import LOST, Answer, Kind, Lost, Operation
from tests.server.replicas.promises import BLOB, Checkpoint, Gone, Image, Read, Record

UNDECIDED: Final = frozenset({503, 507})
TIMEOUT_S: Final = 8.0
LONG_S: Final = 60.0
"""How long a purge may take, which waits for servers that are cut off."""
PAUSE_S, AFTER_FAILURE_S = 0.1, 0.5
APP, MOUNTED, LINEAR, SECRET = "shop/app", "shop/mounted", "shop/linear", "shop/secret"
OPERATIONS, MOST_LOST = 40, 6
"""A history of a tag ends after so many operations, or so many whose answer was lost, so that it can be checked."""
KINDS: Final = (Kind.GET, Kind.GET, Kind.GET, Kind.PUT, Kind.PUT, Kind.CREATE, Kind.REPLACE, Kind.REPLACE, Kind.DELETE)
RECENT: Final = 30
BUNDLE: Final = 256


@dataclass(slots=True)
class Load:
    """The clients. `failed`: by server, how many requests were not decided. `done`: how many of each kind were acknowledged."""

    cluster: Cluster
    seed: int
    record: Record = field(default_factory=Record)
    uploads: list[Image] = field(default_factory=list)
    """Blobs that were answered with 201, which may belong to no image."""
    failed: Counter[int] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    images: list[Document] = field(default_factory=lambda: [image(f"linear {number}") for number in range(4)])
    round: int = 0
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _clients: list[httpx2.AsyncClient] = field(default_factory=list)
    _guests: list[httpx2.AsyncClient] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Load:
        login = httpx2.BasicAuth(MAIN, password(MAIN))
        for replica in self.cluster.replicas:
            self._clients.append(
                httpx2.AsyncClient(base_url=replica.url, timeout=TIMEOUT_S, auth=login, trust_env=False)
            )
            way = httpx2.AsyncHTTPTransport(local_address=self.cluster.network.guests)
            self._guests.append(httpx2.AsyncClient(base_url=replica.url, timeout=TIMEOUT_S, transport=way))
        for each in self.images:
            assert await self._push_parts(0, LINEAR, each), "the images of the tags can be pushed"
        workers = [self._image, self._image, self._tag, self._tag, self._tag, self._take, self._look, self._read_ledger]
        self._tasks = [
            asyncio.create_task(self._repeat(each, random.Random(f"{self.seed} {number}")))  # noqa: S311 - not for secrets
            for number, each in enumerate(workers)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()
        for client in (*self._clients, *self._guests):
            await client.aclose()

    async def end(self) -> None:
        """Send nothing more, and wait for all answers. Raises: what a task raised."""
        self._ended.set()
        tasks, self._tasks = self._tasks, []
        await asyncio.gather(*tasks)

    async def _repeat(self, work: Callable[[random.Random], Coroutine[Any, Any, bool]], dice: random.Random) -> None:
        while not self._ended.is_set():
            pause_s = PAUSE_S if await work(dice) else AFTER_FAILURE_S
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), pause_s)

    async def ask(
        self, server: int, method: str, path: str, *, allowed: frozenset[int] = frozenset({200, 201, 202}), **more: Any
    ) -> httpx2.Response | None:
        """Return the answer to a request, None if it decides nothing. `allowed`: the statuses that it can get without faults."""
        try:
            answer = await self._clients[server].request(method, path, **more)
        except httpx2.TransportError:
            self.failed[server] += 1
            return None
        if answer.status_code in allowed:
            return answer
        if answer.status_code in UNDECIDED:
            self.failed[server] += 1
        else:
            self.unexpected.append(f"server {server}: {method} {path}: {answer.status_code} {answer.text[:300]}")
        return None

    async def read(self, server: int, subject: str) -> Read:
        """Read a tag, manifest or blob, and record what came. `status` None: no answer."""
        repository, kind, reference = parsed(subject)
        sent_s, headers = time.monotonic(), {"Accept": f"{OCI_MANIFEST}, {OCI_INDEX}"}
        path = f"/v2/{repository}/{kind}/{reference}"
        answer = await self.ask(server, "GET", path, allowed=frozenset({200, 404}), headers=headers)
        status = None if answer is None else answer.status_code
        digest = f"sha256:{sha256(answer.content).hexdigest()}" if answer is not None and status == 200 else None
        found = Read(server, subject, sent_s, status, digest)
        self.record.reads.append(found)
        return found

    async def push(self, server: int, repository: str, tag: str, document: Document) -> bool:
        """Push an image under a sealed tag; return whether it was acknowledged."""
        self.record.sealed.add(f"{repository}:{tag}")
        return await self._push_parts(server, repository, document) and await self._put(
            server, repository, tag, document
        )

    async def _image(self, dice: random.Random) -> bool:
        server, number = dice.randrange(SERVERS), next(self.numbers)
        repository, tag = f"{APP}{number % 2}", f"1.{number}.0"
        document = image(f"{self.seed} {number}", layer_count=dice.randrange(1, 3))
        if number % 4:
            pushed = await self.push(server, repository, tag, document)
        else:
            others = (server, document), ((server + 1) % SERVERS, image(f"{self.seed} rival {number}"))
            won = await asyncio.gather(*(self.push(at, repository, tag, each) for at, each in others))
            pushed, self.done["races"] = won[0], self.done["races"] + any(won)
        return pushed and (number % 3 != 0 or await self._mount(dice.randrange(SERVERS), repository, tag, document))

    async def _mount(self, server: int, source: str, tag: str, document: Document) -> bool:
        """Mount the blobs of an image in another repository, and push its manifest there."""
        self.record.sealed.add(f"{MOUNTED}:{tag}")
        for blob in document.blobs:
            question = {"mount": blob.digest, "from": source}
            answer = await self.ask(server, "POST", f"/v2/{MOUNTED}/blobs/uploads/", params=question)
            if answer is None or answer.status_code != 201:
                return False
            self.uploads.append(Image(MOUNTED, None, blob.digest, (blob.digest,)))
            self.done["mounts"] += 1
        return await self._put(server, MOUNTED, tag, document)

    async def _push_parts(self, server: int, repository: str, document: Document) -> bool:
        for number, blob in enumerate(document.blobs):
            sent = self._send_whole if number % 2 else self._send_in_parts
            if not await sent(server, repository, blob.digest, blob.data):
                return False
            if repository != SECRET:
                self.uploads.append(Image(repository, None, blob.digest, (blob.digest,)))
        return True

    async def _send_whole(self, server: int, repository: str, digest: str, data: bytes) -> bool:
        path, headers = f"/v2/{repository}/blobs/uploads/", {"Content-Type": OCTETS}
        return (
            await self.ask(server, "POST", path, params={"digest": digest}, content=data, headers=headers) is not None
        )

    async def _send_in_parts(self, server: int, repository: str, digest: str, data: bytes) -> bool:
        began = await self.ask(server, "POST", f"/v2/{repository}/blobs/uploads/")
        if began is None:
            return False
        headers = {"Content-Type": OCTETS}
        sent = await self.ask(server, "PATCH", path_of(began), content=data, headers=headers)
        if sent is None:
            return False
        return await self.ask(server, "PUT", with_digest(path_of(sent), digest)) is not None

    async def _put(self, server: int, repository: str, tag: str, document: Document) -> bool:
        answer = await self.ask(
            server, "PUT", f"/v2/{repository}/manifests/{tag}", content=document.raw,
            headers={"Content-Type": document.media_type}, allowed=frozenset({201, 409}),
        )  # fmt: skip
        if answer is None or answer.status_code != 201:
            return False
        if repository != SECRET:
            entry = int(answer.headers["boltseal-ledger-index"])
            blobs = tuple(each.digest for each in document.blobs)
            self.record.images.append(Image(repository, tag, document.digest, blobs, entry))
        self.done[f"pushes at {server}"] += 1
        return True

    async def _tag(self, dice: random.Random) -> bool:
        tag = f"{dice.choice(('floating', 'deletable'))}-{self.round}"
        history = self.record.histories[tag]
        lost = sum(each.answer is LOST and each.end < math.inf for each in history)
        if len(history) >= OPERATIONS or lost >= MOST_LOST:
            self.round += 1
            return True
        kind, server, document = dice.choice(KINDS), dice.randrange(SERVERS), dice.choice(self.images)
        if (
            kind is Kind.REPLACE
            and tag.startswith("floating")
            and len(history) > OPERATIONS // 2
            and dice.random() < 0.2
        ):
            kind = Kind.SEAL
        expected = dice.choice(self.images).digest
        asked = Operation(kind, time.monotonic(), math.inf, LOST, document.digest, expected)
        # A check that is made meanwhile must know of this operation: others may see its effect before its answer.
        history.append(asked)
        answer = await self._operate(server, tag, asked, document)
        history.remove(asked)
        if answer is not LOST or kind is not Kind.GET:
            history.append(replace(asked, end=time.monotonic(), answer=answer))
        if answer in {200, 201, 202}:
            self.done[kind.value] += 1
            if answer == 201:
                blobs = tuple(each.digest for each in document.blobs)
                self.record.images.append(Image(LINEAR, tag, document.digest, blobs, sealed=False))
        return answer is not LOST

    async def _operate(self, server: int, tag: str, asked: Operation, document: Document) -> Answer | Lost:
        path = f"/v2/{LINEAR}/manifests/{tag}"
        if asked.kind is Kind.GET:
            got = await self.ask(server, "HEAD", path, allowed=frozenset({200, 404}))
            if got is None:
                return LOST
            return got.headers["Docker-Content-Digest"] if got.status_code == 200 else None
        if asked.kind is Kind.DELETE:
            answer = await self.ask(server, "DELETE", path, allowed=frozenset({202, 404, 405}), timeout=LONG_S)
        elif asked.kind is Kind.SEAL:
            words = {"repository": LINEAR, "tag": tag, "reason": "a test"}
            answer = await self.ask(server, "POST", "/api/v1/seal", json=words, allowed=frozenset({200, 404}))
        else:
            conditions = {Kind.CREATE: {"If-None-Match": "*"}, Kind.REPLACE: {"If-Match": f'"{asked.expected}"'}}
            headers = {"Content-Type": document.media_type, **conditions.get(asked.kind, {})}
            answer = await self.ask(
                server, "PUT", path, content=document.raw, headers=headers, allowed=frozenset({201, 409, 412})
            )
        return LOST if answer is None else answer.status_code

    async def _take(self, dice: random.Random) -> bool:
        return await (self._purge(dice) if dice.random() < 0.5 else self._remove_user(dice))

    async def _purge(self, dice: random.Random) -> bool:
        """Push an image, read it everywhere, purge it, and look for it everywhere."""
        number = next(self.numbers)
        tag, document = f"2.{number}.0", image(f"{self.seed} secret {number}")
        if not await self.push(dice.randrange(SERVERS), SECRET, tag, document):
            return False
        secret = Image(SECRET, tag, document.digest, tuple(each.digest for each in document.blobs))
        await self._read_everywhere(secret)
        words: dict[str, object] = {"repository": SECRET, "reference": tag, "reason": "a test"}
        planned = await self.ask(dice.randrange(SERVERS), "POST", "/api/v1/purge", json=words | {"dry_run": True})
        if planned is None:
            return False
        server, words = dice.randrange(SERVERS), words | {"plan": planned.json()["plan"]}
        if await self.ask(server, "POST", "/api/v1/purge", json=words, timeout=LONG_S) is None:
            return False
        at_s = time.monotonic()
        self.record.gone.extend(Gone(subject, at_s) for subject in secret.subjects)
        self.done["purges"] += 1
        await self._read_everywhere(secret)
        return True

    async def _read_everywhere(self, found: Image) -> None:
        await asyncio.gather(*(self.read(server, subject) for server in range(SERVERS) for subject in found.subjects))

    async def _remove_user(self, dice: random.Random) -> bool:
        """Add a user, who pulls by password and by token, remove the user, and try both again everywhere."""
        guest, settings = GUESTS[next(self.numbers) % len(GUESTS)], self.cluster.registry.settings("replica0")
        subject, login = f"user {guest}", httpx2.BasicAuth(guest, password(guest))
        try:
            await asyncio.to_thread(self.cluster.registry.add_user, guest)
            token = await self._token(dice.randrange(SERVERS), login)
            for server in range(SERVERS):
                await self._pull_as(server, subject, auth=login)
                await self._pull_as(server, subject, headers=token)
            await asyncio.to_thread(remove_user, settings, guest)
        except BoltsealError:
            return False
        self.record.gone.append(Gone(subject, time.monotonic()))
        self.done["removed users"] += 1
        for server in range(SERVERS):
            await self._pull_as(server, subject, auth=login)
            await self._pull_as(server, subject, headers=token)
        return True

    async def _token(self, server: int, login: httpx2.BasicAuth) -> dict[str, str]:
        with suppress(httpx2.TransportError):
            asked = {"scope": f"repository:{LINEAR}:pull", "service": "boltseal"}
            answer = await self._guests[server].get("/token", params=asked, auth=login)
            if answer.status_code == 200:
                return {"Authorization": f"Bearer {answer.json()['token']}"}
        return {"Authorization": "Bearer none"}

    async def _pull_as(self, server: int, subject: str, **credentials: Any) -> None:
        sent_s = time.monotonic()
        path = f"/v2/{LINEAR}/blobs/{self.images[0].config.digest}"
        with suppress(httpx2.TransportError):
            status = (await self._guests[server].get(path, **credentials)).status_code
            self.record.reads.append(Read(server, subject, sent_s, status))
            self.done["pulls of users"] += status == 200

    async def _look(self, dice: random.Random) -> bool:
        """Read something from any server: more often what is new or was taken away."""
        gone = [each.subject for each in self.record.gone[-RECENT:] if not each.subject.startswith("user ")]
        images = [subject for each in self.record.images[-RECENT:] for subject in each.subjects]
        subjects = gone if gone and dice.random() < 0.5 else images
        if not subjects:
            return True
        read = await self.read(dice.randrange(SERVERS), dice.choice(subjects))
        return read.status is not None

    async def _read_ledger(self, dice: random.Random) -> bool:
        return await self.read_checkpoint(dice.randrange(SERVERS))

    async def read_checkpoint(self, server: int) -> bool:
        """Record the checkpoint that a server shows; return whether it showed one."""
        answer = await self.ask(server, "GET", "/ledger/checkpoint", allowed=frozenset({200, 404}))
        if answer is None or answer.status_code == 404:
            return False
        _, size, root, *_ = answer.text.split("\n")
        seen = Checkpoint(server, int(size), base64.b64decode(root))
        if seen not in self.record.checkpoints[-RECENT:]:
            self.record.checkpoints.append(seen)
        return True

    async def read_entries(self, least: int) -> bool:
        """Read all entries up to the newest checkpoint that was seen, as bundles of C2SP tlog-tiles.

        Return whether all came, and at least so many: a signature follows the push by a moment.
        """
        await self.read_checkpoint(0)
        size = max((each.size for each in self.record.checkpoints), default=0)
        entries: list[bytes] = []
        for start in range(0, size, BUNDLE):
            width = min(BUNDLE, size - start)
            path = f"/ledger/tile/entries/{start // BUNDLE:03d}" + ("" if width == BUNDLE else f".p/{width}")
            answer = await self.ask(0, "GET", path)
            if answer is None:
                return False
            entries += entries_of(answer.content)
        self.record.entries = entries
        return size >= least


def entries_of(bundle: bytes) -> list[bytes]:
    """Return the entries of a bundle, each of which follows its length in two bytes."""
    found, at = [], 0
    while at < len(bundle):
        length = int.from_bytes(bundle[at : at + 2])
        found.append(bundle[at + 2 : at + 2 + length])
        at += 2 + length
    return found


def parsed(subject: str) -> tuple[str, str, str]:
    """Return repository, `manifests` or `blobs`, and tag or digest of a subject of `Image.subjects`."""
    for separator, kind in ((BLOB, "blobs"), ("@", "manifests")):
        if separator in subject:
            repository, _, digest = subject.partition(separator)
            return repository, kind, digest
    repository, _, tag = subject.rpartition(":")
    return repository, "manifests", tag


def path_of(answer: httpx2.Response) -> str:
    """Return the path and query of an answer's Location, which has the registry's public name."""
    return httpx2.URL(answer.headers["Location"]).raw_path.decode()
