"""What is to be said of each container: what runs, what it is called, how it stands with the lock. No I/O.

It joins three words for one thing: the host's for what runs, the registry's for what that is called, the lock's for what
it should be. Where one of them is missing the row says so, and never guesses from the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from boltseal.client.errors import RemoteNotFound
from boltseal.client.registry_client import Resolved
from boltseal.errors import BoltsealError
from boltseal.host.containers.hosts import RunningContainer
from boltseal.host.containers.registries import NOBODY, Answers, Past, TagEvidence, digest_name, place_of
from boltseal.ledger.tag_intervals import Behind, ReleaseRecord, TagInterval, behind, meant, released
from boltseal.lockfile.container_check import (
    STORES_KINDS,
    ContainerStatus,
    DigestKind,
    LockedImages,
    Origin,
    RunningVerdict,
    has_registry_digest,
    judge,
    known_kinds,
)
from boltseal.oci.digest import Digest
from boltseal.oci.mediatype import IMAGE_TYPES, INDEX_TYPES
from boltseal.oci.reference import Reference


@dataclass(frozen=True, slots=True)
class DeployedRelease:
    """The release of `boltseal deploy` that started a container: its number in its project, by whom, when."""

    number: int
    by: str
    time_us: int


@dataclass(frozen=True, slots=True)
class ContainerRow:
    """A container, and all that is known of it.

    `name`: by which its registry was, or would be, asked. `digests`: of what it runs, each with its kind. `verdict`: None
    without a lock. `tags`: what means or meant it, and `tags_by` whose word that is; a ledger's is proven.
    `means`: what its name means now; `moved`: whether that is another image, None where it can't be told. `behind`: how far
    it has gone on, None where its registry keeps no history. `unasked`: why nobody was asked. By whom it runs is said by
    `deployed`, else `released`, else `tags`.
    """

    seen: RunningContainer
    name: Reference | None
    digests: Mapping[Digest, DigestKind]
    verdict: RunningVerdict | None
    tags: tuple[TagInterval, ...] = ()
    tags_by: TagEvidence = TagEvidence.NOBODY
    means: Digest | None = None
    moved: bool | None = None
    behind: Behind | None = None
    released: ReleaseRecord | None = None
    deployed: DeployedRelease | None = None
    unasked: str = ""

    @property
    def local(self) -> bool:
        """Whether it is known to have come from no registry."""
        return self.seen.image.origin is Origin.LOCAL

    def of_kind(self, kind: DigestKind) -> tuple[Digest, ...]:
        """Its digests of one kind."""
        return tuple(sorted(digest for digest, is_ in self.digests.items() if is_ is kind))


def name_to_ask(seen: RunningContainer, lock: LockedImages | None) -> Reference | None:
    """The name under which a registry may know it: by the lock, by what it was started as, else by what its host calls it.

    A name of a repository that the image did not come from was given to it on its host, and is no registry's business.
    """
    image = seen.image
    locked = None if lock is None else lock.entry_for(image) or lock.entry_with_digest(image.digests)
    if locked is not None:
        return locked.reference
    names = [*(() if image.started_as is None else (image.started_as,)), *image.names]
    if not image.pulled_as:
        return next(iter(names), None)
    whence = {each.name for each in image.pulled_as}
    return next((name for name in names if name.name in whence), image.pulled_as[0])


def to_ask(containers: Iterable[RunningContainer], lock: LockedImages | None) -> tuple[Reference, ...]:
    """The distinct names to ask registries about; those of local builds are nobody else's business."""
    ours = (
        seen
        for seen in containers
        if seen.image.origin is not Origin.LOCAL or (lock and lock.entry_with_digest(seen.image.digests))
    )
    return tuple(dict.fromkeys(name for seen in ours if (name := name_to_ask(seen, lock)) is not None))


def to_ask_by_digest(
    containers: Iterable[RunningContainer], lock: LockedImages | None, told: Answers
) -> set[Reference]:
    """Of what neither lock nor tags explain, whether its registry has it at all: a store that names everything does not say."""
    unsaid = [
        seen
        for seen in containers
        if seen.image.origin is Origin.UNSPECIFIED
        and (lock is None or lock.entry_with_digest(seen.image.digests) is None)
    ]
    found = set()
    for it in rows(unsaid, lock, told):
        if it.name is not None and not it.tags and it.means not in it.digests:
            found |= {digest_name(it.name, digest) for digest, kind in it.digests.items() if kind not in STORES_KINDS}
    return found


class _Meanings(NamedTuple):
    """What a registry has said of one image."""

    tags: tuple[TagInterval, ...]
    behind: Behind | None
    released: ReleaseRecord | None


_Memo = dict[object, Any]
"""What was worked out already: many containers have one image, and a history may be long."""


def rows(
    containers: Iterable[RunningContainer], lock: LockedImages | None, told: Answers = NOBODY
) -> list[ContainerRow]:
    """Each container, as far as it is known."""
    memo: _Memo = {}
    return [_row(seen, lock, told, memo) for seen in containers]


def _row(seen: RunningContainer, lock: LockedImages | None, told: Answers, memo: _Memo) -> ContainerRow:
    name = name_to_ask(seen, lock)
    past = Past() if name is None else told.pasts.get(place_of(name), Past())
    same = None if lock is None else lock.entry_with_digest(seen.image.digests)
    digests = {
        digest: _kind(digest, kind, name, past, told, memo)
        for digest, kind in known_kinds(seen.image.digests, same).items()
    }
    texts = frozenset(str(each) for each in (digests if same is None else {*digests, *same.digests}))
    meaning = None if name is None or name.tag is None else told.meanings.get(name)
    means = meaning.digest if isinstance(meaning, Resolved) else None
    seen = replace(seen, image=replace(seen.image, current_digest=means, origin=_origin(seen, name, told)))
    said = _meanings(name, texts, past, memo)
    gone_on, moved = said.behind, None if said.behind is None else said.behind.since_us is not None
    if means is not None and str(means) in texts:
        gone_on, moved = Behind(0), False
    elif means is not None and (same is not None or has_registry_digest(digests)):
        moved = True
    return ContainerRow(
        seen,
        name,
        digests,
        None if lock is None else judge(seen.image, lock),
        said.tags,
        past.by,
        means,
        moved,
        gone_on,
        said.released,
        None,
        _unasked(seen, name, meaning, past, told),
    )


def _meanings(name: Reference | None, texts: frozenset[str], past: Past, memo: _Memo) -> _Meanings:
    if (name, texts) not in memo:
        steps = () if name is None or name.tag is None else past.steps.get(name.tag, ())
        memo[name, texts] = _Meanings(meant(past.steps, texts), behind(steps, texts), released(past.said, texts))
    found: _Meanings = memo[name, texts]
    return found


def _kind(
    digest: Digest, kind: DigestKind, name: Reference | None, past: Past, told: Answers, memo: _Memo
) -> DigestKind:
    """Of which kind a digest is, by the media type that its registry, or its ledger, has for it."""
    if kind is not DigestKind.UNSPECIFIED or name is None:
        return kind
    if (name, digest) not in memo:
        asked = (told.meanings.get(each) for each in (name, digest_name(name, digest)))
        types = [each.media_type for each in asked if isinstance(each, Resolved) and each.digest == digest]
        types += [one.entry.type for one in past.said if one.entry.digest == str(digest)]
        known = {DigestKind.INDEX: INDEX_TYPES, DigestKind.MANIFEST: IMAGE_TYPES}
        memo[name, digest] = next((is_ for is_, some in known.items() if some & set(types)), kind)
    found: DigestKind = memo[name, digest]
    return found


def _origin(seen: RunningContainer, name: Reference | None, told: Answers) -> Origin:
    """What the host says, else whether its registry has it: an image that was pulled may be deleted there, but rarely is."""
    if seen.image.origin is not Origin.UNSPECIFIED or name is None:
        return seen.image.origin
    asked = [told.meanings.get(digest_name(name, digest)) for digest in seen.image.digests]
    if any(isinstance(each, Resolved) for each in asked):
        return Origin.PULLED
    return Origin.LOCAL if any(isinstance(each, RemoteNotFound) for each in asked) else Origin.UNSPECIFIED


def _unasked(
    seen: RunningContainer, name: Reference | None, meaning: Resolved | BoltsealError | None, past: Past, told: Answers
) -> str:
    if not told.asked:
        return "no registry was asked"
    if seen.image.origin is Origin.LOCAL and meaning is None:
        return ""
    if name is None:
        return "it has no name that a registry could be asked about"
    if isinstance(meaning, BoltsealError) and not isinstance(meaning, RemoteNotFound):
        return meaning.message
    return past.why


_TOLD_BY_TAGS: Final = frozenset(
    {
        ContainerStatus.RECREATED_WITHOUT_PULL,
        ContainerStatus.MOVED_AFTER_PULL,
        ContainerStatus.MOVED_AFTER_LOCK,
        ContainerStatus.NOT_RECREATED,
    }
)


def needs_registry(it: ContainerRow) -> bool:
    """Whether its registry's word can change the reason why it is not what is locked."""
    return it.verdict is not None and it.verdict.status in _TOLD_BY_TAGS
