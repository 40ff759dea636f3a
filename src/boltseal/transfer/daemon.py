"""A Docker daemon as source and target, through its API: one archive at a time (`docker save`, `docker load`).

The daemon's classic store keeps no manifests. An image from it gets a manifest built from its config and layers, with another
digest than in the registry. With containerd's image store the digest is kept. Reading changes nothing in the daemon. The
archive is a temporary file in the scratch folder.
"""

from __future__ import annotations

from pathlib import Path

from boltseal.engines.address import EngineAddress
from boltseal.engines.api import connected
from boltseal.errors import NotFound, Unavailable
from boltseal.oci.reference import Reference
from boltseal.transfer.archive import ArchiveSource, ArchiveTarget
from boltseal.transfer.protocols import LocationNotFound, LocationUnavailable


async def daemon_source(reference: Reference, daemon: EngineAddress, scratch: Path) -> ArchiveSource:
    """Fetch an image from the daemon. Raises: LocationNotFound, LocationUnavailable."""
    title, archive = f"docker-daemon:{reference.familiar()}", scratch / "from-daemon.tar"
    try:
        async with connected(daemon) as engine:
            await engine.save(reference, archive)
    except NotFound as error:
        raise LocationNotFound(f"{title}: {error.message}") from error
    except Unavailable as error:
        raise LocationUnavailable(f"{title}: {error.message}") from error
    except OSError as error:
        raise LocationUnavailable(f"{title}: {archive} can't be written: {error.strerror or error}") from error
    source = await ArchiveSource.open(archive, scratch, title)
    archive.unlink()
    return source


class DaemonTarget(ArchiveTarget):
    """An archive that is loaded into the daemon when it is complete."""

    def __init__(self, reference: Reference, daemon: EngineAddress, scratch: Path) -> None:
        self._loaded = scratch / "to-daemon.tar"
        self._daemon = daemon
        super().__init__(self._loaded, title=f"docker-daemon:{reference.familiar()}")

    async def close(self, *, complete: bool) -> None:
        await super().close(complete=complete)
        if not complete:
            return
        try:
            async with connected(self._daemon) as engine:
                await engine.load(self._loaded)
        except Unavailable as error:
            raise LocationUnavailable(f"{self.title}: {error.message}") from error
        except OSError as error:
            raise LocationUnavailable(
                f"{self.title}: {self._loaded} can't be read: {error.strerror or error}"
            ) from error
