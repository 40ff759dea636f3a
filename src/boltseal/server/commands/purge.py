"""Delete an image and every blob that nothing else references; its tags can return only with the same digest."""

from __future__ import annotations

from dataclasses import dataclass

from boltseal.oci.digest import Digest
from boltseal.server.commands.data_folder import local_admin, local_reference, on_store, required_reason
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata.migrate import FORMAT


@dataclass(frozen=True, slots=True)
class PurgeRow:
    """A tag (purged), or a manifest or blob (removed, or kept for a reason)."""

    ref: str
    status: str
    reason: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class PurgeResult:
    """What a purge deleted and what stays. `manifests`, `blobs`: how many were deleted."""

    rows: tuple[PurgeRow, ...]
    manifests: int
    blobs: int


def purge_image(settings: Settings, ref: str, reason: str) -> PurgeResult:
    """Purge an image, by a tag or by its digest. Raises: Invalid: not of this registry, or no reason; NotFound."""
    reason, local = required_reason(reason), local_reference(ref, settings)
    purged = on_store(
        settings,
        lambda store: store.registry.seals.purge(local.repository, local.named, local_admin(), reason),
        oldest=FORMAT,
    )
    name = local.reference.name
    host = name.partition("/")[0]
    rows = [PurgeRow(f"{name}:{tag}", "purged", reason, purged.digest) for tag in purged.tags]
    removed = (*purged.manifests, *purged.blobs)
    rows += [PurgeRow(f"{name}@{digest}", "removed", reason, digest) for digest in removed]
    rows += [PurgeRow(f"{name}@{digest}", "kept", why, digest) for digest, why in purged.kept]
    rows += [
        PurgeRow(f"{host}/{repository}@{digest}", "kept", why, digest) for repository, digest, why in purged.elsewhere
    ]
    return PurgeResult(tuple(rows), len(purged.manifests), len(purged.blobs))
