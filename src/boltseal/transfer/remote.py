"""A repository of a registry as a place: everything over `client`, which verifies what comes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import stamina

from boltseal.client.errors import RemoteNotFound, RemoteUnavailable
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.manifest import Manifest
from boltseal.oci.reference import Repository, Tag
from boltseal.transfer.protocols import BlobTransfer, Body

ATTEMPTS = 4


class RepositoryLocation:
    """One repository, to read and to write. `mount_from`: a repository of the same registry whose blobs may be mounted."""

    def __init__(
        self, transport: Transport, registry: str, repository: Repository, mount_from: Repository | None = None
    ) -> None:
        self._client = RegistryClient(transport, registry)
        self._repository = repository
        self._mount_from = mount_from
        self.title = f"{registry}/{repository}"

    async def resolve(self, name: str | None) -> Digest:
        """By one HEAD. RemoteNotFound."""
        return (await self._client.resolve(self._repository, _named(name or "latest"))).digest

    async def manifest(self, digest: Digest) -> Manifest:
        """By digest. RemoteNotFound, RemoteMismatch."""
        return await self._client.manifest(self._repository, digest)

    def blob(self, descriptor: Descriptor) -> AsyncIterator[bytes]:
        """Taken up where a connection breaks. RemoteNotFound, RemoteMismatch."""
        return self._client.blob(self._repository, descriptor.digest, descriptor.size)

    async def names(self) -> list[str]:
        """Every tag."""
        return [tag async for tag in self._client.tags(self._repository)]

    async def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """By the referrers API, or what stands in for it."""
        return await self._client.referrers(self._repository, digest)

    async def meaning(self, name: str) -> Digest | None:
        """By one HEAD."""
        try:
            return await self.resolve(name)
        except RemoteNotFound:
            return None

    async def put_blob(self, descriptor: Descriptor, body: Body) -> BlobTransfer:
        """Mounted where that can be, otherwise sent; a push that breaks is begun again, unless it arrived after all."""
        mountable = self._mount_from is not None
        async for attempt in stamina.retry_context(on=RemoteUnavailable, attempts=ATTEMPTS, timeout=None):
            with attempt:
                again = attempt.num > 1
                if (again or not mountable) and await self._holds(descriptor):
                    return BlobTransfer.SENT if again else BlobTransfer.PRESENT
                mounted = await self._client.put_blob(
                    self._repository, descriptor.digest, descriptor.size, body, self._mount_from
                )
                return BlobTransfer.MOUNTED if mounted else BlobTransfer.SENT
        raise AssertionError("stamina returns or raises")

    async def _holds(self, descriptor: Descriptor) -> bool:
        return await self._client.has_blob(self._repository, descriptor.digest) is not None

    async def put_manifest(self, manifest: Manifest, digest: Digest, name: str | None, *, only_new: bool) -> None:
        """RemoteRefused where the registry will not have it."""
        reference = digest if name is None else _named(name)
        await self._client.put_manifest(self._repository, reference, manifest, only_new=only_new)

    async def close(self, *, complete: bool) -> None:
        """Nothing to do: blobs without a manifest are the registry's to collect, or to find the next time."""


def _named(name: str) -> Tag | Digest:
    try:
        return Digest.parse(name) if ":" in name else Tag(name)
    except DigestInvalid as error:
        raise RemoteNotFound(f"there is no {name}: {error.message}") from error
