"""Read the ledger of another registry: head, hashes, entries, receipts, histories. Nothing read here is verified yet.

Answers are bounded and parsed by `ledger`, or are errors. The caller verifies them: a checkpoint against what was seen
before (`client.ledger_trust`), an entry by its proof.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from boltseal.client.errors import RemoteMismatch, RemoteNotFound, RemoteUnavailable
from boltseal.client.registry_request import RegistryRequest, RegistryResponse
from boltseal.client.transport import Transport
from boltseal.ledger.entry import MAX_ENTRY_BYTES, EntryKind, IndexedLine
from boltseal.ledger.merkle import HASH_BYTES, Path, consistency_path, inclusion_path, prove
from boltseal.ledger.note import MAX_NOTE_BYTES
from boltseal.ledger.proof import MAX_RECEIPT_BYTES
from boltseal.ledger.receipt_attestation import MAX_ATTESTATION_BYTES
from boltseal.ledger.tag_proof import ShownEntry
from boltseal.ledger.tiles import WIDTH, BundleId, TileId, TileInvalid, Tiles, needed, parse_bundle
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.jsontext import decode
from boltseal.oci.layer_chain import ASKED_AT_ONCE
from boltseal.oci.reference import Repository, Tag

AT_ONCE: Final = 8
MAX_PAGES: Final = 10_000
PAGE: Final = 1000
MAX_PAGE_BYTES: Final = 80 * 1024 * 1024
MAX_LISTING_BYTES: Final = 256 * 1024 * 1024
"""The limit for all entries of one listing, which callers keep in memory."""
MAX_ROTATIONS_BYTES: Final = 8 * 1024 * 1024
_HEAD_BYTES: Final = 2


class _Rotations(msgspec.Struct):
    receipts: list[str]


class _Line(msgspec.Struct):
    index: int
    line: str


class _Page(msgspec.Struct):
    size: int
    entries: list[_Line]


class _TagEntry(msgspec.Struct):
    index: int
    line: str
    proof: list[str]


class _TagAnswer(msgspec.Struct):
    tag: str
    allowed: bool
    entries: list[_TagEntry]


class _TagAnswers(msgspec.Struct):
    size: int
    tags: list[_TagAnswer]


class _Chains(msgspec.Struct):
    chains: dict[str, msgspec.Raw]


class LedgerClient:
    """Reads the ledger of a registry, or another of its logs: `host/observations` is the log of the mirror at `host`."""

    def __init__(self, transport: Transport, registry: str, *, max_listing_bytes: int = MAX_LISTING_BYTES) -> None:
        self._transport = transport
        self.registry, _, log = registry.partition("/")
        self._prefix = f"/ledger/{log}/" if log else "/ledger/"
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._max_listing_bytes = max_listing_bytes

    async def checkpoint(self, *, patient: bool = True) -> bytes:
        """Return the newest signed checkpoint, unverified. `patient`: retry on failure. Raises: RemoteNotFound: no
        ledger.
        """
        return (await self._get("checkpoint", "the ledger's checkpoint", MAX_NOTE_BYTES, patient=patient)).body

    async def rotations(self) -> list[bytes]:
        """Return the receipts of key rotations: each one names the next key."""
        reply = await self._get("rotations", "the ledger's rotations", MAX_ROTATIONS_BYTES)
        try:
            return [base64.b64decode(receipt, validate=True) for receipt in decode(reply.body, _Rotations).receipts]
        except ValueError as error:  # msgspec's errors are ValueErrors
            raise RemoteMismatch(f"{self.registry}: the ledger's rotations can't be parsed") from error

    async def receipt(self, index: int, repository: Repository | None = None) -> bytes:
        """Return the receipt of one entry, unverified. Raises: RemoteNotFound."""
        scopes = frozenset() if repository is None else frozenset({f"repository:{repository}:pull"})
        return (await self._get(f"receipt/{index}", f"receipt {index}", MAX_RECEIPT_BYTES, scopes=scopes)).body

    async def attestation(self, index: int, repository: Repository) -> bytes:
        """Return the statement of one entry, unverified. Raises: RemoteNotFound: the registry signs no statements."""
        scopes = frozenset({f"repository:{repository}:pull"})
        what = f"the statement about entry {index}"
        return (await self._get(f"attestation/{index}", what, MAX_ATTESTATION_BYTES, scopes=scopes)).body

    async def tiles(self, wanted: Iterable[TileId], size: int) -> Tiles:
        """Return these tiles of the tree over `size` entries, each of its full length. Raises: RemoteMismatch,
        RemoteUnavailable.
        """
        return Tiles(size, await self.hashes(wanted))

    async def hashes(self, wanted: Iterable[TileId]) -> dict[TileId, bytes]:
        """Return the hashes in these tiles, unverified. Raises: RemoteMismatch, RemoteUnavailable."""
        places = sorted(set(wanted))
        read = await asyncio.gather(*(self._tile(place) for place in places), return_exceptions=True)
        for tile in read:
            if isinstance(tile, BaseException):
                raise tile
        return dict(zip(places, (tile for tile in read if isinstance(tile, bytes)), strict=True))

    async def consistency(self, old_size: int, new_size: int) -> tuple[bytes, ...]:
        """Return the consistency proof between the trees over `old_size` and `new_size` entries, unverified."""
        return (await self.proofs([consistency_path(old_size, new_size)], new_size))[0]

    async def inclusion(self, indices: Iterable[int], size: int) -> dict[int, tuple[bytes, ...]]:
        """Return the inclusion proofs of entries in the tree over `size` entries, by index, unverified."""
        places = list(dict.fromkeys(indices))
        found = await self.proofs([inclusion_path(index, size) for index in places], size)
        return dict(zip(places, found, strict=True))

    async def proofs(self, paths: Iterable[Path], size: int) -> list[tuple[bytes, ...]]:
        """Return the hashes of proofs; a tile that several of them need is read once."""
        wanted = list(paths)
        tiles = await self.tiles({tile for path in wanted for tile in needed(path, size)}, size)
        return [prove(path, tiles.node) for path in wanted]

    async def bundle(self, at: BundleId) -> tuple[bytes, ...]:
        """Return the entries of one bundle. Raises: RemoteMismatch; RemoteDenied: the login lacks the right `ledger`."""
        reply = await self._get(at.path(), f"entries {at.path()}", at.width * (MAX_ENTRY_BYTES + _HEAD_BYTES))
        try:
            return parse_bundle(reply.body, at.width)
        except TileInvalid as error:
            raise RemoteMismatch(f"{self.registry}: {at.path()}: {error.message}") from error

    async def entries(self, start: int, end: int) -> list[bytes]:
        """Return the entries [start, end). Raises: RemoteMismatch, RemoteNotFound; RemoteDenied: lacks the right
        `ledger`.
        """
        found: list[bytes] = []
        for index in range(start // WIDTH, -(-end // WIDTH)):
            first = index * WIDTH
            width = min(end - first, WIDTH)
            found += (await self.bundle(BundleId(index, width)))[max(start - first, 0) :]
        return found

    async def tags(
        self, names: Sequence[tuple[Repository, Tag]], size: int
    ) -> dict[tuple[Repository, Tag], tuple[ShownEntry, ...]]:
        """Return the entries that shall prove what tags resolve to, unverified, of the tree over `size` entries.

        Tags that the login may not pull are left out. Raises: RemoteNotFound: the registry has no such route or log.
        """
        what = f"ledger entries of {len(names)} tags"
        wanted = [f"{repository}:{tag}" for repository, tag in names]
        call = RegistryRequest(
            self.registry,
            "POST",
            f"{self._prefix}tags",
            what,
            frozenset(f"repository:{repository}:pull" for repository, _ in names),
            {"content-type": "application/json"},
            msgspec.json.encode({"size": size, "tags": wanted}),
        )
        reply = await self._transport.request(call, max_bytes=MAX_PAGE_BYTES)
        try:
            answers = decode(reply.body, _TagAnswers)
            found = [(one.allowed, tuple(map(_shown, one.entries))) for one in answers.tags]
        except ValueError as error:
            raise RemoteMismatch(f"{self.registry}: the {what} can't be parsed") from error
        if (answers.size, [one.tag for one in answers.tags]) != (size, wanted):
            raise RemoteMismatch(f"{self.registry}: the {what} are those of other tags or of another size")
        return {name: entries for name, (allowed, entries) in zip(names, found, strict=True) if allowed}

    def history(
        self, repository: Repository, tag: Tag | None = None, *, kinds: Collection[EntryKind] = ()
    ) -> AsyncIterator[IndexedLine]:
        """Yield the entries about a repository or one of its tags, the oldest first. Raises:
        RemoteNotFound.

        `kinds`: only entries of these kinds; () for all. An older registry ignores it and lists all.
        """
        base = f"/v2/{repository}/_boltseal/history" + ("" if tag is None else f"/{tag}")
        only = f"&kinds={','.join(sorted(kinds))}" if kinds else ""
        return self._entries(base, repository, f"history of {repository}", only)

    def records(self, repository: Repository, *, after: int = -1) -> AsyncIterator[IndexedLine]:
        """Yield the records about a repository's images after an index, in the form of `history`. Raises: RemoteNotFound."""
        path = f"/v2/{repository}/_boltseal/records"
        return self._entries(path, repository, f"records of {repository}", after=after)

    def observed(self, repository: Repository, tag: Tag | None = None) -> AsyncIterator[IndexedLine]:
        """Yield what a mirror observed of an upstream repository or one of its tags, in the form of `history`.

        Raises: RemoteNotFound: nothing was observed.
        """
        base = f"/v2/{repository}/_boltseal/observations" + ("" if tag is None else f"/{tag}")
        what = f"observations of {repository if tag is None else f'{tag} of {repository}'}"
        return self._entries(base, repository, what)

    async def chains(self, repository: Repository, digests: Iterable[Digest]) -> dict[Digest, bytes]:
        """Return what a registry keeps of the layers of manifests, and of the images of those that are indexes, as JSON.

        Manifests of which it knows nothing are left out; so are all, if it keeps no layer chains.
        """
        found: dict[Digest, bytes] = {}
        what = f"layer chains of {repository}"
        asked = [*dict.fromkeys(map(str, digests))]
        for start in range(0, len(asked), ASKED_AT_ONCE):
            some = asked[start : start + ASKED_AT_ONCE]
            path = f"/v2/{repository}/_boltseal/chains?digests={','.join(some)}"
            scopes = frozenset({f"repository:{repository}:pull"})
            call = RegistryRequest(self.registry, "GET", path, what, scopes)
            try:
                reply = await self._transport.request(call, max_bytes=MAX_PAGE_BYTES)
            except RemoteNotFound:  # another registry, or an older one
                return found
            try:
                chains = decode(reply.body, _Chains).chains
                found |= {Digest.parse(digest): bytes(chain) for digest, chain in chains.items()}
            except (ValueError, DigestInvalid) as error:
                raise RemoteMismatch(f"{self.registry}: the {what} can't be parsed") from error
        return found

    async def _entries(
        self, base: str, repository: Repository, what: str, only: str = "", *, after: int = -1
    ) -> AsyncIterator[IndexedLine]:
        size = 0
        for _ in range(MAX_PAGES):
            path = f"{base}?n={PAGE}{only}" + ("" if after < 0 else f"&after={after}")
            scopes = frozenset({f"repository:{repository}:pull"})
            reply = await self._transport.request(
                RegistryRequest(self.registry, "GET", path, what, scopes), max_bytes=MAX_PAGE_BYTES
            )
            for entry in self._page(reply, what).entries:
                if entry.index <= after:
                    raise RemoteMismatch(f"{self.registry}: {what} lists entry {entry.index} after entry {after}")
                line = entry.line.encode("utf-8", errors="surrogatepass")
                after, size = entry.index, size + len(line)
                if size > self._max_listing_bytes:
                    raise RemoteMismatch(
                        f"{self.registry}: {what} has more than {self._max_listing_bytes} bytes: not read"
                    )
                yield IndexedLine(after, line)
            if 'rel="next"' not in reply.headers.get("link", ""):
                return
        raise RemoteMismatch(f"{self.registry} lists {what} over more than {MAX_PAGES} pages")

    def _page(self, reply: RegistryResponse, what: str) -> _Page:
        try:
            return decode(reply.body, _Page)
        except ValueError as error:
            raise RemoteMismatch(f"{self.registry}: {what} can't be parsed") from error

    async def _tile(self, at: TileId) -> bytes:
        async with self._at_once:
            try:
                data = (await self._get(at.path(), f"ledger {at.path()}", WIDTH * HASH_BYTES)).body
            except RemoteNotFound as error:  # the registry signed a checkpoint over these hashes, so a 404 is no miss
                raise RemoteUnavailable(f"{self.registry} does not serve {at.path()} of its ledger") from error
        if len(data) != at.width * HASH_BYTES:
            raise RemoteMismatch(
                f"{self.registry}: {at.path()} has {len(data)} bytes; expected {at.width * HASH_BYTES}"
            )
        return data

    async def _get(
        self, path: str, what: str, max_bytes: int, *, patient: bool = True, scopes: frozenset[str] = frozenset()
    ) -> RegistryResponse:
        call = RegistryRequest(self.registry, "GET", f"{self._prefix}{path}", what, scopes, idempotent=patient)
        return await self._transport.request(call, max_bytes=max_bytes)


def _shown(entry: _TagEntry) -> ShownEntry:
    proof = tuple(base64.b64decode(node, validate=True) for node in entry.proof)
    return ShownEntry(entry.index, entry.line.encode("utf-8", errors="surrogatepass"), proof)


def registry_of(url: str) -> str:
    """Return the registry of a URL or name, as references spell it: `https://registry.example.com/`, or the name alone."""
    parts = urlsplit(url if "://" in url else f"//{url}")
    return parts.netloc.rpartition("@")[2]
