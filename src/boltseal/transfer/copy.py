"""Copy images from a source to a target: verify all content, send only what is missing, overwrite no tag by accident.

The steps for one image:

1. Resolve the tag at the source and at the target. If both have the same digest, there is nothing to do. If the target's tag
   resolves to another image, refuse unless `force` is set; the registry still refuses to move a sealed tag.
2. Read the tree of manifests, and check the digest of each and the size that its parent states.
3. Copy the blobs, each once, a few at a time. Blobs that the target has are not sent; blobs that it can mount are not read.
4. Copy the manifests, children first, so that a tag never resolves to an incomplete image.
5. With `referrers`, copy what is attached to the image (`transfer.attached`), before its tag is given: a registry may give
   tags to signed images only. What can't be copied is in the result, with the reason, and does not stop the image.
6. Put the manifest under its tag.

Within one repository all children, blobs and attachments are already there, so only step 6 is done. To resume an interrupted
copy, repeat it: step 3 finds the blobs that arrived.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from boltseal.client.errors import RemoteRefused
from boltseal.errors import BoltsealError
from boltseal.ledger.follow import LedgerBroken
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import LinkKind, Manifest
from boltseal.policy.rules import BUILT_IN_SIGNATURES
from boltseal.transfer.attached import Attached, AttachedFound, NotCarried, check_subject, extends, find_attached
from boltseal.transfer.moved_blobs import move_largest_first
from boltseal.transfer.protocols import BlobTransfer, ContentDamaged, ImageSource, ImageTarget, TagTaken

AT_ONCE: Final = 6
MAX_MANIFESTS: Final = 10_000

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
    """A copied image. `changed`: False when the target's tag already resolved to it.

    `attached`: its signatures and other referrers that the target has now; `not_carried`: those that it has not.
    """

    name: str | None
    digest: Digest
    changed: bool
    attached: tuple[Attached, ...] = ()
    not_carried: tuple[NotCarried, ...] = ()


@dataclass(slots=True)
class Copier:
    """Copies images from one source to one target. It remembers copied blobs, and does not check them again for the next image.

    `within`: source and target are the same repository. `force`: overwrite a tag that resolves to another image.
    `referrers`: carry along what is attached to the image. `readable_target`: the target, if it can be read: an image that it
    has is then read there, since some registries count what is read at the source.
    """

    source: ImageSource
    target: ImageTarget
    within: bool = False
    force: bool = False
    referrers: bool = False
    readable_target: ImageSource | None = None
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
            raise tag_taken(str(target_name), self.target.title, existing, digest)
        changed = existing != digest or target_name is None
        source = self.source if changed or self.readable_target is None else self.readable_target
        carries = self._carries_along(target_name)
        manifests = await self._manifests(source, digest) if changed or carries else {}
        found = await find_attached(self.source, manifests, self.at_once) if carries else AttachedFound()
        if changed:
            await self._contents(manifests, digest)
        if changed and found.found:
            await self.target.put_manifest(manifests[digest], digest, None, only_new=False)
        attached, not_carried = await self._carry_all(found)
        if changed:
            only_new = existing is None and not self.force
            await self._put(manifests[digest], digest, target_name, only_new=only_new)
        return CopiedImage(target_name, digest, changed, attached, not_carried)

    async def _contents(self, manifests: dict[Digest, Manifest], root: Digest) -> None:
        """Copy everything below a manifest, and not the manifest."""
        if self.within:
            return
        await self._blobs(manifests.values())
        for each in reversed(manifests):
            if each != root:
                await self._put(manifests[each], each, None, only_new=False)

    async def _manifests(self, source: ImageSource, root: Digest) -> dict[Digest, Manifest]:
        """Return the manifests of a tree, parents before children, the root first."""
        found = {root: await source.manifest(root)}
        waiting = [] if self.within else [root]
        while waiting:
            for link in found[waiting.pop()].references():
                child = link.descriptor
                if link.kind is not LinkKind.CHILD or child.digest in found:
                    continue
                if len(found) == MAX_MANIFESTS:
                    raise ContentDamaged(f"{source.title}: {root.short} has more than {MAX_MANIFESTS} manifests")
                manifest = await source.manifest(child.digest)
                if len(manifest.raw) != child.size:
                    raise ContentDamaged(
                        f"{source.title}: {child.digest.short} has {len(manifest.raw)} bytes; its index states {child.size}"
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

    def _carries_along(self, name: str | None) -> bool:
        """Signature tags are evidence themselves; within a repository all evidence is there."""
        return self.referrers and not self.within and not (name is not None and BUILT_IN_SIGNATURES.tag.matches(name))

    async def _carry_all(self, found: AttachedFound) -> tuple[tuple[Attached, ...], tuple[NotCarried, ...]]:
        """Copy one after the other: a registry without the referrers API has a list that its clients rewrite."""
        carried, failed = [], list(found.failed)
        listed: dict[Digest, set[Digest]] = {}
        for each in found.found:
            try:
                if each.subject not in listed:
                    listed[each.subject] = await self._listed_at_target(each.subject)
                if each.tag is not None or each.digest not in listed[each.subject]:
                    await self._carry(each)
            except LedgerBroken:
                raise
            except BoltsealError as error:
                failed.append(NotCarried(each.subject, each, error))
                continue
            carried.append(each)
        return tuple(carried), tuple(failed)

    async def _listed_at_target(self, subject: Digest) -> set[Digest]:
        if self.readable_target is None:
            return set()
        return {each.digest for each in await self.readable_target.referrers(subject)}

    async def _carry(self, attached: Attached) -> None:
        """Copy a referrer, or the manifest of a signature tag unless the target's tag would lose signatures by that.

        Raises: TagTaken, ContentDamaged.
        """
        existing = None if attached.tag is None else await self.target.current_digest(attached.tag)
        if existing == attached.digest:
            return
        manifests = await self._manifests(self.source, attached.digest)
        manifest = manifests[attached.digest]
        check_subject(attached, manifest, self.source.title)
        if existing is not None and not self.force:
            old = None if self.readable_target is None else await self.readable_target.manifest(existing)
            if old is not None and extends(old, manifest):
                return
            if old is None or not extends(manifest, old):
                raise TagTaken(
                    f"{attached.tag} at {self.target.title} has signatures that the source has not, and a copy would remove "
                    "them; sign the copied image there, or pass --force to replace them"
                )
        await self._contents(manifests, attached.digest)
        await self._put(manifest, attached.digest, attached.tag, only_new=False)


def tag_taken(name: str, where: str, existing: Digest, digest: Digest) -> TagTaken:
    """Return the error for a tag that has another image."""
    return TagTaken(
        f"{name} at {where} resolves to {existing.short}, not {digest.short}; "
        "choose another tag, or pass --force to move it; a registry refuses that for a sealed tag"
    )


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
