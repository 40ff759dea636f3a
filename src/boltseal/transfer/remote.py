"""A repository of a registry as source and target, through `boltseal.client`, which verifies all content."""

from __future__ import annotations

from collections.abc import AsyncIterator

import stamina

from boltseal.client.errors import RemoteNotFound, RemoteRefused, RemoteUnavailable
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.manifest import Manifest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.refusals import RefusalReason
from boltseal.policy.rules import BUILT_IN_SIGNATURES
from boltseal.transfer.protocols import BlobTransfer, Body

ATTEMPTS = 4


class RepositoryLocation:
    """A repository as source and target. `mount_from`: a repository of the same registry whose blobs may be mounted."""

    def __init__(
        self, transport: Transport, registry: str, repository: Repository, mount_from: Repository | None = None
    ) -> None:
        self._client = RegistryClient(transport, registry)
        self._repository = repository
        self._mount_from = mount_from
        self.title = f"{registry}/{repository}"

    async def resolve(self, name: str | None) -> Digest:
        """Resolve a tag by one HEAD request; of a missing one, ask for the reason. Raises: RemoteNotFound."""
        named = _named(name or "latest")
        if BUILT_IN_SIGNATURES.tag.matches(str(named)):  # most images have no signature tags
            return (await self._client.resolve(self._repository, named)).digest
        return (await self._client.resolve_explained(self._repository, named)).digest

    async def manifest(self, digest: Digest) -> Manifest:
        """Fetch a manifest by digest. Raises: RemoteNotFound, RemoteMismatch."""
        return await self._client.manifest(self._repository, digest)

    def blob(self, descriptor: Descriptor) -> AsyncIterator[bytes]:
        """Yield a blob's bytes; resume after a broken connection. Raises: RemoteNotFound, RemoteMismatch."""
        return self._client.blob(self._repository, descriptor.digest, descriptor.size)

    async def names(self) -> list[str]:
        """Return all tags."""
        return [tag async for tag in self._client.tags(self._repository)]

    async def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """Return the referrers from the referrers API, or from the fallback tag."""
        return await self._client.referrers(self._repository, digest)

    async def current_digest(self, name: str) -> Digest | None:
        """Resolve a tag by one HEAD request; None when it does not exist."""
        try:
            return (await self._client.resolve(self._repository, _named(name))).digest
        except RemoteNotFound:
            return None

    async def put_blob(self, descriptor: Descriptor, body: Body) -> BlobTransfer:
        """Mount a blob if possible, otherwise send it. A failed upload starts again, unless the blob arrived."""
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
        """Push a manifest. Raises: RemoteRefused when the registry refuses it.

        A tag that resolves to it already is no refusal: another client was faster, or the registry lost the manifest and kept
        the tag, as a recovered ledger does. The manifest is then pushed by its digest, which moves no tag.
        """
        reference = digest if name is None else _named(name)
        try:
            await self._client.put_manifest(self._repository, reference, manifest, only_new=only_new)
        except RemoteRefused as error:
            found = error.detail
            if not only_new or found is None or (found.reason, found.digest) != (RefusalReason.PRECONDITION, digest):
                raise
            await self._client.put_manifest(self._repository, digest, manifest)

    async def close(self, *, complete: bool) -> None:
        """Do nothing: the registry keeps blobs for the next copy, or deletes them as unreferenced."""


def _named(name: str) -> Tag | Digest:
    try:
        return Digest.parse(name) if ":" in name else Tag(name)
    except DigestInvalid as error:
        raise RemoteNotFound(f"there is no {name}: {error.message}") from error
