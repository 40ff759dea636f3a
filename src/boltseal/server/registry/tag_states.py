"""Reads the state of tags: what a tag resolves to, its seal, and how long its bytes are kept.

Nothing is cached: a state is that of the last commit before the read.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from boltseal.oci.reference import Repository, Tag
from boltseal.server.registry.pulls import ManifestUnknown, RepositoryUnknown
from boltseal.server.storage.metadata import tag_states
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot
from boltseal.server.storage.metadata.tag_row import TagRow
from boltseal.server.storage.metadata.tag_states import StoredTag

__all__ = ["StoredTag", "TagMode", "TagPage", "TagStates", "mode_of"]


class TagMode(StrEnum):
    """What a tag may do."""

    SEALED = "sealed"
    """The tag resolves to one digest for ever."""
    MUTABLE = "mutable"
    """The tag may move, as far as the rule in force allows."""
    SETTLING = "settling"
    """The tag is sealed when its index arrives or its time is over."""
    TOMBSTONE = "tombstone"
    """The tag was sealed and deleted; it can return only with the same digest."""
    DELETED = "deleted"
    """The tag was mutable and deleted."""


def mode_of(row: TagRow) -> TagMode:
    """Return what a tag with this row may do."""
    if row.sealed_digest is not None:
        return TagMode.TOMBSTONE if row.digest is None else TagMode.SEALED
    if row.digest is None:
        return TagMode.DELETED
    return TagMode.MUTABLE if row.settles_us is None else TagMode.SETTLING


@dataclass(frozen=True, slots=True)
class TagPage:
    """Some tags in order. `more`: others follow."""

    tags: tuple[StoredTag, ...]
    more: bool


class TagStates:
    """Reads the rows of the tags of one store."""

    def __init__(self, database: Metadata) -> None:
        self._database = database

    async def find(self, repository: Repository, tag: Tag) -> TagRow:
        """Return the row of a tag, also of a deleted one. Raises: ManifestUnknown: the name was never used."""
        row = await self._database.read(lambda snapshot: tag_states.find(snapshot, repository, tag))
        if row is None:
            raise ManifestUnknown(f"there is no tag {tag} in {repository}")
        return row

    async def page(self, repository: Repository, after: str, n: int, *, deleted: bool) -> TagPage:
        """Return the first `n` tags of a repository after a name. `deleted`: also those that resolve to nothing.

        Raises:
            RepositoryUnknown: nothing was ever pushed to it.
        """

        def query(snapshot: Snapshot) -> list[StoredTag] | None:
            return tag_states.tags_of(snapshot, repository, after, n + 1, deleted=deleted)

        found = await self._database.read(query)
        if found is None:
            raise RepositoryUnknown(f"nothing was ever pushed to {repository}")
        return TagPage(tuple(found[:n]), len(found) > n)

    async def of_all(self, after: tuple[int, str], n: int) -> TagPage:
        """Return the first `n` tags of all repositories after a repository's number and a tag."""
        found = await self._database.read(lambda snapshot: tag_states.tags_after(snapshot, after, n + 1))
        return TagPage(tuple(found[:n]), len(found) > n)

    @property
    def now_us(self) -> int:
        """The time of the store, microseconds since the epoch."""
        return self._database.now_us()
