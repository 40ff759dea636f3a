"""Many tags, asked for what they mean now: each once, a few at a time, each registry at its pace.

Never a manifest GET. One token for many repositories (`tokens.announce`). A registry that says it is asked too often is
left alone for the rest of the poll, and everything still open there is answered "could not check", with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Final

from boltseal.client.errors import RemoteBusy
from boltseal.client.registry import RegistryClient, Resolved
from boltseal.client.transport import Transport
from boltseal.errors import BoltsealError
from boltseal.oci.reference import Reference

AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Polled:
    """What a reference means, or why that could not be told. Exactly one of `resolved` and `error` is there."""

    reference: Reference
    resolved: Resolved | None
    error: BoltsealError | None


async def poll(
    transport: Transport, references: Iterable[Reference], *, at_once: int = AT_ONCE
) -> AsyncIterator[Polled]:
    """Ask for every reference once, however often it is named; answers come as they arrive. At most 16 at a time."""
    waiting = list(dict.fromkeys(references))
    for registry in {reference.registry for reference in waiting}:
        repositories = {reference.repository for reference in waiting if reference.registry == registry}
        transport.tokens.announce(registry, (f"repository:{name}:pull" for name in repositories))
    queue = iter(waiting)
    answers: asyncio.Queue[Polled] = asyncio.Queue(maxsize=at_once)
    tired: dict[str, RemoteBusy] = {}

    async def work() -> None:
        for reference in queue:
            await answers.put(await _ask(transport, reference, tired))

    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_once, AT_ONCE, len(waiting))):
            group.create_task(work())
        for _ in waiting:
            yield await answers.get()


async def _ask(transport: Transport, reference: Reference, tired: dict[str, RemoteBusy]) -> Polled:
    if reference.registry in tired:
        return Polled(reference, None, tired[reference.registry])
    named = reference.digest or reference.tag
    if named is None:
        raise AssertionError(f"{reference} names nothing")
    try:
        resolved = await RegistryClient(transport, reference.registry).resolve(reference.repository, named)
    except RemoteBusy as error:
        tired[reference.registry] = error
        return Polled(reference, None, error)
    except BoltsealError as error:
        return Polled(reference, None, error)
    return Polled(reference, resolved, None)
