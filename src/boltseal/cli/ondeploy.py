"""What the verbs on releases share: which project, on which engine, and how a release is told."""

from __future__ import annotations

from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.answer import clean, say
from boltseal.cli.clock import clock_us
from boltseal.cli.onproject import whom_to_ask
from boltseal.cli.onrelease import by_whom, release_folder, say_left
from boltseal.cli.progress import Progress
from boltseal.cli.remote import RegistryOptions, ask, followed
from boltseal.commands.project_images import open_project
from boltseal.errors import BoltsealError, Invalid, Precondition, Unavailable, quote

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from boltseal.client.transport import Transport
    from boltseal.deploy.compose_program import Compose, ProjectFiles
    from boltseal.deploy.compose_reading import Read
    from boltseal.deploy.deployer import Deployer
    from boltseal.deploy.release_flow import DeployResult, ReleaseFlow
    from boltseal.deploy.release_store import ReleaseFolder
    from boltseal.deploy.releases import Release, ReleaseKind
    from boltseal.engines.api import Engine
    from boltseal.lockfile.document import Lock
    from boltseal.oci.reference import Reference

ServicesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SERVICE]...", show_default=False, help="Services of the project. Default: all of them."),
]
FileOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--file", "-f", metavar="FILE", show_default=False, help="A Compose file. Default: as Compose finds it."
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option(
        "--project", "-p", metavar="NAME", show_default=False, help="The project's name. Default: as Compose has it."
    ),
]
DirectoryOption = Annotated[
    Path | None,
    typer.Option(
        "--project-directory", metavar="DIR", show_default=False, help="The project's folder, as for Compose."
    ),
]
ProfileOption = Annotated[
    list[str] | None, typer.Option("--profile", metavar="NAME", show_default=False, help="Enable a profile, too.")
]
EnvFileOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--env-file", metavar="FILE", show_default=False, help="Take variables from this file, not from .env."
    ),
]
WaitOption = Annotated[
    str, typer.Option("--wait", metavar="TIME", help="How long services may take to be healthy, such as 120s or 5m.")
]

NoRecordOption = Annotated[
    bool, typer.Option("--no-record", help="Say nothing of the release to the ledgers of its registries.")
]

_MOST_US = 86_400_000_000


class WaitInvalid(Invalid):
    """A time to wait that is none."""


class LockNotUpdated(Unavailable):
    """A reference could not be resolved, so that there is no new lock."""


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """Which engine is talked to, how registries are, and how long and how strictly is looked."""

    host: str | None
    reach: RegistryOptions
    wait_s: float
    record: bool = True
    scrub: bool = True
    must_scrub: bool = False


def project_files(
    files: list[Path] | None,
    name: str | None,
    directory: Path | None,
    profiles: list[str] | None,
    env_files: list[Path] | None,
) -> ProjectFiles:
    """The project that the flags name. NoProject."""
    from boltseal.config import child_environment
    from boltseal.deploy.compose_program import ProjectFiles
    from boltseal.deploy.project_files import named_files

    whole = None if directory is None else directory.absolute()
    asked = ProjectFiles(
        whole or Path.cwd(), tuple(each.absolute() for each in files or ()), name, whole, tuple(profiles or ()),
        tuple(each.absolute() for each in env_files or ()),
    )  # fmt: skip
    return named_files(asked, child_environment())


def wait_seconds(text: str) -> float:
    """A time such as `120s`. WaitInvalid."""
    from boltseal.policy.durations import DurationInvalid, parse_duration

    try:
        found_us = parse_duration(text)
    except DurationInvalid as error:
        raise WaitInvalid(f"--wait is {error.message}") from error
    if not 0 < found_us <= _MOST_US:
        raise WaitInvalid(f"--wait is {quote(text)}; expected a time of at most a day, such as 120s or 5m")
    return found_us / 1_000_000


async def read_files(host: str | None, named: ProjectFiles, services: Sequence[str]) -> tuple[Compose, Read]:
    """Compose, and what it makes of the files. ComposeRefused, ..."""
    from boltseal.cli.onhost import engine_address
    from boltseal.config import child_environment
    from boltseal.deploy.compose_program import find_compose
    from boltseal.deploy.compose_reading import read_project

    address = engine_address(host)
    compose = await find_compose(child_environment(), address.environment())
    return compose, await read_project(compose, named, services)


@dataclass(frozen=True, slots=True)
class Opened:
    """A project that Compose has read, its releases, and whom it may make us talk to."""

    place: DeployOptions
    named: ProjectFiles
    services: tuple[str, ...]
    compose: Compose
    read: Read
    folder: ReleaseFolder
    root: Path
    allowed: Callable[[str], bool]

    @property
    def registries(self) -> frozenset[str]:
        """Every registry that its services name."""
        return frozenset(service.image.registry for service in self.read.model.services.values())

    def lock(self) -> tuple[Lock | None, Path]:
        """The lock of the project or of a folder above it, and where it is or would be. LockInvalid."""
        from boltseal.lockfile.document import LOCK_NAME
        from boltseal.project.lock_file import read_lock

        for each in (self.root, *self.root.resolve().parents):
            if (each / LOCK_NAME).exists():
                return read_lock(each), each
        return None, self.root

    def relock(self, update: Callable[[Reference], bool]) -> Lock:
        """Lock what the services name now, taking what is new of those that `update` says. LockNotUpdated: the old stays."""
        from boltseal.commands.lock import resolve_lock
        from boltseal.deploy.compose_lock import as_compose_reads
        from boltseal.lockfile.document import Lock
        from boltseal.project.lock_file import write_lock

        old, where = self.lock()
        opened = open_project(where, self.named.files)
        opened = replace(opened, sites=as_compose_reads(opened.sites, self.read.model, where, self.named.files[0]))
        with Progress() as progress:
            options = self.place.reach.options()
            done = resolve_lock(opened, old or Lock(), options, self.allowed, update=update, progress=progress)
        wrong = [f"{each.name}: {each.reason}" for each in done.unresolved] + [str(each) for each in opened.problems]
        if wrong:
            raise LockNotUpdated(f"the lock is as it was: {clean('; '.join(wrong[:5]))}")
        if write_lock(where, done.lock):
            say(f"{where / 'boltseal.lock'} written")
        return done.lock

    def built(self) -> Opened:
        """The same, after Compose has built the services that no digest is locked for. NotAsLocked, ComposeFailed, ..."""
        import asyncio

        from boltseal.cli.onhost import engine_address
        from boltseal.deploy.compose_model import locked_digests, not_locked
        from boltseal.engines.api import connected
        from boltseal.lockfile.document import LOCK_NAME

        lock, _ = self.lock()
        digests = locked_digests(self.read.model, lock)
        names = frozenset(not_locked(self.read.model, lock, digests))
        for name, service in sorted(self.read.model.services.items()):
            if service.build and name in digests:
                source = "its file" if lock is None else LOCK_NAME
                say(clean(f"{name}: not built, {source} has {digests[name].short}"))

        async def run() -> None:
            async with connected(engine_address(self.place.host)) as engine:
                compose = replace(self.compose, engine=engine.environment())
                await compose.build(self.named, sorted(names), _show)

        if names:  # without any, Compose builds all
            asyncio.run(run())
        return replace(self, read=replace(self.read, built=names))

    def deploy(self, kind: ReleaseKind) -> DeployResult:
        """Deploy it as locked. Whoever calls holds `folder.deploying`. As `Deployer.deploy` raises."""
        import asyncio

        lock, _ = self.lock()
        runs = asyncio.run(self._standing(lock))
        if runs is not None:
            return runs
        by = by_whom(self.root, kind)

        async def run(deployer: Deployer) -> DeployResult:
            return await deployer.deploy(self.read, lock, self.services, by)

        return on_engine(self.place, self.folder, self.registries, run, locked=True)

    async def _standing(self, lock: Lock | None) -> DeployResult | None:
        """What runs, if it is that already. Nothing that talks to registries is loaded for it."""
        from boltseal.cli.onhost import engine_address
        from boltseal.deploy.release_flow import DeployResult, ReleaseFlow
        from boltseal.deploy.up_to_date import standing
        from boltseal.engines.api import connected

        address = engine_address(self.place.host)
        async with connected(address) as engine:
            flow = ReleaseFlow(self.compose, engine, self.folder, clock_us, _show, copies=address.scheme == "unix")
            release = await standing(flow, self.read, lock, self.services)
        return None if release is None else DeployResult(release)


def open_named(place: DeployOptions, named: ProjectFiles, services: Sequence[str], allow: Sequence[str]) -> Opened:
    """Have Compose read a project. ComposeRefused, ComposeMissing, RegistryNotAllowed."""
    import asyncio

    from boltseal.cli.onhost import engine_address
    from boltseal.deploy.project_files import project_folder

    compose, read = asyncio.run(read_files(place.host, named, services))
    allowed = whom_to_ask(place.reach, allow)
    folder = release_folder(read.model.project, engine_address(place.host).key)
    opened = Opened(place, named, tuple(services), compose, read, folder, project_folder(named), allowed)
    for name, service in sorted(read.model.services.items()):
        if not allowed(service.image.registry):
            from boltseal.project.resolve import not_allowed

            refusal = not_allowed(service.image.registry)
            raise type(refusal)(f"{name}: {refusal.message}")
    return opened


def on_engine(
    place: DeployOptions,
    folder: ReleaseFolder,
    registries: Iterable[str],
    call: Callable[[Deployer], Awaitable[DeployResult]],
    *,
    locked: bool = False,
) -> DeployResult:
    """Do something with the releases of a project, as the only one who does. `locked`: the caller is that already."""

    async def run(transport: Transport) -> DeployResult:
        async with deployer(place, folder, transport) as opened:
            done = await call(opened)
        if done.outcome is not None and done.release.good and place.record:
            await _record(transport, folder, done.release)
        return done

    with nullcontext() if locked else folder.deploying():
        try:
            return ask(place.reach, registries, run)
        except (KeyboardInterrupt, BoltsealError) as error:
            if not isinstance(error, Precondition):  # that says it itself
                with suppress(BoltsealError):
                    for release in folder.all():
                        say_left(release)
            raise


async def _record(transport: Transport, folder: ReleaseFolder, release: Release) -> None:
    """Say to the ledgers that the release's lock knows that it runs; what can't be said is told, and nothing more."""
    from boltseal.deploy.ledger_reports import record_release
    from boltseal.lockfile.parse import parse_lock

    text = folder.contents(release.number).lock
    known = frozenset[str]() if text is None else frozenset(parse_lock(text).keys)
    for said in await record_release(transport, release, known, folder.hmac):
        if said.index is None:
            say(clean(f"{said.service}: not recorded in the ledger of {said.registry}: {said.why}"))


def _show(line: str) -> None:
    say(f"  {line}")


@asynccontextmanager
async def deployer(place: DeployOptions, folder: ReleaseFolder, transport: Transport) -> AsyncIterator[Deployer]:
    """All that a release takes, on an engine that answers. EngineUnavailable, ComposeMissing, ..."""
    from boltseal.cli.onhost import engine_address
    from boltseal.client.credentials import CredentialStore
    from boltseal.client.state import ClientState
    from boltseal.config import client_paths, state_folder
    from boltseal.deploy.deployer import Deployer
    from boltseal.deploy.release_images import Images, Scrubs
    from boltseal.engines.api import connected
    from boltseal.host.engine_images import EngineHost
    from boltseal.host.kept_images import KeptImages
    from boltseal.host.pull import Puller

    address = engine_address(place.host)
    async with connected(address) as engine:
        host = await EngineHost.of(engine, KeptImages(ClientState(state_folder())), clock_us)
        logins = CredentialStore(() if place.reach.anonymous else client_paths().logins)
        scrubs = Scrubs(host, place.must_scrub) if place.scrub else None
        puller = Puller(
            host, transport, logins, watch=lambda registry: followed(place.reach, transport, registry), scrub=scrubs
        )
        yield Deployer(await _flow(place, folder, engine), Images(host, puller, scrubs))


async def _flow(place: DeployOptions, folder: ReleaseFolder, engine: Engine) -> ReleaseFlow:
    from boltseal.config import child_environment
    from boltseal.deploy.compose_program import find_compose
    from boltseal.deploy.release_flow import Patience, ReleaseFlow

    user = child_environment()
    compose = await find_compose(user, engine.environment())
    return ReleaseFlow(
        compose, engine, folder, clock_us, _show, Patience(place.wait_s), engine.address.scheme == "unix"
    )


class WhichProject(Invalid):
    """More than one project has releases on this host, and none was named."""


async def _name_here(named: ProjectFiles) -> str:
    """The name of the project of these files, whatever its profiles enable. ComposeRefused: and how to do without them."""
    from boltseal.deploy.compose_program import ComposeRefused

    try:
        _, read = await read_files(None, replace(named, profiles=("*",)), ())
    except Invalid as error:
        hint = "what is recorded does not need the files: name the project with --project"
        raise ComposeRefused(f"{error.message}; {hint}") from error
    return read.model.project


def project_name(name: str | None) -> str:
    """Which project's releases are meant: the one named, that of the files here, or the only one. WhichProject, ..."""
    import asyncio

    from boltseal.config import state_folder
    from boltseal.deploy.project_files import NoProject
    from boltseal.deploy.release_store import NoSuchRelease, projects

    if name is not None:
        return name
    try:
        named = project_files(None, None, None, None, None)
    except NoProject:
        pass
    else:
        return asyncio.run(_name_here(named))
    found = projects(state_folder())
    if not found:
        raise NoSuchRelease("there are no releases on this host yet; `boltseal deploy` makes the first")
    if len(found) > 1:
        raise WhichProject(f"several projects have releases here: {', '.join(found[:20])}; name one with --project")
    return found[0]
