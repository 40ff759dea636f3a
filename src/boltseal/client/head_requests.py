"""Many tags, asked for what they mean now: each once, a few at a time, each registry at its pace.

Never a manifest GET. One token for many repositories (`tokens.announce`); the first question to a registry goes alone,
so that one learns how it wants to be asked, and not sixteen. A registry that says it is asked too often, or that has not
answered three questions one after the other, is left alone for the rest of the poll, and everything still open there is
answered "could not check", with the reason: a thousand tags of a dead registry don't take the time of a thousand.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from typing import Final

from boltseal.client.errors import RemoteBusy, RemoteUnavailable
from boltseal.client.registry_client import RegistryClient, Resolved
from boltseal.client.transport import Transport
from boltseal.errors import BoltsealError
from boltseal.oci.reference import Reference

AT_ONCE: Final = 16
SILENCES: Final = 3
"""Questions that a registry may leave without an answer, each asked as often as `transport` asks."""


@dataclass(frozen=True, slots=True)
class Polled:
    """What a reference means, or why that could not be told. Exactly one of `resolved` and `error` is there."""

    reference: Reference
    resolved: Resolved | None
    error: BoltsealError | None


@dataclass(slots=True)
class _Registries:
    """What is known of them in one poll: who is left alone and why, and who has been asked at all."""

    tired: dict[str, BoltsealError] = field(default_factory=dict)
    silences: Counter[str] = field(default_factory=Counter)
    known: dict[str, asyncio.Event] = field(default_factory=dict)

    def silent(self, registry: str, error: RemoteUnavailable) -> None:
        """It gave no answer once more."""
        self.silences[registry] += 1
        if self.silences[registry] == SILENCES:
            self.tired[registry] = RemoteUnavailable(f"{error.message}; {registry} is asked no more this time")


async def poll(
    transport: Transport, references: Iterable[Reference], *, at_once: int = AT_ONCE
) -> AsyncGenerator[Polled]:
    """Ask for every reference once, however often it is named; answers come as they arrive. At most 16 at a time.

    Whoever stops reading closes it (`contextlib.aclosing`): what is still being asked is then dropped.
    """
    waiting = list(dict.fromkeys(references))
    for registry in {reference.registry for reference in waiting}:
        repositories = {reference.repository for reference in waiting if reference.registry == registry}
        transport.tokens.announce(registry, (f"repository:{name}:pull" for name in repositories))
    queue = iter(waiting)
    registries = _Registries()
    # Not a task group: one that is open over a yield cancels whoever reads us, and turns an early end into an error.
    asking: deque[asyncio.Task[Polled]] = deque()
    try:
        for reference in queue:
            asking.append(asyncio.create_task(_ask_in_turn(transport, reference, registries)))
            if len(asking) >= min(at_once, AT_ONCE):
                yield await _first(asking)
        while asking:
            yield await _first(asking)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def _first(asking: deque[asyncio.Task[Polled]]) -> Polled:
    """The answer of whichever task is done first; it leaves the queue. A defect of the task is raised here."""
    done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    task = next(each for each in asking if each in done)
    asking.remove(task)
    return task.result()


async def _ask_in_turn(transport: Transport, reference: Reference, registries: _Registries) -> Polled:
    """Ask, but not before the first question to this registry has been answered."""
    answered = registries.known.get(reference.registry)
    if answered is not None:
        await answered.wait()
        return await _ask(transport, reference, registries)
    registries.known[reference.registry] = answered = asyncio.Event()
    try:
        return await _ask(transport, reference, registries)
    finally:
        answered.set()


async def _ask(transport: Transport, reference: Reference, registries: _Registries) -> Polled:
    registry = reference.registry
    if registry in registries.tired:
        return Polled(reference, None, registries.tired[registry])
    named = reference.digest or reference.tag
    if named is None:
        raise AssertionError(f"{reference} names nothing")
    try:
        resolved = await RegistryClient(transport, registry).resolve(reference.repository, named)
    except RemoteBusy as error:
        registries.tired[registry] = error
        return Polled(reference, None, error)
    except RemoteUnavailable as error:
        registries.silent(registry, error)
        return Polled(reference, None, error)
    except BoltsealError as error:
        return Polled(reference, None, error)
    registries.silences.pop(registry, None)
    return Polled(reference, resolved, None)
