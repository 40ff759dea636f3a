"""Seal a mutable tag, or lift a sealed tag's protection against deletion."""

from __future__ import annotations

from dataclasses import dataclass

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from boltseal.server.commands.data_folder import local_admin, local_reference, on_store, required_reason
from boltseal.server.registry.models import EntryResult
from boltseal.server.settings import Settings
from boltseal.server.store_factory import OpenStore


@dataclass(frozen=True, slots=True)
class SealResult:
    """A tag's seal after a change. `entry_index`: in the ledger. `changed`: False if it was so before."""

    reference: Reference
    digest: Digest
    changed: bool
    entry_index: int


def seal_tag(settings: Settings, ref: str, reason: str) -> SealResult:
    """Seal a tag at its current digest. Raises: Invalid: not a tag of this registry, or no reason."""
    return _change(settings, ref, reason, seal=True)


def unseal_tag(settings: Settings, ref: str, reason: str) -> SealResult:
    """Allow a sealed tag to be deleted; it can return only with the same digest. Raises: as `seal_tag`."""
    return _change(settings, ref, reason, seal=False)


def _change(settings: Settings, ref: str, reason: str, *, seal: bool) -> SealResult:
    reason, local = required_reason(reason), local_reference(ref, settings)
    tag = local.tag_for("sealed" if seal else "unsealed", "1.4.2")

    async def call(store: OpenStore) -> tuple[EntryResult, Digest]:
        seals = store.registry.seals
        change = seals.seal if seal else seals.unseal
        entry = await change(local.repository, Tag(tag), local_admin(), reason)
        return entry, (await store.registry.pulls.manifest(local.repository, tag)).digest

    entry, digest = on_store(settings, call)
    return SealResult(local.reference, digest, entry.changed, entry.entry_index)
