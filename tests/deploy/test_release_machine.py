"""Any sequence of deploys, failures, rollbacks and kills leaves what the last successful step says, or what ran before."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from boltseal.deploy.compose_model import parse_model
from boltseal.deploy.compose_program import ProjectFiles, RecordedProject
from boltseal.deploy.compose_reading import ComposeReading
from boltseal.deploy.deployer import DeployedBy, Deployer, OtherFolder
from boltseal.deploy.holds import Held
from boltseal.deploy.release_flow import DeployResult, ReleaseFlow
from boltseal.deploy.release_images import ReleaseImages
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import ReleaseEnd
from boltseal.deploy.up_to_date import current_release
from boltseal.engines.inventory import ImageStoreKind
from boltseal.errors import BoltsealError, NotFound
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


class ReleaseMachine(RuleBasedStateMachine):
    """`runs`: what must run. `interrupted`: what may run after a killed command: the new version, or what ran before."""

    store = ImageStoreKind.CLASSIC

    def __init__(self) -> None:
        super().__init__()
        self.shop = Shop(self.store)
        self.db = self.shop.publish("db", RUNS)
        self.runs: dict[str, tuple[str, ...]] = {}
        self.before: dict[str, tuple[str, ...]] = {}
        self.new: dict[str, tuple[str, ...]] | None = None
        self.history = [self.runs]

    def teardown(self) -> None:
        self.shop.close()

    def version(self, *, good: bool, job: bool, ports: bool, scale: int) -> dict[str, tuple[str, ...]]:
        """Write another version into the project's file; return what runs if it is deployed."""
        web, task = self.shop.publish("web", RUNS if good else ILL), self.shop.publish("job", DONE if job else FAILED)
        self.shop.write(web, task, self.db, ports=ports, scale=scale)
        ids = {name: str(self.shop.host.id_of(self.shop.digests[name])) for name in (web, self.db)}
        return {"db": (ids[self.db],), "web": (ids[web],) * scale}

    @initialize(by_hand=st.booleans(), ports=st.booleans())
    def first(self, by_hand: bool, ports: bool) -> None:
        self.runs = self.version(good=True, job=True, ports=ports, scale=1)
        if by_hand:
            self.shop.up()
        else:
            assert self.shop.deploy().release.good
        self.history = [self.runs]

    @precondition(lambda self: self.new is None)
    @rule(good=st.booleans(), job=st.booleans(), ports=st.booleans(), scale=st.integers(1, 2))
    def deploy(self, good: bool, job: bool, ports: bool, scale: int) -> None:
        """A good version runs; a bad one leaves what ran before."""
        wanted = self.version(good=good, job=job, ports=ports, scale=scale)
        before = set(self.shop.host.fake.containers)
        release = self.shop.deploy().release
        assert release.end is (ReleaseEnd.HEALTHY if good and job else ReleaseEnd.PUT_BACK), release.reason
        if good and job:
            self.runs = wanted
        elif not job:
            web = {each["Id"] for each in self.shop.compose.containers("shop", "web")}
            assert web <= before, "a failed job must not touch what runs"

    @precondition(lambda self: self.new is None)
    @rule()
    def deploy_again(self) -> None:
        """A deploy of the same file after a success changes nothing."""
        seen = self.shop.running()
        try:
            release = self.shop.deploy()
        except Held:  # the file has what was rolled back
            self.is_held(seen)
            return
        if release.outcome is not None:
            assert release.release.end in (ReleaseEnd.HEALTHY, ReleaseEnd.PUT_BACK)
            if release.release.good:
                self.runs = self.shop.running()
                again = self.shop.deploy()
                assert again.outcome is None

    def is_held(self, seen: dict[str, tuple[str, ...]]) -> None:
        """What was refused since a rollback holds it changed nothing."""
        assert self.shop.running() == seen
        assert any(each.hold for each in self.shop.releases.all())

    @precondition(lambda self: self.new is None)
    @rule()
    def rollback(self) -> None:
        """A rollback makes an older state run again, and runs no job; a second one in a row is refused."""
        jobs, seen = self.shop.jobs(), self.shop.running()
        try:
            done = self.shop.command(lambda deployer: deployer.rollback(None, DeployedBy("ann")))
        except NotFound:
            return
        except Held:
            self.is_held(seen)
            return
        assert done.release.good, done.release.reason
        assert self.shop.jobs() == jobs
        self.runs = self.shop.running()
        services = {each.name: each.image_id for each in done.release.services if each.containers}
        assert {name: images[0] for name, images in self.runs.items()} == {
            name: image for name, image in services.items() if name != "job"
        }, seen

    @precondition(lambda self: self.new is None)
    @rule(good=st.booleans(), ports=st.booleans(), steps=st.integers(1, 60))
    def killed(self, good: bool, ports: bool, steps: int) -> None:
        """A deploy is killed after some of its steps."""
        wanted = self.version(good=good, job=True, ports=ports, scale=1)
        self.before = self.runs
        self.shop.faults.left = steps
        try:
            release = self.shop.deploy().release
        except Killed:
            self.new = wanted if good else self.before
        else:
            self.runs = wanted if release.good else self.runs
        finally:
            self.shop.faults.left = None

    @precondition(lambda self: self.new is not None)
    @rule(how=st.sampled_from(["resume", "deploy", "rollback"]))
    def one_command_continues(self, how: str) -> None:
        """After a kill, one command leaves the new version, or what ran before."""
        assert self.new is not None
        unfinished = any(each.unfinished for each in self.shop.releases.all())
        if how == "deploy" or not unfinished:
            release = self.shop.deploy().release
            self.runs = self.new if release.good else self.before
        elif how == "resume":
            release = self.shop.command(lambda deployer: deployer.resume()).release
            self.runs = self.new if release.good else self.before
        else:
            jobs = self.shop.jobs()
            release = self.shop.command(lambda deployer: deployer.rollback(None, DeployedBy("ann"))).release
            assert release.good, release.reason
            assert self.shop.jobs() == jobs
            self.runs = self.before
        self.new = None

    @precondition(lambda self: self.new is None)
    @rule(ports=st.booleans())
    def compose_up(self, ports: bool) -> None:
        """An operator runs `docker compose up` with another version."""
        self.runs = self.version(good=True, job=True, ports=ports, scale=1)
        self.shop.up()

    @precondition(lambda self: self.new is None)
    @rule()
    def registry_down(self) -> None:
        """A deploy of a version that can't be pulled changes nothing."""
        self.version(good=True, job=True, ports=False, scale=1)
        pullable = dict(self.shop.host.fake.pullable)
        self.shop.host.fake.pullable.clear()
        with pytest.raises(BoltsealError):
            self.shop.deploy()
        self.shop.host.fake.pullable |= pullable

    @precondition(lambda self: self.new is None)
    @rule()
    def disk_full(self) -> None:
        """A deploy that can't be recorded changes nothing."""
        self.version(good=True, job=True, ports=False, scale=1)
        self.shop.faults.full = True
        with pytest.raises(BoltsealError):
            self.shop.deploy()
        self.shop.faults.full = False

    @precondition(lambda self: self.new is None)
    @rule()
    def other_admin(self) -> None:
        """Another admin, whose state folder has no releases, deploys a bad version: what ran is put back."""
        self.version(good=False, job=True, ports=True, scale=1)
        state, self.shop.state = self.shop.state, "other"
        release = self.shop.deploy().release
        self.shop.state = state
        assert release.end is ReleaseEnd.PUT_BACK, release.reason

    @precondition(lambda self: self.new is None)
    @rule()
    def other_folder(self) -> None:
        """A project of this name from another folder is refused."""
        self.version(good=True, job=True, ports=False, scale=1)
        project = self.shop.project
        other = self.shop.root / "elsewhere"
        other.mkdir(exist_ok=True)
        (other / "compose.yaml").write_bytes(project.files[0].read_bytes())
        self.shop.project = ProjectFiles(other, (other / "compose.yaml",))
        with pytest.raises(OtherFolder):
            self.shop.deploy()
        self.shop.project = project

    @rule()
    def prune(self) -> None:
        """`docker image prune`."""
        self.shop.prune()

    @invariant()
    def what_runs_is_as_expected(self) -> None:
        if self.new is None:
            assert self.shop.running() == self.runs


class ContainerdMachine(ReleaseMachine):
    """The machine on containerd's store."""

    store = ImageStoreKind.CONTAINERD


FEW = settings(
    max_examples=8, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
TestClassicReleases = ReleaseMachine.TestCase
TestClassicReleases.settings = FEW
TestContainerdReleases = ContainerdMachine.TestCase
TestContainerdReleases.settings = FEW
