"""What registries say of the images that run: what a name means now, which tags meant an image, by whom it was released.

Asked once for all containers: one HEAD for each distinct name, one history for each distinct repository of a registry
that has a ledger, and for what is then still unknown one HEAD by its digest. Nothing of it is a pull anywhere. A registry
that is not asked, or does not answer, is an answer with its reason; a ledger that is broken ends everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from boltseal.client.errors import RemoteNotFound
from boltseal.client.history import Event, read_history, read_unsigned
from boltseal.client.ledger_trust import LedgerCheck
from boltseal.client.registry_client import Resolved
from boltseal.client.transport import Transport
from boltseal.engines.inventory import time_us
from boltseal.errors import BoltsealError
from boltseal.ledger.follow import LedgerBroken
from boltseal.ledger.history import EntryAt
from boltseal.ledger.tag_intervals import TagStep, steps_of
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Repository
from boltseal.project.resolve import Resolver

AT_ONCE: Final = 8

Place = tuple[str, Repository]
"""A repository: registry and name."""


class TagEvidence(StrEnum):
    """Who says what a tag meant. WATCH: `boltseal watch`, which saw it from here."""

    LEDGER = "ledger"
    REGISTRY = "registry"
    WATCH = "watch"
    NOBODY = ""


@dataclass(frozen=True, slots=True)
class Past:
    """What tags of a repository meant. `said`: the ledger's entries, proven; empty where nobody signs. `steps` by tag.

    `by`: whose word that is. `why`: the reason where the registry could not be asked. `problems`: what is wrong with a
    ledger's history.
    """

    steps: Mapping[str, tuple[TagStep, ...]] = field(default_factory=dict)
    said: tuple[EntryAt, ...] = ()
    by: TagEvidence = TagEvidence.NOBODY
    why: str = ""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answers:
    """All that was asked. `meanings`: by name with tag, or with digest; `pasts`: by repository. `asked`: anybody was."""

    meanings: Mapping[Reference, Resolved | BoltsealError] = field(default_factory=dict)
    pasts: Mapping[Place, Past] = field(default_factory=dict)
    asked: bool = True


NOBODY: Final = Answers(asked=False)


class Registries:
    """Asks registries about what runs. `allowed` says whether one may be talked to; `watch` looks at its ledger first."""

    def __init__(
        self, transport: Transport, allowed: Callable[[str], bool], watch: Callable[[str], Awaitable[LedgerCheck]]
    ) -> None:
        self._transport = transport
        self._allowed = allowed
        self._watch = watch
        self._followed: dict[str, asyncio.Future[LedgerCheck]] = {}
        self._resolver = Resolver(transport, allowed, watch=self._follow)
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def meanings(self, names: Iterable[Reference]) -> dict[Reference, Resolved | BoltsealError]:
        """What each name means now, by HEAD. LedgerBroken."""
        return await self._resolver.resolve(names)

    async def pasts(self, names: Iterable[Reference]) -> dict[Place, Past]:
        """The histories of the repositories of these names, which have tags. LedgerBroken."""
        places: dict[Place, list[Reference]] = {}
        for name in dict.fromkeys(names):
            if self._allowed(name.registry):
                places.setdefault((name.registry, name.repository), []).append(name)
        found = await asyncio.gather(*(self._past(place, of_it) for place, of_it in places.items()))
        return dict(zip(places, found, strict=True))

    async def _follow(self, registry: str) -> LedgerCheck:
        """Look at each registry's ledger once, however many ask for it."""
        if registry not in self._followed:
            self._followed[registry] = asyncio.ensure_future(self._watch(registry))
        return await self._followed[registry]

    async def _past(self, place: Place, names: Iterable[Reference]) -> Past:
        try:
            async with self._at_once:
                if (await self._follow(place[0])).head is None:
                    return await self._unsigned(place, names)
                found = await read_history(self._transport, *place, None, self._follow)
        except LedgerBroken:
            raise
        except BoltsealError as error:
            return Past(why=error.message)
        said = tuple(one for one in found.history.said if one.index in found.proven)
        return Past(steps_of(said), said, TagEvidence.LEDGER, problems=found.problems)

    async def _unsigned(self, place: Place, names: Iterable[Reference]) -> Past:
        """The histories of the tags that are asked about, where the registry keeps any: most do not."""
        steps: dict[str, tuple[TagStep, ...]] = {}
        for name in names:
            if name.tag is None:
                continue
            try:
                steps[name.tag] = _steps(await read_unsigned(self._transport, *place, name.tag))
            except RemoteNotFound:
                break
        return Past(steps, by=TagEvidence.REGISTRY) if steps else Past()


def _steps(events: Iterable[Event]) -> tuple[TagStep, ...]:
    read = [(time_us(one.time), "" if one.event == "deleted" else one.digest) for one in events]
    return tuple(TagStep(moment, digest) for moment, digest in read if moment is not None)


async def ask(
    registries: Registries, names: Iterable[Reference], by_digest: Callable[[Answers], set[Reference]]
) -> Answers:
    """Everything about these names; `by_digest` says, from that, which images have to be asked for by their digest."""
    wanted = list(dict.fromkeys(names))
    meanings = await registries.meanings(wanted)
    told = Answers(meanings, await registries.pasts(wanted))
    more = await registries.meanings(sorted(by_digest(told), key=str))
    return replace(told, meanings={**meanings, **more})


def remembering(told: Answers, memory: Mapping[Reference, Sequence[TagStep]]) -> Answers:
    """The same with what was seen from here of tags whose registry keeps no history, or was not asked."""
    pasts = dict(told.pasts)
    for name, steps in memory.items():
        past = pasts.get(place_of(name), Past())
        if steps and name.tag is not None and past.by in (TagEvidence.NOBODY, TagEvidence.WATCH):
            pasts[place_of(name)] = replace(past, steps={**past.steps, name.tag: tuple(steps)}, by=TagEvidence.WATCH)
    return replace(told, pasts=pasts)


def place_of(name: Reference) -> Place:
    """The repository of a name."""
    return name.registry, name.repository


def digest_name(name: Reference, digest: Digest) -> Reference:
    """An image of the same repository, by its digest."""
    return replace(name, tag=None, digest=digest)
