"""List and show the releases of projects on this host, and compare two of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from boltseal.commands.client_context import ClientContext
from boltseal.commands.each_host import AT_ONCE, on_each
from boltseal.commands.engine_releases import engine_releases, known_folders, refreshed
from boltseal.commands.outcome import Outcome
from boltseal.deploy.release_diff import ReleaseChange, changes
from boltseal.deploy.release_store import NoSuchRelease, ReleaseFolder
from boltseal.deploy.releases import CLUSTER_KEY, Release, ReleaseContents, ReleasedService, check_project, last_good
from boltseal.engines.host_list import in_command
from boltseal.errors import BoltsealError, Unavailable


@dataclass(frozen=True, slots=True)
class ListedRelease:
    """A release. `current`: it runs on its engine."""

    release: Release
    current: bool


@dataclass(frozen=True, slots=True)
class ReleaseList:
    """Releases, the newest last. `unread`: why the default engine could not be asked, so that some may be missing."""

    releases: tuple[ListedRelease, ...]
    unread: Unavailable | None = None

    @property
    def outcome(self) -> Outcome:
        """UNKNOWN if an engine could not be asked."""
        return Outcome.HOLDS if self.unread is None else Outcome.UNKNOWN


@dataclass(frozen=True, slots=True)
class ReleaseDiff:
    """What changed between two releases of a project."""

    project: str
    changes: tuple[ReleaseChange, ...]

    @property
    def outcome(self) -> Outcome:
        """HOLDS if nothing changed."""
        return Outcome.DIFFERS if self.changes else Outcome.HOLDS


HostReleases = tuple[ListedRelease, ...] | BoltsealError
"""The releases of one host, or why it could not be asked."""


def release_folder(
    client: ClientContext, project: str, host: str | None = None, reason: str = "deploy"
) -> ReleaseFolder:
    """Return the releases of a project on an engine. `reason`: the command. Raises: ReleaseInvalid; errors of the engine."""
    return engine_releases(client, host).folder(project, reason)


def list_releases(project: str | None, client: ClientContext, host: str | None = None) -> ReleaseList:
    """Return the releases of a project, or of all projects, the newest last.

    `host`: only those of this engine; None for those of the default engine and all that this machine knows.
    Raises: ReleaseInvalid; errors of the engine `host`.
    """
    asked = refreshed(client, host)
    folders = [
        each
        for each in known_folders(client, project)
        if host is None or (asked.engine is not None and each.folder.is_relative_to(asked.engine.root))
    ]
    listed: list[ListedRelease] = []
    for folder in sorted(folders, key=lambda each: each.project):
        for path in folder.torn():
            client.notice(f"boltseal: {path} is incomplete and ignored")
        shown = {(each.release.project, each.release.started_us, each.release.who) for each in listed}
        listed += [
            each
            for each in marked(folder.all())
            if (each.release.project, each.release.started_us, each.release.who) not in shown
        ]
    listed.sort(key=lambda each: (each.release.project, each.release.number))
    return ReleaseList(tuple(listed), asked.unread)


def list_host_releases(project: str | None, client: ClientContext, hosts: Sequence[str]) -> dict[str, HostReleases]:
    """Return the releases of a project, or of all projects, on each of several hosts. Raises: ReleaseInvalid, EngineAddressInvalid."""
    addresses = [str(client.engine_address(each)) for each in hosts]
    if project is not None:
        check_project(project)

    def listed(host: str) -> HostReleases:
        try:
            return list_releases(project, client, host).releases
        except BoltsealError as error:
            return error

    return dict(zip(addresses, on_each(addresses, AT_ONCE, listed), strict=True))


def marked(releases: Sequence[Release]) -> list[ListedRelease]:
    """Return releases of one folder with the mark of the one that runs on each engine.

    A cluster may have another name for each user: one folder has the releases of one namespace of it.
    """
    engines = {_place(each) for each in releases}
    current = [last_good([each for each in releases if _place(each) == engine]) for engine in engines]
    return [ListedRelease(each, each in current) for each in releases]


def _place(release: Release) -> str:
    return CLUSTER_KEY if release.on_cluster else release.engine


def folder_with(project: str, number: int, client: ClientContext, host: str | None = None) -> ReleaseFolder:
    """Return the folder that has a release: of the engine `host`, else of the default engine, else of any.

    Raises: NoSuchRelease, ReleaseInvalid, ReleaseUnreadable; errors of the engine `host`; Unavailable: the default engine can't be
    asked, and no other has it.
    """
    found = [each for each in known_folders(client, project) if _has(each, number)]
    if len(found) == 1 and host is None:
        return found[0]
    asked = refreshed(client, host)
    own = [] if asked.engine is None else [ReleaseFolder(asked.engine.root, project)]
    folder = next((each for each in (*own, *([] if host else found)) if _has(each, number)), None)
    if folder is None and asked.unread is not None:
        raise asked.unread
    if folder is None:
        raise NoSuchRelease(f"{project} has no release {number} on this host; see `boltseal release ls`")
    return folder


def _has(folder: ReleaseFolder, number: int) -> bool:
    with suppress(NoSuchRelease):
        folder.read(number)
        return True
    return False


def show_release(project: str, number: int | None, client: ClientContext, host: str | None = None) -> ListedRelease:
    """Return one release of a project; None: the one that runs.

    Raises: NoSuchRelease, ReleaseInvalid, ReleaseUnreadable; Unavailable: the default engine can't be asked, and no other has it.
    """
    if number is None:
        here = client.engine_address(host).key
        listed = list_releases(project, client, host)
        running = [each for each in listed.releases if each.current]
        newest = max(running, key=lambda each: (each.release.engine == here, each.release.number), default=None)
        if newest is None and listed.unread is not None:
            raise listed.unread
        if newest is None:
            raise NoSuchRelease(f"no release of {project} runs; `boltseal release ls` lists all")
        return newest
    folder = folder_with(project, number, client, host)
    release = folder.read(number)
    return ListedRelease(release, any(each.current and each.release == release for each in marked(folder.all())))


def diff_releases(project: str, before: int, after: int, client: ClientContext) -> ReleaseDiff:
    """Compare two releases: images, labels, bases, settings, environment, files. Raises: NoSuchRelease."""
    return compared(folder_with(project, before, client), before, after)


def compared(folder: ReleaseFolder, before: int, after: int) -> ReleaseDiff:
    """Compare two releases of one folder. Raises: NoSuchRelease."""
    old, new = folder.read(before), folder.read(after)
    found = changes(old, new, _contents(folder, before), _contents(folder, after))
    return ReleaseDiff(folder.project, tuple(found))


def _contents(folder: ReleaseFolder, number: int) -> ReleaseContents | None:
    """Return what was recorded with a release; None where only its record is kept."""
    try:
        return folder.contents(number)
    except NoSuchRelease:
        return None


def unfinished_notice(release: Release, client: ClientContext) -> str:
    """Return how to continue an unfinished release."""
    if release.on_cluster:
        context, _, namespace = release.engine.removeprefix(CLUSTER_KEY).rpartition("/")
        arguments = f"--project-name {release.project} --kube {context} --namespace {namespace}"
    else:
        elsewhere = release.engine not in ("", client.engine_address().key)
        arguments = f"--project-name {release.project}{f' --host {in_command(release.engine)}' if elsewhere else ''}"
        arguments += " --quadlet" if release.unit_folder else ""
    return (
        f"release {release.number} of {release.project} was left {release.step}: `boltseal deploy --resume {arguments}` "
        f"continues it, `boltseal rollback {arguments}` goes back"
    )


def image_text(image: str, digest: str) -> str:
    """Return an image as in the files, without this digest: for output that has the digest beside it."""
    return image.removesuffix(f"@{digest}") if digest else image


def digest_text(service: ReleasedService) -> str:
    """Return a service's digest at its registry, or the image ID of a local build."""
    return (service.digest or service.image_id) + ("" if service.digest else " (local)")
