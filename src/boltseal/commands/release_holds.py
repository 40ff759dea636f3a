"""Show and end what rollbacks of a project hold."""

from __future__ import annotations

from dataclasses import dataclass

from boltseal.commands.client_context import ClientContext
from boltseal.commands.cluster_releases import ClusterPlace, cluster_releases, read_releases
from boltseal.commands.engine_releases import engine_releases
from boltseal.commands.outcome import Outcome
from boltseal.deploy.holds import HeldImage, held_images, holding, without_hold
from boltseal.deploy.release_store import ReleaseFolder


@dataclass(frozen=True, slots=True)
class FoundHolds:
    """What is held, or was until now (`ended`). `rollbacks`: numbers of the releases that hold it."""

    images: tuple[HeldImage, ...]
    rollbacks: tuple[int, ...]
    ended: bool = False

    @property
    def outcome(self) -> Outcome:
        """DIFFERS while something is held."""
        return Outcome.DIFFERS if self.rollbacks and not self.ended else Outcome.HOLDS


def holds(project: str, client: ClientContext, host: str | None = None) -> FoundHolds:
    """Return what rollbacks of a project hold on an engine. Raises: ReleaseInvalid; errors of the engine."""
    engine = engine_releases(client, host)
    engine.refresh()
    return _holds_in(ReleaseFolder(engine.root, project))


def cluster_holds(client: ClientContext, place: ClusterPlace, project: str) -> FoundHolds:
    """Return what rollbacks of a project hold on a cluster. Raises: as `read_releases`."""
    return _holds_in(read_releases(client, place, project))


def _holds_in(folder: ReleaseFolder) -> FoundHolds:
    releases = folder.all()
    return FoundHolds(held_images(releases), tuple(each.number for each in holding(releases)))


def end_hold(project: str, client: ClientContext, host: str | None = None) -> FoundHolds:
    """End the holds of a project on an engine, and return them. Raises: AnotherDeploys; errors of the engine."""
    return _ended_in(engine_releases(client, host).folder(project, "release hold --end"))


def end_cluster_hold(client: ClientContext, place: ClusterPlace, project: str) -> FoundHolds:
    """End the holds of a project on a cluster, and return them. Raises: AnotherDeploys; as `cluster_releases`."""
    return _ended_in(cluster_releases(client, place, project, "release hold --end").folder)


def _ended_in(folder: ReleaseFolder) -> FoundHolds:
    with folder.deploying():
        releases = folder.all()
        found, images = holding(releases), held_images(releases)
        for each in found:
            folder.write(without_hold(each))
    return FoundHolds(images, tuple(each.number for each in found), ended=True)
