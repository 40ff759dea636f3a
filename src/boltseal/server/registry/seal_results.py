"""What an admin's operations on sealed tags take and return: see `seals`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag


class ConfirmedPurge(NamedTuple):
    """What a person confirmed for a purge: the image, all its tags, and all manifests and blobs (`parts`) that may be deleted with it."""

    digest: Digest
    tags: frozenset[Tag]
    parts: frozenset[Digest]


class SealChange(NamedTuple):
    """A tag that was sealed or unsealed. `changed`: False if it was so before. `entry_index`: of its last entry.

    In a dry run the entry is the one that would have been written.
    """

    digest: Digest
    changed: bool
    entry_index: int


class KeptPart(NamedTuple):
    """A part of a purged image that stays, and why."""

    digest: Digest
    reason: str


class OtherCopy(NamedTuple):
    """A purged manifest or blob that another repository has too, and why it stays there."""

    repository: Repository
    digest: Digest
    reason: str


class ExpiredTag(NamedTuple):
    """A tag whose keep time is over."""

    repository: Repository
    tag: Tag


class KeptTag(NamedTuple):
    """A tag whose keep time is over, and why it stays all the same."""

    repository: Repository
    tag: Tag
    reason: str


class Expiry(NamedTuple):
    """The tags that were deleted because their keep time is over, or would be, and those that stay."""

    expired: list[ExpiredTag]
    kept: list[KeptTag]


@dataclass(frozen=True, slots=True)
class Purged:
    """The result of a purge.

    `kept`: parts that something else in the repository needs. `elsewhere`: copies in other repositories. A purge does
    not touch those: repositories are isolated.
    """

    digest: Digest
    tags: tuple[Tag, ...]
    manifests: tuple[Digest, ...]
    blobs: tuple[Digest, ...]
    kept: tuple[KeptPart, ...]
    elsewhere: tuple[OtherCopy, ...]

    def confirmed(self) -> ConfirmedPurge:
        """Return what a person confirms by confirming this plan."""
        return ConfirmedPurge(self.digest, frozenset(self.tags), frozenset((*self.manifests, *self.blobs)))
