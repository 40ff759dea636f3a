"""A deploy that is killed while it removes an old release: the next one finishes, on this machine and on the engine."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from boltseal.deploy.release_copy import EngineCopy, LockOwner, held_lock, this_process
from boltseal.deploy.release_exchange import releases_in_volume
from boltseal.deploy.release_file import StoredRelease
from boltseal.deploy.release_store import KEPT_RELEASES, ReleaseFolder
from boltseal.engines.address import EngineAddress
from boltseal.engines.api import connected
from boltseal.engines.release_volume import VolumeContainer
from tests.cli.program import clean_environment
from tests.real.compose_project import HEALTHY, ComposeProject

pytestmark = pytest.mark.real

SECRET = b"VALUE=old"


def many_releases(shop: ComposeProject) -> ReleaseFolder:
    """Deploy a project, and record further releases of it so that the first one is too old; return them, with the engine's copy."""
    (shop.root / "token.txt").write_bytes(SECRET)
    web = {"image": shop.image("1.0.0"), "healthcheck": HEALTHY, "secrets": ["token"]}
    shop.write({"web": web}, secrets={"token": {"file": "./token.txt"}})
    shop.deployed()
    (shop.root / "token.txt").write_bytes(b"VALUE=new")
    shop.deployed()
    (root,) = shop.state.glob("engines/*")
    address = EngineAddress.parse(shop.docker.host)
    copy = EngineCopy(address, shop.name, LockOwner("test", "test", 1, this_process()), print, authoritative=True)
    folder = ReleaseFolder(root, shop.name, address=address.key, copy=copy)
    with folder.deploying():
        last = folder.stored()[-1]
        for number in range(3, KEPT_RELEASES + 2):
            release = msgspec.structs.replace(last.release, number=number, started_us=last.release.started_us + number)
            folder.put(StoredRelease(revision=1, release=release, contents=last.contents))
    return folder


async def on_engine(shop: ComposeProject) -> tuple[dict[str, bytes], bool]:
    """Return the project's files in the engine's volume, and whether the project is locked."""
    async with connected(EngineAddress.parse(shop.docker.host)) as engine:
        locked = await held_lock(engine, shop.name) is not None
        container = await VolumeContainer.create(engine, f"reading-{shop.name}", {})
        try:
            return await container.read(shop.name), locked
        finally:
            await container.remove()


@pytest.mark.parametrize("change", [2, 4, 5])
def test_a_killed_removal_is_finished_by_the_next_deploy(shop: ComposeProject, change: int) -> None:
    """A deploy killed while it removes the oldest release: the next one leaves its record only, here and in the volume."""
    shop.publish("1.0.0")
    folder = many_releases(shop)
    before, _ = asyncio.run(on_engine(shop))
    ids = shop.ids()
    killed = subprocess.run(
        [sys.executable, "-m", "tests.real.killed_removal", str(change), os.fspath(folder.folder), "deploy"],
        cwd=shop.root,
        env=clean_environment({**shop.variables, "PYTHONPATH": os.fspath(Path(__file__).parents[3])}),
        capture_output=True,
        timeout=120,
        check=False,
    )
    again = shop.run("deploy")
    files, locked = asyncio.run(on_engine(shop))
    oldest = next(each for each in releases_in_volume(files, shop.name) if each.release.number == 1)

    assert any(b"VkFMVUU9b2xk" in raw for name, raw in before.items() if name.startswith("1."))
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert again.code == 0, again.err
    assert "runs already" in again.out
    assert oldest.contents is None
    assert not any(b"VkFMVUU9b2xk" in raw for raw in files.values())
    assert not locked
    assert [each.release.number for each in folder.stored() if each.contents is None] == [1]
    assert not any(path.read_bytes() == SECRET for path in (folder.folder / "content").iterdir())
    assert not list(folder.folder.rglob("*.new"))
    assert not (folder.folder / "compose/1.json").exists()
    assert shop.ids() == ids
