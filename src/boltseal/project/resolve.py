"""What references mean now, asked so that it costs nobody a pull.

- One HEAD for each distinct reference, however often it is named, a few at a time (`client.head_requests`); never a manifest by
  its tag.
- What is behind a digest (platforms, image IDs) is read by digest, and only when the lock does not know it yet. Docker
  Hub counts each such read as a pull, so there it is left out unless the caller says that it may count.
- Only registries are asked that the caller allows: a checked-out project does not choose whom we talk to.
- "Could not be told" is an answer, with its reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Final

import msgspec

from boltseal.client.errors import RemoteMismatch, RemoteNotFound
from boltseal.client.head_requests import resolve_tags
from boltseal.client.history import ProvenHistory, read_tags
from boltseal.client.ledger_client import LedgerClient
from boltseal.client.ledger_trust import LedgerCheck, TrustStatus
from boltseal.client.registry_client import LastEvent, RegistryClient, Resolved
from boltseal.client.transport import Transport
from boltseal.errors import BoltsealError, Denied
from boltseal.ledger.audit import GOES
from boltseal.ledger.entry import CHANGES, parse
from boltseal.ledger.follow import LedgerBroken
from boltseal.lockfile.document import LockedPlatform
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.jsontext import decode
from boltseal.oci.manifest import Manifest
from boltseal.oci.mediatype import DOCKER_CONFIG, MANIFEST_TYPES, OCI_CONFIG
from boltseal.oci.platform import Platform
from boltseal.oci.reference import HUB, Reference, Repository

COUNTS_PULLS: Final = frozenset({HUB})
AT_ONCE: Final = 8
MAX_CHILDREN: Final = 200
LEDGER_TRIES: Final = 3
LEDGER_PAUSE_S: Final = 0.1
MAX_CONFIG_BYTES: Final = 8 * 1024 * 1024

_ATTESTATION: Final = "unknown/unknown"
_CONFIGS: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})


class RegistryNotAllowed(Denied):
    """A registry that the project names and the user has not allowed."""


class _Config(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""


class Resolver:
    """Asks registries. `allowed` says of a registry's name whether it may be talked to.

    `watch` looks at a registry's ledger before what its tags mean is believed; a ledger that is broken ends everything.
    `progress` is told a step's name, how much of it is done, and how much there is.
    """

    def __init__(
        self,
        transport: Transport,
        allowed: Callable[[str], bool],
        *,
        count_pulls: bool = False,
        watch: Callable[[str], Awaitable[LedgerCheck]] | None = None,
        progress: Callable[[str, int, int], None] = lambda _step, _done, _total: None,
    ) -> None:
        self._transport = transport
        self._allowed = allowed
        self._count_pulls = count_pulls
        self._watch = watch
        self._progress = progress
        self._watched: dict[str, LedgerCheck | BoltsealError] = {}
        self._reads = asyncio.Semaphore(AT_ONCE)

    def reads(self, registry: str) -> bool:
        """Whether what is behind a digest is read there: where it counts as a pull, only if that was asked for."""
        return self._count_pulls or registry not in COUNTS_PULLS

    async def meanings(self, references: Iterable[Reference]) -> dict[Reference, Resolved | BoltsealError]:
        """What each reference means, or why that could not be told. Each must have a tag or a digest; the digest wins."""
        found: dict[Reference, Resolved | BoltsealError] = {}
        asked = []
        for reference in dict.fromkeys(references):
            if self._allowed(reference.registry):
                asked.append(reference)
            else:
                found[reference] = not_allowed(reference.registry)
        for registry in {reference.registry for reference in asked}:
            unchecked = await self._unchecked(registry)
            if unchecked is not None:
                found |= {reference: unchecked for reference in asked if reference.registry == registry}
        asked = [reference for reference in asked if reference not in found]
        done = 0
        async with aclosing(resolve_tags(self._transport, asked)) as answers:
            async for answer in answers:
                meaning = answer.resolved or answer.error
                if meaning is None:
                    raise AssertionError(f"{answer.reference}: neither answer nor error")
                found[answer.reference] = meaning
                done += 1
                self._progress("asking what tags mean", done, len(asked))
        return found

    async def _unchecked(self, registry: str) -> BoltsealError | None:
        """Why a registry's ledger could not be looked at, None where nothing speaks against it. LedgerBroken."""
        if self._watch is not None and registry not in self._watched:
            try:
                self._watched[registry] = await self._watch(registry)
            except LedgerBroken:
                raise
            except BoltsealError as error:
                self._watched[registry] = error
        seen = self._watched.get(registry)
        return seen if isinstance(seen, BoltsealError) else None

    def ledger_keys(self) -> dict[str, str]:
        """The key by which the ledger of each registry that was asked is believed, where somebody or the lock gave one."""
        heads = {
            registry: seen for registry, seen in self._watched.items() if isinstance(seen, LedgerCheck) and seen.head
        }
        keys = {registry: (seen.head and seen.head.trusted.key) or seen.named for registry, seen in heads.items()}
        return {registry: str(key) for registry, key in keys.items() if key is not None}

    async def ledger_entries(self, meant: Mapping[Reference, Digest]) -> dict[Reference, int]:
        """By which entry of its registry's ledger each tag means this; nothing of what the ledger does not say (yet)."""

        async def ask(reference: Reference, digest: Digest) -> int | None:
            seen = self._watched.get(reference.registry)
            if reference.tag is None or not isinstance(seen, LedgerCheck) or seen.head is None:
                return None
            client = LedgerClient(self._transport, reference.registry)
            for _ in range(LEDGER_TRIES):
                try:
                    async with self._reads:
                        lines = [one async for one in client.history(reference.repository, reference.tag)]
                    changes = [(index, one) for index, line in lines if (one := parse(line)).kind in CHANGES]
                    index, last = changes[-1] if changes else (0, None)
                    if last is not None and last.kind not in GOES and last.digest == str(digest):
                        return index
                except BoltsealError:  # a lock is as good without it
                    return None
                await asyncio.sleep(LEDGER_PAUSE_S)  # pushed a moment ago, and not signed yet
            return None

        found = await asyncio.gather(*(ask(reference, digest) for reference, digest in meant.items()))
        return {reference: index for reference, index in zip(meant, found, strict=True) if index is not None}

    async def moves(
        self, moved: Mapping[Reference, Digest | None]
    ) -> dict[Reference, ProvenHistory | LastEvent | BoltsealError | None]:
        """What registries say of tags that moved, each with what it means now: proven, by their own account, or nothing.

        Where a registry keeps a ledger, an error says why it could not be read. By no manifest, so it is no pull anywhere.
        """
        found: dict[Reference, ProvenHistory | LastEvent | BoltsealError | None] = {}
        for registry in {reference.registry for reference in moved}:
            found |= await self._by_ledger(registry, {one: to for one, to in moved.items() if one.registry == registry})
        asked = [reference for reference in moved if reference not in found]
        events = await asyncio.gather(*map(self._last_event, asked))
        return found | dict(zip(asked, events, strict=True))

    async def _by_ledger(
        self, registry: str, moved: Mapping[Reference, Digest | None]
    ) -> dict[Reference, ProvenHistory | LastEvent | BoltsealError | None]:
        """What its ledger says; nothing where it has none, or does not tell histories.

        Of a registry that was never seen to have one, an error is no doubt: many refuse a path that they do not know.
        """
        seen = self._watched.get(registry)
        if self._watch is None or not isinstance(seen, LedgerCheck) or seen.status is TrustStatus.NO_LEDGER:
            return {}
        names = {
            (one.repository, one.tag): "" if to is None else str(to) for one, to in moved.items() if one.tag is not None
        }
        told = await read_tags(self._transport, registry, names, self._watch)
        answers = {one: told[one.repository, one.tag] for one in moved if one.tag is not None}
        none = RemoteNotFound if seen.head is not None else BoltsealError
        return {one: answer for one, answer in answers.items() if not isinstance(answer, none)}

    async def _last_event(self, reference: Reference) -> LastEvent | None:
        if reference.tag is None or not self._allowed(reference.registry):
            return None
        async with self._reads:
            return await RegistryClient(self._transport, reference.registry).last_event(
                reference.repository, reference.tag
            )

    async def indexes(self, digests: Mapping[Digest, Reference]) -> dict[Digest, tuple[LockedPlatform, ...]]:
        """The platforms of indexes, by one read each and without image IDs; nothing of what is none, or can't be read."""

        async def read(digest: Digest, at: Reference) -> tuple[LockedPlatform, ...]:
            try:
                manifest = await self._manifest(RegistryClient(self._transport, at.registry), at.repository, digest)
            except BoltsealError:
                return ()
            return tuple(LockedPlatform(platform_name(one.platform), one.digest) for one in _images_of(manifest))

        wanted = {digest: at for digest, at in digests.items() if self.reads(at.registry)}
        found = await asyncio.gather(*(read(digest, at) for digest, at in wanted.items()))
        return {digest: platforms for digest, platforms in zip(wanted, found, strict=True) if platforms}

    async def platforms(
        self, digests: Mapping[Digest, Reference]
    ) -> dict[Digest, tuple[LockedPlatform, ...] | BoltsealError]:
        """What is behind each digest, of the repository of the reference beside it. Not read: empty."""
        wanted = {digest: at for digest, at in digests.items() if self.reads(at.registry)}
        done = 0

        async def behind(at: Reference, digest: Digest) -> tuple[LockedPlatform, ...] | BoltsealError:
            nonlocal done
            found = await self._behind(at, digest)
            done += 1
            self._progress("reading platforms", done, len(wanted))
            return found

        async with asyncio.TaskGroup() as group:
            tasks = {digest: group.create_task(behind(at, digest)) for digest, at in wanted.items()}
        read = {digest: task.result() for digest, task in tasks.items()}
        return {digest: read.get(digest, ()) for digest in digests}

    async def _behind(self, at: Reference, digest: Digest) -> tuple[LockedPlatform, ...] | BoltsealError:
        client = RegistryClient(self._transport, at.registry)
        try:
            manifest = await self._manifest(client, at.repository, digest)
            if not manifest.is_index:
                return (await self._single(client, at.repository, digest, manifest),)
            return await self._children(client, at.repository, _images_of(manifest))
        except BoltsealError as error:
            return error

    async def _children(
        self, client: RegistryClient, repository: Repository, children: list[Descriptor]
    ) -> tuple[LockedPlatform, ...]:
        if len(children) > MAX_CHILDREN:  # nobody's platforms; their digests are known all the same
            return tuple(LockedPlatform(platform_name(child.platform), child.digest) for child in children)
        found = await asyncio.gather(
            *(self._child(client, repository, child) for child in children), return_exceptions=True
        )
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return tuple(one for one in found if not isinstance(one, BaseException))

    async def _child(self, client: RegistryClient, repository: Repository, child: Descriptor) -> LockedPlatform:
        image: Digest | None = None
        try:
            image = image_id(await self._manifest(client, repository, child.digest))
        except RemoteNotFound:  # an index may be sparse: who copies it takes only the platforms they run on
            image = None
        return LockedPlatform(platform_name(child.platform), child.digest, image)

    async def _single(
        self, client: RegistryClient, repository: Repository, digest: Digest, manifest: Manifest
    ) -> LockedPlatform:
        """A plain image says its platform in its config; a blob counts nowhere as a pull."""
        config = manifest.config
        if config is None or image_id(manifest) is None:
            return LockedPlatform("", digest)
        if config.size > MAX_CONFIG_BYTES:
            raise RemoteMismatch(f"{client.registry}: a config of {config.size} bytes is more than is read")
        async with self._reads:
            raw = b"".join([piece async for piece in client.blob(repository, config.digest, config.size)])
        try:
            read = decode(raw, _Config)
        except msgspec.MsgspecError:
            read = _Config()
        return LockedPlatform(platform_name(Platform(read.os, read.architecture, read.variant)), digest, config.digest)

    async def _manifest(self, client: RegistryClient, repository: Repository, digest: Digest) -> Manifest:
        async with self._reads:
            return await client.manifest(repository, digest)


def _images_of(index: Manifest) -> list[Descriptor]:
    """The children of an index that are images."""
    return [
        child for child in index.manifests if child.media_type in MANIFEST_TYPES and str(child.platform) != _ATTESTATION
    ]


def image_id(manifest: Manifest) -> Digest | None:
    """The image ID: the digest of the config. None for an index, and for what is no image."""
    config = manifest.config
    return None if config is None or config.media_type not in _CONFIGS else config.digest


def platform_name(platform: Platform | None) -> str:
    """A platform as the lock names it: `linux/arm64/v8`, of Windows with its version, "" where it is not said."""
    if platform is None:
        return ""
    version = f":{platform.os_version}" if platform.os_version else ""
    return (str(platform) + version)[:200]


def not_allowed(registry: str) -> RegistryNotAllowed:
    """The refusal of a registry, with what would allow it."""
    return RegistryNotAllowed(
        f"{registry} is not asked: it is none of the registries that a project may name; "
        f"allow it with --allow {registry}, or in `[client] registries` of your own configuration"
    )
