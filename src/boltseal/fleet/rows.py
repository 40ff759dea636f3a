"""What is to be said of each container: what runs, what it is called, how it stands with the lock. No I/O.

It joins three words for one thing: the host's for what runs, the registry's for what that is called, the lock's for what
it should be. Where one of them is missing the row says so, and never guesses from the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from boltseal.client.errors import RemoteNotFound
from boltseal.client.registry import Resolved
from boltseal.errors import BoltsealError
from boltseal.fleet.hosts import Seen
from boltseal.fleet.registries import NOBODY, Answers, Past, Witness, digest_name, place_of
from boltseal.ledger.meant import Behind, Meant, Release, behind, meant, released
from boltseal.lockfile.running import (
    DigestKind,
    LockedImages,
    Origin,
    RunningVerdict,
    Standing,
    has_registry_digest,
    judge,
    kinds,
)
from boltseal.oci.digest import Digest
from boltseal.oci.mediatype import IMAGE_TYPES, INDEX_TYPES
from boltseal.oci.reference import Reference


@dataclass(frozen=True, slots=True)
class Deployed:
    """The release of `boltseal deploy` that started a container: its number in its project, by whom, when."""

    number: int
    by: str
    time_us: int


@dataclass(frozen=True, slots=True)
class Row:
    """A container, and all that is known of it.

    `name`: by which its registry was, or would be, asked. `digests`: of what it runs, each with its kind. `verdict`: None
    without a lock. `tags`: what means or meant it, and `tags_by` whose word that is; a ledger's is proven.
    `means`: what its name means now; `moved`: whether that is another image, None where it can't be told. `behind`: how far
    it has gone on, None where its registry keeps no history. `unasked`: why nobody was asked. By whom it runs is said by
    `deployed`, else `released`, else `tags`.
    """

    seen: Seen
    name: Reference | None
    digests: Mapping[Digest, DigestKind]
    verdict: RunningVerdict | None
    tags: tuple[Meant, ...] = ()
    tags_by: Witness = Witness.NOBODY
    means: Digest | None = None
    moved: bool | None = None
    behind: Behind | None = None
    released: Release | None = None
    deployed: Deployed | None = None
    unasked: str = ""

    @property
    def local(self) -> bool:
        """Whether it is known to have come from no registry."""
        return self.seen.image.origin is Origin.LOCAL

    def of_kind(self, kind: DigestKind) -> tuple[Digest, ...]:
        """Its digests of one kind."""
        return tuple(sorted(digest for digest, is_ in self.digests.items() if is_ is kind))


def name_to_ask(seen: Seen, lock: LockedImages | None) -> Reference | None:
    """The name under which a registry may know it: by the lock, by what it was started as, else by what its host calls it.

    A name of a repository that the image did not come from was given to it on its host, and is no registry's business.
    """
    image = seen.image
    locked = None if lock is None else lock.named(image)
    if locked is not None:
        return locked.reference
    names = [*(() if image.started_as is None else (image.started_as,)), *image.names]
    if not image.pulled_as:
        return next(iter(names), None)
    whence = {each.name for each in image.pulled_as}
    return next((name for name in names if name.name in whence), image.pulled_as[0])


def to_ask(containers: Iterable[Seen], lock: LockedImages | None) -> tuple[Reference, ...]:
    """The distinct names to ask registries about; those of local builds are nobody else's business."""
    ours = (
        seen for seen in containers if seen.image.origin is not Origin.LOCAL or (lock and lock.same(seen.image.digests))
    )
    return tuple(dict.fromkeys(name for seen in ours if (name := name_to_ask(seen, lock)) is not None))


def to_ask_by_digest(containers: Iterable[Seen], lock: LockedImages | None, told: Answers) -> set[Reference]:
    """Of what neither lock nor tags explain, whether its registry has it at all: a store that names everything does not say."""
    found = set()
    for seen in containers:
        if seen.image.origin is not Origin.UNSAID or (lock is not None and lock.same(seen.image.digests)):
            continue
        it = row(seen, lock, told)
        if it.name is None or it.tags or it.means in it.digests:
            continue
        found |= {digest_name(it.name, digest) for digest, kind in it.digests.items() if kind is not DigestKind.CONFIG}
    return found


def row(seen: Seen, lock: LockedImages | None, told: Answers = NOBODY) -> Row:
    """One container, as far as it is known."""
    name = name_to_ask(seen, lock)
    same = None if lock is None else lock.same(seen.image.digests)
    digests = _by_registry(kinds(seen.image.digests, same), name, told)
    texts = {str(each) for each in (digests if same is None else {*digests, *same.digests})}
    past = Past() if name is None else told.pasts.get(place_of(name), Past())
    tag = None if name is None else name.tag
    meaning = None if name is None or tag is None else told.meanings.get(name)
    means = meaning.digest if isinstance(meaning, Resolved) else None
    seen = replace(seen, image=replace(seen.image, means=means, origin=_origin(seen, name, told)))
    gone_on = behind(past.steps.get(tag, ()), texts) if tag is not None else None
    moved = None if gone_on is None else gone_on.since_us is not None
    if means is not None and str(means) in texts:
        gone_on, moved = Behind(0), False
    elif means is not None and (same is not None or has_registry_digest(digests)):
        moved = True
    return Row(
        seen,
        name,
        digests,
        None if lock is None else judge(seen.image, lock),
        meant(past.steps, texts),
        past.by,
        means,
        moved,
        gone_on,
        released(past.said, texts),
        None,
        _unasked(seen, name, meaning, past, told),
    )


def _by_registry(
    digests: Mapping[Digest, DigestKind], name: Reference | None, told: Answers
) -> dict[Digest, DigestKind]:
    """Of which kind a digest is, by the media type that its registry, or its ledger, has for it."""
    types = {each.digest: each.media_type for each in told.meanings.values() if isinstance(each, Resolved)}
    past = Past() if name is None else told.pasts.get(place_of(name), Past())
    types |= {Digest.parse(one.entry.digest): one.entry.type for one in past.said if one.entry.digest}
    found = dict(digests)
    for digest, kind in digests.items():
        if kind is DigestKind.UNSAID and name is not None:
            media_type = types.get(digest, "")
            kind = DigestKind.INDEX if media_type in INDEX_TYPES else kind
            found[digest] = DigestKind.MANIFEST if media_type in IMAGE_TYPES else kind
    return found


def _origin(seen: Seen, name: Reference | None, told: Answers) -> Origin:
    """What the host says, else whether its registry has it: an image that was pulled may be deleted there, but rarely is."""
    if seen.image.origin is not Origin.UNSAID or name is None:
        return seen.image.origin
    asked = [told.meanings.get(digest_name(name, digest)) for digest in seen.image.digests]
    if any(isinstance(each, Resolved) for each in asked):
        return Origin.PULLED
    return Origin.LOCAL if any(isinstance(each, RemoteNotFound) for each in asked) else Origin.UNSAID


def _unasked(
    seen: Seen, name: Reference | None, meaning: Resolved | BoltsealError | None, past: Past, told: Answers
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
    {Standing.RECREATED_WITHOUT_PULL, Standing.MOVED_AFTER_PULL, Standing.MOVED_AFTER_LOCK, Standing.NOT_RECREATED}
)


def needs_registry(it: Row) -> bool:
    """Whether its registry's word can change the reason why it is not what is locked."""
    return it.verdict is not None and it.verdict.standing in _TOLD_BY_TAGS
