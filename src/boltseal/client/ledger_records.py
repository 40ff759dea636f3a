"""Records at a boltseal registry: what we say of an image there, and what was said of the images of a repository.

A record is an entry of that registry's ledger (`built`, `rebuild.requested`, `released`). It is written once for each
call: a request whose answer is lost may have been taken, and is not repeated by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from boltseal.client.errors import RemoteMismatch, RemoteNotFound
from boltseal.client.ledger_client import LedgerClient
from boltseal.client.transport import RegistryRequest, Transport
from boltseal.ledger.entry import RECORDS, Entry, EntryInvalid, EntryKind, parse
from boltseal.oci.jsontext import decode

if TYPE_CHECKING:
    from boltseal.oci.digest import Digest
    from boltseal.oci.reference import Reference, Repository

MAX_ANSWER_BYTES: Final = 64 * 1024


class NoRecords(RemoteNotFound):
    """The registry takes no records: it is none of ours, or an older one."""


class _Taken(msgspec.Struct):
    index: int


async def record(
    transport: Transport,
    kind: EntryKind,
    reference: Reference,
    digest: Digest,
    extra: Mapping[str, str],
    *,
    reason: str = "",
) -> int:
    """Say something of an image to the registry that holds it; the index of the entry. NoRecords, RemoteNotFound, ...

    `reference`: the image; its tag, if it has one, must mean `digest` there, or have meant it. `extra`: more, by keys of
    a-z 0-9 _ . and -, 40 at most and 8 KiB in all. Needs the right to push.
    """
    said = {"kind": str(kind), "digest": str(digest), "reason": reason, "extra": dict(extra)}
    if reference.tag is not None:
        said["tag"] = str(reference.tag)
    what = f"record of {reference}"
    call = RegistryRequest(
        reference.registry,
        "POST",
        f"/v2/{reference.repository}/_boltseal/records",
        what,
        frozenset({f"repository:{reference.repository}:pull,push"}),
        {"content-type": "application/json"},
        msgspec.json.encode(said),
        frozenset({201, 404, 405}),
        idempotent=False,
    )
    reply = await transport.request(call, max_bytes=MAX_ANSWER_BYTES)
    if reply.status != 201:
        raise _refused(reference, digest, reply.body)
    try:
        return decode(reply.body, _Taken).index
    except msgspec.MsgspecError as error:
        raise RemoteMismatch(f"{reference.registry}: its answer to the {what} can't be read") from error


async def records(transport: Transport, registry: str, repository: Repository) -> list[tuple[int, Entry]]:
    """What was said of a repository's images, the oldest first, by index. NoRecords, RemoteMismatch, RemoteDenied, ...

    Nothing of it is proven to be in the signed tree; `client.history` does that.
    """
    found: list[tuple[int, Entry]] = []
    try:
        async for index, line in LedgerClient(transport, registry).records(repository):
            entry = parse(line)
            if entry.kind not in RECORDS or entry.repository != repository:
                raise RemoteMismatch(f"{registry}: entry {index} is no record of {repository}")
            found.append((index, entry))
    except RemoteNotFound as error:
        raise NoRecords(f"{registry} keeps no records of {repository}: {error.message}") from error
    except EntryInvalid as error:
        raise RemoteMismatch(f"{registry}: a record of {repository} can't be read: {error.message}") from error
    return found


async def listed(
    transport: Transport, registry: str, repository: Repository, kinds: Collection[EntryKind]
) -> list[Entry]:
    """The entries of these kinds about a repository, the oldest first. RemoteNotFound, RemoteMismatch, RemoteDenied, ...

    Nothing of it is proven to be in the signed tree; `client.history` does that.
    """
    client = LedgerClient(transport, registry)
    return _of(registry, repository, kinds, [one async for one in client.history(repository, kinds=kinds)])


async def observed(
    transport: Transport, registry: str, repository: Repository, kinds: Collection[EntryKind]
) -> list[Entry]:
    """The observations of these kinds of a mirrored repository, likewise; none where nothing is observed."""
    try:
        lines = [one async for one in LedgerClient(transport, registry).observed(repository)]
    except RemoteNotFound:
        return []
    return _of(registry, repository, kinds, lines)


def _of(
    registry: str, repository: Repository, kinds: Collection[EntryKind], lines: Iterable[tuple[int, bytes]]
) -> list[Entry]:
    found: list[Entry] = []
    for index, line in lines:
        try:
            entry = parse(line)
        except EntryInvalid as error:
            raise RemoteMismatch(f"{registry}: entry {index} of {repository} can't be read: {error.message}") from error
        if entry.repository != repository:
            raise RemoteMismatch(f"{registry}: entry {index} is not about {repository}")
        if entry.kind in kinds:
            found.append(entry)
    return found


def _refused(reference: Reference, digest: Digest, body: bytes) -> RemoteNotFound:
    """A 404 says that the image is not there, or that there is no such place: an error of ours says which image."""
    from boltseal.client.errors import said

    told = said(body)
    if str(digest) in told:
        return RemoteNotFound(f"{reference.registry} took no record of {reference}: {told}")
    return NoRecords(f"{reference.registry} takes no records of images: it is no boltseal registry, or an older one")
