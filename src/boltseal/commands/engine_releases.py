"""Finds the releases of an engine: in a folder of this machine, and in the engine's volume.

    ENGINES/<engine id>/releases/PROJECT/    ENGINES: /var/lib/boltseal/engines for root, else in the user's state folder

For root on the engine's own host, this folder is authoritative. Other administrators have a copy of the volume in it. Each deploy brings
both to one state, so that a pruned volume is written again, and every administrator finds all releases.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from boltseal.commands.client_context import ClientContext
from boltseal.config import operator
from boltseal.deploy.earlier_releases import read_earlier
from boltseal.deploy.release_copy import EngineCopy, HeldLock, LockOwner, held_lock, this_process
from boltseal.deploy.release_exchange import exchanged, releases_in_volume
from boltseal.deploy.release_store import ReleaseFolder, projects
from boltseal.deploy.releases import check_project
from boltseal.engines.address import EngineAddress
from boltseal.engines.api import connected
from boltseal.engines.release_volume import VOLUME, VolumeContainer, engine_id, has_volume, remove_container
from boltseal.errors import BoltsealError, NotFound, Unavailable


@dataclass(frozen=True, slots=True)
class EngineReleases:
    """The releases of one engine on this machine. `root`: ENGINES/<engine id>."""

    client: ClientContext
    address: EngineAddress
    root: Path

    def folder(self, project: str, reason: str = "deploy") -> ReleaseFolder:
        """Return the releases of a project, to read and to deploy. `reason`: the command that deploys."""
        owner = LockOwner(operator(), reason, self.client.now_us(), this_process())
        authoritative = self.address.scheme == "unix" and os.geteuid() == 0
        copy = EngineCopy(self.address, check_project(project), owner, self.client.notice, authoritative=authoritative)
        folder = ReleaseFolder(self.root, project, address=self.address.key, copy=copy)
        take_over_earlier(self.client.state_folder, self.address.key, folder)
        return folder

    def refresh(self) -> None:
        """Copy releases of other administrators from the engine's volume. Raises: errors of the engine."""
        found = asyncio.run(_volume(self.address))
        for project in sorted({name.partition("/")[0] for name in found}):
            files = {name.partition("/")[2]: raw for name, raw in found.items() if name.startswith(f"{project}/")}
            folder = ReleaseFolder(self.root, project, address=self.address.key)
            for each in exchanged(folder.stored(), releases_in_volume(files, project), authoritative=True).to_folder:
                folder.put(each)
        for project in projects(self.client.state_folder):
            take_over_earlier(self.client.state_folder, self.address.key, ReleaseFolder(self.root, project))


def engine_releases(client: ClientContext, host: str | None = None) -> EngineReleases:
    """Return the releases of the engine at an address. Raises: errors of the engine."""
    address = client.engine_address(host)

    async def ask() -> str:
        async with connected(address) as engine:
            return await engine_id(engine)

    return EngineReleases(client, address, client.engines / asyncio.run(ask()))


def take_over_earlier(state: Path, engine: str, folder: ReleaseFolder) -> None:
    """Copy the releases that earlier versions recorded in the state folder, by the engine's address; they are left there."""
    earlier = ReleaseFolder(state, folder.project, engine=engine)
    if earlier.folder == folder.folder or not earlier.folder.is_dir():
        return
    known = {(each.started_us, each.who) for each in folder.all()}
    lacking = [
        stored
        for release in earlier.all()
        if (release.started_us, release.who) not in known
        and (stored := read_earlier(earlier.folder / str(release.number))) is not None
    ]
    if lacking and not folder.has_key() and earlier.has_key():
        folder.key(earlier.key())
    for each in exchanged(folder.stored(), lacking, authoritative=True).to_folder:
        folder.put(each, copy=False)


def known_folders(client: ClientContext, project: str | None = None) -> Iterator[ReleaseFolder]:
    """Return the folders of a project, or of all projects, on this machine: of all engines, and of earlier versions.

    Raises: ReleaseInvalid, ReleasesUnusable.
    """
    roots = sorted(each for each in client.engines.glob("*") if each.is_dir()) if client.engines.is_dir() else []
    for root in (*roots, client.state_folder):
        for name in projects(root):
            if project in (None, name):
                yield ReleaseFolder(root, name)


def unlock(client: ClientContext, project: str, host: str | None) -> HeldLock:
    """Remove the lock of a project on an engine, also one of another administrator. Raises: NotFound: there is none."""

    async def run() -> HeldLock:
        async with connected(client.engine_address(host)) as engine:
            held = await held_lock(engine, check_project(project))
            if held is None:
                raise NotFound(f"{project} is not locked on this engine: no deploy is under way")
            await remove_container(engine, held.id)
            return held

    return asyncio.run(run())


@dataclass(frozen=True, slots=True)
class RefreshedReleases:
    """The releases of an engine after reading them from it. `engine`: None if it could not be asked, `unread`: the reason."""

    engine: EngineReleases | None
    unread: Unavailable | None = None


def refreshed(client: ClientContext, host: str | None = None) -> RefreshedReleases:
    """Refresh the releases of an engine; if the default one can't be asked, that is in the result.

    Raises: errors of the engine `host`.
    """
    try:
        found = engine_releases(client, host)
        found.refresh()
    except BoltsealError as error:
        if host is not None:
            raise
        reason = f"could not check the releases on the default engine, only those of this machine: {error.message}"
        return RefreshedReleases(None, Unavailable(reason))
    return RefreshedReleases(found)


async def _volume(address: EngineAddress) -> dict[str, bytes]:
    async with connected(address) as engine:
        if not await has_volume(engine):
            return {}
        container = await VolumeContainer.create(engine, f"boltseal-reading-{os.urandom(6).hex()}", {"volume": VOLUME})
        try:
            return await container.read()
        finally:
            await container.remove()
