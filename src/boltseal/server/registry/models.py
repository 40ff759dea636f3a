"""Values that the modules of the registry exchange: requests, results and pages.

Every value is frozen and holds parsed types: a digest is a `Digest`, never text. Nothing here knows HTTP, SQL or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, TypeVar

from boltseal.errors import Precondition, quote
from boltseal.oci.digest import SHA256, Digest
from boltseal.oci.manifest import Manifest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.refusals import RefusalDetail, RefusalReason, Refused
from boltseal.policy.requirements import EvidenceVerdict
from boltseal.policy.rules import RuleSet
from boltseal.policy.seal import Identity
from boltseal.server.auth.actor import Actor
from boltseal.server.storage.metadata.tag_row import TagRow

_MAX_SHOWN_CONDITIONS: Final = 3

Item = TypeVar("Item", Repository, Tag)


class ConditionFailed(Refused, Precondition):
    """A precondition of a write does not hold."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """The preconditions of a write (`If-Match`, `If-None-Match`), checked inside its transaction.

    `if_none_match_any`: the tag or manifest must not exist (`If-None-Match: *`).
    `if_match`: its current digest must be one of these texts; `"*"` requires only that it exists. None requires
    nothing. An empty set always fails.
    """

    if_none_match_any: bool = False
    if_match: frozenset[str] | None = None

    def check(self, subject: str, current: Digest | None) -> None:
        """Check the preconditions against the current digest of a tag or manifest, None where it does not exist.

        A failed precondition is reported before any other rule is applied, also for a push of the same digest.
        `subject` names the tag or manifest in the message.

        Raises:
            ConditionFailed: when one does not hold.
        """
        if self.if_none_match_any and current is not None:
            raise ConditionFailed(
                f"{subject} exists ({current}), but the request requires that it does not (If-None-Match: *)",
                RefusalDetail(RefusalReason.PRECONDITION, digest=current),
            )
        if self.if_match is None:
            return
        if current is None:
            message = f"{subject} does not exist, but the request requires that it does (If-Match)"
            raise ConditionFailed(message, RefusalDetail(RefusalReason.PRECONDITION))
        if "*" not in self.if_match and str(current) not in self.if_match:
            wanted = [quote(each, 140) for each in sorted(self.if_match)]
            shown = " or ".join(wanted[:_MAX_SHOWN_CONDITIONS]) or "no valid digest"
            rest = len(wanted) - _MAX_SHOWN_CONDITIONS
            more = f" or {rest} others" if rest > 0 else ""
            message = f"{subject} is {current}, but the request requires {shown}{more} (If-Match)"
            raise ConditionFailed(message, RefusalDetail(RefusalReason.PRECONDITION, digest=current))


UNCONDITIONAL = Conditions()


@dataclass(frozen=True, slots=True)
class ManifestAnswer:
    """A manifest, byte for byte as it was pushed.

    `sealed`: the reference in the request can never resolve to other bytes. `by_digest`: that reference was a digest.
    `settles_us`: that reference is a tag that is settling, and is sealed at this time.
    """

    raw: bytes
    media_type: str
    digest: Digest
    size: int
    sealed: bool
    by_digest: bool
    settles_us: int | None = None


@dataclass(frozen=True, slots=True)
class BlobAnswer:
    """A blob that the repository has. `path`: a file that the kernel can send, None where there is none."""

    digest: Digest
    size: int
    path: Path | None


@dataclass(frozen=True, slots=True)
class ReferrersPage:
    """One page of the referrers of a manifest, sorted by digest. `more`: more rows follow."""

    rows: tuple[ReferrerRow, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page of a sorted listing. `more`: more items follow. `settling`: the first tags of the page that are settling."""

    items: tuple[Item, ...]
    more: bool
    settling: tuple[Item, ...] = ()


@dataclass(frozen=True, slots=True)
class ReferrerRow:
    """A manifest whose subject is another manifest, as the referrers API lists it (spec "Listing Referrers")."""

    media_type: str
    digest: Digest
    size: int
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ManifestUpload:
    """A manifest as the client sent it (end-7).

    `reference`: the tag or digest in the URL. `extra_tags`: the tags in the query. `content_type`: the header's value.
    """

    repository: Repository
    reference: Tag | Digest
    body: bytes
    content_type: str | None
    actor: Actor
    extra_tags: tuple[Tag, ...] = ()
    conditions: Conditions = UNCONDITIONAL


@dataclass(frozen=True, slots=True)
class PushedManifest:
    """A parsed manifest. `digest`: as the client addressed it. `identity`: its sha256 and media type."""

    digest: Digest
    identity: Identity
    manifest: Manifest

    @classmethod
    def of(cls, manifest: Manifest, digest: Digest) -> PushedManifest:
        """Return a manifest with its identity. `digest`: the verified digest of its bytes."""
        canonical = digest if digest.algorithm == SHA256 else Digest.of(manifest.raw)
        return cls(digest, Identity(canonical, manifest.media_type), manifest)


@dataclass(frozen=True, slots=True)
class JudgedEvidence:
    """What the evidence of an image was found to be, before the transaction that gives it a tag.

    `rules`: the rules by which it was judged. `image`: the sha256 of the image's bytes. `verdicts`: by the number of the rule.
    """

    rules: RuleSet
    image: Digest
    verdicts: Mapping[int, EvidenceVerdict]


@dataclass(frozen=True, slots=True)
class ManifestPush:
    """A parsed push: the manifest to store, and the tags that are to resolve to it, each once.

    `may_settle`: False seals a new tag at once, also under a rule that lets tags settle. `platform`: of the image, read for
    such rules only; "" if it is not known. `chain`: the document of its layer chain (`layer_chains`), None: pending.
    `evidence`: None where no rule of the tags requires any.
    """

    repository: Repository
    pushed: PushedManifest
    tags: tuple[Tag, ...]
    actor: Actor
    conditions: Conditions = UNCONDITIONAL
    may_settle: bool = True
    platform: str = ""
    chain: str | None = None
    evidence: JudgedEvidence | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """The result of a manifest push. `tags`: every tag that now resolves to `digest`, in the order of the request.

    `subject`: the manifest's subject, if it has one. `ledger_index`: the entry of the first of these tags, None without
    one and while that tag is settling; `settles_us` is then when it is sealed. `created`: False when the push changed
    nothing.
    """

    digest: Digest
    tags: tuple[Tag, ...]
    subject: Digest | None
    ledger_index: int | None
    created: bool
    settles_us: int | None = None


@dataclass(frozen=True, slots=True)
class RepositoryRow:
    """A repository inside a transaction: its name and its number in the database."""

    name: Repository
    id: int


@dataclass(frozen=True, slots=True)
class TagChange:
    """A requested change of one tag, with the tag's row before it.

    `row` None: the name was never used. `reason`: goes into the ledger entry. `may_settle`, `platform`, `evidence`: as of
    `ManifestPush`.
    """

    repository: RepositoryRow
    tag: Tag
    row: TagRow | None
    actor: Actor
    reason: str = ""
    conditions: Conditions = UNCONDITIONAL
    may_settle: bool = True
    platform: str = ""
    evidence: JudgedEvidence | None = None

    @property
    def current(self) -> Digest | None:
        """The digest that the tag resolves to before the change, or None."""
        return None if self.row is None else self.row.digest


@dataclass(frozen=True, slots=True)
class EntryResult:
    """The ledger entry that describes a tag's current state. `changed`: whether this request wrote it.

    `settles_us`: when the tag is sealed, if it is settling.
    """

    entry_index: int
    changed: bool
    settles_us: int | None = None
