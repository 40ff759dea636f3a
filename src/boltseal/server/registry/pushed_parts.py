"""Decide whether a pushed manifest and the one that its tag resolves to are parts of one image.

Read inside the push's transaction, for tags under a rule with `settle` and for refusals. The rules are `policy.image_parts` and
`policy.seal`.
"""

from __future__ import annotations

from boltseal.ledger.entry import PLATFORM, parse
from boltseal.oci.manifest import Manifest, parse_manifest
from boltseal.policy import append_only
from boltseal.policy.image_parts import NO_PARTS, Parts, is_attestation, lists
from boltseal.server.registry.models import PushedManifest, TagChange
from boltseal.server.storage.metadata import ledger_store, queries
from boltseal.server.storage.metadata.protocol import UnitOfWork


def parts_of(tx: UnitOfWork, change: TagChange, pushed: PushedManifest, *, settle: bool) -> Parts:
    """Return how a pushed manifest relates to the current one. `settle`: the rule in force lets new tags settle."""
    row = change.row
    if not settle and (row is None or row.settles_us is None):
        return NO_PARTS
    current, manifest = _current(tx, change), pushed.manifest
    return Parts(
        settle=settle,
        actor=change.actor.recorded,
        index=manifest.is_index,
        attestation=is_attestation(manifest),
        lists_current=_lists_current(manifest, change),
        in_current=current is not None and _lists_pushed(current, pushed),
        other_platform=change.platform not in ("", _settling_platform(tx, change) or change.platform),
    )


def part_of_one_image(tx: UnitOfWork, change: TagChange, pushed: PushedManifest) -> bool:
    """Return whether the pushed manifest and the current one look like parts of one image, pushed under its tag."""
    current = _current(tx, change)
    if current is None:
        return False
    if is_attestation(pushed.manifest) or is_attestation(current):
        return True
    return _lists_current(pushed.manifest, change) or _lists_pushed(current, pushed)


def _settling_platform(tx: UnitOfWork, change: TagChange) -> str:
    """Return the platform of a settling tag's image, from the ledger entry that let it settle; "" if it is not known."""
    row = change.row
    if row is None or row.settles_us is None:
        return ""
    for _, line in ledger_store.lines(tx, row.entry_index, until=row.entry_index + 1):
        return parse(line).extra.get(PLATFORM, "")
    return ""


def _current(tx: UnitOfWork, change: TagChange) -> Manifest | None:
    if change.current is None:
        return None
    stored = queries.manifest_bytes(tx, change.repository.id, str(change.current))
    return None if stored is None else parse_manifest(stored.raw, stored.media_type)


def _lists_current(index: Manifest, change: TagChange) -> bool:
    row = change.row
    if row is None or row.canonical is None or row.media_type is None:
        return False
    return any(lists(index, digest, row.media_type) for digest in (row.canonical, row.digest or row.canonical))


def _lists_pushed(index: Manifest, pushed: PushedManifest) -> bool:
    return lists(index, pushed.identity.canonical, pushed.identity.media_type)


def extends_current(tx: UnitOfWork, change: TagChange, new: Manifest) -> bool:
    """Return whether a manifest has all parts of the one that the tag resolves to now."""
    if change.current is None:
        return True
    current = _current(tx, change)
    return current is not None and append_only.extends(current, new)
