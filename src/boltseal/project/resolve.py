"""Resolve references to digests without causing pulls that registries count.

- One HEAD for each distinct reference, a few at a time (`client.head_requests`); never a manifest by its tag.
- Platforms and image IDs are read by digest, and only for digests that the lock does not contain yet. Docker Hub counts
  each such read as a pull, so there it is skipped unless the caller allows it.
- Only registries that the caller allows are contacted: a checked-out project does not choose the hosts.
- A reference that can't be resolved is a result with its reason.
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
from boltseal.client.last_event import LastEvent
from boltseal.client.ledger_client import LedgerClient
from boltseal.client.ledger_trust import LedgerCheck, TrustStatus
from boltseal.client.registry_client import RegistryClient, Resolved
from boltseal.client.transport import Transport
from boltseal.errors import BoltsealError, Denied
from boltseal.ledger.audit import REMOVALS
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
MAX_EXPLAINED: Final = 10
"""Of how many missing references a registry is asked for the reason."""
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
    """Resolves references at registries. `allowed`: whether a registry may be contacted.

    `watch`: checks a registry's ledger before its tags are trusted; LedgerBroken is raised to the caller. `progress`:
    called with a step's name, the number done, and the total. `explain`: ask registries why a reference is missing.
    """

    def __init__(
        self,
        transport: Transport,
        allowed: Callable[[str], bool],
        *,
        count_pulls: bool = False,
        watch: Callable[[str], Awaitable[LedgerCheck]] | None = None,
        progress: Callable[[str, int, int], None] = lambda _step, _done, _total: None,
        explain: bool = False,
    ) -> None:
        self._transport = transport
        self._allowed = allowed
        self._count_pulls = count_pulls
        self._watch = watch
        self._progress = progress
        self._explain = explain
        self._watched: dict[str, LedgerCheck | BoltsealError] = {}
        self._reads = asyncio.Semaphore(AT_ONCE)

    def may_read(self, registry: str) -> bool:
        """Return whether manifests may be read at a registry; where reads count as pulls, only with `count_pulls`."""
        return self._count_pulls or registry not in COUNTS_PULLS

    async def resolve(self, references: Iterable[Reference]) -> dict[Reference, Resolved | BoltsealError]:
        """Resolve each reference, or return why it failed. Each must have a tag or a digest; a digest has priority."""
        resolutions: dict[Reference, Resolved | BoltsealError] = {}
        asked = []
        for reference in dict.fromkeys(references):
            if self._allowed(reference.registry):
                asked.append(reference)
            else:
                resolutions[reference] = not_allowed(reference.registry)
        for registry in {reference.registry for reference in asked}:
            ledger_error = await self._ledger_error(registry)
            if ledger_error is not None:
                resolutions |= {reference: ledger_error for reference in asked if reference.registry == registry}
        asked = [reference for reference in asked if reference not in resolutions]
        done = 0
        async with aclosing(resolve_tags(self._transport, asked)) as answers:
            async for answer in answers:
                resolution = answer.resolved or answer.error
                if resolution is None:
                    raise AssertionError(f"{answer.reference}: neither answer nor error")
                resolutions[answer.reference] = resolution
                done += 1
                self._progress("resolving tags", done, len(asked))
        return await self._explained(resolutions) if self._explain else resolutions

    async def _explained(
        self, resolutions: dict[Reference, Resolved | BoltsealError]
    ) -> dict[Reference, Resolved | BoltsealError]:
        """Return the resolutions, with the registries' reasons for the first missing ones."""
        missing = {each: error for each, error in resolutions.items() if isinstance(error, RemoteNotFound)}
        for reference, error in list(missing.items())[:MAX_EXPLAINED]:
            named = reference.digest or reference.tag
            if named is not None:
                client = RegistryClient(self._transport, reference.registry)
                resolutions[reference] = await client.explain_missing(reference.repository, named, error)
        return resolutions

    async def _ledger_error(self, registry: str) -> BoltsealError | None:
        """Return why a registry's ledger could not be checked, or None. Raises: LedgerBroken."""
        if self._watch is not None and registry not in self._watched:
            try:
                self._watched[registry] = await self._watch(registry)
            except LedgerBroken:
                raise
            except BoltsealError as error:
                self._watched[registry] = error
        check = self._watched.get(registry)
        return check if isinstance(check, BoltsealError) else None

    def ledger_keys(self) -> dict[str, str]:
        """Return the trusted ledger key of each contacted registry that has one."""
        heads = {
            registry: check
            for registry, check in self._watched.items()
            if isinstance(check, LedgerCheck) and check.head
        }
        keys = {registry: (check.head and check.head.trusted.key) or check.named for registry, check in heads.items()}
        return {registry: str(key) for registry, key in keys.items() if key is not None}

    async def ledger_entries(self, digests: Mapping[Reference, Digest]) -> dict[Reference, int]:
        """Return the index of the ledger entry that set each tag to its digest; tags without such an entry are omitted."""

        async def ask(reference: Reference, digest: Digest) -> int | None:
            check = self._watched.get(reference.registry)
            if reference.tag is None or not isinstance(check, LedgerCheck) or check.head is None:
                return None
            prover = self._transport.prover
            if prover is not None and (proven := prover.entry(reference, digest)) is not None:
                return proven
            client = LedgerClient(self._transport, reference.registry)
            for _ in range(LEDGER_TRIES):
                try:
                    async with self._reads:
                        lines = [line async for line in client.history(reference.repository, reference.tag)]
                    changes = [(index, one) for index, line in lines if (one := parse(line)).kind in CHANGES]
                    index, last = changes[-1] if changes else (0, None)
                    if last is not None and last.kind not in REMOVALS and last.digest == str(digest):
                        return index
                except BoltsealError:  # the entry is optional in a lock
                    return None
                await asyncio.sleep(LEDGER_PAUSE_S)  # a tag pushed a moment ago may not be signed yet
            return None

        found = await asyncio.gather(*(ask(reference, digest) for reference, digest in digests.items()))
        return {reference: index for reference, index in zip(digests, found, strict=True) if index is not None}

    async def moves(
        self, moved: Mapping[Reference, Digest | None]
    ) -> dict[Reference, ProvenHistory | LastEvent | BoltsealError | None]:
        """Return what registries record of moved tags, given with their new digests: signed, unsigned, or nothing.

        If a registry keeps a ledger that can't be read, the result is the error. Reads no manifest, so causes no pull.
        """
        found: dict[Reference, ProvenHistory | LastEvent | BoltsealError | None] = {}
        for registry in {reference.registry for reference in moved}:
            found |= await self._by_ledger(
                registry, {reference: to for reference, to in moved.items() if reference.registry == registry}
            )
        asked = [reference for reference in moved if reference not in found]
        events = await asyncio.gather(*map(self._last_event, asked))
        return found | dict(zip(asked, events, strict=True))

    async def _by_ledger(
        self, registry: str, moved: Mapping[Reference, Digest | None]
    ) -> dict[Reference, ProvenHistory | LastEvent | BoltsealError | None]:
        """Return the ledger's record of these tags; empty if the registry has no ledger or no histories.

        At a registry never seen with a ledger, an error proves nothing: many refuse unknown paths.
        """
        check = self._watched.get(registry)
        if self._watch is None or not isinstance(check, LedgerCheck) or check.status is TrustStatus.NO_LEDGER:
            return {}
        names = {
            (reference.repository, reference.tag): "" if to is None else str(to)
            for reference, to in moved.items()
            if reference.tag is not None
        }
        histories = await read_tags(self._transport, registry, names, self._watch)
        answers = {
            reference: histories[reference.repository, reference.tag]
            for reference in moved
            if reference.tag is not None
        }
        absent = RemoteNotFound if check.head is not None else BoltsealError
        return {reference: answer for reference, answer in answers.items() if not isinstance(answer, absent)}

    async def _last_event(self, reference: Reference) -> LastEvent | None:
        if reference.tag is None or not self._allowed(reference.registry):
            return None
        async with self._reads:
            return await RegistryClient(self._transport, reference.registry).last_event(
                reference.repository, reference.tag
            )

    async def indexes(self, digests: Mapping[Digest, Reference]) -> dict[Digest, tuple[LockedPlatform, ...]]:
        """Return the platforms of indexes, without image IDs, by one read each; omit those that can't be read."""

        async def read(digest: Digest, at: Reference) -> tuple[LockedPlatform, ...]:
            try:
                manifest = await self._manifest(RegistryClient(self._transport, at.registry), at.repository, digest)
            except BoltsealError:
                return ()
            return tuple(LockedPlatform(platform_name(child.platform), child.digest) for child in _images_of(manifest))

        wanted = {digest: at for digest, at in digests.items() if self.may_read(at.registry)}
        found = await asyncio.gather(*(read(digest, at) for digest, at in wanted.items()))
        return {digest: platforms for digest, platforms in zip(wanted, found, strict=True) if platforms}

    async def platforms(
        self, digests: Mapping[Digest, Reference]
    ) -> dict[Digest, tuple[LockedPlatform, ...] | BoltsealError]:
        """Return the platforms of each digest, read from the repository of its reference; empty if not read."""
        wanted = {digest: at for digest, at in digests.items() if self.may_read(at.registry)}
        done = 0

        async def read_one(at: Reference, digest: Digest) -> tuple[LockedPlatform, ...] | BoltsealError:
            nonlocal done
            found = await self._read_platforms(at, digest)
            done += 1
            self._progress("reading platforms", done, len(wanted))
            return found

        async with asyncio.TaskGroup() as group:
            tasks = {digest: group.create_task(read_one(at, digest)) for digest, at in wanted.items()}
        read = {digest: task.result() for digest, task in tasks.items()}
        return {digest: read.get(digest, ()) for digest in digests}

    async def _read_platforms(self, at: Reference, digest: Digest) -> tuple[LockedPlatform, ...] | BoltsealError:
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
        if len(children) > MAX_CHILDREN:  # far more than real platforms; their digests are known anyway
            return tuple(LockedPlatform(platform_name(child.platform), child.digest) for child in children)
        found = await asyncio.gather(
            *(self._child(client, repository, child) for child in children), return_exceptions=True
        )
        for result in found:
            if isinstance(result, BaseException):
                raise result
        return tuple(result for result in found if not isinstance(result, BaseException))

    async def _child(self, client: RegistryClient, repository: Repository, child: Descriptor) -> LockedPlatform:
        image: Digest | None = None
        try:
            image = image_id(await self._manifest(client, repository, child.digest))
        except RemoteNotFound:  # an index may be sparse: a copy may contain only the platforms in use
            image = None
        return LockedPlatform(platform_name(child.platform), child.digest, image)

    async def _single(
        self, client: RegistryClient, repository: Repository, digest: Digest, manifest: Manifest
    ) -> LockedPlatform:
        """Return a single image's platform from its config. No registry counts a blob as a pull."""
        config = manifest.config
        if config is None or image_id(manifest) is None:
            return LockedPlatform("", digest)
        if config.size > MAX_CONFIG_BYTES:
            raise RemoteMismatch(
                f"{client.registry}: the config has {config.size} bytes, expected at most {MAX_CONFIG_BYTES}"
            )
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
    """Return the children of an index that are images, without attestations."""
    return [
        child for child in index.manifests if child.media_type in MANIFEST_TYPES and str(child.platform) != _ATTESTATION
    ]


def image_id(manifest: Manifest) -> Digest | None:
    """Return the image ID, which is the config's digest; None for an index and for other artifacts."""
    config = manifest.config
    return None if config is None or config.media_type not in _CONFIGS else config.digest


def platform_name(platform: Platform | None) -> str:
    """Return a platform as the lock writes it: `linux/arm64/v8`, for Windows with its version, "" if unknown."""
    if platform is None:
        return ""
    version = f":{platform.os_version}" if platform.os_version else ""
    return (str(platform) + version)[:200]


def not_allowed(registry: str) -> RegistryNotAllowed:
    """Return the error for a registry that is not allowed, with the options that allow it."""
    return RegistryNotAllowed(
        f"{registry} is not contacted: it is not among the registries that a project may name; "
        f"allow it with --allow {registry}, or in `[client] registries` of your own configuration"
    )
