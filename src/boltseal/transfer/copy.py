"""From one place to another: everything verified, nothing moved that need not be, no name overwritten by accident.

The steps for one image:

1. What the name means at the source, and what it means at the target: the same, and nothing is to be done; another
   image, and it is refused unless it was said to overwrite (a sealed tag is then refused by its registry).
2. The tree of its manifests is read, each verified, each with the size that its parent says.
3. The blobs, each once, a few at a time: what the target has is not sent, what it can mount is not read.
4. The manifests, children first, the named one last, so that a name never means an image that is not whole.
5. What refers to it (signatures, SBOMs), when asked for: by subject, and by the tags of the signature tools.

Within one repository nothing is below the manifest that is not there already, so only step 4's last part is done. A copy
that broke off is taken up by doing it again: step 3 finds what arrived.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from boltseal.client.errors import RemoteRefused
from boltseal.errors import NotFound
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import LinkKind, Manifest
from boltseal.transfer.protocols import BlobTransfer, ContentDamaged, ImageSource, ImageTarget, TagTaken

AT_ONCE: Final = 6
MAX_MANIFESTS: Final = 10_000
SIGNATURE_SUFFIXES: Final = (".sig", ".att", ".sbom")

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class CopyCounts:
    """What a copy did. Bytes are those of blobs that were sent."""

    sent: int = 0
    mounted: int = 0
    present: int = 0
    manifests: int = 0
    bytes_sent: int = 0


@dataclass(frozen=True, slots=True)
class CopiedImage:
    """One image that is where it was to go. `changed`: False when its name meant it there already."""

    name: str | None
    digest: Digest
    changed: bool
    referrers: int


@dataclass(slots=True)
class Copier:
    """Copies images from one source to one target; what was moved for one image is not asked about for the next.

    `within`: source and target are one repository. `force`: a name may be made to mean another image.
    """

    source: ImageSource
    target: ImageTarget
    within: bool = False
    force: bool = False
    referrers: bool = False
    at_once: int = AT_ONCE
    progress: Progress = lambda step, done, total: None
    counts: CopyCounts = field(default_factory=CopyCounts)
    _held: set[Digest] = field(default_factory=set)
    _to_move: int = 0
    _moved: int = 0

    async def image(self, name: str | None, target_name: str | None) -> CopiedImage:
        """Copy one image, under a name or (None) under its digest alone. TagTaken, NotFound, ContentDamaged, ..."""
        digest = await self.source.resolve(name)
        stands = None if target_name is None else await self.target.meaning(target_name)
        if stands is not None and stands != digest and not self.force:
            raise TagTaken(
                f"{target_name} at {self.target.title} means {stands.short}, not {digest.short}; "
                "choose another tag, or say --force to make it mean the other image"
            )
        changed = stands != digest or target_name is None
        if changed:
            await self._tree(digest, target_name, only_new=stands is None and not self.force)
        attached = await self._attached(digest) if self.referrers else 0
        return CopiedImage(target_name, digest, changed, attached)

    async def _tree(self, digest: Digest, name: str | None, *, only_new: bool) -> None:
        manifests = await self._manifests(digest)
        if not self.within:
            await self._blobs(manifests.values())
            for each in reversed(manifests):
                if each != digest:
                    await self._put(manifests[each], each, None, only_new=False)
        await self._put(manifests[digest], digest, name, only_new=only_new)

    async def _manifests(self, root: Digest) -> dict[Digest, Manifest]:
        """The manifests of a tree, parents before children, the root first."""
        found = {root: await self.source.manifest(root)}
        waiting = [] if self.within else [root]
        while waiting:
            for link in found[waiting.pop()].references():
                child = link.descriptor
                if link.kind is not LinkKind.CHILD or child.digest in found:
                    continue
                if len(found) == MAX_MANIFESTS:
                    raise ContentDamaged(f"{self.source.title}: {root.short} has more than {MAX_MANIFESTS} manifests")
                manifest = await self.source.manifest(child.digest)
                if len(manifest.raw) != child.size:
                    raise ContentDamaged(
                        f"{self.source.title}: {child.digest.short} has {len(manifest.raw)} bytes, and not the "
                        f"{child.size} that its index says"
                    )
                found[child.digest] = manifest
                waiting.append(child.digest)
        return dict(_parents_first(root, found))

    async def _blobs(self, manifests: Iterable[Manifest]) -> None:
        wanted: dict[Digest, Descriptor] = {}
        for manifest in manifests:
            for link in manifest.references():
                if link.kind in (LinkKind.CONFIG, LinkKind.LAYER) and link.descriptor.digest not in self._held:
                    wanted.setdefault(link.descriptor.digest, link.descriptor)
        self._to_move += sum(descriptor.size for descriptor in wanted.values())
        queue = iter(sorted(wanted.values(), key=lambda descriptor: -descriptor.size))

        async def work() -> None:
            for descriptor in queue:
                await self._blob(descriptor)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.at_once, len(wanted))):
                    group.create_task(work())
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _blob(self, descriptor: Descriptor) -> None:
        before = self._moved

        async def body() -> AsyncIterator[bytes]:
            async for piece in self.source.blob(descriptor):
                self._moved += len(piece)
                self.counts.bytes_sent += len(piece)
                self.progress("copying", min(self._moved, self._to_move), self._to_move)
                yield piece

        moved = await self.target.put_blob(descriptor, body)
        match moved:
            case BlobTransfer.SENT:
                self.counts.sent += 1
            case BlobTransfer.MOUNTED:
                self.counts.mounted += 1
            case BlobTransfer.PRESENT:
                self.counts.present += 1
        if moved is not BlobTransfer.SENT and self._moved == before:
            self._moved += descriptor.size
        self._held.add(descriptor.digest)

    async def _put(self, manifest: Manifest, digest: Digest, name: str | None, *, only_new: bool) -> None:
        try:
            await self.target.put_manifest(manifest, digest, name, only_new=only_new)
        except RemoteRefused:
            # Two who publish the same image at once both mean it: it is there.
            if not only_new or name is None or await self.target.meaning(name) != digest:
                raise
        self.counts.manifests += 1

    async def _attached(self, root: Digest) -> int:
        """Copy what refers to the manifests of a tree, and to that again; how many there were."""
        done: set[Digest] = set()
        waiting = list(await self._manifests(root)) if not self.within else []
        while waiting:
            subject = waiting.pop()
            for descriptor in await self.source.referrers(subject):
                if descriptor.digest not in done:
                    done.add(descriptor.digest)
                    await self._tree(descriptor.digest, None, only_new=False)
                    waiting.append(descriptor.digest)
            for suffix in SIGNATURE_SUFFIXES:
                done |= await self._signature(f"{subject.algorithm}-{subject.hex[:64]}{suffix}")
        return len(done)

    async def _signature(self, tag: str) -> set[Digest]:
        """Copy what stands under a tag of the signature tools, if anything does; its registry lets it only grow."""
        try:
            digest = await self.source.resolve(tag)
        except NotFound:
            return set()
        if await self.target.meaning(tag) != digest:
            await self._tree(digest, tag, only_new=False)
        return {digest}


def _parents_first(root: Digest, found: dict[Digest, Manifest]) -> list[tuple[Digest, Manifest]]:
    """The tree so that every manifest stands before all that it names, also where two name the same."""
    order: list[Digest] = []
    seen: set[Digest] = set()
    stack: list[tuple[Digest, bool]] = [(root, False)]
    while stack:
        digest, entered = stack.pop()
        if entered:
            order.append(digest)
            continue
        if digest in seen:
            continue
        seen.add(digest)
        stack.append((digest, True))
        stack += [
            (link.descriptor.digest, False) for link in found[digest].references() if link.descriptor.digest in found
        ]
    return [(digest, found[digest]) for digest in reversed(order)]
