"""A project of an in-memory engine and Compose, whose deploys can be killed at each step."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

from boltseal.deploy.compose_model import parse_model
from boltseal.deploy.compose_program import ProjectFiles, RecordedProject
from boltseal.deploy.compose_reading import ComposeReading
from boltseal.deploy.deployer import DeployedBy, Deployer
from boltseal.deploy.release_flow import DeployResult, ReleaseFlow
from boltseal.deploy.release_images import ReleaseImages
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import Release
from boltseal.deploy.up_to_date import current_release
from boltseal.engines.inventory import ImageStoreKind
from boltseal.files.atomic_files import Disk
from boltseal.lockfile.document import Lock, LockedImage, lock_key
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from tests.deploy.hosting import REGISTRY, Hosting, hosting
from tests.fakes.compose import MemoryCompose

RUNS = {"Status": "running", "Health": {"Status": "healthy"}}
ILL = {"Status": "running", "Health": {"Status": "unhealthy"}}
DONE = {"Status": "exited", "ExitCode": 0}
FAILED = {"Status": "exited", "ExitCode": 1}
WAITS = {"job": {"condition": "service_completed_successfully"}}


class Killed(BaseException):
    """The process ends here, as by kill -9."""


class Faults(Disk):
    """A disk and a clock of steps: after `left` more steps the process ends; `full`: nothing more can be written."""

    left: int | None = None
    full = False

    def step(self, _what: str = "") -> None:
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                self.left = None
                raise Killed

    def create(self, path: str, mode: int = 0o640) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().create(path, mode)

    def rename(self, source: str, target: str) -> None:
        self.step()
        super().rename(source, target)
        self.step()


class Shop:
    """A project of a job, a service and a database, on an in-memory engine with an in-memory Compose."""

    def __init__(self, store: ImageStoreKind) -> None:
        self.runner = asyncio.Runner()
        self.scratch = tempfile.TemporaryDirectory()
        self.root = Path(self.scratch.name)
        self.stack = AsyncExitStack()
        self.faults = Faults()
        self.host = self.runner.run(self._open(store))
        self.compose = MemoryCompose.of(self.host.fake, self.faults.step)
        self.project = ProjectFiles(self.root, (self.root / "compose.yaml",))
        self.digests: dict[str, Digest] = {}
        self.state = "state"
        self.numbers = 0
        self.db = ""

    async def _open(self, store: ImageStoreKind) -> Hosting:
        return await self.stack.enter_async_context(hosting(self.root, store))

    def close(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()
        self.scratch.cleanup()

    def publish(self, words: str, outcome: dict[str, Any]) -> str:
        """Publish a new image whose containers get this state; return its reference."""
        self.numbers += 1
        name = Reference.parse(f"{REGISTRY}/shop/{words}:{self.numbers}")
        self.digests[str(name)] = digest = self.host.publish(f"{words} {self.numbers}", name)
        self.host.fake.outcomes[str(self.host.id_of(digest))] = outcome
        return str(name)

    def write(self, web: str, job: str, db: str, *, ports: bool, scale: int) -> None:
        """Write the project's file."""
        fields: dict[str, Any] = {"scale": scale, **({"ports": [{"target": 80}]} if ports else {})}
        services = {
            "web": {"image": web, "depends_on": WAITS, **fields},
            "job": {"image": job},
            "db": {"image": db},
        }
        (self.root / "compose.yaml").write_text(json.dumps({"name": "shop", "services": services}))

    @property
    def releases(self) -> ReleaseFolder:
        return ReleaseFolder(self.root / self.state, "shop", self.faults, engine="memory")

    def deployer(self) -> Deployer:
        images = ReleaseImages(self.host.host, self.host.puller())
        flow = ReleaseFlow(
            self.compose,
            self.host.host.engine,
            self.releases,
            self.host.clock,
            self.faults.step,
            copies=False,
            images=images,
        )
        return Deployer(flow, images)

    def version(self, *, good: bool, job: bool, ports: bool, scale: int) -> dict[str, tuple[str, ...]]:
        """Write another version into the project's file; return what runs if it is deployed."""
        self.db = self.db or self.publish("db", RUNS)
        web, task = self.publish("web", RUNS if good else ILL), self.publish("job", DONE if job else FAILED)
        self.write(web, task, self.db, ports=ports, scale=scale)
        ids = {name: str(self.host.id_of(self.digests[name])) for name in (web, self.db)}
        return {"db": (ids[self.db],), "web": (ids[web],) * scale}

    def rollback(self) -> DeployResult:
        """Roll back to the release before."""
        return self.command(lambda deployer: deployer.rollback(None, DeployedBy("ann")))

    def resume(self) -> DeployResult:
        """Continue the unfinished release."""
        return self.command(lambda deployer: deployer.resume())

    def change_by_hand(self) -> dict[str, tuple[str, ...]]:
        """Run `docker compose up` with another version; return what runs then."""
        runs = self.version(good=True, job=True, ports=False, scale=1)
        self.up()
        return runs

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """The registry has no image."""
        pullable = dict(self.host.fake.pullable)
        self.host.fake.pullable.clear()
        yield
        self.host.fake.pullable |= pullable

    def containers(self) -> set[str]:
        """Return the IDs of all containers."""
        return set(self.host.fake.containers)

    def check_failed_job(self, before: set[str]) -> None:
        """Check that a failed job left what runs."""
        web = {each["Id"] for each in self.compose.containers("shop", "web")}
        assert web <= before, "a failed job must not touch what runs"

    def restored(
        self, _release: Release, ran: dict[str, tuple[str, ...]], *, itself: bool = False
    ) -> dict[str, tuple[str, ...]]:
        """Return what a failed release puts back: what ran, also without a release."""
        del itself
        return ran

    def services(self, release: Release) -> dict[str, str]:
        """Return the image of each service of a release that keeps running."""
        return {each.name: each.image_id for each in release.services if each.containers and each.name != "job"}

    def command(self, call: Callable[[Deployer], Awaitable[DeployResult]]) -> DeployResult:
        """Run one command, as one process does."""

        async def run() -> DeployResult:
            return await call(self.deployer())

        with self.releases.deploying():
            return self.runner.run(run())

    def deploy(self) -> DeployResult:
        """Deploy the project's file as locked."""
        model = parse_model(self.project.files[0].read_bytes())
        lock = Lock(tuple(LockedImage(lock_key(Reference.parse(each)), got, 0) for each, got in self.digests.items()))
        read = ComposeReading(self.project, model)

        async def call(deployer: Deployer) -> DeployResult:
            current = await current_release(deployer.flow, read, lock, (), ())
            if current is not None:
                return DeployResult(current)
            return await deployer.deploy(read, lock, (), DeployedBy("ann"))

        return self.command(call)

    def up(self) -> None:
        """Run `docker compose up` on the file, behind boltseal's back."""
        document = json.loads(self.project.files[0].read_bytes())

        async def run() -> None:
            for service in document["services"].values():
                name = Reference.parse(service["image"])
                await self.host.host.engine.pull(
                    Reference(name.registry, name.repository, digest=self.digests[str(name)])
                )
                await self.host.host.engine.tag(self.host.id_of(self.digests[str(name)]), name)
            recorded = RecordedProject(self.project.files[0], "shop", self.root)
            await self.compose.create(recorded, list(document["services"]), print)
            await self.compose.start(recorded, list(document["services"]), timeout_s=1, progress=print)

        self.runner.run(run())

    def running(self) -> dict[str, tuple[str, ...]]:
        """Return the images of the running containers, by service."""
        found: dict[str, list[str]] = {}
        for each in self.host.fake.containers.values():
            if each["State"]["Status"] == "running":
                found.setdefault(each["Config"]["Labels"]["com.docker.compose.service"], []).append(each["Image"])
        return {name: tuple(sorted(images)) for name, images in sorted(found.items())}

    def jobs(self) -> int:
        """Return how often a job was started."""
        return sum("-job-" in each for each in self.host.fake.started)

    def prune(self) -> None:
        """Remove the images that neither a tag nor a container has, as `docker image prune` does."""
        used = {each["Image"] for each in self.host.fake.containers.values()}
        for id_, image in list(self.host.fake.images.items()):
            if not image["RepoTags"] and id_ not in used:
                del self.host.fake.images[id_]
