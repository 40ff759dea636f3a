"""Deploy a Compose project as locked, resume an unfinished release, or roll back."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from boltseal.build.git_state import git_state
from boltseal.client.transport import Transport
from boltseal.commands.client_context import ClientContext
from boltseal.commands.lock import resolve_lock, unless_held
from boltseal.commands.notifications import Notifications
from boltseal.commands.project_images import open_project, registry_filter
from boltseal.commands.registry_access import RegistryOptions, ask, followed
from boltseal.commands.release_files import RestoredFiles, RolledBack, check_restored, different_files, restored_files
from boltseal.commands.releases import release_folder, unfinished_notice
from boltseal.commands.text import clean
from boltseal.config import child_environment, operator
from boltseal.deploy.compose_lock import with_compose_images
from boltseal.deploy.compose_model import locked_digests, unlocked_builds
from boltseal.deploy.compose_program import Compose, ProjectFiles, find_compose
from boltseal.deploy.compose_reading import ComposeReading, read_project
from boltseal.deploy.copy_locations import reads_copies
from boltseal.deploy.deployer import DeployedBy, Deployer
from boltseal.deploy.health_wait import DeployTimeouts
from boltseal.deploy.holds import held_images
from boltseal.deploy.ledger_reports import record_release
from boltseal.deploy.project_files import named_files, project_folder
from boltseal.deploy.release_cleanup import ReleaseCleanup, archives_images
from boltseal.deploy.release_flow import DeployResult, ReleaseFlow
from boltseal.deploy.release_images import PullScrubber, ReleaseImages, scrub_services
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import Release, ReleaseKind, check_kind, last_good, rollback_to
from boltseal.deploy.settings_files import settings_files
from boltseal.deploy.up_to_date import current_release
from boltseal.engines.api import Engine, connected
from boltseal.errors import BoltsealError, Precondition, Unavailable
from boltseal.events import ReleaseDone, ReleaseFailed
from boltseal.host.changed_images import ChangedImages
from boltseal.host.engine_images import EngineHost
from boltseal.host.image_archive import ImageArchive
from boltseal.host.kept_images import KeptImages
from boltseal.host.pull import Puller
from boltseal.lockfile.document import LOCK_NAME, Lock
from boltseal.lockfile.holds import held_references
from boltseal.lockfile.parse import parse_lock
from boltseal.oci.reference import Reference
from boltseal.project.git_program import GitFailed, NotGit
from boltseal.project.held_digests import read_holds
from boltseal.project.lock_file import LockFile, read_lock_file, write_lock
from boltseal.project.resolve import not_allowed

MAX_REPORTED: Final = 5
"""How many references the message lists when a lock could not be updated."""


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """How a release is made.

    Attributes:
        host: address of the engine; default: DOCKER_HOST.
        wait_s: how long services may take to be healthy.
        record: record the release in the ledgers of its registries.
        scrub: verify pulled images on the disk.
        require_scrub: refuse images of registries that were not verified so; verify those that run already, too.
        take_over: replace a project of the same name that was started from another folder.
        directory: the project's folder, None if only its releases are known.
    """

    host: str | None
    registries: RegistryOptions
    wait_s: float
    record: bool = True
    scrub: bool = True
    require_scrub: bool = False
    take_over: bool = False
    directory: Path | None = None

    @property
    def client(self) -> ClientContext:
        """The client context of `registries`."""
        return self.registries.client


def project_files(
    files: Sequence[Path] | None,
    name: str | None,
    directory: Path | None,
    profiles: Sequence[str] | None,
    env_files: Sequence[Path] | None,
) -> ProjectFiles:
    """Return the Compose files of a project, found as Compose does where none is named. Raises: NoProject."""
    folder = None if directory is None else directory.absolute()
    named = ProjectFiles(
        folder or Path.cwd(), tuple(each.absolute() for each in files or ()), name, folder, tuple(profiles or ()),
        tuple(each.absolute() for each in env_files or ()),
    )  # fmt: skip
    return named_files(named, child_environment())


def deployed_by(folder: Path, kind: ReleaseKind) -> DeployedBy:
    """Return who deploys which git revision; the revision is "" outside of git."""
    try:
        state = git_state(folder, child_environment())
        revision = state.described if state.dirt is None else f"{state.described}, changed"
    except (NotGit, GitFailed):
        revision = ""
    return DeployedBy(operator(), revision, kind)


@dataclass(frozen=True, slots=True)
class DeployableProject:
    """A project that Compose has read.

    Attributes:
        named: its files.
        services: the services to deploy; () for all.
        read: what Compose makes of the files.
        folder: its releases.
        root: its folder.
        allowed: which registries may be contacted.
    """

    options: DeployOptions
    named: ProjectFiles
    services: tuple[str, ...]
    compose: Compose
    read: ComposeReading
    folder: ReleaseFolder
    root: Path
    allowed: Callable[[str], bool]

    @property
    def registries(self) -> frozenset[str]:
        """Every registry that its services name."""
        return frozenset(service.image.registry for service in self.read.model.services.values())

    def lock_file(self) -> LockFile:
        """Return the lock of the project or of a folder above it. Raises: LockInvalid."""
        for each in (self.root, *self.root.resolve().parents):
            if (each / LOCK_NAME).exists():
                return read_lock_file(each)
        return LockFile(self.root)

    def relocked(self, update: Callable[[Reference], bool], before: Lock, folder: Path) -> Lock:
        """Return a new lock for a lock's folder; references for which `update` is true are resolved again.

        Raises: Unavailable: a reference could not be resolved.
        """
        opened = open_project(folder, self.named.files)
        image_refs = with_compose_images(opened.image_refs, self.read.model, folder, self.named.files[0])
        opened = replace(opened, image_refs=image_refs)
        in_git = held_references(read_holds(folder))
        update = unless_held(update, held_images(self.folder.all()), self.options.client, in_git)
        done = resolve_lock(opened, before, self.options.registries, self.allowed, update=update)
        problems = [f"{each.name}: {each.reason}" for each in done.unresolved] + [str(each) for each in opened.problems]
        if problems:
            raise Unavailable(f"the lock is unchanged: {clean('; '.join(problems[:MAX_REPORTED]))}")
        return done.lock

    def write_lock(self, read: LockFile, lock: Lock) -> None:
        """Replace the lock that was read, with a notice if that changes it. Raises: FileChanged, LockNotWritten."""
        if write_lock(read, lock):
            self.options.client.notice(f"{read.root / LOCK_NAME} written")

    def built(self) -> DeployableProject:
        """Have Compose build the services that have no locked digest. Raises: LockMismatch, ComposeFailed."""
        lock = self.lock_file().lock
        digests = locked_digests(self.read.model, lock)
        names = frozenset(unlocked_builds(self.read.model, lock, digests))
        for name, service in sorted(self.read.model.services.items()):
            if service.build and name in digests:
                source = "its file" if lock is None else LOCK_NAME
                self.options.client.notice(clean(f"{name}: not built, {source} has {digests[name].short}"))

        async def build() -> None:
            async with connected(self.options.client.engine_address(self.options.host)) as engine:
                compose = replace(self.compose, engine=engine.environment())
                await compose.build(self.named, sorted(names), progress_of(self.options))

        if names:  # without a name, Compose builds all
            asyncio.run(build())
        return replace(self, read=replace(self.read, built=names))

    def check(self) -> None:
        """Check what a deploy checks before it changes anything. The caller holds `folder.deploying`. Raises: as `Deployer.deploy`."""
        lock = self.lock_file().lock

        async def run(transport: Transport) -> None:
            async with _deployer(self.options, self.folder, transport, self.compose) as deployer:
                await deployer.check(self.read, lock, self.services)

        ask(self.options.registries, self.registries, run)

    def deploy(self, kind: ReleaseKind) -> DeployResult:
        """Deploy it as locked. The caller holds `folder.deploying`. Raises: as `Deployer.deploy`."""
        lock = self.lock_file().lock
        current = asyncio.run(self._current(lock))
        if current is not None and self._settings_changed(current.release):
            current = None
        if current is not None:
            return current
        by = deployed_by(self.root, kind)

        async def run(deployer: Deployer) -> DeployResult:
            return await deployer.deploy(self.read, lock, self.services, by)

        return on_engine(self.options, self.folder, self.registries, run, locked=True, compose=self.compose)

    def _settings_changed(self, release: Release) -> bool:
        """Return whether a file that services mount is not as it was recorded: then there is a new release to record."""
        recorded = self.folder.contents(release.number)
        now = settings_files(self.root.resolve(), self.read.model.document, {}).files
        return any(name in now and now[name] != recorded.files.get(name) for name in recorded.modes)

    def check_files(self) -> None:
        """Check after a rollback that the files are those of what runs. Raises: FilesDiffer."""
        last = last_good(self.folder.all())
        if last is not None and last.hold:
            check_restored(self.folder, last, self.root)

    async def _current(self, lock: Lock | None) -> DeployResult | None:
        """Return the release that runs if it is what the project asks for, without a request to a registry.

        Raises: ScrubDiffers, NotScrubbed: with `require_scrub`, if its images differ on the disk or can't be verified.
        """
        client = self.options.client
        address = client.engine_address(self.options.host)
        async with connected(address) as engine:
            flow = ReleaseFlow(
                self.compose,
                engine,
                self.folder,
                client.now_us,
                progress_of(self.options),
                copies=reads_copies(address),
            )
            host = await EngineHost.of(engine, KeptImages(client.state), client.now_us)
            changed = await ChangedImages(host).ids()
            release = await current_release(flow, self.read, lock, self.services, changed)
            if release is None:
                return None
            archive = ImageArchive(self.folder.root) if archives_images(self.root) else None
            await ReleaseCleanup(self.folder, host, archive, flow.progress).run(release.number, new=False)
            if not self.options.require_scrub:
                return DeployResult(release)
            scrubs = await scrub_services(PullScrubber(host, required=True), release.services)
        return DeployResult(release, scrubs=scrubs)


def open_deployable(
    options: DeployOptions, named: ProjectFiles, services: Sequence[str], allow: Sequence[str]
) -> DeployableProject:
    """Have Compose read a project. `allow`: registries that it may name, besides those of the user's settings.

    Raises: ComposeRefused, ComposeMissing, RegistryNotAllowed.
    """
    client = options.client
    compose, read = asyncio.run(read_files(client, options.host, named, services))
    allowed = registry_filter(options.registries, allow)
    folder = release_folder(client, read.model.project, options.host)
    for name, service in sorted(read.model.services.items()):
        if not allowed(service.image.registry):
            refusal = not_allowed(service.image.registry)
            raise type(refusal)(f"{name}: {refusal.message}")
    return DeployableProject(
        options=replace(options, directory=project_folder(named)),
        named=named,
        services=tuple(services),
        compose=compose,
        read=read,
        folder=folder,
        root=project_folder(named),
        allowed=allowed,
    )


async def read_files(
    client: ClientContext, host: str | None, named: ProjectFiles, services: Sequence[str]
) -> tuple[Compose, ComposeReading]:
    """Have Compose read a project for an engine. Raises: ComposeRefused, ComposeMissing, ModelInvalid."""
    compose = await find_compose(child_environment(), client.engine_address(host).environment())
    return compose, await read_project(compose, named, services)


def deploy_project(project: DeployableProject, *, update: bool, build: bool, anyway: bool = False) -> DeployResult:
    """Deploy a project as locked, while no other process deploys it.

    `update`: lock the digests that tags resolve to now first. `build`: build what is not locked. `anyway`: also if the files
    differ from what a rollback restored.
    """
    with project.folder.deploying():
        check_kind(project.folder.all(), project.folder.project, units=False)
        if not anyway:
            project.check_files()
        if update:
            read = project.lock_file()
            project.write_lock(read, project.relocked(lambda _: True, read.lock or Lock(), read.root))
        return (project.built() if build else project).deploy(ReleaseKind.DEPLOY)


def resume(options: DeployOptions, project: str) -> DeployResult:
    """Continue the unfinished release of a project. Raises: NothingUnfinished, and as `Deployer.resume`."""
    folder = release_folder(options.client, project, options.host, "deploy --resume")
    return on_engine(options, folder, [], lambda deployer: deployer.resume())


def roll_back(
    options: DeployOptions, project: str, number: int | None, *, restore: bool = False, hold: bool = True
) -> RolledBack:
    """Deploy an older release again. `number`: default: the one that ran before. `restore`: also its recorded files.

    `hold`: what it takes back is not deployed again until a person ends the hold.

    The files are restored before anything is started, since services mount them. If the release does not run then, they
    are as before again.

    Raises: NothingToGoBackTo, and as `Deployer.rollback`; errors of writing the files.
    """
    folder = release_folder(options.client, project, options.host, "rollback")
    by = deployed_by(Path.cwd(), ReleaseKind.ROLLBACK)
    with folder.deploying():
        check_kind(folder.all(), project, units=False)
        target = rollback_to(folder.all(), number)
        restored, done = RestoredFiles(), None
        if restore and target is not None:
            restored = restored_files(folder, target, Path.cwd(), options.client.notice)
        try:
            done = on_engine(
                options, folder, [], lambda deployer: deployer.rollback(number, by, hold=hold), locked=True
            )
        finally:
            if done is None or not done.release.good:
                restored.undo(options.client.notice)
        different = () if not done.release.good else different_files(folder, done.release)
        return RolledBack(done, restored.names if done.release.good else (), restored.denied, different)


def notify_release(done: DeployResult, host: str | None, client: ClientContext) -> None:
    """Send the end of a release to the user's receivers, if there was one. `host`: None for this machine.

    A failure is a notice: it does not change the result of the release.
    """
    if done.outcome is None:
        return
    release = done.release
    named = (release.project, release.number, host or platform.node() or "here")
    images = tuple(f"{each.image}@{each.digest}" if each.digest else each.image for each in release.services)
    event = ReleaseDone(*named, images) if release.good else ReleaseFailed(*named, release.reason)
    try:
        notifications = Notifications.of_user(client)
        notifications.put_now([event])
    except BoltsealError as error:
        client.notice(clean(f"boltseal: the notification of this release was not sent: {error.message}"))
        return
    notifications.deliver()


def on_engine(
    options: DeployOptions,
    folder: ReleaseFolder,
    registries: Iterable[str],
    call: Callable[[Deployer], Awaitable[DeployResult]],
    *,
    locked: bool = False,
    compose: Compose | None = None,
) -> DeployResult:
    """Make a release while no other process does. `locked`: the caller holds `folder.deploying`; `compose`: None to find it."""

    async def run(transport: Transport) -> DeployResult:
        async with _deployer(options, folder, transport, compose) as deployer:
            done = await call(deployer)
        if done.outcome is not None and done.release.good and options.record:
            await record_in_ledgers(options, transport, folder, done.release)
        return done

    with nullcontext() if locked else folder.deploying():
        check_kind(folder.all(), folder.project, units=False)
        try:
            return ask(options.registries, registries, run)
        except (KeyboardInterrupt, BoltsealError) as error:
            if not isinstance(error, Precondition):  # its message says how to continue
                with suppress(BoltsealError):
                    for release in folder.all():
                        if release.unfinished:
                            options.client.notice(unfinished_notice(release, options.client))
            raise


async def record_in_ledgers(
    options: DeployOptions, transport: Transport, folder: ReleaseFolder, release: Release
) -> None:
    """Record a release in the ledgers whose keys its lock has. A failure is a notice, and does not fail the release."""
    text = folder.contents(release.number).lock
    known = frozenset[str]() if text is None else frozenset(parse_lock(text).keys)
    for report in await record_release(transport, release, known, folder.hmac):
        if report.index is None:
            options.client.notice(
                clean(f"{report.service}: not recorded in the ledger of {report.registry}: {report.why}")
            )


def progress_of(options: DeployOptions) -> Callable[[str], None]:
    """Return the receiver of progress lines."""
    return lambda line: options.client.notice(f"  {line}")


async def release_images(
    options: DeployOptions, engine: Engine, folder: ReleaseFolder, transport: Transport
) -> ReleaseImages:
    """Return what prepares the images of a project's releases on an engine. Raises: errors of the engine."""
    client, registries = options.client, options.registries
    host = await EngineHost.of(engine, KeptImages(client.state), client.now_us)
    scrubs = PullScrubber(host, options.require_scrub) if options.scrub else None
    directory = options.directory or next((Path(each.directory) for each in reversed(folder.all())), None)
    puller = Puller(
        host,
        transport,
        client.credentials(anonymous=registries.anonymous),
        watch=lambda registry: followed(registries, transport, registry),
        scrub=scrubs,
    )
    return ReleaseImages(host, puller, scrubs, ImageArchive(folder.root), archives_images(directory))


@asynccontextmanager
async def _deployer(
    options: DeployOptions, folder: ReleaseFolder, transport: Transport, compose: Compose | None
) -> AsyncIterator[Deployer]:
    """Connect to the engine and build a deployer. Raises: EngineUnavailable, ComposeMissing."""
    client = options.client
    async with connected(client.engine_address(options.host)) as engine:
        images = await release_images(options, engine, folder, transport)
        found = compose or await find_compose(child_environment(), {})
        flow = ReleaseFlow(
            replace(found, engine=engine.environment()),
            engine,
            folder,
            client.now_us,
            progress_of(options),
            DeployTimeouts(options.wait_s),
            reads_copies(engine.address),
            images,
        )
        yield Deployer(flow, images, options.take_over)
