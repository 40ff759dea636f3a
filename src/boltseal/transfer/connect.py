"""Builds the two ends of a transfer from the places that were typed.

What talks to a daemon is loaded only where a place is one: it doubles the time that a copy between registries needs to
get started.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from boltseal.client.transport import Transport
from boltseal.engines.address import EngineAddress
from boltseal.oci.reference import Repository
from boltseal.transfer.archive import ArchiveSource, ArchiveTarget
from boltseal.transfer.layout import LayoutPlace
from boltseal.transfer.locations import Place, PlaceKind
from boltseal.transfer.protocols import PlaceInvalid, Source, Target
from boltseal.transfer.remote import RepositoryPlace


@dataclass(frozen=True, slots=True)
class Means:
    """What ends are built with. `scratch`: an empty folder for what must lie on disk for a while.

    `docker_host`, `docker_certificates`: where a daemon is; looked at only when a place is one.
    """

    transport: Transport
    scratch: Path
    docker_host: str
    docker_certificates: Path | None = None

    @property
    def daemon(self) -> EngineAddress:
        """The daemon. EngineAddressInvalid."""
        return EngineAddress.parse(self.docker_host, self.docker_certificates)


async def open_source(place: Place, means: Means) -> Source:
    """A place to read from. A daemon's image is fetched now."""
    match place:
        case Place(kind=PlaceKind.REGISTRY, reference=reference) if reference is not None:
            return RepositoryPlace(means.transport, reference.registry, reference.repository)
        case Place(kind=PlaceKind.LAYOUT, path=path) if path is not None:
            return LayoutPlace(path)
        case Place(kind=PlaceKind.ARCHIVE, path=path) if path is not None:
            return await ArchiveSource.open(path, means.scratch)
        case Place(kind=PlaceKind.DAEMON, reference=reference) if reference is not None:
            from boltseal.transfer.daemon import daemon_source

            return await daemon_source(reference, means.daemon, means.scratch)
    raise PlaceInvalid(f"{place.text} can't be read from")


def open_target(place: Place, means: Means, mount_from: Repository | None = None, *, force: bool = False) -> Target:
    """A place to write to. `mount_from`: a repository of the same registry that may be read; `force`: replace files."""
    match place:
        case Place(kind=PlaceKind.REGISTRY, reference=reference) if reference is not None:
            return RepositoryPlace(means.transport, reference.registry, reference.repository, mount_from)
        case Place(kind=PlaceKind.LAYOUT, path=path) if path is not None:
            return LayoutPlace(path)
        case Place(kind=PlaceKind.ARCHIVE, path=path) if path is not None:
            return ArchiveTarget(path, force=force)
        case Place(kind=PlaceKind.DAEMON, reference=reference) if reference is not None:
            from boltseal.transfer.daemon import daemon_target

            return daemon_target(reference, means.daemon, means.scratch)
    raise PlaceInvalid(f"{place.text} can't be written to")
