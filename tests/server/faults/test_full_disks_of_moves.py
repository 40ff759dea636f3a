"""A full disk of PostgreSQL or of the S3 server during a move: one line says so, the source serves, and a repetition ends the move."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from boltseal.server.settings import Settings
from boltseal.server.storage.metadata.move_fence import COPYING, MOVED, MOVING, read_fence
from boltseal.server.store_factory import examine_store
from tests import servers
from tests.cli import program
from tests.images import Blob, image, push, push_blob
from tests.object_faults import Fault, faulty, no_fault
from tests.polling import until_answer, until_signed, wait_until
from tests.server.commands import moving
from tests.server.faults.checker import WITHIN_S
from tests.server.faults.conftest import PROCESSES_END, start_again
from tests.serving import serving, serving_as
from tests.soak.processes import ballast
from tests.storage_servers import ObjectServer, Postgres, postgres, seaweedfs

pytestmark = [pytest.mark.real, pytest.mark.slow]

MEBIBYTE = 1024 * 1024
LARGE_MANIFESTS, NOTE_BYTES = 6, 2 * MEBIBYTE
LARGE_BLOB_BYTES = 6 * MEBIBYTE
Answers = dict[str, tuple[int, bytes, str | None]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A registry whose rows and blobs need more space than a full disk has in reserve."""
    data = tmp_path / "old"
    asyncio.run(moving.fill(data))
    asyncio.run(_grow(data))
    return data


async def _grow(data: Path) -> None:
    async with serving(data) as registry:
        await push_blob(registry.client, "shop/app", Blob(os.urandom(LARGE_BLOB_BYTES)))
        size = 0
        for number in range(LARGE_MANIFESTS):
            note = {"note": os.urandom(NOTE_BYTES // 2).hex()}
            pushed = await push(registry.client, "shop/large", f"1.0.{number}", image("one", annotations=note))
            size = int(pushed.headers["Boltseal-Ledger-Index"]) + 1
        await until_signed(registry.client, size)


@dataclass(slots=True)
class Migration:
    """Runs of `admin migrate` beside the server of the source. `refusals`: the line that each run printed which did not end the move."""

    source: Path
    url: str
    config: Path
    before: Answers = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    states: list[str | None] = field(default_factory=list)

    async def run(self) -> bool:
        """Run the command, check what it says and what the source answers. Return whether the move is done."""
        done = await asyncio.to_thread(program.call, "admin", "migrate", "--from", self.source, "--config", self.config)
        fence = read_fence(self.source)
        is_open = fence is None or fence.state == COPYING
        async with httpx2.AsyncClient(base_url=self.url) as client:
            assert await moving.answers(client) == self.before
            begun = await client.post("/v2/shop/app/blobs/uploads/")
        if done.code == 0:
            assert begun.status_code == 503
            return True
        assert (done.code, len(done.err.splitlines())) == (3, 1), done.err
        assert begun.status_code == (202 if is_open else 503)
        self.refusals.append(done.err)
        self.states.append(None if fence is None else fence.state)
        return False


@contextmanager
def migration(source: Path, folder: Path, target: Settings) -> Iterator[Migration]:
    """Run the server of the source, and prepare its move."""
    with servers.boltseal(source) as server:
        yield Migration(source, server.url, moving.config(folder, target))


async def answers_of(url: str) -> Answers:
    """Return what a server answers to all reads."""
    async with httpx2.AsyncClient(base_url=url) as client:
        return await moving.answers(client)


async def whole(target: Settings, before: Answers) -> None:
    """Check the moved registry: `admin fsck` finds nothing, and every read gets the former answer."""
    examined = await asyncio.to_thread(examine_store, target, moving.quiet)
    async with serving_as(target) as new:
        after = await moving.answers(new.client)

    assert not examined.findings
    assert after == before


@pytest.fixture(autouse=True)
def _login(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in moving.AWS.items():
        monkeypatch.setenv(name, value)


async def test_the_disk_of_postgresql_is_full_during_a_move(
    tmp_path: Path, disk: Path, source: Path, object_server: ObjectServer
) -> None:
    """With no space, and a little more for each run: the move stops where the space ends, and is completed once there is enough."""
    with postgres(settings=PROCESSES_END, inside=disk) as server:
        target = moving.target(tmp_path, server, object_server)
        with migration(source, tmp_path, target) as move:
            move.before = await answers_of(move.url)
            leave, done = 0, False
            while not done:
                with ballast(disk, leave):
                    done = await move.run()
                await asyncio.to_thread(start_again, server)
                leave = max(MEBIBYTE // 4, leave * 2)
        await whole(target, move.before)

    assert len(move.refusals) >= 4
    assert any("no space left" in line for line in move.refusals), move.refusals
    assert all("the source st" in line and "repeat the command" in line for line in move.refusals), move.refusals
    assert len(set(move.states)) >= 2, move.states


@dataclass(slots=True)
class FillsTheDisk:
    """A plan of the proxy that fills a disk at the first write below a folder of the bucket. `full`: whether it did."""

    disk: Path
    stack: ExitStack
    folder: str
    full: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def plan(self, method: str, path: str) -> Fault | None:
        """Let each request pass, some on a disk that is full then."""
        with self.lock:
            if method in ("PUT", "POST") and self.folder in path and not self.full:
                self.full = True
                self.stack.enter_context(ballast(self.disk))
        return None


@pytest.mark.parametrize(("folder", "state"), [("/blobs/", COPYING), ("/tile/", MOVING), ("/manifests/", MOVED)])
async def test_the_disk_of_the_s3_server_is_full_during_a_move(
    tmp_path: Path,
    disk: Path,
    source: Path,
    postgres_server: Postgres,
    object_server: ObjectServer,
    folder: str,
    state: str,
) -> None:
    """The disk is full from the first write below a folder on: the move stops there, and is completed when there is space."""
    with seaweedfs(inside=disk) as server, faulty(server) as proxy:
        target = moving.target(tmp_path, postgres_server, object_server)
        s3 = target.storage.s3.model_copy(update={"endpoint": proxy.endpoint})
        target = target.model_copy(update={"storage": target.storage.model_copy(update={"s3": s3})})
        with migration(source, tmp_path, target) as move:
            move.before = await answers_of(move.url)
            with ExitStack() as stack:
                proxy.plan = FillsTheDisk(disk, stack, folder).plan
                done = await move.run()
            proxy.plan = no_fault
            await asyncio.to_thread(restart, server)
            await until_answer(move.run, "the S3 server has noticed the space, and the move is completed", WITHIN_S)
        await whole(target, move.before)

    assert not done
    assert set(move.states) == {state}
    assert all("can't be written: the S3 server answers 500 (InternalError)" in line for line in move.refusals), (
        move.refusals
    )
    assert all("repeat the command" in line for line in move.refusals), move.refusals


def restart(server: ObjectServer) -> None:
    """Start SeaweedFS again, whose list of objects (a LevelDB) takes no more writes once its log could not be written."""
    server.stop()
    server.start()
    wait_until(server.answers, "SeaweedFS stores an object", WITHIN_S)


@pytest.mark.parametrize("whose", ["PostgreSQL", "the S3 server"])
async def test_a_disk_is_full_while_a_move_is_undone(
    tmp_path: Path, disk: Path, source: Path, postgres_server: Postgres, object_server: ObjectServer, whose: str
) -> None:
    """Undone with no space, and a little more for each run that failed: the source takes pushes only once the move is undone."""
    is_database, leave, done = whose == "PostgreSQL", 0, False
    with ExitStack() as servers_on_it:
        if is_database:
            postgres_server = servers_on_it.enter_context(postgres(settings=PROCESSES_END, inside=disk))
        else:
            object_server = servers_on_it.enter_context(seaweedfs(inside=disk))
        target = moving.target(tmp_path, postgres_server, object_server)
        with migration(source, tmp_path, target) as move:
            move.before = await answers_of(move.url)
            assert await move.run()
            while not done:
                with ballast(disk, leave):
                    undone = await asyncio.to_thread(
                        program.call, "admin", "migrate", "--from", source, "--config", move.config, "--undo"
                    )
                await asyncio.to_thread(*((start_again, postgres_server) if is_database else (restart, object_server)))
                done = undone.code == 0
                assert done or (undone.code, len(undone.err.splitlines())) == (3, 1), undone.err
                assert done or "repeat the command" in undone.err
                assert await begin(move.url) == (202 if done else 503)
                leave = max(MEBIBYTE // 4, leave * 2)
            after = await answers_of(move.url)

    assert after == move.before


async def begin(url: str) -> int:
    """Return what a server answers to the begin of an upload: 202, or 503 while it takes no pushes."""
    async with httpx2.AsyncClient(base_url=url) as client:
        return (await client.post("/v2/shop/app/blobs/uploads/")).status_code
