"""The row of a tag as a value. Only `tag_table` writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from boltseal.ledger.clock import BEHIND_LIMIT_US
from boltseal.oci.digest import Digest
from boltseal.policy.rules import DELETABLE, Keep

DIGESTS: Final = ("digest", "canonical", "sealed_digest", "sealed_canonical")
"""The columns that have digests, as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TagRow:
    """One tag name of a repository. `digest` None: deleted. `sealed_*` None: never sealed.

    A tag with a `keep` that is not sealed is settling: `keep_until_us` is when it is sealed, and `keep` then how long it is
    protected.

    `canonical` is the sha256 digest of the manifest's bytes, whatever algorithm `digest` has.
    """

    digest: Digest | None
    canonical: Digest | None
    media_type: str | None
    entry_index: int
    changed_us: int
    changed_by: str
    sealed_digest: Digest | None = None
    sealed_canonical: Digest | None = None
    sealed_media_type: str | None = None
    sealed_us: int | None = None
    sealed_by: str | None = None
    keep: str | None = None
    keep_until_us: int | None = None

    @property
    def settles_us(self) -> int | None:
        """When a settling tag is sealed, microseconds since the epoch; None for every other tag."""
        return self.keep_until_us if self.sealed_digest is None else None

    def kept_at(self, now_us: int) -> bool:
        """Return whether the tag protects its manifest; `tag_table.protecting_tags` answers this for many tags.

        A settling tag protects it as the seal will.
        """
        if self.settles_us is not None:
            return self.keep != str(DELETABLE)
        if self.sealed_digest is None or self.keep == str(DELETABLE):
            return False
        return self.keep_until_us is None or now_us < self.keep_until_us

    def overdue_at(self, now_us: int) -> bool:
        """Return whether this is a sealed tag whose time to be kept is over; `tag_table.overdue` finds all of them."""
        if self.digest is None or self.sealed_digest is None or self.keep == str(DELETABLE):
            return False
        return self.keep_until_us is not None and self.keep_until_us <= now_us


def parse_row(columns: Mapping[str, Any]) -> TagRow:
    """Return the row with these columns, whose digests are text."""
    digests = {name: None if columns[name] is None else Digest.parse(columns[name]) for name in DIGESTS}
    return TagRow(**{**columns, **digests})


def matches_keep(until_us: int | None, keep: str, recorded_us: int) -> bool:
    """Return whether a row's `keep_until_us` is that of a sealed tag whose `keep` an entry recorded. Raises: RuleInvalid.

    `recorded_us`: the time of the entry, which may be ahead of the time of its transaction as far as the clock was behind.
    """
    due_us = Keep.parse(keep).until(recorded_us)
    if due_us is None or until_us is None:
        return due_us is until_us
    return abs(until_us - due_us) <= BEHIND_LIMIT_US + 1
