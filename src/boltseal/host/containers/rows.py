"""Builds the report row of each container: what runs, its name, and whether it matches the lock. No I/O.

A row joins three sources: the host for what runs, the registry for its name, the lock for what it should be. If one is
missing the row says so, and never guesses from the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from boltseal.client.errors import RemoteNotFound
from boltseal.client.registry_client import Resolved
from boltseal.errors import BoltsealError
from boltseal.host.containers.hosts import RunningContainer
from boltseal.host.containers.registries import (
    NOT_ASKED,
    RegistryAnswers,
    TagEvidence,
    TagHistory,
    digest_name,
    repository_of,
)
from boltseal.ledger.tag_intervals import (
    Behind,
    BuiltOn,
    ReleaseRecord,
    TagInterval,
    behind,
    built_on,
    intervals_of,
    released,
)
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
    without_keep_tags,
)
from boltseal.oci.digest import Digest
from boltseal.oci.mediatype import IMAGE_TYPES, INDEX_TYPES
from boltseal.oci.reference import Reference


@dataclass(frozen=True, slots=True)
class DeployedRelease:
    """The release of `boltseal deploy` that started a container: its number in the project, its user and its time.

    `of`: the release to which it went back, None if it was no rollback.
    """

    number: int
    by: str
    time_us: int
    of: int | None = None


@dataclass(frozen=True, slots=True)
class ContainerRow:
    """A container and all that is known of it.

    `name`: the reference for its registry. `digests`: of its image, each with its kind. `verdict`: None without a lock.
    `tags`: tags that resolve or resolved to it; `tags_by`: their source, proven if it is a ledger. `resolves_to`: the
    digest that its name resolves to now; `moved`: whether that is another image, None if unknown. `behind`: how far the tag has moved
    on, None if its registry keeps no history or the history does not end with `resolves_to`. `unasked`: why its registry was not asked. The responsible user is in
    `deployed`, else `released`, else `tags`. `built`: what the ledger records of its build.
    """

    seen: RunningContainer
    name: Reference | None
    digests: Mapping[Digest, DigestKind]
    verdict: RunningVerdict | None
    tags: tuple[TagInterval, ...] = ()
    tags_by: TagEvidence = TagEvidence.NONE
    resolves_to: Digest | None = None
    moved: bool | None = None
    behind: Behind | None = None
    released: ReleaseRecord | None = None
    deployed: DeployedRelease | None = None
    unasked: str = ""
    built: BuiltOn | None = None

    @property
    def local(self) -> bool:
        """Whether it is known not to come from a registry."""
        return self.seen.image.origin is Origin.LOCAL

    def of_kind(self, kind: DigestKind) -> tuple[Digest, ...]:
        """Return its digests of one kind."""
        return tuple(sorted(digest for digest, is_ in self.digests.items() if is_ is kind))


def name_to_query(seen: RunningContainer, lock: LockedImages | None) -> Reference | None:
    """Return the name to ask a registry about: from the lock, else what it was started as, else its names on the host.

    Names of repositories that the image was not pulled from were given on the host, and are not asked about.
    """
    image = seen.image
    locked = None if lock is None else lock.entry_for(image) or lock.entry_with_digest(image.digests)
    if locked is not None:
        return locked.reference
    names = without_keep_tags([*(() if image.started_as is None else (image.started_as,)), *image.names])
    if not image.pulled_as:
        return next(iter(names), None)
    repositories = {each.name for each in image.pulled_as}
    return next((name for name in names if name.name in repositories), image.pulled_as[0])


def names_to_query(containers: Iterable[RunningContainer], lock: LockedImages | None) -> tuple[Reference, ...]:
    """Return the distinct names to ask registries about; names of local builds stay private."""
    ours = (
        seen
        for seen in containers
        if seen.image.origin is not Origin.LOCAL or (lock and lock.entry_with_digest(seen.image.digests))
    )
    return tuple(dict.fromkeys(name for seen in ours if (name := name_to_query(seen, lock)) is not None))


def digests_to_query(
    containers: Iterable[RunningContainer], lock: LockedImages | None, answers: RegistryAnswers
) -> set[Reference]:
    """Return the images, by digest, that neither lock nor tags explain: only their registry knows if it has them.

    Some image stores record a repository digest for local builds too.
    """
    unexplained = [
        seen
        for seen in containers
        if seen.image.origin is Origin.UNSPECIFIED
        and (lock is None or lock.entry_with_digest(seen.image.digests) is None)
    ]
    found = set()
    for row in container_rows(unexplained, lock, answers):
        if row.name is not None and not row.tags and row.resolves_to not in row.digests:
            found |= {digest_name(row.name, digest) for digest, kind in row.digests.items() if kind not in STORES_KINDS}
    return found


class _FromHistory(NamedTuple):
    """What a registry's history says about one image."""

    tags: tuple[TagInterval, ...]
    behind: Behind | None
    released: ReleaseRecord | None
    built: BuiltOn | None


_Memo = dict[object, Any]
"""Results by their inputs: many containers share an image, and a history may be long."""


def container_rows(
    containers: Iterable[RunningContainer], lock: LockedImages | None, answers: RegistryAnswers = NOT_ASKED
) -> list[ContainerRow]:
    """Return the row of each container."""
    memo: _Memo = {}
    return [_row(seen, lock, answers, memo) for seen in containers]


def _row(seen: RunningContainer, lock: LockedImages | None, answers: RegistryAnswers, memo: _Memo) -> ContainerRow:
    name = name_to_query(seen, lock)
    history = TagHistory() if name is None else answers.histories.get(repository_of(name), TagHistory())
    same = None if lock is None else lock.entry_with_digest(seen.image.digests)
    digests = {
        digest: _kind(digest, kind, name, history, answers, memo)
        for digest, kind in known_kinds(seen.image.digests, same).items()
    }
    texts = frozenset(str(each) for each in (digests if same is None else {*digests, *same.digests}))
    resolved = None if name is None or name.tag is None else answers.resolutions.get(name)
    resolves_to = resolved.digest if isinstance(resolved, Resolved) else None
    seen = replace(seen, image=replace(seen.image, current_digest=resolves_to, origin=_origin(seen, name, answers)))
    from_history = _from_history(name, texts, history, memo)
    moved_on = from_history.behind
    moved = None if moved_on is None else moved_on.since_us is not None
    if resolves_to is not None and str(resolves_to) in texts:
        moved_on, moved = Behind(0), False
    elif resolves_to is not None and (same is not None or has_registry_digest(digests)):
        moved = True
        if not _ends_with(history, name, resolves_to):  # the newest move is not signed yet: their number is not known
            moved_on = None
    return ContainerRow(
        seen=seen,
        name=name,
        digests=digests,
        verdict=None if lock is None else judge(seen.image, lock),
        tags=from_history.tags,
        tags_by=history.by,
        resolves_to=resolves_to,
        moved=moved,
        behind=moved_on,
        released=from_history.released,
        unasked=_unasked(seen, name, resolved, history, answers),
        built=from_history.built,
    )


def _ends_with(history: TagHistory, name: Reference | None, digest: Digest) -> bool:
    """Return whether the last step of a tag in its history is to this digest."""
    steps = () if name is None or name.tag is None else history.steps.get(name.tag, ())
    return bool(steps) and steps[-1].digest == str(digest)


def _from_history(name: Reference | None, texts: frozenset[str], history: TagHistory, memo: _Memo) -> _FromHistory:
    if (name, texts) not in memo:
        steps = () if name is None or name.tag is None else history.steps.get(name.tag, ())
        memo[name, texts] = _FromHistory(
            intervals_of(history.steps, texts),
            behind(steps, texts),
            released(history.entries, texts),
            built_on(history.entries, texts),
        )
    found: _FromHistory = memo[name, texts]
    return found


def _kind(
    digest: Digest, kind: DigestKind, name: Reference | None, history: TagHistory, answers: RegistryAnswers, memo: _Memo
) -> DigestKind:
    """Return the kind of a digest by the media type that its registry or ledger has for it."""
    if kind is not DigestKind.UNSPECIFIED or name is None:
        return kind
    if (name, digest) not in memo:
        asked = (answers.resolutions.get(each) for each in (name, digest_name(name, digest)))
        types = [each.media_type for each in asked if isinstance(each, Resolved) and each.digest == digest]
        types += [one.entry.type for one in history.entries if one.entry.digest == str(digest)]
        known = {DigestKind.INDEX: INDEX_TYPES, DigestKind.MANIFEST: IMAGE_TYPES}
        memo[name, digest] = next((is_ for is_, some in known.items() if some & set(types)), kind)
    found: DigestKind = memo[name, digest]
    return found


def _origin(seen: RunningContainer, name: Reference | None, answers: RegistryAnswers) -> Origin:
    """Return the host's answer, else whether the registry has the image: pulled images are rarely deleted there."""
    if seen.image.origin is not Origin.UNSPECIFIED or name is None:
        return seen.image.origin
    asked = [answers.resolutions.get(digest_name(name, digest)) for digest in seen.image.digests]
    if any(isinstance(each, Resolved) for each in asked):
        return Origin.PULLED
    return Origin.LOCAL if any(isinstance(each, RemoteNotFound) for each in asked) else Origin.UNSPECIFIED


def _unasked(
    seen: RunningContainer,
    name: Reference | None,
    resolved: Resolved | BoltsealError | None,
    history: TagHistory,
    answers: RegistryAnswers,
) -> str:
    if not answers.asked:
        return "no registry was asked"
    if seen.image.origin is Origin.LOCAL and resolved is None:
        return ""
    if name is None:
        return "it has no name to ask a registry about"
    if isinstance(resolved, BoltsealError) and not isinstance(resolved, RemoteNotFound):
        return resolved.message
    return history.why


_EXPLAINED_BY_TAGS: Final = frozenset(
    {
        ContainerStatus.RECREATED_WITHOUT_PULL,
        ContainerStatus.MOVED_AFTER_PULL,
        ContainerStatus.MOVED_AFTER_LOCK,
        ContainerStatus.NOT_RECREATED,
    }
)


def needs_registry(row: ContainerRow) -> bool:
    """Return whether the registry's answer can change the reason of a mismatch with the lock."""
    return row.verdict is not None and row.verdict.status in _EXPLAINED_BY_TAGS
