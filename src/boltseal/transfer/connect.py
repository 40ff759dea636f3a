"""Open a location as the source or the target of a transfer.

The client of a Docker daemon is imported only for a daemon's location, since it doubles the start-up time of a copy between
registries.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from boltseal.client.transport import Transport
from boltseal.engines.address import EngineAddress
from boltseal.files.named_files import require_file
from boltseal.loading import deferred
from boltseal.oci.reference import Repository
from boltseal.transfer.archive import ArchiveSource, ArchiveTarget
from boltseal.transfer.layout import LayoutLocation
from boltseal.transfer.locations import Location, LocationKind
from boltseal.transfer.protocols import ImageSource, ImageTarget, LocationInvalid
from boltseal.transfer.remote import RepositoryLocation

if TYPE_CHECKING:
    from boltseal.transfer import daemon
else:
    daemon = deferred("boltseal.transfer.daemon")


@dataclass(frozen=True, slots=True)
class TransferContext:
    """The resources for opening locations. `scratch`: an empty folder for temporary files.

    `docker_host`, `docker_certificates`: the address of the Docker daemon, used only for a daemon's location.
    """

    transport: Transport
    scratch: Path
    docker_host: str
    docker_certificates: Path | None = None

    @property
    def daemon(self) -> EngineAddress:
        """The address of the Docker daemon. Raises: EngineAddressInvalid."""
        return EngineAddress.parse(self.docker_host, self.docker_certificates)


async def open_source(place: Location, context: TransferContext) -> ImageSource:
    """Open a location to read from. The image of a daemon is fetched at once. Raises: LocationInvalid,
    FileMissing.
    """
    match place:
        case Location(kind=LocationKind.REGISTRY, reference=reference) if reference is not None:
            return RepositoryLocation(context.transport, reference.registry, reference.repository)
        case Location(kind=LocationKind.LAYOUT, path=path) if path is not None:
            require_file(path)
            return LayoutLocation(path)
        case Location(kind=LocationKind.ARCHIVE, path=path) if path is not None:
            return await ArchiveSource.open(path, context.scratch)
        case Location(kind=LocationKind.DAEMON, reference=reference) if reference is not None:
            return await daemon.daemon_source(reference, context.daemon, context.scratch)
    raise LocationInvalid(f"{place.text} can't be read from")


def open_target(
    place: Location, context: TransferContext, mount_from: Repository | None = None, *, force: bool = False
) -> ImageTarget:
    """Open a location to write to. Raises: LocationInvalid.

    `mount_from`: a repository of the same registry whose blobs may be mounted. `force`: replace an existing archive.
    """
    match place:
        case Location(kind=LocationKind.REGISTRY, reference=reference) if reference is not None:
            return RepositoryLocation(context.transport, reference.registry, reference.repository, mount_from)
        case Location(kind=LocationKind.LAYOUT, path=path) if path is not None:
            return LayoutLocation(path)
        case Location(kind=LocationKind.ARCHIVE, path=path) if path is not None:
            return ArchiveTarget(path, force=force)
        case Location(kind=LocationKind.DAEMON, reference=reference) if reference is not None:
            return daemon.DaemonTarget(reference, context.daemon, context.scratch)
    raise LocationInvalid(f"{place.text} can't be written to")
