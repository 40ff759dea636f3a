"""Seal a mutable tag, or lift a sealed tag's protection against deletion."""

from __future__ import annotations

from boltseal.commands.tag_changes import SealResult, required_reason
from boltseal.server.commands.data_folder import local_admin, local_reference, on_store
from boltseal.server.registry.opened_store import OpenStore
from boltseal.server.registry.seal_results import SealChange
from boltseal.server.settings import Settings


def seal_tag(settings: Settings, ref: str, reason: str) -> SealResult:
    """Seal a tag at its current digest. Raises: Invalid: not a tag of this registry, or no reason."""
    return _change(settings, ref, reason, seal=True)


def unseal_tag(settings: Settings, ref: str, reason: str) -> SealResult:
    """Allow a sealed tag to be deleted; it can return only with the same digest. Raises: as `seal_tag`."""
    return _change(settings, ref, reason, seal=False)


def _change(settings: Settings, ref: str, reason: str, *, seal: bool) -> SealResult:
    reason, local = required_reason(reason), local_reference(ref, settings)
    tag = local.tag_for("sealed" if seal else "unsealed", "1.4.2")

    async def call(store: OpenStore) -> SealChange:
        seals = store.registry.seals
        return await (seals.seal if seal else seals.unseal)(local.repository, tag, local_admin(), reason)

    done = on_store(settings, call)
    return SealResult(local.reference, done.digest, done.changed, done.entry_index)
