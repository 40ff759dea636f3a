"""The audit rules of `ledger.audit` over a memory of hashes, and the Merkle tree over the same entries.

The state of a tag is expressed in the digests of the entry under audit: a digest of which only the hash is stored is
either the entry's previous digest, its new digest, or another one. The rules need no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from boltseal.client.ledger_monitor.tag_states import NOTHING, MonitoredTag, MonitoredTags
from boltseal.ledger.audit import Audit, AuditedTag
from boltseal.ledger.entry import Entry
from boltseal.ledger.merkle import EMPTY_ROOT, leaf_hash
from boltseal.ledger.tiles import TileId, grow

ANOTHER: Final = "another digest"
_AT_ONCE: Final = 4096


class CompactAudit(Audit):
    """An audit that stores hashes. `live`: how many tags resolve to a digest now."""

    def __init__(
        self, names: MonitoredTags, origin: str = "", size: int = 0, last_time_us: int = 0, live: int = 0
    ) -> None:
        super().__init__(origin, size, last_time_us)
        self.hashed = names
        self.live = live
        self._key = self._was = self._is = NOTHING
        self._held: MonitoredTag | None = None

    def recall(self, entry: Entry) -> AuditedTag:
        """Return the state of the entry's tag, as far as the stored hashes show it."""
        names = self.hashed
        self._key = names.hash(f"{entry.repository}:{entry.tag}")
        self._is = names.hash(entry.digest)
        held = self._held = names.find(self._key)
        if held is None:
            return AuditedTag()
        self._was = self._is if entry.was == entry.digest else names.hash(entry.was)
        return AuditedTag(held.last, self._text(held.digest, entry), "", self._text(held.bound, entry))

    def keep(self, entry: Entry, state: AuditedTag) -> None:
        """Store hashes of the tag's new state."""
        held = self._held
        digest = self._is if state.digest else NOTHING
        if held is None:
            bound = self._is if state.bound else NOTHING
            self.live += digest != NOTHING
        else:
            bound = held.bound if held.bound != NOTHING or not state.bound else self._is
            self.live += (digest != NOTHING) - (held.digest != NOTHING)
        self.hashed.put(self._key, state.index, digest, bound)

    def _text(self, digest: bytes, entry: Entry) -> str:
        if digest == NOTHING:
            return ""
        if digest == self._is:
            return entry.digest
        return entry.was if digest == self._was else ANOTHER


@dataclass(slots=True)
class MonitorProgress:
    """How far a monitor has read: the audit, and the tree over all entries that were read."""

    audit: CompactAudit
    root: bytes = EMPTY_ROOT
    edge: Mapping[TileId, bytes] = field(default_factory=dict)
    size: int = 0
    _leaves: list[bytes] = field(default_factory=list)

    def take(self, line: bytes) -> list[str]:
        """Audit the next entry; return a message for every rule that it breaks."""
        problems = self.audit.take(self.audit.size, line)
        self._leaves.append(leaf_hash(line))
        if len(self._leaves) == _AT_ONCE:
            self.grow()
        return problems

    def grow(self) -> None:
        """Extend the tree to all entries that were taken."""
        grown = grow(self.size, self.edge, self._leaves)
        self.root, self.edge, self.size = grown.root, grown.edge, grown.size
        self._leaves = []
