"""Delete an image and every blob that nothing else references; its tags can return only with the same digest."""

from __future__ import annotations

from boltseal.commands.tag_changes import KeptCopy, NamedImage, PurgeResult, purge_result, required_reason
from boltseal.server.commands.data_folder import local_admin, local_reference, on_store
from boltseal.server.registry.seal_results import ConfirmedPurge, Purged
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata.migrate import FORMAT


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
    """Purge an image, by a tag or by its digest. `confirmed`: the plan, whose image, tags and parts are the only ones that may go.

    Raises: Invalid: not of this registry, or no reason; NotFound, SealedDelete; PurgeTargetChanged: another image, other tags or further parts than planned.
    """
    reason, local = required_reason(reason), local_reference(ref, settings)
    purged = on_store(
        settings,
        lambda store: store.registry.seals.purge(
            local.repository,
            local.named,
            local_admin(),
            reason,
            confirmed=ConfirmedPurge(confirmed.digest, frozenset(confirmed.tags), confirmed.parts),
        ),
        oldest=FORMAT,
    )
    return _result(local, purged, reason)


def _result(local: NamedImage, purged: Purged, reason: str) -> PurgeResult:
    kept = [KeptCopy(local.repository, digest, why) for digest, why in purged.kept]
    kept += [KeptCopy(repository, digest, why) for repository, digest, why in purged.elsewhere]
    parts = (purged.digest, purged.tags, purged.manifests, purged.blobs, kept)
    return purge_result(local.reference, *parts, reason=reason)
