"""Changes of tags by an administrator: the values of the commands `tag seal`, `unseal`, `restore`, `accept` and `purge`.

`TagChanges` has two implementations: on a data folder (`server.commands.local_tags`) and over the admin API of a registry
(`commands.registry_tags`). Both give the same results, so the commands print the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from boltseal.errors import Invalid, quote
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Repository, Tag


@dataclass(frozen=True, slots=True)
class SealResult:
    """A tag's seal after a change. `entry_index`: in the ledger. `changed`: False if it was so before."""

    reference: Reference
    digest: Digest
    changed: bool
    entry_index: int


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """A tag that was moved back. `was`: the digest before, None when the tag did not exist. `changed`: whether it moved."""

    reference: Reference
    digest: Digest
    was: Digest | None
    changed: bool
    entry_index: int


@dataclass(frozen=True, slots=True)
class AcceptResult:
    """An upstream's tag that is served with a new digest. `entry_index`: in the log of observations."""

    tag: str
    digest: Digest
    was: Digest | None
    entry_index: int


@dataclass(frozen=True, slots=True)
class HeldResult:
    """An upstream's tag with a digest that is held back. `serves`: what clients get, None for nothing."""

    tag: str
    digest: Digest
    serves: Digest | None
    since_us: int


@dataclass(frozen=True, slots=True)
class PurgeRow:
    """A tag (purged), or a manifest or blob (removed, or kept for a reason)."""

    ref: str
    status: str
    reason: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class PurgeResult:
    """What a purge deletes and what stays. `manifests`, `blobs`: how many are deleted.

    `also`: references of the other tags that resolve to the image, and go with it. `plan`: by which a registry recognises
    what was confirmed; "" on a data folder.
    """

    rows: tuple[PurgeRow, ...]
    digest: Digest
    tags: tuple[Tag, ...]
    also: tuple[str, ...]
    manifests: int
    blobs: int
    plan: str = ""

    @property
    def parts(self) -> frozenset[Digest]:
        """Return the manifests and blobs that go."""
        return frozenset(row.digest for row in self.rows if row.status == "removed")


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image of a registry as the user named it: `named` is its tag, else its digest."""

    reference: Reference
    named: Tag | Digest

    @classmethod
    def of(cls, reference: Reference, text: str) -> NamedImage:
        """Return the image that a reference names. `text`: as the user typed it. Raises: Invalid: no tag, or a tag and a digest."""
        if reference.digest is not None and reference.tag is not None:
            raise Invalid(f"{quote(text)} has a tag and a digest; give one of them")
        named = reference.tag or reference.digest
        if named is None:
            raise Invalid(f"{quote(text)} has no tag; expected one, such as {reference.name}:1.4.2")
        return cls(reference, named)

    @property
    def repository(self) -> Repository:
        """Return the repository of the image."""
        return self.reference.repository

    def tag_for(self, action: str, example: str) -> Tag:
        """Return its tag. `action`: what only a tag can be, as `sealed`. Raises: Invalid: it is a digest."""
        if not isinstance(self.named, Tag):
            raise Invalid(f"only a tag can be {action}; expected one, such as {self.reference.name}:{example}")
        return self.named


class KeptCopy(NamedTuple):
    """A part of a purged image that stays in a repository, and why."""

    repository: Repository
    digest: Digest
    reason: str


def purge_result(
    reference: Reference,
    digest: Digest,
    tags: Iterable[Tag],
    manifests: Iterable[Digest],
    blobs: Iterable[Digest],
    kept: Iterable[KeptCopy],
    *,
    reason: str,
    plan: str = "",
) -> PurgeResult:
    """Return the result of a purge. `reference`: the image as the user named it. `reason`: of its tags, "" for a plan."""
    name, host = reference.name, reference.registry
    tags, manifests, blobs = tuple(tags), tuple(manifests), tuple(blobs)
    rows = [PurgeRow(f"{name}:{tag}", "purged", reason, digest) for tag in tags]
    rows += [PurgeRow(f"{name}@{part}", "removed", reason, part) for part in (*manifests, *blobs)]
    rows += [PurgeRow(f"{host}/{each.repository}@{each.digest}", "kept", each.reason, each.digest) for each in kept]
    also = tuple(f"{name}:{tag}" for tag in tags if tag != reference.tag)
    return PurgeResult(tuple(rows), digest, tags, also, len(manifests), len(blobs), plan)


class TagChanges(Protocol):
    """Changes the tags of one registry. Each change is recorded in its ledger with the actor and the reason.

    Raises of all: Invalid: not a tag of this registry, or no reason; NotFound: there is no such tag or image; errors of the
    data folder, or of the connection. A change whose answer is lost may have been made: repeated, it changes nothing.
    """

    def seal(self, ref: str, reason: str) -> SealResult:
        """Seal a tag at its current digest."""
        ...

    def unseal(self, ref: str, reason: str) -> SealResult:
        """Allow a sealed tag to be deleted; it can return only with the same digest."""
        ...

    def restore(self, ref: str, to: str, reason: str) -> RestoreResult:
        """Move a tag back to `to`: a digest or a prefix of one, the index of a ledger entry, or a time."""
        ...

    def accept(self, ref: str, reason: str) -> AcceptResult:
        """Serve the digest that is held back of an upstream's tag."""
        ...

    def held(self) -> list[HeldResult]:
        """Return the tags of upstreams of which a digest is held back."""
        ...

    def plan_purge(self, ref: str, reason: str) -> PurgeResult:
        """Return what `purge` would delete now."""
        ...

    def purge(self, ref: str, reason: str, confirmed: PurgeResult) -> PurgeResult:
        """Delete an image, by a tag or its digest. `confirmed`: the plan, whose image and tags are the only ones that may go."""
        ...


def required_reason(text: str, name: str = "--reason") -> str:
    """Return the reason as the ledger records it. `name`: what the caller calls it. Raises: Invalid: it is empty."""
    if not text.strip():
        raise Invalid(f'{name} is empty; give one, such as "built for another customer"')
    return text.strip()
