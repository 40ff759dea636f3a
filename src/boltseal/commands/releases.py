"""List and show the releases of projects on this host, and compare two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from boltseal.commands.client_context import ClientContext
from boltseal.commands.outcome import Outcome
from boltseal.deploy.release_diff import ReleaseChange, changes
from boltseal.deploy.release_store import NoSuchRelease, ReleaseFolder, projects
from boltseal.deploy.releases import Release, ReleaseContents, ReleasedService, last_good


@dataclass(frozen=True, slots=True)
class ListedRelease:
    """A release. `current`: it runs on its engine."""

    release: Release
    current: bool


@dataclass(frozen=True, slots=True)
class ReleaseDiff:
    """What changed between two releases of a project."""

    project: str
    changes: tuple[ReleaseChange, ...]

    @property
    def outcome(self) -> Outcome:
        """HOLDS if nothing changed."""
        return Outcome.DIFFERS if self.changes else Outcome.HOLDS


def release_folder(client: ClientContext, project: str, engine: str = "") -> ReleaseFolder:
    """Return the releases of a project, of one engine or of all. Raises: ReleaseInvalid."""
    return ReleaseFolder(client.state_folder, project, engine=engine)


def list_releases(project: str | None, client: ClientContext) -> list[ListedRelease]:
    """Return the releases of a project, or of all projects, the newest last. Raises: ReleaseInvalid."""
    names = [project] if project is not None else list(projects(client.state_folder))
    return [each for name in names for each in _of_project(release_folder(client, name).all())]


def _of_project(releases: Sequence[Release]) -> list[ListedRelease]:
    engines = {each.engine for each in releases}
    current = [last_good([each for each in releases if each.engine == engine]) for engine in engines]
    return [ListedRelease(each, each in current) for each in releases]


def show_release(project: str, number: int, client: ClientContext) -> ListedRelease:
    """Return one release of a project. Raises: NoSuchRelease, ReleaseInvalid, ReleaseUnreadable."""
    folder = release_folder(client, project)
    release = folder.read(number)
    return ListedRelease(release, any(each.current and each.release == release for each in _of_project(folder.all())))


def diff_releases(project: str, before: int, after: int, client: ClientContext) -> ReleaseDiff:
    """Compare two releases: images, labels, bases, settings, environment, files. Raises: NoSuchRelease."""
    folder = release_folder(client, project)
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
    elsewhere = release.engine not in ("", client.engine_address().key)
    arguments = f"--project-name {release.project}{f' --host {release.engine}' if elsewhere else ''}"
    return (
        f"release {release.number} of {release.project} was left {release.step}: `boltseal deploy --resume {arguments}` "
        f"continues it, `boltseal rollback {arguments}` goes back"
    )


def digest_text(service: ReleasedService) -> str:
    """Return a service's digest at its registry, or the image ID of a local build."""
    return (service.digest or service.image_id) + ("" if service.digest else " (local)")
