"""What a registry's ledger says of one repository: read, held together, and proven to be in the signed tree.

In this order:

1. The entries are read, and must hold together by themselves (`ledger.history`).
2. The ledger is followed (`client.ledger_trust`); its head covers what was read.
3. Each entry that matters is in the tree of that head, by the hashes of the tree. An entry that was read and is not there
   is a lie, whatever else is true.

A registry without such a ledger may keep a history of tags as distribution-spec PR #606 has it, which nobody has signed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import quote

from boltseal.client.errors import RemoteMismatch, RemoteNotFound
from boltseal.client.ledger_client import LedgerClient
from boltseal.client.ledger_trust import LedgerCheck
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import RegistryRequest, Transport
from boltseal.errors import BoltsealError
from boltseal.ledger.entry import EntryKind
from boltseal.ledger.follow import LedgerBroken
from boltseal.ledger.history import EntryAt, RepositoryHistory, check, contradiction
from boltseal.ledger.merkle import ProofInvalid, verify_inclusion
from boltseal.oci.manifest import ManifestInvalid, parse_manifest
from boltseal.oci.mediatype import OCI_INDEX
from boltseal.oci.reference import Repository, Tag

TRIES: Final = 3
PAUSE_S: Final = 0.2
AT_ONCE: Final = 8
MAX_HISTORY_BYTES: Final = 64 * 1024 * 1024
MAX_PAGES: Final = 100
PAGE: Final = 1000
OBSERVATIONS: Final = "observations"
TIMESTAMP: Final = "org.opencontainers.distribution.tag.timestamp"
EVENT: Final = "org.opencontainers.distribution.tag.event"

Follow = Callable[[str], Awaitable[LedgerCheck]]


@dataclass(frozen=True, slots=True)
class Proven:
    """A history, how it stands with its ledger, and which of its entries are proven to be in it, by index."""

    history: RepositoryHistory
    followed: LedgerCheck
    proven: frozenset[int]
    problems: tuple[str, ...]


async def read_history(
    transport: Transport, registry: str, repository: Repository, tag: Tag | None, follow: Follow
) -> Proven:
    """The entries about a repository; those of `tag`, or with None all, are proven. RemoteNotFound, RemoteMismatch, LedgerBroken."""
    client = LedgerClient(transport, registry)
    for tried in range(TRIES):
        history = check(str(repository), [one async for one in client.history(repository)])
        now = None if tag is None else await _means(transport, registry, repository, tag)
        missed = None if tag is None or now is None else contradiction(history.of(tag), now)
        if tag is not None and (missed is not None or not history.of(tag)):
            seen = await _seen_by_mirror(transport, registry, repository, tag, follow)
            if seen is not None and not history.of(tag):
                return seen
            if seen is not None and _last_seen(seen) == now:
                missed = None  # it was pushed through the mirror's gate once, and moved upstream since
        if missed is None or tried == TRIES - 1:
            break
        await asyncio.sleep(PAUSE_S)  # it moved between the two questions, or is not signed yet
    followed = await follow(registry)
    return await _prove(client, followed, history, history.said if tag is None else history.of(tag), missed)


async def read_names(
    transport: Transport, registry: str, names: Mapping[tuple[Repository, Tag], str], follow: Follow
) -> dict[tuple[Repository, Tag], Proven | BoltsealError]:
    """The entries about some names, or why they could not be read; the ledger is followed once. LedgerBroken.

    `names`: with what each means by the registry's own answer, "" for nothing.
    """
    client = LedgerClient(transport, registry)
    at_once = asyncio.Semaphore(AT_ONCE)

    async def read(repository: Repository, tag: Tag, now: str) -> tuple[RepositoryHistory, str | None] | BoltsealError:
        async with at_once:
            try:
                return await _of_name(client, transport, repository, tag, now)
            except BoltsealError as error:
                return error

    async def prove(tag: Tag, read: tuple[RepositoryHistory, str | None]) -> Proven | BoltsealError:
        async with at_once:
            try:
                return await _prove(client, followed, read[0], read[0].of(tag), read[1])
            except BoltsealError as error:
                return error

    entries = dict(zip(names, await asyncio.gather(*(read(*name, now) for name, now in names.items())), strict=True))
    found: dict[tuple[Repository, Tag], Proven | BoltsealError] = {
        name: one for name, one in entries.items() if isinstance(one, BoltsealError)
    }
    whole = {name: one for name, one in entries.items() if not isinstance(one, BoltsealError)}
    if not whole:
        return found
    try:
        followed = await follow(registry)  # behind the entries, so that its head covers them
    except LedgerBroken:
        raise
    except BoltsealError as error:
        return found | dict.fromkeys(whole, error)
    proven = await asyncio.gather(*(prove(name[1], one) for name, one in whole.items()))
    return found | dict(zip(whole, proven, strict=True))


async def _of_name(
    client: LedgerClient, transport: Transport, repository: Repository, tag: Tag, now: str
) -> tuple[RepositoryHistory, str | None]:
    """The entries of one name, and what is wrong with what it means now behind them."""
    for tried in range(TRIES):
        history = check(str(repository), await _lines(client, repository, tag))
        missed = contradiction(history.of(tag), now)
        if missed is None or tried == TRIES - 1:
            break
        await asyncio.sleep(PAUSE_S)  # it moved between the two questions, or is not signed yet
        now = await _means(transport, client.registry, repository, tag)
    return history, missed


async def _lines(client: LedgerClient, repository: Repository, tag: Tag) -> list[tuple[int, bytes]]:
    """The entries of one name; a list without end is no list."""
    found: list[tuple[int, bytes]] = []
    size = 0
    async for index, line in client.history(repository, tag):
        size += len(line)
        if size > MAX_HISTORY_BYTES:
            raise RemoteMismatch(
                f"{client.registry} lists more than {MAX_HISTORY_BYTES} bytes of history of {tag}: not read"
            )
        found.append((index, line))
    return found


async def _prove(
    client: LedgerClient,
    followed: LedgerCheck,
    history: RepositoryHistory,
    wanted: Iterable[EntryAt],
    missed: str | None,
) -> Proven:
    """The entries with their proofs. `missed`: what is wrong with what the tag means now."""
    said = tuple(wanted)
    problems = list(history.problems) + ([] if missed is None else [missed])
    if followed.head is None:
        why = f"{client.registry} shows no ledger that it is in"
        return Proven(history, followed, frozenset(), (*problems, why))
    lost = await _not_in(client, followed, said)
    problems += [f"entry {index}: {why}" for index, why in lost.items()]
    proven = frozenset(one.index for one in said) - lost.keys()
    return Proven(history, followed, proven, tuple(problems))


async def read_observed(
    transport: Transport, registry: str, repository: Repository, tag: Tag, follow: Follow
) -> Proven | None:
    """What the mirror at a registry has seen of an upstream's tag, proven likewise; None: nothing. RemoteNotFound, ..."""
    log = f"{registry}/{OBSERVATIONS}"
    client = LedgerClient(transport, log)
    history = check(str(repository), [one async for one in client.observed(repository, tag)], observed=True)
    if not history.said:
        return None
    followed = await follow(log)
    if followed.head is None:
        problem = f"{registry} shows no log of observations that it is in"
        return Proven(history, followed, frozenset(), (*history.problems, problem))
    lost = await _not_in(client, followed, history.said)
    problems = (*history.problems, *(f"entry {index}: {why}" for index, why in lost.items()))
    return Proven(history, followed, frozenset(one.index for one in history.said) - lost.keys(), problems)


async def _seen_by_mirror(
    transport: Transport, registry: str, repository: Repository, tag: Tag, follow: Follow
) -> Proven | None:
    try:
        return await read_observed(transport, registry, repository, tag, follow)
    except RemoteNotFound:
        return None


def _last_seen(seen: Proven) -> str:
    served = [
        one.entry.digest for one in seen.history.said if one.entry.kind is not EntryKind.HELD and one.entry.digest
    ]
    return served[-1] if served else ""


class Event(NamedTuple):
    """What a registry says happened to a tag, signed by nobody. `event`: created or deleted, in the registry's word."""

    time: str
    digest: str
    event: str


async def read_unsigned(transport: Transport, registry: str, repository: Repository, tag: Tag) -> list[Event]:
    """The tag-history extension (distribution-spec PR #606), the oldest first. RemoteNotFound where there is none."""
    found: list[Event] = []
    for _ in range(MAX_PAGES):
        before = f"&before={quote(found[-1].time, safe='')}" if found else ""
        path = f"/v2/{repository}/_oci/tag-history/{tag}?n={PAGE}{before}"
        scopes = frozenset({f"repository:{repository}:pull"})
        reply = await transport.request(RegistryRequest(registry, "GET", path, f"history of {tag}", scopes))
        try:
            events = parse_manifest(reply.body, OCI_INDEX).manifests
        except ManifestInvalid as error:
            raise RemoteMismatch(f"{registry}: the history of {tag} can't be read: {error.message}") from error
        found += [
            Event(one.annotations.get(TIMESTAMP, ""), str(one.digest), one.annotations.get(EVENT, "")) for one in events
        ]
        if 'rel="next"' not in reply.headers.get("link", "") or not events:
            return found[::-1]
    raise RemoteMismatch(f"{registry} lists the history of {tag} over more than {MAX_PAGES} pages")


async def _means(transport: Transport, registry: str, repository: Repository, tag: Tag) -> str:
    try:
        return str((await RegistryClient(transport, registry).resolve(repository, tag)).digest)
    except RemoteNotFound:
        return ""


async def _not_in(client: LedgerClient, followed: LedgerCheck, said: Iterable[EntryAt]) -> dict[int, str]:
    """Which of the entries are not in the tree, and why."""
    if followed.head is None:
        raise AssertionError("nothing to prove it by")
    head = followed.head.checkpoint
    wanted = {one.index: one.leaf for one in said}
    beyond = {index: "it is behind the end of the signed ledger" for index in wanted if index >= head.size}
    proofs = await client.inclusion((index for index in wanted if index < head.size), head.size)
    for index, proof in proofs.items():
        try:
            verify_inclusion(wanted[index], index, head.size, proof, head.root)
        except ProofInvalid as error:
            beyond[index] = f"it is not in the signed ledger: {error.message}"
    return beyond
