"""Clients that race for space, shared blobs and upload sessions at several servers of one registry."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx2
import pytest

from tests.images import Blob, Document, artifact, digest_of, image, push_blob, put, start_upload, with_digest
from tests.polling import until_answer
from tests.server.replicas.collector import AGED
from tests.server.replicas.racing import (
    CLIENTS,
    QUOTA_BYTES,
    QUOTA_REPOSITORIES,
    SERVERS,
    Racing,
    RunningServers,
    details,
    racing,
)
from tests.server.replicas.stopped_holder import DONE, holder
from tests.soak.scale import IS_FULL

pytestmark = [pytest.mark.real, pytest.mark.slow]

ROUNDS = 200 if IS_FULL else 4
QUOTA_ROUNDS = 50 if IS_FULL else 2
"""Each with a user of its own, since repositories that a user has created count for ever."""
ATTEMPTS = 4
"""Of a client in a round of mounts."""
CHUNKS, CHUNK_BYTES = 3, 40_000
BUSY_REPEATS = 20
USED = """
SELECT coalesce((SELECT sum(size) FROM blob WHERE added_by = %(user)s AND hidden_us IS NULL), 0)
  + coalesce((SELECT sum(size) FROM manifest WHERE pushed_by = %(user)s), 0)
"""
LEFT = "SELECT count(*) FROM blob b JOIN repository r ON r.id = b.repository_id WHERE r.name LIKE %(source)s"


@dataclass(slots=True)
class Space:
    """What a user pushes to repositories with a quota. `stored`: sizes by path of what was acknowledged; `refused`: of what was not."""

    racers: Racing
    user: str
    stored: dict[str, int] = field(default_factory=dict)
    refused: list[int] = field(default_factory=list)

    async def push(self, client: httpx2.AsyncClient, target: tuple[str, Document]) -> None:
        """Push an image to a repository up to the first refusal, which must be that of the quota."""
        repository, document = target
        for blob in document.blobs:
            answer = await client.post(
                f"/v2/{repository}/blobs/uploads/", params={"digest": blob.digest}, content=blob.data
            )
            if not self._counts(answer, f"{repository}/blobs/{blob.digest}", len(blob.data)):
                return
        answer = await put(client, repository, document.digest, document)
        self._counts(answer, f"{repository}/manifests/{document.digest}", len(document.raw))

    def _counts(self, answer: httpx2.Response, path: str, size: int) -> bool:
        if answer.status_code == 201:
            self.stored[path] = size
            return True
        reason = (answer.status_code, details([answer])[0]["reason"])
        self.racers.check(f"refusal of {path}", reason, (403, "quota"))
        self.refused.append(size)
        return False

    def used(self) -> int:
        """Return how many bytes the database has of the user."""
        return int(self.racers.rows(USED, user=self.user)[0][0])

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[list[int]]:
        """Look at the bytes in the database all the time inside the block."""
        found: list[int] = []

        async def watch() -> None:
            while True:
                found.append(await asyncio.to_thread(self.used))

        task = asyncio.create_task(watch())
        try:
            yield found
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def delete(self, users: Racing) -> None:
        """Delete everything at all servers, images before their parts."""
        for kind in ("/manifests/", "/blobs/"):
            paths = [path for path in self.stored if kind in path]
            answers = await users.each(paths, lambda client, path: client.delete(f"/v2/{path}"))
            self.racers.check(f"deletes of {self.user}", {answer.status_code for _, answer in answers}, {202})
        self.stored.clear()
        self.refused.clear()


async def test_pushes_to_all_servers_never_exceed_a_quota(racers: Racing) -> None:
    """What is stored stays within the quota at each moment; what would have fitted is not refused; deletes free space again."""
    for number in range(QUOTA_ROUNDS):
        space = Space(racers, f"user{number}")
        login = await asyncio.to_thread(racers.running.add_user, space.user)
        images = [artifact(racers.dice.randbytes(4000).hex()) for _ in range(CLIENTS)]
        targets = [(f"quota/{number}/{each % 4}", document) for each, document in enumerate(images)]
        async with racers.running.clients(login) as clients:
            users = Racing(racers.running, clients, racers.dice, racers.wrong)
            for again in ("first", "after deletes"):
                async with space.watched() as moments:
                    await users.each(targets, space.push)
                where, used = f"{space.user} {again}", space.used()
                racers.check(f"most of {where}", max([*moments, used]) <= QUOTA_BYTES, True)
                racers.check(f"acknowledged of {where}", used, sum(space.stored.values()))
                racers.check(f"least refused of {where}", used + min(space.refused, default=0) > QUOTA_BYTES, True)
                for path in space.stored:
                    answers = [(await client.head(f"/v2/{path}")).status_code for client in racers.one_of_each]
                    racers.check(f"pulls of {path}", answers, [200] * SERVERS)
                await space.delete(users)
                racers.check(f"deleted of {where}", space.used(), 0)
                racers.check_ledger(where)

    assert racers.wrong == []
    assert await racers.findings() == []


async def test_new_repositories_at_all_servers_never_exceed_a_quota(racers: Racing) -> None:
    """Of clients that each push to a new repository as one user, so many succeed as the user may create."""
    blob = Blob(b"of each repository")
    for number in range(QUOTA_ROUNDS):
        user = f"maker{number}"
        login = await asyncio.to_thread(racers.running.add_user, user)
        async with racers.running.clients(login) as clients:
            users = Racing(racers.running, clients, racers.dice, racers.wrong)

            async def push(client: httpx2.AsyncClient, repository: str) -> httpx2.Response:
                return await client.post(
                    f"/v2/{repository}/blobs/uploads/", params={"digest": blob.digest}, content=blob.data
                )

            answers = [answer for _, answer in await users.each([f"quota/{user}/{n}" for n in range(CLIENTS)], push)]
        refused = [answer for answer in answers if answer.status_code != 201]
        created = racers.rows("SELECT count(*) FROM repository WHERE created_by = %(user)s", user=user)[0][0]
        racers.check(f"created by {user}", (created, CLIENTS - len(refused)), (QUOTA_REPOSITORIES, QUOTA_REPOSITORIES))
        racers.check(
            f"refusals of {user}",
            {(answer.status_code, detail["reason"]) for answer, detail in zip(refused, details(refused), strict=True)},
            {(403, "quota")},
        )
        racers.check_ledger(user)

    assert racers.wrong == []
    assert await racers.findings() == []


@pytest.fixture
def collecting(running_servers: RunningServers) -> Iterator[subprocess.Popen[str]]:
    """A process that collects garbage all the time."""
    registry = running_servers.registry
    config = registry.folder / "collector.toml"
    shutil.copy(registry.folder / "replica0.toml", config)
    command = [sys.executable, "-m", "tests.server.replicas.collector", str(config), str(registry.folder / "collector")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "collecting\n"
        try:
            yield process
        finally:
            process.terminate()


async def mount(client: httpx2.AsyncClient, repository: str, blob: Blob, source: str) -> httpx2.Response:
    """Ask for a blob of another repository."""
    asked = {"mount": blob.digest, "from": source}
    return await client.post(f"/v2/{repository}/blobs/uploads/", params=asked)


@dataclass(slots=True)
class MountRound:
    """A layer that is pushed to a repository and deleted there again and again, while clients mount it from there.

    `published`: where an image of it was accepted. `statuses`: of the mounts.
    """

    racers: Racing
    source: str
    tag: str
    document: Document
    published: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def layer(self) -> Blob:
        """The blob that is mounted."""
        return self.document.layers[0]

    async def push(self, client: httpx2.AsyncClient, repository: str) -> None:
        """Push the layer, again and again."""
        for _ in range(ATTEMPTS):
            await push_blob(client, repository, self.layer)

    async def delete(self, client: httpx2.AsyncClient, repository: str) -> None:
        """Delete the layer, again and again."""
        for _ in range(ATTEMPTS):
            answer = await client.delete(f"/v2/{repository}/blobs/{self.layer.digest}")
            self.racers.check(f"delete in {repository}", answer.status_code in {202, 404}, True)

    async def mount(self, client: httpx2.AsyncClient, repository: str) -> None:
        """Mount the layer; when that got 201, publish an image of it, and pull that from all servers."""
        await push_blob(client, repository, self.document.config)
        for _ in range(ATTEMPTS):
            answer = await mount(client, repository, self.layer, self.source)
            self.statuses[answer.status_code] += 1
            if answer.status_code == 201:
                await self._publish(client, repository)
                return
            await client.delete(path_of(answer.headers["Location"]))

    async def _publish(self, client: httpx2.AsyncClient, repository: str) -> None:
        where = f"{repository}:{self.tag}"
        pushed = await put(client, repository, self.tag, self.document)
        self.racers.check(f"push of what was mounted to {where}", pushed.status_code, 201)
        right = Counter({True: SERVERS * len(self.document.blobs)})
        self.racers.check(f"blobs of {where}", await self.racers.blob_answers(repository, self.document), right)
        self.published.append(repository)


async def test_what_was_mounted_survives_deletes_and_garbage_collection(
    racers: Racing, collecting: subprocess.Popen[str]
) -> None:
    """A mount that got 201 has its bytes at every server, and an image of it is accepted, while its source is deleted and collected."""
    rounds = []
    for number in range(ROUNDS):
        this = MountRound(racers, f"{AGED}-{number % 2}", f"1.{number}", image(f"mounted {number}"))
        rounds.append(this)
        asked = [(this.mount, f"races/target-{each}") for each in range(CLIENTS // 2)]
        asked += [(this.delete, this.source), (this.push, this.source)] * (CLIENTS // 4)
        await racers.each(asked, lambda client, each: each[0](client, each[1]))
        racers.check_ledger(this.tag)

    async def collected() -> bool:
        return racers.rows(LEFT, source=f"{AGED}%")[0][0] == 0

    await until_answer(collected, "the sources have lost their blobs")
    collecting.terminate()
    output, _ = await asyncio.to_thread(collecting.communicate)
    counted = json.loads(output)
    for each in rounds:
        for repository in each.published:
            await racers.check_tag(repository, each.tag, each.document)
    mounts = sum((each.statuses for each in rounds), Counter[int]())

    assert racers.wrong == []
    assert {*mounts} == {201, 202}
    assert {"repository-blob", "hidden-blob"} <= {*counted}
    assert await racers.findings() == []


def test_a_mount_between_a_collection_and_its_delete_keeps_its_bytes(running_servers: RunningServers) -> None:
    """The collection is stopped when it has released bytes and not deleted them; what is pushed again and mounted meanwhile stays."""
    source, target, document = "races/given-up", "races/kept", image("given up")
    [layer] = document.layers

    async def delete() -> None:
        async with racing(running_servers, "delete") as racers:
            await push_blob(racers.clients[0], source, layer)
            assert (await racers.clients[1].delete(f"/v2/{source}/blobs/{layer.digest}")).status_code == 202

    async def push_and_mount() -> list[int]:
        async with racing(running_servers, "push and mount") as racers:
            first, second, third = racers.one_of_each
            await push_blob(first, target, document.config)
            before = await mount(first, target, layer, source)
            await push_blob(second, source, layer)
            after = await mount(third, target, layer, source)
            pushed = await put(first, target, "1.0", document)
            return [before.status_code, after.status_code, pushed.status_code]

    async def check() -> list[str]:
        async with racing(running_servers, "check") as racers:
            await racers.check_tag(target, "1.0", document)
            return racers.wrong

    settings = running_servers.registry.settings("replica0")
    with holder(settings, "collect garbage", None, "spawn") as collector:
        assert collector.result() == DONE  # nothing of other tests is left to be deleted
    asyncio.run(delete())
    with holder(settings, "collect garbage", "ObjectMaintenance.delete", "spawn") as collector:
        collector.wait_stopped()
        statuses = asyncio.run(push_and_mount())
        result = collector.go_on()

    assert statuses == [202, 201, 201]
    assert result == DONE
    assert asyncio.run(check()) == []


@dataclass(frozen=True, slots=True)
class Session:
    """An upload session, whose requests go to different servers."""

    racers: Racing
    path: str

    async def send(
        self, client: httpx2.AsyncClient, method: str, path: str, content: bytes, start: int
    ) -> httpx2.Response:
        """Send a chunk, and again after 503: another request had the session for too long."""
        headers = {"Content-Range": f"{start}-{start + len(content) - 1}"}
        for _ in range(BUSY_REPEATS):
            answer = await client.request(method, path, content=content, headers=headers)
            if answer.status_code != 503:
                return answer
        raise AssertionError(f"{method} {path}: {answer.text}")

    async def raced_chunk(self, start: int) -> bytes:
        """Let two clients send different bytes for one offset to two servers at the same time. Returns those that were accepted."""
        offered = [self.racers.dice.randbytes(CHUNK_BYTES) for _ in range(2)]
        clients = self.racers.dice.sample(self.racers.one_of_each, 2)
        answers = await asyncio.gather(
            *(self.send(client, "PATCH", self.path, each, start) for client, each in zip(clients, offered, strict=True))
        )
        found = {answer.status_code: each for each, answer in zip(offered, answers, strict=True)}
        ranges = {answer.headers.get("Range") for answer in answers}
        where = f"offset {start} of {self.path}"
        self.racers.check(f"answers for {where}", sorted(found), [202, 416])
        self.racers.check(f"ranges for {where}", ranges, {f"0-{start + CHUNK_BYTES - 1}"})
        return found.get(202, b"")

    async def raced_end(self, data: bytes, last: bytes) -> None:
        """Let two clients finish the session at two servers at the same time."""
        path = with_digest(self.path, digest_of(data + last))
        clients = self.racers.dice.sample(self.racers.one_of_each, 2)
        answers = await asyncio.gather(*(self.send(client, "PUT", path, last, len(data)) for client in clients))
        self.racers.check(f"ends of {self.path}", sorted(answer.status_code for answer in answers), [201, 404])


async def test_chunks_of_one_upload_go_to_all_servers(racers: Racing) -> None:
    """An upload that begins at one server is continued at the two others and finished at the first, with the right digest."""
    repository = "races/chunks"

    async def upload(_: httpx2.AsyncClient, number: int) -> None:
        clients = racers.dice.sample(racers.one_of_each, SERVERS)
        session = Session(racers, path_of(await start_upload(clients[0], repository)))
        pieces = [racers.dice.randbytes(CHUNK_BYTES) for _ in range(CHUNKS)]
        for each, piece in enumerate(pieces):
            client = clients[(each + 1) % SERVERS]
            answer = await session.send(client, "PATCH", session.path, piece, each * CHUNK_BYTES)
            racers.check(f"chunk {each} of upload {number}", answer.status_code, 202)
        data = b"".join(pieces)
        wrong = await clients[1].put(with_digest(session.path, digest_of(data[1:])))
        racers.check(f"wrong digest of upload {number}", wrong.status_code, 400)
        ended = await clients[0].put(with_digest(session.path, digest_of(data)))
        racers.check(f"end of upload {number}", ended.status_code, 201)
        await check_blob(racers, repository, data)

    for number in range(ROUNDS):
        await racers.each([number * CLIENTS + each for each in range(CLIENTS)], upload)

    assert racers.wrong == []
    assert await racers.findings() == []


async def test_of_two_chunks_for_one_offset_at_two_servers_one_is_kept(racers: Racing) -> None:
    """One gets 202 and the other 416 with the session's range; the blob has the accepted bytes, and one client finishes it."""
    repository = "races/offsets"

    async def upload(client: httpx2.AsyncClient, _: int) -> None:
        session, data = Session(racers, path_of(await start_upload(client, repository))), b""
        for each in range(CHUNKS):
            data += await session.raced_chunk(each * CHUNK_BYTES)
        last = racers.dice.randbytes(CHUNK_BYTES)
        await session.raced_end(data, last)
        await check_blob(racers, repository, data + last)

    for _ in range(ROUNDS):
        await racers.each(range(CLIENTS // 2), upload)

    assert racers.wrong == []
    assert await racers.findings() == []


def path_of(location: str) -> str:
    """Return a Location without the host, which is the registry's public one."""
    return httpx2.URL(location).raw_path.decode()


async def check_blob(racers: Racing, repository: str, data: bytes) -> None:
    """Check that all servers have a blob with these bytes."""
    path = f"/v2/{repository}/blobs/{digest_of(data)}"
    answers = [await client.get(path) for client in racers.one_of_each]
    racers.check(path, [answer.content == data for answer in answers], [True] * SERVERS)
