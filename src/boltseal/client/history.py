"""The history of a repository in a registry's ledger: read, checked for consistency, and proven to be in the signed
tree.

The steps, in this order:

1. Read the entries and check that they are consistent (`ledger.history`).
2. Follow the ledger (`client.ledger_trust`); its head covers what was read.
3. Verify that each wanted entry is in the tree of that head, by an inclusion proof. An entry without one is a problem.

A registry without such a ledger may have the unsigned tag history of distribution-spec PR #606.
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
from boltseal.client.registry_request import RegistryRequest
from boltseal.client.transport import Transport
from boltseal.errors import BoltsealError, Mismatch
from boltseal.ledger.entry import Entry, EntryKind, IndexedLine, encode
from boltseal.ledger.follow import LedgerBroken
from boltseal.ledger.history import EntryAt, RepositoryHistory, check, contradiction
from boltseal.ledger.merkle import ProofInvalid, leaf_hash, verify_inclusion
from boltseal.oci.manifest import ManifestInvalid, parse_manifest
from boltseal.oci.mediatype import OCI_INDEX
from boltseal.oci.reference import Repository, Tag

TRIES: Final = 3
PAUSE_S: Final = 0.2
SIGNED_TRIES: Final = 8
"""How often a ledger is followed until it covers the entries that were read."""
AT_ONCE: Final = 8
MAX_HISTORY_BYTES: Final = 64 * 1024 * 1024
MAX_PAGES: Final = 100
PAGE: Final = 1000
OBSERVATIONS: Final = "observations"
TIMESTAMP: Final = "org.opencontainers.distribution.tag.timestamp"
EVENT: Final = "org.opencontainers.distribution.tag.event"

Follow = Callable[[str], Awaitable[LedgerCheck]]


@dataclass(frozen=True, slots=True)
class ProvenHistory:
    """A history, the state of its ledger, the indices of entries that are proven to be in the ledger, and the problems
    found.
    """

    history: RepositoryHistory
    followed: LedgerCheck
    proven: frozenset[int]
    problems: tuple[str, ...]


async def read_history(
    transport: Transport,
    registry: str,
    repository: Repository,
    tag: Tag | None,
    follow: Follow,
    *,
    others: bool = True,
) -> ProvenHistory:
    """Read the entries of a repository and prove those of `tag`, or all if `tag` is None.

    `others`: whether the entries of the repository's other tags are read as well.

    Raises: RemoteNotFound, RemoteMismatch, LedgerBroken.
    """
    client = LedgerClient(transport, registry)
    for tried in range(TRIES):
        history = check(str(repository), [each async for each in client.history(repository, None if others else tag)])
        now = None if tag is None else await _digest_now(transport, registry, repository, tag)
        missed = None if tag is None or now is None else contradiction(history.of(tag), now)
        if tag is not None and (missed is not None or not history.of(tag)):
            seen = await _read_mirrored(transport, registry, repository, tag, follow)
            if seen is not None and not history.of(tag):
                return seen
            if seen is not None and _last_seen(seen) == now:
                missed = None  # it was pushed through the push proxy once, and moved upstream since
        if missed is None or tried == TRIES - 1:
            break
        await asyncio.sleep(PAUSE_S)  # it moved between the two questions, or is not signed yet
    wanted = history.entries if tag is None else history.of(tag)
    followed = await _covering(follow, registry, wanted)
    return await _prove(client, followed, history, wanted, missed)


async def read_tags(
    transport: Transport,
    registry: str,
    names: Mapping[tuple[Repository, Tag], str],
    follow: Follow,
    *,
    max_bytes: int = MAX_HISTORY_BYTES,
) -> dict[tuple[Repository, Tag], ProvenHistory | BoltsealError]:
    """Read and prove the entries of several tags, or return why they could not be read. The ledger is followed once.

    `names`: what each tag resolves to by the registry's own answer, "" for nothing. `max_bytes`: of the entries of a tag.

    Raises: LedgerBroken.
    """
    client = LedgerClient(transport, registry)
    at_once = asyncio.Semaphore(AT_ONCE)

    async def read(repository: Repository, tag: Tag, now: str) -> tuple[RepositoryHistory, str | None] | BoltsealError:
        async with at_once:
            try:
                return await _read_tag(client, transport, repository, tag, now, max_bytes)
            except BoltsealError as error:
                return error

    async def prove(tag: Tag, read: tuple[RepositoryHistory, str | None]) -> ProvenHistory | BoltsealError:
        async with at_once:
            try:
                return await _prove(client, followed, read[0], read[0].of(tag), read[1])
            except BoltsealError as error:
                return error

    entries = dict(zip(names, await asyncio.gather(*(read(*name, now) for name, now in names.items())), strict=True))
    found: dict[tuple[Repository, Tag], ProvenHistory | BoltsealError] = {
        name: entry for name, entry in entries.items() if isinstance(entry, BoltsealError)
    }
    readable = {name: entry for name, entry in entries.items() if not isinstance(entry, BoltsealError)}
    if not readable:
        return found
    try:
        wanted = (entry for name, (history, _) in readable.items() for entry in history.of(name[1]))
        followed = await _covering(follow, registry, wanted)
    except LedgerBroken:
        raise
    except BoltsealError as error:
        return found | dict.fromkeys(readable, error)
    proven = await asyncio.gather(*(prove(name[1], entry) for name, entry in readable.items()))
    return found | dict(zip(readable, proven, strict=True))


async def _read_tag(
    client: LedgerClient, transport: Transport, repository: Repository, tag: Tag, now: str, max_bytes: int
) -> tuple[RepositoryHistory, str | None]:
    """Return the entries of one tag, and the problem if they contradict what the tag resolves to now."""
    for tried in range(TRIES):
        history = check(str(repository), await _lines(client, repository, tag, max_bytes))
        missed = contradiction(history.of(tag), now)
        if missed is None or tried == TRIES - 1:
            break
        await asyncio.sleep(PAUSE_S)  # it moved between the two questions, or is not signed yet
        now = await _digest_now(transport, client.registry, repository, tag)
    return history, missed


async def _lines(client: LedgerClient, repository: Repository, tag: Tag, max_bytes: int) -> list[IndexedLine]:
    """Return the entries of one tag, at most `max_bytes`. Raises: RemoteMismatch."""
    found: list[IndexedLine] = []
    size = 0
    async for entry in client.history(repository, tag):
        size += len(entry.line)
        if size > max_bytes:
            raise RemoteMismatch(f"{client.registry} lists more than {max_bytes} bytes of history of {tag}: not read")
        found.append(entry)
    return found


async def _prove(
    client: LedgerClient,
    followed: LedgerCheck,
    history: RepositoryHistory,
    wanted: Iterable[EntryAt],
    missed: str | None,
) -> ProvenHistory:
    """Return the entries with the result of their proofs. `missed`: the problem of the current digest, if any."""
    entries = tuple(wanted)
    problems = list(history.problems) + ([] if missed is None else [missed])
    if followed.head is None:
        why = f"not proven: {followed.no_head_reason}"
        return ProvenHistory(history, followed, frozenset(), (*problems, why))
    lost = await _unproven(client, followed, entries)
    problems += [f"entry {index}: {why}" for index, why in lost.items()]
    proven = frozenset(entry.index for entry in entries) - lost.keys()
    return ProvenHistory(history, followed, proven, tuple(problems))


async def prove_entry(transport: Transport, registry: str, index: int, entry: Entry, follow: Follow) -> None:
    """Check that an entry which a registry listed is in its signed ledger. Nothing is checked at a registry without one.

    Raises: Mismatch: it is not; LedgerBroken, and as `follow`.
    """
    listed = EntryAt(index, entry, leaf_hash(encode(entry)))
    followed = await _covering(follow, registry, [listed])
    if followed.head is None:
        return
    for why in (await _unproven(LedgerClient(transport, registry), followed, [listed])).values():
        raise Mismatch(f"{registry} lists an entry {index} that its ledger does not prove: {why}; it is not used")


async def unproven_entries(
    transport: Transport, check: LedgerCheck, entries: Mapping[int, Entry], follow: Follow
) -> dict[int, str]:
    """Return which of several entries that a registry listed are not in its signed ledger, by index, with the reason.

    All proofs are read together: a tile of 256 entries once, however many of them are proven. `check`: of the ledger; it is
    followed again only if it does not cover the entries yet. At a registry without a ledger nothing is checked.

    Raises: LedgerBroken, and as `follow`.
    """
    listed = [EntryAt(index, entry, leaf_hash(encode(entry))) for index, entry in entries.items()]
    if check.head is not None and max(entries, default=-1) >= check.head.checkpoint.size:
        check = await _covering(follow, check.registry, listed)
    if check.head is None or not listed:
        return {}
    return await _unproven(LedgerClient(transport, check.registry), check, listed)


async def read_observed(
    transport: Transport, registry: str, repository: Repository, tag: Tag, follow: Follow
) -> ProvenHistory | None:
    """Read and prove what the mirror at a registry observed of an upstream tag; None if it observed nothing.

    Raises: RemoteNotFound: the registry has no observations; and as `read_history`.
    """
    log = f"{registry}/{OBSERVATIONS}"
    client = LedgerClient(transport, log)
    history = check(str(repository), [each async for each in client.observed(repository, tag)], observed=True)
    if not history.entries:
        return None
    followed = await _covering(follow, log, history.entries)
    if followed.head is None:
        problem = f"{registry} shows no log of observations to prove it by"
        return ProvenHistory(history, followed, frozenset(), (*history.problems, problem))
    lost = await _unproven(client, followed, history.entries)
    problems = (*history.problems, *(f"entry {index}: {why}" for index, why in lost.items()))
    return ProvenHistory(history, followed, frozenset(entry.index for entry in history.entries) - lost.keys(), problems)


async def _read_mirrored(
    transport: Transport, registry: str, repository: Repository, tag: Tag, follow: Follow
) -> ProvenHistory | None:
    try:
        return await read_observed(transport, registry, repository, tag, follow)
    except RemoteNotFound:
        return None


def _last_seen(seen: ProvenHistory) -> str:
    served = [at.entry.digest for at in seen.history.entries if at.entry.kind is not EntryKind.HELD and at.entry.digest]
    return served[-1] if served else ""


class UnsignedTagEvent(NamedTuple):
    """An unsigned statement of a registry about a tag. `event`: created or deleted, in the registry's word."""

    time: str
    digest: str
    event: str


async def read_unsigned(
    transport: Transport, registry: str, repository: Repository, tag: Tag
) -> list[UnsignedTagEvent]:
    """Read the tag-history extension (distribution-spec PR #606), the oldest event first.

    Raises: RemoteNotFound: the registry does not have it; RemoteMismatch.
    """
    found: list[UnsignedTagEvent] = []
    for _ in range(MAX_PAGES):
        before = f"&before={quote(found[-1].time, safe='')}" if found else ""
        path = f"/v2/{repository}/_oci/tag-history/{tag}?n={PAGE}{before}"
        scopes = frozenset({f"repository:{repository}:pull"})
        reply = await transport.request(RegistryRequest(registry, "GET", path, f"history of {tag}", scopes))
        try:
            events = parse_manifest(reply.body, OCI_INDEX).manifests
        except ManifestInvalid as error:
            raise RemoteMismatch(f"{registry}: the history of {tag} can't be parsed: {error.message}") from error
        found += [
            UnsignedTagEvent(each.annotations.get(TIMESTAMP, ""), str(each.digest), each.annotations.get(EVENT, ""))
            for each in events
        ]
        if 'rel="next"' not in reply.headers.get("link", "") or not events:
            return found[::-1]
    raise RemoteMismatch(f"{registry} lists the history of {tag} over more than {MAX_PAGES} pages")


async def _digest_now(transport: Transport, registry: str, repository: Repository, tag: Tag) -> str:
    try:
        return str((await RegistryClient(transport, registry).resolve_unproven(repository, tag)).digest)
    except RemoteNotFound:
        return ""


async def _covering(follow: Follow, registry: str, entries: Iterable[EntryAt]) -> LedgerCheck:
    """Follow a ledger until its checkpoint covers these entries: a registry shows an entry a moment before it signs it.

    The last of a few checks is returned in any case. Raises: as `follow`.
    """
    end = max((entry.index for entry in entries), default=-1) + 1
    for _ in range(SIGNED_TRIES - 1):
        followed = await follow(registry)
        if followed.head is None or followed.head.checkpoint.size >= end:
            return followed
        await asyncio.sleep(PAUSE_S)
    return await follow(registry)


async def _unproven(client: LedgerClient, followed: LedgerCheck, entries: Iterable[EntryAt]) -> dict[int, str]:
    """Return the entries that are not in the tree, by index, with the reason."""
    if followed.head is None:
        raise AssertionError("the ledger has no head")
    head = followed.head.checkpoint
    wanted = {entry.index: entry.leaf for entry in entries}
    beyond = {index: "it is after the end of the signed ledger" for index in wanted if index >= head.size}
    proofs = await client.inclusion((index for index in wanted if index < head.size), head.size)
    for index, proof in proofs.items():
        try:
            verify_inclusion(wanted[index], index, head.size, proof, head.root)
        except ProofInvalid as error:
            beyond[index] = f"it is not in the signed ledger: {error.message}"
    return beyond
