"""Asks registries about running images: what a name resolves to now, which tags resolved to an image, who released it.

Requests are shared by all containers: one HEAD per distinct name, one history per distinct repository of a registry with a
ledger, and one HEAD by digest for each image that is then still unknown. None of them counts as a pull. A registry that is
not asked, or does not respond, is a result with a reason; a broken ledger raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, NamedTuple

from boltseal.client.errors import RemoteNotFound
from boltseal.client.history import Follow, UnsignedTagEvent, read_history, read_unsigned
from boltseal.client.ledger_trust import LedgerCheck
from boltseal.client.registry_client import Resolved
from boltseal.client.transport import Transport
from boltseal.engines.engine_times import time_us
from boltseal.errors import BoltsealError
from boltseal.ledger.follow import LedgerBroken
from boltseal.ledger.history import EntryAt
from boltseal.ledger.tag_intervals import TagStep, steps_of
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Repository
from boltseal.project.resolve import Resolver

AT_ONCE: Final = 8


class RepositoryName(NamedTuple):
    """A repository of a registry."""

    registry: str
    repository: Repository


class TagEvidence(StrEnum):
    """The source of a tag's history. WATCH: observations of `boltseal watch` on this host."""

    LEDGER = "ledger"
    REGISTRY = "registry"
    WATCH = "watch"
    NONE = ""


@dataclass(frozen=True, slots=True)
class TagHistory:
    """The digests that tags of a repository resolved to over time.

    `steps`: by tag. `entries`: proven ledger entries, empty without a ledger. `by`: the source. `why`: the reason if the
    registry could not be asked. `problems`: defects of the ledger's history.
    """

    steps: Mapping[str, tuple[TagStep, ...]] = field(default_factory=dict)
    entries: tuple[EntryAt, ...] = ()
    by: TagEvidence = TagEvidence.NONE
    why: str = ""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RegistryAnswers:
    """The registries' answers. `resolutions`: by name with tag or digest. `asked`: whether any registry was asked."""

    resolutions: Mapping[Reference, Resolved | BoltsealError] = field(default_factory=dict)
    histories: Mapping[RepositoryName, TagHistory] = field(default_factory=dict)
    asked: bool = True


NOT_ASKED: Final = RegistryAnswers(asked=False)


class RegistryQueries:
    """Asks registries about running images.

    `allowed`: whether a registry may be contacted. `watch`: checks its ledger before anything else is asked.
    """

    def __init__(
        self, transport: Transport, allowed: Callable[[str], bool], watch: Callable[[str], Awaitable[LedgerCheck]]
    ) -> None:
        self._transport = transport
        self._allowed = allowed
        self._watch = watch
        self._followed: dict[str, asyncio.Future[LedgerCheck]] = {}
        self._resolver = Resolver(transport, allowed, watch=self._follow)
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def resolutions(self, names: Iterable[Reference]) -> dict[Reference, Resolved | BoltsealError]:
        """Return the digest that each name resolves to now, by HEAD, or the error.

        Raises: LedgerBroken.
        """
        return await self._resolver.resolve(names)

    async def histories(self, names: Iterable[Reference]) -> dict[RepositoryName, TagHistory]:
        """Return the histories of the repositories of these names, which have tags.

        Raises: LedgerBroken.
        """
        names_by_repository: dict[RepositoryName, list[Reference]] = {}
        for name in dict.fromkeys(names):
            if self._allowed(name.registry):
                names_by_repository.setdefault(repository_of(name), []).append(name)
        found = await asyncio.gather(
            *(self._history(repository, in_it) for repository, in_it in names_by_repository.items())
        )
        return dict(zip(names_by_repository, found, strict=True))

    async def _follow(self, registry: str) -> LedgerCheck:
        """Check a registry's ledger, once for all callers."""
        if registry not in self._followed:
            self._followed[registry] = asyncio.ensure_future(self._watch(registry))
        return await self._followed[registry]

    def _follower(self) -> Follow:
        """Return the check for one history: first the known one, then a new one each time it did not cover the entries."""
        asked = False

        async def follow(registry: str) -> LedgerCheck:
            nonlocal asked
            if asked:
                self._followed.pop(registry, None)
            asked = True
            return await self._follow(registry)

        return follow

    async def _history(self, repository: RepositoryName, names: Iterable[Reference]) -> TagHistory:
        try:
            async with self._at_once:
                if (await self._follow(repository.registry)).head is None:
                    return await self._unsigned_history(repository, names)
                found = await read_history(self._transport, *repository, None, self._follower())
        except LedgerBroken:
            raise
        except BoltsealError as error:
            return TagHistory(why=error.message)
        entries = tuple(one for one in found.history.entries if one.index in found.proven)
        return TagHistory(steps_of(entries), entries, TagEvidence.LEDGER, problems=found.problems)

    async def _unsigned_history(self, repository: RepositoryName, names: Iterable[Reference]) -> TagHistory:
        """Return the unsigned histories of these tags; most registries keep none."""
        steps: dict[str, tuple[TagStep, ...]] = {}
        for name in names:
            if name.tag is None:
                continue
            try:
                steps[name.tag] = _steps(await read_unsigned(self._transport, *repository, name.tag))
            except RemoteNotFound:
                break
        return TagHistory(steps, by=TagEvidence.REGISTRY) if steps else TagHistory()


def _steps(events: Iterable[UnsignedTagEvent]) -> tuple[TagStep, ...]:
    read = [(time_us(one.time), "" if one.event == "deleted" else one.digest) for one in events]
    return tuple(TagStep(moment, digest) for moment, digest in read if moment is not None)


async def query_registries(
    registries: RegistryQueries, names: Iterable[Reference], by_digest: Callable[[RegistryAnswers], set[Reference]]
) -> RegistryAnswers:
    """Ask everything about these names. `by_digest`: returns from the first answers the images to look up by digest."""
    wanted = list(dict.fromkeys(names))
    resolutions = await registries.resolutions(wanted)
    answers = RegistryAnswers(resolutions, await registries.histories(wanted))
    more = await registries.resolutions(sorted(by_digest(answers), key=str))
    return replace(answers, resolutions={**resolutions, **more})


def with_observations(answers: RegistryAnswers, memory: Mapping[Reference, Sequence[TagStep]]) -> RegistryAnswers:
    """Add the observations of this host for tags whose registry keeps no history or was not asked."""
    histories = dict(answers.histories)
    for name, steps in memory.items():
        history = histories.get(repository_of(name), TagHistory())
        if steps and name.tag is not None and history.by in (TagEvidence.NONE, TagEvidence.WATCH):
            histories[repository_of(name)] = replace(
                history, steps={**history.steps, name.tag: tuple(steps)}, by=TagEvidence.WATCH
            )
    return replace(answers, histories=histories)


def repository_of(name: Reference) -> RepositoryName:
    """Return the repository of a name."""
    return RepositoryName(name.registry, name.repository)


def digest_name(name: Reference, digest: Digest) -> Reference:
    """Return the reference of an image of the same repository by its digest."""
    return replace(name, tag=None, digest=digest)
