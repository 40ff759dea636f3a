"""What became of the base images that images state: whether their tags still resolve to the stated digests, and since when not.

Only what this registry and its mirrors recorded counts: nothing is fetched. What an image states is its builder's claim. A
base in a repository that the caller may not pull has the same answer as one that this registry does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from boltseal.errors import BoltsealError, NotFound
from boltseal.ledger.entry import Entry, format_time, parse
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Repository, Tag
from boltseal.policy.name_resolution import NameResolver
from boltseal.server.registry import Registry
from boltseal.server.registry.stored_images import StoredImages
from boltseal.transfer.image_config import image_config
from boltseal.transfer.inspect import platforms_of, stated_base

MAX_CHAIN: Final = 5
_ENTRIES: Final = 30
"""Entries of a tag among which the one is sought that moved it away from a base."""
_NEWEST: Final = 2**63 - 1
_ELSEWHERE: Final = "it is in no repository here that you may pull"


class BaseStatus(StrEnum):
    """CURRENT: the tag resolves to the stated digest. OUTDATED: to another one."""

    CURRENT = "current"
    OUTDATED = "outdated"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class BaseState:
    """A stated base image. `name`, `digest`: as stated. `repository`, `tag`: where this registry has it, "" if it has not.

    `now`: what the tag resolves to, "" if that is not known. `since`: the time of the entry that moved it away from the stated
    digest, "" if it is not known. `reason`: why the status is UNKNOWN.
    """

    name: str
    digest: str
    status: BaseStatus
    repository: str = ""
    tag: str = ""
    now: str = ""
    since: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _BaseTag:
    """Where this registry has a base image. `mirrored`: its tags are an upstream's."""

    repository: Repository
    tag: Tag
    mirrored: bool


class BaseStates:
    """Finds base images in one registry, as far as `may_pull` allows. It reads each thing once: use it for one page."""

    def __init__(self, registry: Registry, names: NameResolver, may_pull: Callable[[str], bool]) -> None:
        self._registry = registry
        self._names = names
        self._may_pull = may_pull
        self._known: dict[tuple[str, str], BaseState] = {}
        self._bases: dict[tuple[str, str, str], tuple[str, str] | None] = {}
        self._now: dict[_BaseTag, str | None] = {}
        self._moves: dict[_BaseTag, list[Entry]] = {}
        self._images: dict[tuple[str, str], frozenset[str]] = {}

    async def chain(self, base: tuple[str, str], platform: str) -> list[BaseState]:
        """Return the state of a stated base, of the base that this one states, and so on, at most `MAX_CHAIN`.

        `platform`: of which image of an index. Empty if no base is stated.
        """
        found: list[BaseState] = []
        while any(base) and len(found) < MAX_CHAIN:
            state = await self.state(*base)
            found.append(state)
            if not state.repository or not state.digest:
                break
            base = await self.stated_by(Repository(state.repository), state.digest, platform)
        return found

    async def stated_by(self, repository: Repository, digest: str, platform: str = "") -> tuple[str, str]:
        """Return name and digest of the base that a stored image states, each "" if it states none or is not stored."""
        return await self.read_stated(repository, digest, platform) or ("", "")

    async def read_stated(self, repository: Repository, digest: str, platform: str = "") -> tuple[str, str] | None:
        """Return what `stated_by` does, and None if the image is not stored, or not wholly."""
        key = (str.__str__(repository), digest, platform)
        if key not in self._bases:
            self._bases[key] = await self._read_stated(repository, digest, platform)
        return self._bases[key]

    async def _read_stated(self, repository: Repository, digest: str, platform: str) -> tuple[str, str] | None:
        source = StoredImages(self._registry.pulls, repository)
        try:
            manifest = image = await source.manifest(Digest.parse(digest))
            platforms = platforms_of(manifest)
            if platforms:
                image = await source.manifest(platforms.get(platform) or next(iter(platforms.values())))
            config = await image_config(source, image)
        except BoltsealError:
            return None
        return stated_base({} if config is None else config.labels, manifest.annotations, image.annotations)

    async def state(self, name: str, digest: str) -> BaseState:
        """Return the state of a base that an image states."""
        key = (name, digest)
        if key not in self._known:
            self._known[key] = await self._state(name, digest)
        return self._known[key]

    async def _state(self, name: str, digest: str) -> BaseState:
        unknown = BaseState(name, digest, BaseStatus.UNKNOWN)
        base = self._base_tag(name)
        if base is None or not self._may_pull(base.repository):
            return replace(unknown, reason=_ELSEWHERE)
        here = replace(unknown, repository=str.__str__(base.repository), tag=str.__str__(base.tag))
        now = await self._resolved(base)
        if now is None:
            return replace(here, reason="the tag resolves to nothing here now")
        if not digest:
            return replace(here, now=now, reason="the image does not state the digest of its base")
        if await self._is_or_has(base.repository, digest, now):
            return replace(here, now=now, status=BaseStatus.CURRENT)
        return replace(here, now=now, status=BaseStatus.OUTDATED, since=await self._since(base, digest))

    def _base_tag(self, name: str) -> _BaseTag | None:
        try:
            reference = Reference.parse(name)
            tag = reference.complete.tag
            if tag is None:
                return None
            if reference.registry.lower() in self._names.own:
                return _BaseTag(Repository(reference.repository), tag, mirrored=False)
            found = self._names.by_name(Repository(f"{reference.registry}/{reference.repository}"))
        except BoltsealError:
            return None
        if found is None or found.upstream is None:
            return None
        return _BaseTag(found.repository, tag, mirrored=True)

    async def _resolved(self, base: _BaseTag) -> str | None:
        if base not in self._now:
            self._now[base] = await self._read_resolved(base)
        return self._now[base]

    async def _read_resolved(self, base: _BaseTag) -> str | None:
        if base.mirrored:
            observed = await self._registry.observations.find(base.repository, base.tag)
            serves = None if observed is None else observed.known.serves
            return None if serves is None else str(serves.digest)
        try:
            row = await self._registry.tag_states.find(base.repository, base.tag)
        except NotFound:
            return None
        return None if row.digest is None else str(row.digest)

    async def _is_or_has(self, repository: Repository, stated: str, digest: str) -> bool:
        """Return whether a digest is the stated one, or that of an index of which the stated one is an image."""
        if stated == digest:
            return True
        key = (str.__str__(repository), digest)
        if key not in self._images:
            try:
                manifest = await StoredImages(self._registry.pulls, repository).manifest(Digest.parse(digest))
                self._images[key] = frozenset(str(child.digest) for child in manifest.manifests)
            except BoltsealError:
                self._images[key] = frozenset()
        return stated in self._images[key]

    async def _since(self, base: _BaseTag, stated: str) -> str:
        for entry in await self._last_moves(base):
            if entry.was and entry.was != entry.digest and await self._is_or_has(base.repository, stated, entry.was):
                return format_time(entry.time_us)
        return ""

    async def _last_moves(self, base: _BaseTag) -> list[Entry]:
        if base not in self._moves:
            log = self._registry.observed if base.mirrored else self._registry.ledger
            try:
                page = await log.newest(base.repository, base.tag, before=_NEWEST, n=_ENTRIES)
                self._moves[base] = [parse(row.line) for row in page.entries]
            except NotFound:  # nothing is signed yet
                self._moves[base] = []
        return self._moves[base]
