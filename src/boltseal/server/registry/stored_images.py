"""A repository of this store as a source of images, for the code that compares and inspects images wherever they are."""

from __future__ import annotations

from collections.abc import AsyncIterator

from boltseal.errors import Unavailable
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest, parse_manifest
from boltseal.oci.reference import Repository, Tag
from boltseal.server.registry.pulls import Pulls

MAX_REFERRERS = 100


class StoredImages:
    """The `ImageSource` of one repository. It checks no rights: its caller has checked that the repository may be pulled."""

    def __init__(self, pulls: Pulls, repository: Repository) -> None:
        self._pulls = pulls
        self._repository = repository
        self.title = str.__str__(repository)

    async def resolve(self, name: str | None) -> Digest:
        """Return the digest that a tag resolves to. Raises: ManifestUnknown, TagDeleted."""
        return (await self._pulls.manifest(self._repository, Tag(name or "latest"))).digest

    async def manifest(self, digest: Digest) -> Manifest:
        """Return a manifest. Raises: ManifestUnknown."""
        found = await self._pulls.manifest(self._repository, digest)
        return parse_manifest(found.raw, found.media_type)

    async def blob(self, descriptor: Descriptor) -> AsyncIterator[bytes]:
        """Yield a blob's bytes. The last piece comes only if the digest and the size match. Raises: BlobUnknown, Unavailable."""
        stored = await self._pulls.blob(self._repository, descriptor.digest)
        hasher, size, last = descriptor.digest.hasher(), 0, b""
        async for piece in self._pulls.read_blob(descriptor.digest, 0, stored.size):
            if last:
                yield last
            hasher.update(piece)
            size += len(piece)
            last = piece
        if size != descriptor.size or hasher.hexdigest() != descriptor.digest.hex:
            raise Unavailable(
                f"{self.title}: the stored bytes of blob {descriptor.digest.short} do not match its digest"
            )
        if last:
            yield last

    async def names(self) -> list[str]:
        """Return all tags. Raises: RepositoryUnknown."""
        return list((await self._pulls.tags(self._repository, None, None)).items)

    async def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """Return the manifests whose subject is this digest, at most `MAX_REFERRERS`."""
        page = await self._pulls.referrers(self._repository, digest, None, n=MAX_REFERRERS)
        return tuple(
            Descriptor(
                row.media_type, row.digest, row.size, annotations=row.annotations, artifact_type=row.artifact_type
            )
            for row in page.rows
        )
