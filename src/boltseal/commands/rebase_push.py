"""Push and record the result of a rebase: blobs, the images of the platforms by digest, the tag, and the ledger entry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from boltseal.build.ledger_entries import rebased_extra
from boltseal.build.rebase_images import PlatformRebase, digest_of
from boltseal.client.errors import RemoteRefused
from boltseal.client.ledger_records import SIGNED_TIMEOUT_S, NoRecords, add_record, is_signed, list_records
from boltseal.client.transport import Transport
from boltseal.commands.progress import Progress
from boltseal.commands.registry_access import RegistryOptions
from boltseal.errors import BoltsealError
from boltseal.ledger.entry import EntryKind
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest
from boltseal.oci.reference import Reference, Tag
from boltseal.transfer.moved_blobs import move_largest_first
from boltseal.transfer.remote import RepositoryLocation

AT_ONCE: Final = 4


@dataclass(slots=True)
class RebasePush:
    """Pushes the result. `name`: its name; `base`, `image`: the new base and the former image, by digest."""

    options: RegistryOptions
    transport: Transport
    name: Reference
    base: Reference
    image: Reference
    progress: Progress
    _sent: int = 0

    async def push(self, parts: Sequence[PlatformRebase], whole: Manifest, digest: Digest) -> None:
        """Push everything, the tag last. The own layers are in the repository already. Raises: RemoteRefused, remote errors."""
        target = self._location(self.name, mounting=True)
        source = self._location(self.base)
        layers = {each.digest: each for part in parts for each in part.new.manifest.layers}
        total = sum(each.size for each in layers.values())

        async def move(layer: Descriptor) -> None:
            await target.put_blob(layer, lambda: self._counted(source, layer, total))

        await move_largest_first(layers.values(), AT_ONCE, move)
        for part in parts:
            manifest, config = part.result.manifest, part.result.config
            if manifest.config is not None:
                await self._location(self.name).put_blob(manifest.config, lambda raw=config: _body(raw))  # type: ignore[misc]
            if whole.is_index:
                await target.put_manifest(manifest, Digest.of(manifest.raw), None, only_new=False)
        try:
            await target.put_manifest(whole, digest, str(self.name.tag), only_new=True)
        except RemoteRefused:  # another run of the same rebase may have been faster
            if await target.current_digest(str(self.name.tag)) != digest:
                raise

    async def record(self, digest: Digest, former_base: Reference, revision_of: Tag | None) -> int | None:
        """Record the result unless it is recorded; return the entry's index, None where the registry keeps no ledger.

        `revision_of`: the sealed tag that its tag is a revision of.
        """
        registry, repository = self.name.registry, self.name.repository
        extra = rebased_extra(self.base, digest_of(self.base), digest_of(former_base), digest_of(self.image))
        if revision_of is not None:
            extra["revision.of"] = str(revision_of)
        notice = self.options.client.notice
        try:
            for index, entry in await list_records(self.transport, registry, repository):
                if entry.kind is EntryKind.BUILT and entry.digest == str(digest) and dict(entry.extra) == extra:
                    return index
            index = await add_record(self.transport, EntryKind.BUILT, self.name, digest, extra)
        except NoRecords:
            notice(f"boltseal: {registry} keeps no ledger: only labels and annotations of the image name its base")
            return None
        try:
            signed = await is_signed(self.transport, registry, repository, index)
            reason = "" if signed else f"did not sign it within {SIGNED_TIMEOUT_S:g} s"
        except BoltsealError as error:  # image and record are there: the rebase has succeeded
            reason = f"does not show it: {error.message}"
        if reason:
            notice(
                f"boltseal: {registry} accepted the record of the rebase as entry {index} of its ledger, but {reason}"
            )
        return index

    async def _counted(self, source: RepositoryLocation, descriptor: Descriptor, total: int) -> AsyncIterator[bytes]:
        async for piece in source.blob(descriptor):
            self._sent += len(piece)
            self.progress("copying", min(self._sent, total), total)
            yield piece

    def _location(self, of: Reference, *, mounting: bool = False) -> RepositoryLocation:
        """Return a repository; `mounting`: which mounts blobs of the new base, if that is at the same registry."""
        mountable = mounting and of.registry == self.base.registry and of.repository != self.base.repository
        mount_from = self.base.repository if mountable else None
        return RepositoryLocation(self.transport, of.registry, of.repository, mount_from)


async def _body(raw: bytes) -> AsyncIterator[bytes]:
    yield raw
