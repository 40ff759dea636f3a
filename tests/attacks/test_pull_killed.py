"""`boltseal pull` and `keep restore` killed at every step: the tag has the old or the new image, and no image is left
untagged."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from tests import servers
from tests.cli import program
from tests.fakes.engine import FakeEngine, Hang
from tests.images import Document, image, push
from tests.servers import Server

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_personal_settings")]

REPOSITORY = "shop/app"
OLD, NEW = image("old"), image("new")


@asynccontextmanager
async def pulling(
    *arguments: str, engine: str, command: tuple[str, ...] = ("pull",)
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `boltseal pull`, or another command, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "boltseal", *command, *arguments, "--host", engine),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=program.clean_environment(),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def publish(server: Server, fake: FakeEngine, document: Document) -> None:
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        assert (await push(client, REPOSITORY, "latest", document)).status_code == 201
    pulled = f"{server.address}/{REPOSITORY}@{document.digest}"
    fake.pullable[pulled] = {"Id": document.config.digest, "RepoTags": [], "RepoDigests": [pulled], "Os": "linux"}


def steps(name: str) -> list[str]:
    """Return every request by which a pull changes an image store or learns that it did."""
    return [
        "POST images/create",
        f"GET images/{name.removesuffix(':latest')}@{NEW.digest}/json",
        f"POST images/{OLD.config.digest}/tag",
        f"POST images/{NEW.config.digest}/tag",
    ]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One registry for all tests of this file."""
    with servers.boltseal(tmp_path_factory.mktemp("killed") / "data") as server:
        yield server


@pytest.fixture
async def engine(registry: Server) -> FakeEngine:
    """An engine whose `latest` is the old image, while the registry's is the new one."""
    fake = FakeEngine()
    for document in (OLD, NEW):
        await publish(registry, fake, document)
    pulled = f"{registry.address}/{REPOSITORY}@{OLD.digest}"
    fake.images[OLD.config.digest] = fake.pullable[pulled] | {"RepoTags": [name_at(registry)]}
    return fake


def name_at(registry: Server) -> str:
    return f"{registry.address}/{REPOSITORY}:latest"


CUTS = [(how, done, at) for at in range(4) for how, done in ((signal.SIGKILL, False), (signal.SIGKILL, True))]


@pytest.mark.parametrize(("how", "done", "at"), [*CUTS, (signal.SIGINT, False, 0), (signal.SIGINT, True, 3)])
async def test_a_killed_pull_is_completed_by_the_next(
    registry: Server, engine: FakeEngine, tmp_path: Path, how: signal.Signals, done: bool, at: int
) -> None:
    """A pull killed before a step, or after it but before the answer, is completed by the next pull."""
    name = name_at(registry)
    keep = f"{name.removesuffix('latest')}boltseal-keep-{OLD.digest[7:19]}"
    step = steps(name)[at]
    hang = engine.hangs[step] = Hang(done)
    async with engine.listening(tmp_path) as address:
        async with pulling(name, engine=str(address)) as process:
            await asyncio.wait_for(hang.arrived.wait(), 30)
            process.send_signal(how)
            code = await process.wait()
        tagged = engine.find(name)
        names = {each for document in engine.images.values() for each in document["RepoTags"]}
        kept = list(engine.images[OLD.config.digest]["RepoTags"])
        again = await asyncio.to_thread(program.call, "pull", name, "--host", str(address))

    assert code in (-signal.SIGKILL, 130)
    assert tagged is not None
    assert tagged["Id"] in (OLD.config.digest, NEW.config.digest)
    assert kept
    assert names <= {name, keep}
    assert again.code == 0
    assert engine.images[NEW.config.digest]["RepoTags"] == [name]
    assert engine.images[OLD.config.digest]["RepoTags"] == [keep]


@pytest.mark.parametrize("done", [False, True], ids=["before", "done"])
@pytest.mark.parametrize("at", [0, 1], ids=["keep", "name"])
async def test_a_killed_restore_is_completed_by_the_next(
    registry: Server, engine: FakeEngine, tmp_path: Path, at: int, done: bool
) -> None:
    """A killed `keep restore` is completed by the next run, and every image keeps a tag throughout."""
    name = name_at(registry)
    step = [f"POST images/{document.config.digest}/tag" for document in (NEW, OLD)][at]
    async with engine.listening(tmp_path) as address:
        assert (await asyncio.to_thread(program.call, "pull", name, "--host", str(address))).code == 0
        hang = engine.hangs[step] = Hang(done)
        async with pulling(name, engine=str(address), command=("keep", "restore")) as process:
            await asyncio.wait_for(hang.arrived.wait(), 30)
            process.kill()
            await process.wait()
        tagged = engine.find(name)
        names = [list(engine.images[document.config.digest]["RepoTags"]) for document in (OLD, NEW)]
        old = ("--to", OLD.digest, "--host", str(address))
        again = await asyncio.to_thread(program.call, "keep", "restore", name, *old)

    assert tagged is not None
    assert all(names)
    assert again.code == 0, again.err
    assert name in engine.images[OLD.config.digest]["RepoTags"]
    assert [each.rpartition(":")[2][:14] for each in engine.images[NEW.config.digest]["RepoTags"]] == ["boltseal-keep-"]


async def test_two_processes_at_once(registry: Server, engine: FakeEngine, tmp_path: Path) -> None:
    """Two concurrent pulls set tags one after the other, and the old image is kept."""
    name = name_at(registry)
    async with (
        engine.listening(tmp_path) as address,
        pulling(name, engine=str(address)) as one,
        pulling(name, engine=str(address)) as two,
    ):
        codes = {await one.wait(), await two.wait()}

    assert codes == {0}
    assert engine.images[NEW.config.digest]["RepoTags"] == [name]
    assert [each.rpartition(":")[2][:14] for each in engine.images[OLD.config.digest]["RepoTags"]] == ["boltseal-keep-"]
