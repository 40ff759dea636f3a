"""`update`'s two halves: what registries say of a project's images now, and the files, lock and release made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boltseal.commands.registry_access import ask, followed
from boltseal.errors import BoltsealError, Invalid, Unavailable
from boltseal.project.edits import FileEdit
from boltseal.project.lock_file import write_lock
from boltseal.project.replace_files import replace_all

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from boltseal.client.tag_observations import ObservedInterval
    from boltseal.client.transport import Transport
    from boltseal.commands.deploy import DeployableProject
    from boltseal.deploy.release_flow import DeployResult
    from boltseal.deploy.update_plan import UpdateStep
    from boltseal.oci.digest import Digest
    from boltseal.oci.reference import Reference, Tag


class NoLock(Invalid):
    """There is no lock, so that nobody knows what an update would replace."""


class NotWritten(Unavailable):
    """A newer version could not be written into the files."""


def looked(
    opened: DeployableProject, *, now_us: int, cooldown_us: int, major: bool, remember: bool
) -> tuple[UpdateStep, ...]:
    """What is to be done with each service, by one HEAD for each tag that floats and a list for each that does not."""
    from boltseal.deploy.update_plan import KnownImages, failed_before, floats, is_version, steps
    from boltseal.lockfile.document import LOCK_NAME, lock_key

    lock, where = opened.lock()
    if lock is None:
        raise NoLock(f"there is no {LOCK_NAME} in {where}: `boltseal lock` and `boltseal deploy` come first")
    services = list(opened.read.model.services.values())
    floating = [lock_key(each.image) for each in services if floats(each)]
    versions = [lock_key(each.image) for each in services if is_version(each)]

    async def run(transport: Transport) -> KnownImages:
        from boltseal.client.registry_client import Resolved
        from boltseal.project.resolve import Resolver

        resolver = Resolver(
            transport, opened.allowed, watch=lambda registry: followed(opened.options.registries, transport, registry)
        )
        meanings = await resolver.meanings(floating)
        meant = {key: each.digest for key, each in meanings.items() if isinstance(each, Resolved)}
        tags = {each: await _tags(transport, each) for each in dict.fromkeys(versions)}
        locked = {each.reference: each.digest for each in lock.images if each.digest is not None}
        past = _past(meant, now_us, remember=remember)
        return KnownImages(locked, meanings, tags, past, failed_before(opened.folder.all()))

    known = ask(opened.options.registries, opened.registries, run)
    return steps(services, known, now_us=now_us, cooldown_us=cooldown_us, major=major)


async def _tags(transport: Transport, image: Reference) -> Sequence[Tag] | BoltsealError:
    from boltseal.client.registry_client import RegistryClient

    try:
        return [tag async for tag in RegistryClient(transport, image.registry).tags(image.repository)]
    except BoltsealError as error:
        return error


def _past(
    meant: Mapping[Reference, Digest], now_us: int, *, remember: bool
) -> dict[Reference, Sequence[ObservedInterval]]:
    """Since when each tag has meant what it means, as far as somebody has looked; this look is remembered."""
    from boltseal.client.state import ClientState
    from boltseal.client.tag_observations import TagObservations
    from boltseal.config import state_folder

    with TagObservations(ClientState(state_folder())) as watched:
        if remember and meant:
            watched.saw_all(meant.items(), now_us)
        return {reference: watched.past(reference) for reference in meant}


def taken(opened: DeployableProject, chosen: Sequence[UpdateStep]) -> DeployResult:
    """Write newer versions into the files, lock what is taken, and deploy it; all of it back if that does not get healthy.

    Only these services are deployed: what else somebody has changed in the files is for `deploy`.
    """
    from boltseal.commands.deploy import open_deployable
    from boltseal.deploy.releases import ReleaseKind, last_good
    from boltseal.lockfile.document import lock_key

    old, where = opened.lock()
    names = sorted({step.service for step in chosen})
    changes = _retagged(opened, {step.service: step.tag for step in chosen if step.tag is not None})
    done = None
    replace_all(opened.root.resolve(), changes)
    try:
        only = names if last_good(opened.folder.all()) is not None else list(opened.services)
        now = open_deployable(opened.options, opened.named, only, list(opened.registries))
        images = {lock_key(now.read.model.services[name].image) for name in names}
        now.relock(lambda reference: reference in images)
        done = now.deploy(ReleaseKind.UPDATE)
        return done
    finally:
        if done is None or not done.release.good:
            replace_all(opened.root.resolve(), [FileEdit(each.after, each.before) for each in changes])
            if old is not None:
                write_lock(where, old)


def _retagged(opened: DeployableProject, versions: Mapping[str, Tag]) -> tuple[FileEdit, ...]:
    """The Compose files with these versions, by service. NotWritten, with the first reason."""
    from boltseal.project.edits import ScanRequest
    from boltseal.project.retag import retag
    from boltseal.project.scan import scan_project
    from boltseal.project.source_files import ProjectTree

    if not versions:
        return ()
    asked = ScanRequest(ProjectTree(opened.root), list(opened.named.files))
    found = scan_project(asked.project, asked.paths)
    wanted = {f"services.{name}.image": tag for name, tag in versions.items()}
    sites = {site: wanted[site.where] for site in found.sites if site.where in wanted}
    edited = retag(asked, found, sites)
    missing = wanted.keys() - {site.where for site in sites}
    for refusal in edited.refusals:
        raise NotWritten(f"{refusal.site.path}:{refusal.site.line}: {refusal.reason}; nothing was written")
    if missing:
        raise NotWritten(f"{', '.join(sorted(missing))}: its text was not found in the files; nothing was written")
    return edited.changes
