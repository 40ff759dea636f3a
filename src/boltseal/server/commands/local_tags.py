"""Changes of the tags of a data folder, beside a running server or without one."""

from __future__ import annotations

from boltseal.commands.tag_changes import (
    AcceptResult,
    HeldResult,
    PurgeResult,
    RestoreResult,
    SealResult,
    required_reason,
)
from boltseal.server.commands.tag_accept import accept_tag, held_tags, upstream_tag
from boltseal.server.commands.tag_purge import plan_purge, purge_image
from boltseal.server.commands.tag_restore import restore_tag
from boltseal.server.commands.tag_seals import seal_tag, unseal_tag
from boltseal.server.settings import Settings


class LocalTags:
    """`TagChanges` on one data folder. The actor is the account that runs the command."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def seal(self, ref: str, reason: str) -> SealResult:
        """Seal a tag at its current digest."""
        return seal_tag(self._settings, ref, reason)

    def unseal(self, ref: str, reason: str) -> SealResult:
        """Allow a sealed tag to be deleted."""
        return unseal_tag(self._settings, ref, reason)

    def restore(self, ref: str, to: str, reason: str) -> RestoreResult:
        """Move a tag back."""
        return restore_tag(self._settings, ref, to, reason)

    def accept(self, ref: str, reason: str) -> AcceptResult:
        """Serve the digest that is held back of an upstream's tag."""
        return accept_tag(self._settings, upstream_tag(ref, self._settings), reason)

    def held(self) -> list[HeldResult]:
        """Return the tags of upstreams of which a digest is held back."""
        return held_tags(self._settings)

    def plan_purge(self, ref: str, reason: str) -> PurgeResult:
        """Return what a purge would delete now."""
        required_reason(reason)
        return plan_purge(self._settings, ref)

    def purge(self, ref: str, reason: str, confirmed: PurgeResult) -> PurgeResult:
        """Delete an image."""
        return purge_image(self._settings, ref, reason, confirmed)
