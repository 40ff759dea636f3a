"""Deploy a folder of Quadlet units on this host as locked, resume an unfinished release, or roll back.

The engine is Podman on this host, since the drop-in files are written here. Its releases are where those of Compose projects are, so that
`release ls`, `show`, `diff`, `hold` and `unlock` treat them alike.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from boltseal.client.transport import Transport
from boltseal.commands.client_context import ClientContext
from boltseal.commands.deploy import DeployOptions, deployed_by, progress_of, record_in_ledgers, release_images
from boltseal.commands.project_images import registry_filter
from boltseal.commands.registry_access import ask
from boltseal.commands.release_files import RestoredFiles, restored_files
from boltseal.commands.releases import release_folder, unfinished_notice
from boltseal.config import child_environment
from boltseal.deploy.health_wait import DeployTimeouts
from boltseal.deploy.kube.object_diff import ObjectChange
from boltseal.deploy.quadlet.drop_ins import DropIns
from boltseal.deploy.quadlet.generator import Generator
from boltseal.deploy.quadlet.systemd import Systemd, SystemdFailed
from boltseal.deploy.quadlet.unit_deployer import UnitDeployer
from boltseal.deploy.quadlet.unit_flow import UnitFlow
from boltseal.deploy.quadlet.unit_folders import read_units, unit_folders
from boltseal.deploy.release_flow import DeployResult
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import ReleaseKind, check_project, last_good, rollback_to
from boltseal.engines.api import connected
from boltseal.errors import BoltsealError, Invalid, Precondition
from boltseal.lockfile.document import LOCK_NAME, Lock
from boltseal.project.lock_file import read_lock_file
from boltseal.project.resolve import not_allowed

_LACKING: Final = "systemd does not run here, or does not answer (`systemctl is-system-running`)"
_LACKING_USER: Final = (
    "systemd of this user does not run, or does not answer (`systemctl --user is-system-running`); `loginctl enable-linger` starts it "
    "without a login, and a shell of sudo or su needs XDG_RUNTIME_DIR"
)


@dataclass(frozen=True, slots=True)
class QuadletRequest:
    """What is done where. `root`: the folder of the units; `start`: whether services are started; `allow`: registries."""

    options: DeployOptions
    root: Path
    project: str
    start: bool = True
    allow: tuple[str, ...] = ()

    @property
    def client(self) -> ClientContext:
        """The client context."""
        return self.options.client


def quadlet_request(
    options: DeployOptions, root: Path, project: str | None, *, start: bool = True, allow: Sequence[str] = ()
) -> QuadletRequest:
    """Return what is done where: the project is named by its folder, the engine is this host's Podman.

    Raises: ReleaseInvalid; Invalid: the engine is on another host.
    """
    name = project or re.sub(r"[^a-z0-9_-]+", "-", root.resolve().name.lower()).strip("-")
    host = options.host or podman_socket()
    if not host.startswith("unix://"):
        raise Invalid(
            f"--quadlet writes drop-in files on this host (got the engine {host}, expected unix:///PATH of its Podman)"
        )
    directory = root.resolve()
    return QuadletRequest(
        replace(options, host=host, directory=directory), directory, check_project(name), start, tuple(allow)
    )


def podman_socket() -> str:
    """Return the address of this user's Podman: DOCKER_HOST, else Podman's default."""
    environment = child_environment()
    if environment.get("DOCKER_HOST"):
        return environment["DOCKER_HOST"]
    if os.geteuid() == 0:
        return "unix:///run/podman/podman.sock"
    return f"unix://{environment.get('XDG_RUNTIME_DIR') or f'/run/user/{os.getuid()}'}/podman/podman.sock"


def deploy_units(request: QuadletRequest, *, anyway: bool = False) -> DeployResult:
    """Deploy units as locked. Raises: as `UnitDeployer.deploy`."""
    project, lock = read_units(request.root), _lock(request)
    by = deployed_by(request.root, ReleaseKind.DEPLOY)
    folder = _folder(request, "deploy")
    with folder.deploying():
        return _on_engine(request, folder, lambda deployer: deployer.deploy(project, lock, by, anyway=anyway), lock)


def resume_units(request: QuadletRequest) -> DeployResult:
    """Continue the unfinished release. Raises: as `UnitDeployer.resume`."""
    folder = _folder(request, "deploy --resume")
    with folder.deploying():
        return _on_engine(request, folder, lambda deployer: deployer.resume())


def preview_units(request: QuadletRequest) -> tuple[ObjectChange, ...]:
    """Return what a deploy would change in each service, as Podman's generator says. Changes nothing."""
    project, lock = read_units(request.root), _lock(request)
    folder = _folder(request, "deploy --dry-run")

    async def run(transport: Transport) -> tuple[ObjectChange, ...]:
        async with _deployer(request, folder, transport) as deployer:
            return deployer.preview(project, lock)

    return ask(request.options.registries, [], run)


def roll_back_units(
    request: QuadletRequest, number: int | None, *, restore: bool = False
) -> tuple[DeployResult, tuple[str, ...]]:
    """Deploy an older release of units again; return the names of restored unit files as well.

    Raises: as `UnitDeployer.rollback`; errors of writing the files.
    """
    folder = _folder(request, "rollback")
    by = deployed_by(request.root, ReleaseKind.ROLLBACK)
    with folder.deploying():
        target, restored, done = rollback_to(folder.all(), number), RestoredFiles(), None
        if restore and target is not None:
            restored = restored_files(folder, target, Path.cwd(), request.client.notice)
        try:
            done = _on_engine(request, folder, lambda deployer: deployer.rollback(number, by))
        finally:
            if done is None or not done.release.good:
                restored.undo(request.client.notice)
        return done, restored.names if done.release.good else ()


def _lock(request: QuadletRequest) -> Lock | None:
    """Return the lock of the folder or of one above it."""
    for each in (request.root, *request.root.parents):
        if (each / LOCK_NAME).exists():
            return read_lock_file(each).lock
    return None


def _folder(request: QuadletRequest, reason: str) -> ReleaseFolder:
    return release_folder(request.client, request.project, request.options.host, reason)


def _on_engine(
    request: QuadletRequest,
    folder: ReleaseFolder,
    call: Callable[[UnitDeployer], Awaitable[DeployResult]],
    lock: Lock | None = None,
) -> DeployResult:
    """Make a release while no other process does: the caller is inside `folder.deploying`."""

    async def run(transport: Transport) -> DeployResult:
        async with _deployer(request, folder, transport) as deployer:
            done = await call(deployer)
        if done.outcome is not None and done.release.good and request.options.record:
            await record_in_ledgers(request.options, transport, folder, done.release)
        return done

    try:
        return ask(request.options.registries, _registries(request, lock), run)
    except (KeyboardInterrupt, BoltsealError) as error:
        if not isinstance(error, Precondition):  # its message says how to continue
            with suppress(BoltsealError):
                for release in folder.all():
                    if release.unfinished:
                        request.client.notice(unfinished_notice(release, request.client))
        raise


def _registries(request: QuadletRequest, lock: Lock | None) -> Iterable[str]:
    """Return the registries of a lock. Raises: RegistryNotAllowed."""
    found = () if lock is None else sorted({each.reference.registry for each in lock.images if each.digest is not None})
    allowed = registry_filter(request.options.registries, list(request.allow))
    for each in found:
        if not allowed(each):
            raise not_allowed(each)
    return found


@asynccontextmanager
async def _deployer(
    request: QuadletRequest, folder: ReleaseFolder, transport: Transport
) -> AsyncIterator[UnitDeployer]:
    """Connect to Podman and systemd. Raises: EngineUnavailable; SystemdFailed: systemd does not run here; Invalid."""
    client, environment = request.client, child_environment()
    folders = unit_folders(environment, os.geteuid())
    systemd = Systemd(folders.user, environment) if request.start else None
    if systemd is not None and not systemd.runs():
        raise SystemdFailed(
            f"{_LACKING_USER if folders.user else _LACKING}; nothing was changed; with --no-start the drop-in files are written and "
            "checked by Podman's generator, and nothing is started"
        )
    last = last_good(folder.all())
    units = Path(last.unit_folder) if last is not None and last.unit_folder else folders.written
    if units not in folders.searched:
        raise Invalid(
            f"the releases of {request.project} have their drop-in files in {units}, which is not a folder of this Podman (expected "
            f"one of {', '.join(map(str, folders.searched))})"
        )
    async with connected(client.engine_address(request.options.host)) as engine:
        if not engine.about.podman:
            raise Invalid(
                f"--quadlet needs Podman (got another engine at {request.options.host}); name its socket by --host"
            )
        yield UnitDeployer(
            UnitFlow(
                await release_images(request.options, engine, folder, transport),
                folder,
                DropIns(units, request.project),
                Generator(folders, environment),
                systemd,
                client.now_us,
                progress_of(request.options),
                DeployTimeouts(request.options.wait_s),
            )
        )
