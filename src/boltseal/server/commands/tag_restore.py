"""Move a mutable tag back to an earlier digest."""

from __future__ import annotations

from contextlib import suppress

from boltseal.commands.tag_changes import RestoreResult, required_reason
from boltseal.commands.timestamps import parse_timestamp
from boltseal.errors import Invalid, quote
from boltseal.oci.digest import DigestInvalid
from boltseal.oci.digest_prefix import MIN_HEX, DigestPrefix
from boltseal.server.commands.data_folder import local_admin, local_reference, on_store
from boltseal.server.registry.restores import ByIndex, ByTime, RestoreTarget
from boltseal.server.settings import Settings


def restore_tag(settings: Settings, ref: str, to: str, reason: str) -> RestoreResult:
    """Move a tag back to `to`: a digest or a prefix of one, the index of a ledger entry, or a time.

    Raises: Invalid: not a tag of this registry, no reason, or another `to`; NeverResolved, NoLongerStored, TagSealed.
    """
    reason, local = required_reason(reason), local_reference(ref, settings)
    tag, target = local.tag_for("restored", "latest"), parse_target(to)
    restored = on_store(
        settings, lambda store: store.registry.restores.restore(local.repository, tag, target, local_admin(), reason)
    )
    return RestoreResult(local.reference, restored.digest, restored.was, restored.changed, restored.entry_index)


def parse_target(text: str, name: str = "--to") -> RestoreTarget:
    """Parse a digest or a prefix of one, the index of a ledger entry, or a time. Raises: Invalid.

    Seven digits or more may be either an index or a prefix: the history of the tag decides. `name`: what the caller calls it.
    """
    if text.isascii() and text.isdigit() and len(text) < MIN_HEX:
        return ByIndex(int(text))
    with suppress(DigestInvalid):
        return DigestPrefix.parse(text)
    time_us = parse_timestamp(text)
    if time_us is None:
        expected = (
            f"a digest or at least {MIN_HEX} digits of one, the index of an entry, or a time such as 2026-11-24T08:29"
        )
        raise Invalid(f"{name} is {quote(text)}; expected {expected}")
    return ByTime(time_us)
