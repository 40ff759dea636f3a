"""Delete an image and every blob that nothing else references; its tags can return only with the same digest."""

from __future__ import annotations

from dataclasses import dataclass

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Tag
from boltseal.server.commands.data_folder import (
    LocalReference,
    local_admin,
    local_reference,
    on_store,
    required_reason,
)
from boltseal.server.registry.seals import ConfirmedPurge, Purged
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
    """What a purge deletes and what stays. `manifests`, `blobs`: how many are deleted.

    `also`: references of the other tags that resolve to the image, and go with it.
    """

    rows: tuple[PurgeRow, ...]
    digest: Digest
    tags: tuple[Tag, ...]
    also: tuple[str, ...]
    manifests: int
    blobs: int


def plan_purge(settings: Settings, ref: str) -> PurgeResult:
    """Return what `purge_image` would delete now. Raises: Invalid: not of this registry; NotFound, SealedDelete."""
    local = local_reference(ref, settings)
    planned = on_store(
        settings,
        lambda store: store.registry.seals.plan_purge(local.repository, local.named, local_admin()),
        oldest=FORMAT,
    )
    return _result(local, planned, "")


def purge_image(settings: Settings, ref: str, reason: str, confirmed: PurgeResult) -> PurgeResult:
    """Purge an image, by a tag or by its digest. `confirmed`: the plan, whose image and tags are the only ones that may go.

    Raises: Invalid: not of this registry, or no reason; NotFound, SealedDelete; PurgeTargetChanged: another image or other tags than planned.
    """
    reason, local = required_reason(reason), local_reference(ref, settings)
    purged = on_store(
        settings,
        lambda store: store.registry.seals.purge(
            local.repository,
            local.named,
            local_admin(),
            reason,
            confirmed=ConfirmedPurge(confirmed.digest, frozenset(confirmed.tags)),
        ),
        oldest=FORMAT,
    )
    return _result(local, purged, reason)


def _result(local: LocalReference, purged: Purged, reason: str) -> PurgeResult:
    name = local.reference.name
    host = name.partition("/")[0]
    rows = [PurgeRow(f"{name}:{tag}", "purged", reason, purged.digest) for tag in purged.tags]
    removed = (*purged.manifests, *purged.blobs)
    rows += [PurgeRow(f"{name}@{digest}", "removed", reason, digest) for digest in removed]
    rows += [PurgeRow(f"{name}@{digest}", "kept", why, digest) for digest, why in purged.kept]
    rows += [
        PurgeRow(f"{host}/{repository}@{digest}", "kept", why, digest) for repository, digest, why in purged.elsewhere
    ]
    also = tuple(f"{name}:{tag}" for tag in purged.tags if tag != local.named)
    return PurgeResult(tuple(rows), purged.digest, purged.tags, also, len(purged.manifests), len(purged.blobs))
