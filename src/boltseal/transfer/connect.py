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
from boltseal.transfer.layout import LayoutLocation
from boltseal.transfer.locations import Location, LocationKind
from boltseal.transfer.protocols import ImageSource, ImageTarget, LocationInvalid
from boltseal.transfer.remote import RepositoryLocation


@dataclass(frozen=True, slots=True)
class TransferContext:
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


async def open_source(place: Location, means: TransferContext) -> ImageSource:
    """A place to read from. A daemon's image is fetched now."""
    match place:
        case Location(kind=LocationKind.REGISTRY, reference=reference) if reference is not None:
            return RepositoryLocation(means.transport, reference.registry, reference.repository)
        case Location(kind=LocationKind.LAYOUT, path=path) if path is not None:
            return LayoutLocation(path)
        case Location(kind=LocationKind.ARCHIVE, path=path) if path is not None:
            return await ArchiveSource.open(path, means.scratch)
        case Location(kind=LocationKind.DAEMON, reference=reference) if reference is not None:
            from boltseal.transfer.daemon import daemon_source

            return await daemon_source(reference, means.daemon, means.scratch)
    raise LocationInvalid(f"{place.text} can't be read from")


def open_target(
    place: Location, means: TransferContext, mount_from: Repository | None = None, *, force: bool = False
) -> ImageTarget:
    """A place to write to. `mount_from`: a repository of the same registry that may be read; `force`: replace files."""
    match place:
        case Location(kind=LocationKind.REGISTRY, reference=reference) if reference is not None:
            return RepositoryLocation(means.transport, reference.registry, reference.repository, mount_from)
        case Location(kind=LocationKind.LAYOUT, path=path) if path is not None:
            return LayoutLocation(path)
        case Location(kind=LocationKind.ARCHIVE, path=path) if path is not None:
            return ArchiveTarget(path, force=force)
        case Location(kind=LocationKind.DAEMON, reference=reference) if reference is not None:
            from boltseal.transfer.daemon import daemon_target

            return daemon_target(reference, means.daemon, means.scratch)
    raise LocationInvalid(f"{place.text} can't be written to")
