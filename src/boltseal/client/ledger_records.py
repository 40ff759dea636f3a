"""Records about images in a registry's ledger: add one, or list those of a repository.

A record is a ledger entry of kind `built`, `rebuild.requested` or `released`. A request is sent once: it may have been
accepted although its answer was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from boltseal.client.errors import RemoteMismatch, RemoteNotFound, error_text
from boltseal.client.ledger_client import LedgerClient
from boltseal.client.registry_request import RegistryRequest
from boltseal.client.transport import Transport
from boltseal.ledger.entry import RECORDS, Entry, EntryInvalid, EntryKind, IndexedLine, parse
from boltseal.oci.digest import Digest
from boltseal.oci.jsontext import decode
from boltseal.oci.reference import Reference, Repository, Tag

MAX_ANSWER_BYTES: Final = 64 * 1024
SIGNED_TIMEOUT_S: Final = 10.0
SIGNED_PAUSE_S: Final = 0.1


class NoRecords(RemoteNotFound):
    """The registry accepts no records: it is not a boltseal registry, or an older one."""


class ListedRecord(NamedTuple):
    """A record or another entry, and its index."""

    entry_index: int
    entry: Entry


class _Taken(msgspec.Struct):
    index: int


async def add_record(
    transport: Transport,
    kind: EntryKind,
    reference: Reference,
    digest: Digest,
    extra: Mapping[str, str],
    *,
    reason: str = "",
) -> int:
    """Add a record about an image to the ledger of its registry; return the index of the entry. Needs the right to
    push.

    `reference`: the image; its tag, if any, must resolve to `digest` there, now or earlier. `extra`: keys of a-z 0-9 _
    . and -, at most 40 keys and 8 KiB in all.

    Raises: NoRecords, RemoteNotFound: the image does not exist there; and whatever `Transport.request` raises.
    """
    document = {"kind": str(kind), "digest": str(digest), "reason": reason, "extra": dict(extra)}
    if reference.tag is not None:
        document["tag"] = str(reference.tag)
    what = f"record of {reference}"
    call = RegistryRequest(
        reference.registry,
        "POST",
        f"/v2/{reference.repository}/_boltseal/records",
        what,
        frozenset({f"repository:{reference.repository}:pull,push"}),
        {"content-type": "application/json"},
        msgspec.json.encode(document),
        frozenset({201, 404, 405}),
        idempotent=False,
    )
    reply = await transport.request(call, max_bytes=MAX_ANSWER_BYTES)
    if reply.status != 201:
        raise _refused(reference, digest, reply.body)
    try:
        return decode(reply.body, _Taken).index
    except msgspec.MsgspecError as error:
        raise RemoteMismatch(f"{reference.registry}: its answer to the {what} can't be parsed") from error


async def is_signed(
    transport: Transport, registry: str, repository: Repository, index: int, timeout_s: float = SIGNED_TIMEOUT_S
) -> bool:
    """Wait until a registry lists a new record, which it does once its signed ledger covers it; return whether it did.

    Raises: as `list_records`.
    """
    client = LedgerClient(transport, registry)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while True:
                async for listed, _ in client.records(repository, after=index - 1):
                    return listed == index
                await asyncio.sleep(SIGNED_PAUSE_S)
    return False


async def list_records(transport: Transport, registry: str, repository: Repository) -> list[ListedRecord]:
    """Return the records about a repository's images by index, the oldest first.

    The entries are not proven to be in the signed tree; `client.history` does that.

    Raises: NoRecords, RemoteMismatch, RemoteDenied, and whatever `Transport.request` raises.
    """
    found: list[ListedRecord] = []
    try:
        async for index, line in LedgerClient(transport, registry).records(repository):
            entry = parse(line)
            if entry.kind not in RECORDS or entry.repository != repository:
                raise RemoteMismatch(f"{registry}: entry {index} is not a record of {repository}")
            found.append(ListedRecord(index, entry))
    except RemoteNotFound as error:
        raise NoRecords(f"{registry} keeps no records of {repository}: {error.message}") from error
    except EntryInvalid as error:
        raise RemoteMismatch(f"{registry}: a record of {repository} can't be parsed: {error.message}") from error
    return found


async def list_entries(
    transport: Transport, registry: str, repository: Repository, kinds: Collection[EntryKind], tag: Tag | None = None
) -> list[ListedRecord]:
    """Return the entries of these kinds about a repository or one of its tags, the oldest first.

    The entries are not proven to be in the signed tree; `client.history` does that.

    Raises: RemoteNotFound, RemoteMismatch, RemoteDenied, and whatever `Transport.request` raises.
    """
    client = LedgerClient(transport, registry)
    return _parse_all(
        registry, repository, kinds, [line async for line in client.history(repository, tag, kinds=kinds)]
    )


async def list_observations(
    transport: Transport, registry: str, repository: Repository, kinds: Collection[EntryKind]
) -> list[ListedRecord]:
    """Return the observations of these kinds of a mirrored repository, in the form of `list_entries`; none if
    unobserved.
    """
    try:
        lines = [line async for line in LedgerClient(transport, registry).observed(repository)]
    except RemoteNotFound:
        return []
    return _parse_all(registry, repository, kinds, lines)


def _parse_all(
    registry: str, repository: Repository, kinds: Collection[EntryKind], lines: Iterable[IndexedLine]
) -> list[ListedRecord]:
    found: list[ListedRecord] = []
    for index, line in lines:
        try:
            entry = parse(line)
        except EntryInvalid as error:
            raise RemoteMismatch(
                f"{registry}: entry {index} of {repository} can't be parsed: {error.message}"
            ) from error
        if entry.repository != repository:
            raise RemoteMismatch(f"{registry}: entry {index} is not about {repository}")
        if entry.kind in kinds:
            found.append(ListedRecord(index, entry))
    return found


def _refused(reference: Reference, digest: Digest, body: bytes) -> RemoteNotFound:
    """Return the error of a 404: the image is missing (then the message names its digest), or records are not
    supported.
    """
    reason = error_text(body)
    if str(digest) in reason:
        return RemoteNotFound(f"{reference.registry} refuses a record of {reference}: {reason}")
    return NoRecords(
        f"{reference.registry} accepts no records of images: it is not a boltseal registry, or an older one"
    )
