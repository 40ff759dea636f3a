"""Cleans up old releases in processes that are killed before each change of a file: `python -m tests.deploy.cleanup_kills FOLDER`.

For each number of changes, a process cleans up a copy of the same state and is killed before that change; another process cleans
up the rest. Prints the state that each pair left, as JSON, and ends when a process was not killed.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import sys
import tarfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from boltseal.client.state import ClientState
from boltseal.deploy.mounted_copies import MountedFile
from boltseal.deploy.release_cleanup import ReleaseCleanup
from boltseal.deploy.release_images import hold_reason
from boltseal.deploy.release_store import KEPT_RELEASES, ReleaseFolder
from boltseal.deploy.releases import ReleaseContents, ReleasedService
from boltseal.engines.api import connected
from boltseal.host.engine_images import EngineHost
from boltseal.host.image_archive import ImageArchive
from boltseal.host.keeper import Keeper
from boltseal.host.kept_images import KeptImages
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from tests.deploy.samples import release
from tests.fakes.engine import FakeEngine

RELEASES = KEPT_RELEASES + 2
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.link", "shutil.rmtree", "sqlite3.connect"}
NAME = "localhost:5000/shop/app"


class KilledBefore:
    """An audit hook that kills this process before the change with this number, of files in a folder."""

    def __init__(self, number: int, folder: Path) -> None:
        self.left = number
        self.folder = os.fspath(folder)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        opens = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in CHANGES or opens) and self.folder in str(arguments[0]):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def engine_with_images() -> FakeEngine:
    """Return an engine with the image of each release."""
    fake = FakeEngine()
    for number in range(1, RELEASES + 1):
        fake.image(f"image {number}", f"{NAME}:{number}")
    return fake


def layout(words: str) -> bytes:
    """Return a saved image of one layer."""
    config, layer = json.dumps({"words": words}).encode(), words.encode()
    manifest = json.dumps({"config": _descriptor(config), "layers": [_descriptor(layer)]}).encode()
    index = json.dumps({"schemaVersion": 2, "manifests": [_descriptor(manifest)]}).encode()
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        blobs = {f"blobs/sha256/{sha256(each).hexdigest()}": each for each in (config, layer, manifest)}
        for name, content in {**blobs, "index.json": index}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def _descriptor(content: bytes) -> dict[str, object]:
    return {"digest": f"sha256:{sha256(content).hexdigest()}", "size": len(content)}


async def filled(folder: Path) -> None:
    """Write releases whose first two are too old, each with a secret, a text, a held and archived image."""
    fake = engine_with_images()
    async with fake.listening(folder.parent) as address, connected(address) as engine:
        host = await EngineHost.of(engine, KeptImages(ClientState(folder / "client")), lambda: 1)
        releases, archive = ReleaseFolder(folder / "engine", "shop"), ImageArchive(folder / "engine")
        with releases.deploying():
            for number in range(1, RELEASES + 1):
                image = await engine.image(Reference.parse(f"{NAME}:{number}"))
                copy = releases.make_copy(MountedFile(b"secret %d" % number, (os.geteuid(), os.getegid()), 0o600))
                text = {
                    "name": "shop",
                    "services": {"app": {"image": "x"}},
                    "secrets": {"token": {"file": str(copy)}},
                }
                service = ReleasedService(name="app", image=f"{NAME}:{number}", image_id=str(image.id))
                made = msgspec.structs.replace(release(number), services=(service,))
                releases.begin(made, ReleaseContents(json.dumps(text).encode()))
                releases.compose_file(number)
                await Keeper(host).hold(
                    image.id, Reference.parse(f"{NAME}:{number}"), None, hold_reason("shop", number)
                )
                fake.saved = layout(f"image {number}")
                await archive.add(engine, image.id)


async def cleaned(folder: Path, kill_before: int | None) -> dict[str, object]:
    """Clean up and return what is left."""
    fake = engine_with_images()
    async with fake.listening(folder.parent) as address, connected(address) as engine:
        host = await EngineHost.of(engine, KeptImages(ClientState(folder / "client")), lambda: 1)
        releases, archive = ReleaseFolder(folder / "engine", "shop"), ImageArchive(folder / "engine")
        if kill_before is not None:
            sys.addaudithook(KilledBefore(kill_before, folder))
        with releases.deploying():
            await ReleaseCleanup(releases, host, archive, print_line).run(RELEASES)
        return state_of(releases, host, archive)


def print_line(line: str) -> None:
    """Print a progress line."""
    sys.stderr.write(f"{line}\n")


def state_of(releases: ReleaseFolder, host: EngineHost, archive: ImageArchive) -> dict[str, object]:
    """Return everything that belongs to releases."""
    stored = releases.stored()
    held = [each.reason for each in host.kept.held(host.key)]
    blobs = {path.name for path in (archive.folder / "blobs/sha256").iterdir()}
    wanted = {Digest.parse(each.release.services[0].image_id) for each in stored[-5:]}
    return {
        "releases": [each.release.number for each in stored],
        "contents": [each.release.number for each in stored if each.contents is not None],
        "copies": len(list((releases.folder / "content").iterdir())),
        "texts": sorted(int(path.stem) for path in (releases.folder / "compose").iterdir()),
        "held": sorted(int(each.rpartition("/")[2]) for each in held),
        "archived": archive.ids() == wanted,
        "blobs": len(blobs),
        "other files": sorted(
            path.name for path in releases.folder.iterdir() if path.is_file() and path.suffix != ".release"
        ),
        "other files of the archive": sorted(path.name for path in archive.folder.iterdir()),
    }


def in_process(folder: Path, kill_before: int | None) -> dict[str, object] | None:
    """Clean up in a process of its own; return the state, None if it was killed."""
    result = folder.parent / "result"
    for left in (result, folder.parent / "engine.sock"):
        left.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        result.write_text(json.dumps(asyncio.run(cleaned(folder, kill_before))))
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == -signal.SIGKILL:
        return None
    found: dict[str, object] = json.loads(result.read_text())
    return found


def main(folder: Path) -> None:
    """Kill a cleanup before each of its changes; print the states after the next one."""
    whole, copy = folder / "whole", folder / "copy"
    whole.mkdir()
    asyncio.run(filled(whole))
    states: list[dict[str, object] | None] = []
    for number in range(1, 1000):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        state = in_process(copy, number)
        if state is not None:
            states.append(state)
            break
        states.append(in_process(copy, None))
    sys.stdout.write(json.dumps(states))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
