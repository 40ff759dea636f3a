"""How pages name kinds of ledger entries and reasons of refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from boltseal.ledger.entry import EntryKind
from boltseal.policy.rule_plan import RuleEffect

EVENTS: Final[Mapping[EntryKind, str]] = {
    EntryKind.TAG_CREATED: "created",
    EntryKind.TAG_MOVED: "moved",
    EntryKind.TAG_DELETED: "deleted",
    EntryKind.TAG_SEALED: "sealed",
    EntryKind.TAG_UNSEALED: "protection lifted",
    EntryKind.TAG_RESTORED: "restored",
    EntryKind.TAG_PURGED: "purged",
    EntryKind.TAG_EXPIRED: "expired",
    EntryKind.OBSERVED: "observed upstream",
    EntryKind.HELD: "held back",
    EntryKind.ACCEPTED: "accepted",
    EntryKind.BUILT: "built",
    EntryKind.REBUILD_REQUESTED: "rebuild requested",
    EntryKind.RELEASED: "released",
}
"""Every kind of entry that a page can show; a kind that is missing here would be an internal error."""

REASONS: Final[Mapping[str, str]] = {
    "sealed": "the tag is sealed",
    "tombstone": "the sealed tag was deleted",
    "not-extended": "the tag may only gain content",
    "protected": "a sealed tag protects it",
    "quota": "no space is left for this user",
    "held": "the upstream's change is held back",
    "precondition": "a condition of the request does not hold",
}
"""Reasons (`policy.refusals.RefusalReason`) of refused pushes; a page shows any other reason as it is recorded."""

EFFECTS: Final[Mapping[RuleEffect, str]] = {
    RuleEffect.NONE: "none",
    RuleEffect.SEALS: "the next push seals it",
    RuleEffect.MAY_MOVE: "it may move",
    RuleEffect.APPEND_ONLY: "it may only gain content",
    RuleEffect.STAYS_SEALED: "none: it is sealed and stays so",
    RuleEffect.OTHER_KEEP: "the next push seals it with another time to keep or to settle",
}
"""Effects of other rules in words."""

REBUILD_ENDS: Final[Mapping[str, str]] = {
    "asked": "was requested, and has not ended",
    "done": "done",
    "failed": "failed",
    "stopped": "stopped with the server",
}
"""How requested rebuilds ended, in words."""
