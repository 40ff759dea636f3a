"""Copy images from a source to a target: verify all content, send only what is missing, overwrite no tag by accident.

The steps for one image:

1. Resolve the tag at the source and at the target. If both have the same digest, there is nothing to do. If the target's tag
   resolves to another image, refuse unless `force` is set; the registry still refuses to move a sealed tag.
2. Read the tree of manifests, and check the digest of each and the size that its parent states.
3. Copy the blobs, each once, a few at a time. Blobs that the target has are not sent; blobs that it can mount are not read.
4. Copy the manifests, children first and the tagged one last, so that a tag never resolves to an incomplete image.
5. With `referrers`, copy signatures and SBOMs: by subject, and by the tags of the signature tools.

Within one repository all children and blobs are already there, so only the last manifest of step 4 is put. To resume an
interrupted copy, repeat it: step 3 finds the blobs that arrived.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from boltseal.client.errors import RemoteRefused
from boltseal.errors import NotFound
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import LinkKind, Manifest
from boltseal.transfer.moved_blobs import move_largest_first
from boltseal.transfer.protocols import BlobTransfer, ContentDamaged, ImageSource, ImageTarget, TagTaken

AT_ONCE: Final = 6
MAX_MANIFESTS: Final = 10_000
SIGNATURE_SUFFIXES: Final = (".sig", ".att", ".sbom")

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class CopyCounts:
    """Numbers of copied contents. `bytes_sent`: the bytes of sent blobs."""

    sent: int = 0
    mounted: int = 0
    present: int = 0
    manifests: int = 0
    bytes_sent: int = 0


@dataclass(frozen=True, slots=True)
class CopiedImage:
    """A copied image. `changed`: False when the target's tag already resolved to it."""

    name: str | None
    digest: Digest
    changed: bool
    referrers: int


@dataclass(slots=True)
class Copier:
    """Copies images from one source to one target. It remembers copied blobs, and does not check them again for the next image.

    `within`: source and target are the same repository. `force`: overwrite a tag that resolves to another image.
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
        """Copy one image to a tag, or with `target_name` None by digest only.

        Raises: TagTaken, NotFound, ContentDamaged, and the errors of source and target.
        """
        digest = await self.source.resolve(name)
        existing = None if target_name is None else await self.target.current_digest(target_name)
        if existing is not None and existing != digest and not self.force:
            raise TagTaken(
                f"{target_name} at {self.target.title} resolves to {existing.short}, not {digest.short}; "
                "choose another tag, or pass --force to move it; a registry refuses that for a sealed tag"
            )
        changed = existing != digest or target_name is None
        if changed:
            await self._tree(digest, target_name, only_new=existing is None and not self.force)
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
        """Return the manifests of a tree, parents before children, the root first."""
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
                        f"{self.source.title}: {child.digest.short} has {len(manifest.raw)} bytes; its index states {child.size}"
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
        await move_largest_first(wanted.values(), self.at_once, self._blob)

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
            # Another client has published the same image at the same time: the tag already resolves to it.
            if not only_new or name is None or await self.target.current_digest(name) != digest:
                raise
        self.counts.manifests += 1

    async def _attached(self, root: Digest) -> int:
        """Copy the referrers of all manifests of a tree, and the referrers of those. Return their number."""
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
        """Copy the manifest of a signature tool's tag, if the tag exists. The registry treats such a tag as append-only."""
        try:
            digest = await self.source.resolve(tag)
        except NotFound:
            return set()
        if await self.target.current_digest(tag) != digest:
            await self._tree(digest, tag, only_new=False)
        return {digest}


def _parents_first(root: Digest, found: dict[Digest, Manifest]) -> list[tuple[Digest, Manifest]]:
    """Sort a tree so that every manifest precedes its children, also children that several manifests share."""
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
