"""A folder of Quadlet units with the real generator, an in-memory engine, and no systemd."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from boltseal.deploy.deployer import DeployedBy
from boltseal.deploy.quadlet.drop_ins import DropIns
from boltseal.deploy.quadlet.generator import Generator, services_of
from boltseal.deploy.quadlet.unit_deployer import UnitDeployer
from boltseal.deploy.quadlet.unit_flow import UnitFlow
from boltseal.deploy.quadlet.unit_folders import read_units, unit_folders
from boltseal.deploy.release_flow import DeployResult
from boltseal.deploy.release_images import ReleaseImages
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import ReleaseKind
from boltseal.engines.inventory import ImageStoreKind
from boltseal.files.atomic_files import Disk
from boltseal.lockfile.document import Lock, LockedImage, lock_key
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from tests.deploy.hosting import REGISTRY, Hosting, hosting
from tests.programs import program

PROJECT = "shop"
BY = DeployedBy("ann@web1")


class Killed(BaseException):
    """The process ends here, as by kill -9."""


class FailingDisk(Disk):
    """A disk that counts its writes, and ends the process or fails at one of them: before it, or after it was done.

    `at`: the number of that write; `error`: whether it fails instead of ending the process.
    """

    def __init__(self) -> None:
        self.writes = 0
        self.at: int | None = None
        self.after = self.error = False

    def _fault(self) -> None:
        if self.error:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        raise Killed

    def _write(self, write: Callable[[], None]) -> None:
        self.writes += 1
        now = self.writes == self.at
        if now and not self.after:
            self._fault()
        write()
        if now:
            self._fault()

    def create(self, path: str, mode: int = 0o640) -> int:
        fds: list[int] = []
        self._write(lambda: fds.append(Disk.create(self, path, mode)))
        return fds[0]

    def make_folder(self, path: str) -> None:
        self._write(lambda: Disk.make_folder(self, path))

    def rename(self, source: str, target: str) -> None:
        self._write(lambda: Disk.rename(self, source, target))

    def unlink(self, path: str) -> None:
        self._write(lambda: Disk.unlink(self, path))

    def sync_folder(self, path: str) -> None:
        self._write(lambda: Disk.sync_folder(self, path))


class UnitsProject:
    """Units in `root`/units/shop, which is linked from Podman's folder `root`/systemd."""

    def __init__(self, root: Path) -> None:
        program("podman")
        self.root = root
        self.folder = root / "units" / PROJECT
        self.folder.mkdir(parents=True)
        self.searched = root / "systemd"
        self.searched.mkdir()
        (self.searched / PROJECT).symlink_to(self.folder)
        self.disk = FailingDisk()
        self.environment = {"PATH": os.environ["PATH"], "QUADLET_UNIT_DIRS": str(self.searched)}
        self.notices: list[str] = []
        self.locked: dict[Reference, LockedImage] = {}
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.host: Hosting = self.runner.run(self._open())

    async def _open(self) -> Hosting:
        (self.root / "engine").mkdir()
        return await self.stack.enter_async_context(hosting(self.root / "engine", ImageStoreKind.PODMAN))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()

    def publish(self, name: str, words: str) -> Digest:
        """Publish an image under a name such as app:1, and lock it."""
        reference = Reference.parse(f"{REGISTRY}/shop/{name}")
        digest = self.host.publish(words, reference)
        self.locked[reference] = LockedImage(lock_key(reference), digest, 1_000_000)
        return digest

    def write(self, files: Mapping[str, str | bytes]) -> None:
        """Write unit files and their drop-in files."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())

    @property
    def lock(self) -> Lock:
        """The lock of all published images."""
        return Lock(tuple(self.locked.values()))

    @property
    def drop_ins(self) -> DropIns:
        return DropIns(self.searched, PROJECT, self.disk)

    @property
    def generator(self) -> Generator:
        return Generator(unit_folders(self.environment, os.geteuid()), self.environment)

    @property
    def releases(self) -> ReleaseFolder:
        return ReleaseFolder(self.root / "state", PROJECT, self.disk, engine="memory")

    def deployer(self) -> UnitDeployer:
        images = ReleaseImages(self.host.host, self.host.puller(), archiving=False)
        return UnitDeployer(
            UnitFlow(images, self.releases, self.drop_ins, self.generator, None, self.host.clock, self.notices.append)
        )

    def command(self, call: Callable[[UnitDeployer], Awaitable[DeployResult]]) -> DeployResult:
        """Run one command, as one process does."""

        async def run() -> DeployResult:
            return await call(self.deployer())

        with self.releases.deploying():
            return self.runner.run(run())

    def deploy(self) -> DeployResult:
        """Deploy the units as locked."""
        return self.command(lambda deployer: deployer.deploy(read_units(self.folder), self.lock, BY))

    def rollback(self, number: int | None = None) -> DeployResult:
        """Go back to an older release."""
        by = replace(BY, kind=ReleaseKind.ROLLBACK)
        return self.command(lambda deployer: deployer.rollback(number, by))

    def resume(self) -> DeployResult:
        """Continue the unfinished release."""
        return self.command(lambda deployer: deployer.resume())

    def starts(self) -> dict[str, str]:
        """Return the image that each service starts, as systemd would get it now."""
        services = services_of(self.generator.now(), read_units(self.folder))
        return {
            service.name: next(
                word for word in service.value("Service", "ExecStart").split(" ") if REGISTRY in word
            ).removeprefix("docker://")
            for unit, service in services.items()
            if unit.endswith((".container", ".image"))
        }


def image(name: str, digest: Digest | None = None) -> str:
    """Return a reference to an image of the test's registry."""
    return f"{REGISTRY}/shop/{name}" + ("" if digest is None else f"@{digest}")


def container(name: str, *more: str) -> str:
    """Return a `.container` unit."""
    lines = [f"Image={image(name)}", *more]
    return "\n".join(["[Container]", *lines, "[Install]", "WantedBy=default.target", ""])
