"""What goes in and comes out of the registry's parts (pulls, manifests, uploads, deletes, the door): values only.

Rules kept here: every value is frozen, holds parsed types (a digest is a `Digest`, never a loose text) and
knows nothing of HTTP, SQL or files. Who decides what they hold is in the modules next door.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.seal import Identity

Item = TypeVar("Item", Repository, Tag)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the client says must be so for its write to count; checked inside the transaction.

    `if_none_match_any`: the name must not exist (`If-None-Match: *`).
    `if_match`: the name must mean one of these digests, as text; `"*"` in it means it must exist.
    None asks for nothing; an empty set can never hold.
    """

    if_none_match_any: bool = False
    if_match: frozenset[str] | None = None


UNCONDITIONAL = Conditions()


@dataclass(frozen=True, slots=True)
class ManifestAnswer:
    """A manifest byte for byte as it was pushed. `sealed`: the name it was asked by can never mean other bytes."""

    raw: bytes
    media_type: str
    digest: Digest
    size: int
    sealed: bool
    by_digest: bool


@dataclass(frozen=True, slots=True)
class BlobAnswer:
    """A blob that the repository holds. `path` is a file the kernel can send, None where there is none."""

    digest: Digest
    size: int
    path: Path | None


@dataclass(frozen=True, slots=True)
class ReferrersPage:
    """A part of what names a manifest, by digest. `more`: something follows the last row."""

    rows: tuple[ReferrerRow, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page of a listing, in order. `more`: something follows the last item."""

    items: tuple[Item, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class ReferrerRow:
    """A manifest that names another as its subject, as the referrers API shows it (spec "Listing Referrers")."""

    media_type: str
    digest: Digest
    size: int
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Published:
    """What a manifest push did. `tags`: every tag that now means `digest`, in the order asked for.

    `subject`: what the manifest refers to, None without one. `ledger_index`: index of the entry that stands
    for the (first) tag, None for a push by digest alone. `created`: False when all of it stood there before.
    """

    digest: Digest
    tags: tuple[Tag, ...]
    subject: Digest | None
    ledger_index: int | None
    created: bool


@dataclass(frozen=True, slots=True)
class RepositoryRow:
    """A repository inside a transaction: its name and its number in the database."""

    repository: Repository
    id: int


@dataclass(frozen=True, slots=True)
class PushedManifest:
    """A manifest as it was pushed: its digest as addressed, what makes it itself, and its parts."""

    digest: Digest
    identity: Identity
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class EntryResult:
    """How a name stands now: the index of the entry that says so, and whether that entry is new."""

    entry_index: int
    changed: bool
