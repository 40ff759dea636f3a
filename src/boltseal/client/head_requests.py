"""Resolve many tags by HEAD: each once, a few at a time, each registry at its own pace.

A manifest GET is never sent, since it counts as a pull. One token serves many repositories (`TokenCache.announce`). The
first request to a registry goes alone, so that one request learns the authentication scheme and not sixteen. A registry
that reports a rate limit, or leaves three requests in a row unanswered, is not asked again in this run: its remaining
tags end as errors with that reason. So a thousand tags of a dead registry do not take the time of a thousand requests.
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
from boltseal.ledger.follow import LedgerBroken
from boltseal.oci.reference import Reference

AT_ONCE: Final = 16
SILENCES: Final = 3
"""Requests in a row that may go unanswered, each retried by `transport`."""


@dataclass(frozen=True, slots=True)
class HeadResult:
    """What a reference resolves to, or why it could not be resolved. Exactly one of `resolved` and `error` is set."""

    reference: Reference
    resolved: Resolved | None
    error: BoltsealError | None


@dataclass(slots=True)
class _Registries:
    """State of the registries in one run.

    `tired`: why a registry is not asked again. `silences`: unanswered requests in a row. `known`: set after the first
    answer.
    """

    proven: bool
    tired: dict[str, BoltsealError] = field(default_factory=dict)
    silences: Counter[str] = field(default_factory=Counter)
    known: dict[str, asyncio.Event] = field(default_factory=dict)

    def silent(self, registry: str, error: RemoteUnavailable) -> None:
        """Count an unanswered request."""
        self.silences[registry] += 1
        if self.silences[registry] == SILENCES:
            self.tired[registry] = RemoteUnavailable(f"{error.message}; {registry} is not asked again in this run")


async def resolve_tags(
    transport: Transport, references: Iterable[Reference], *, at_once: int = AT_ONCE, proven: bool = True
) -> AsyncGenerator[HeadResult]:
    """Resolve every reference once, at most 16 at a time; yield results as they arrive. Raises: LedgerBroken.

    `proven`: prove the tags of trusted registries (`client.tag_proofs`), many in one request.

    A caller that stops early closes the generator (`contextlib.aclosing`), which cancels the requests that are running.
    """
    waiting = list(dict.fromkeys(references))
    for registry in {reference.registry for reference in waiting}:
        repositories = {reference.repository for reference in waiting if reference.registry == registry}
        transport.tokens.announce(registry, (f"repository:{name}:pull" for name in repositories))
    if proven and transport.prover is not None:
        transport.prover.announce(waiting)
    queue = iter(waiting)
    registries = _Registries(proven)
    # Not a task group: open over a yield, it would cancel the consumer and turn an early end into an error.
    asking: deque[asyncio.Task[HeadResult]] = deque()
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


async def _first(asking: deque[asyncio.Task[HeadResult]]) -> HeadResult:
    """Return the result of the first task that ends, and remove it from the queue. Re-raises a task's exception."""
    done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    task = next(each for each in asking if each in done)
    asking.remove(task)
    return task.result()


async def _ask_in_turn(transport: Transport, reference: Reference, registries: _Registries) -> HeadResult:
    """Resolve a reference, but not before the registry has answered the first request."""
    answered = registries.known.get(reference.registry)
    if answered is not None:
        await answered.wait()
        return await _ask(transport, reference, registries)
    registries.known[reference.registry] = answered = asyncio.Event()
    try:
        return await _ask(transport, reference, registries)
    finally:
        answered.set()


async def _ask(transport: Transport, reference: Reference, registries: _Registries) -> HeadResult:
    registry = reference.registry
    if registry in registries.tired:
        return HeadResult(reference, None, registries.tired[registry])
    named = reference.digest or reference.tag
    if named is None:
        raise AssertionError(f"{reference} has neither tag nor digest")
    client = RegistryClient(transport, registry)
    try:
        resolve = client.resolve if registries.proven else client.resolve_unproven
        resolved = await resolve(reference.repository, named)
    except LedgerBroken:
        raise
    except RemoteBusy as error:
        registries.tired[registry] = error
        return HeadResult(reference, None, error)
    except RemoteUnavailable as error:
        registries.silent(registry, error)
        return HeadResult(reference, None, error)
    except BoltsealError as error:
        return HeadResult(reference, None, error)
    registries.silences.pop(registry, None)
    return HeadResult(reference, resolved, None)
