"""Receipts as referrers: which of an image's referrers are read, up to which limits, and what of them is a problem."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from boltseal.client.errors import RemoteMismatch, RemoteNotFound
from boltseal.ledger.receipt_attestation import MAX_ATTESTATION_BYTES
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest, parse_manifest
from boltseal.oci.mediatype import OCI_EMPTY
from boltseal.signatures.sigstore_bundle import BUNDLE
from boltseal.transfer.receipt_referrers import (
    ARTIFACT_TYPE,
    MAX_READ,
    MAX_READ_BYTES,
    AttachedStatement,
    ReceiptsUnread,
    read_statements,
)
from tests.images import OCI_MANIFEST, Blob, Document, image, referrer
from tests.transfer.memory_source import MemorySource

APP = image("app")
SUBJECT = Digest.parse(APP.digest)


@dataclass(frozen=True)
class Listed:
    """A referrer, and the type by which the registry lists it."""

    document: Document
    listed_as: str | None = ARTIFACT_TYPE

    @property
    def descriptor(self) -> Descriptor:
        """The entry in the list."""
        raw = self.document.raw
        digest = Digest.parse(self.document.digest)
        return Descriptor(OCI_MANIFEST, digest, len(raw), artifact_type=self.listed_as)


class Registry(MemorySource):
    """A source that lists these referrers. `blobs_read`: the blobs that were asked for; `damaged`: manifests with other bytes."""

    def __init__(self, *listed: Listed) -> None:
        super().__init__(*(each.document for each in listed))
        self._listed = listed
        self.blobs_read = 0
        self.missing: set[str] = set()
        self.damaged: set[str] = set()

    async def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        return tuple(each.descriptor for each in self._listed) if digest == SUBJECT else ()

    async def manifest(self, digest: Digest) -> Manifest:
        if str(digest) in self.missing:
            raise RemoteNotFound("gone")
        if str(digest) in self.damaged:
            raise RemoteMismatch("other bytes")
        return await super().manifest(digest)

    async def blob(self, descriptor: Descriptor) -> AsyncIterator[bytes]:
        self.blobs_read += 1
        async for piece in super().blob(descriptor):
            yield piece


def receipt(raw: bytes, artifact_type: str = ARTIFACT_TYPE, listed_as: str | None = ARTIFACT_TYPE) -> Listed:
    return Listed(referrer(APP, artifact_type, Blob(raw, BUNDLE)), listed_as)


async def read(registry: Registry) -> list[AttachedStatement]:
    return [each async for each in read_statements(registry, SUBJECT)]


async def test_statements_are_read_as_they_are() -> None:
    """Each receipt comes with its bytes and the digest of its manifest."""
    listed = [receipt(b"one"), receipt(b"two")]

    assert [(str(each.referrer), each.raw) for each in await read(Registry(*listed))] == [
        (listed[0].document.digest, b"one"),
        (listed[1].document.digest, b"two"),
    ]


async def test_referrers_of_other_types_are_not_opened() -> None:
    """Signatures and SBOMs cost no request, and a manifest of another type is none, whatever the list says."""
    registry = Registry(receipt(b"sbom", "application/vnd.example", "application/vnd.example"))
    registry.damaged.add(str((await registry.referrers(SUBJECT))[0].digest))

    assert await read(registry) == []
    assert await read(Registry(receipt(b"sbom", "application/vnd.example"))) == []


@pytest.mark.parametrize("listed_as", [None, OCI_EMPTY])
async def test_a_list_without_the_type_is_no_obstacle(listed_as: str | None) -> None:
    """cosign writes the type of the config into a fallback index; the manifest has the type."""
    found = await read(Registry(receipt(b"one", listed_as=listed_as)))

    assert [each.raw for each in found] == [b"one"]


async def test_an_oversized_statement_is_not_fetched() -> None:
    """A statement that is too long is a problem by its stated size, before a byte of it is read."""
    registry = Registry(receipt(b"x" * (MAX_ATTESTATION_BYTES + 1)))
    (found,) = await read(registry)

    assert (found.raw, registry.blobs_read) == (None, 0)
    assert f"at most {MAX_ATTESTATION_BYTES} are read" in found.problem


@pytest.mark.parametrize("layers", [(), (Blob(b"a", "text/plain"),), (Blob(b"a", BUNDLE), Blob(b"b", BUNDLE))])
async def test_a_receipt_has_one_layer(layers: tuple[Blob, ...]) -> None:
    """A manifest without exactly one bundle is a problem: tools would disagree on which layer counts."""
    (found,) = await read(Registry(Listed(referrer(APP, ARTIFACT_TYPE, *layers))))

    assert (found.raw, found.problem) == (None, f"it has no single layer of type {BUNDLE}")


async def test_one_bad_referrer_hides_no_other() -> None:
    """A manifest that is gone is left out, one with other bytes is a problem, and the next one is read."""
    registry = Registry(receipt(b"gone"), receipt(b"damaged"), receipt(b"true"))
    gone, damaged, _ = (str(each.digest) for each in await registry.referrers(SUBJECT))
    registry.missing.add(gone)
    registry.damaged.add(damaged)

    assert [(each.raw, each.problem) for each in await read(registry)] == [(None, "other bytes"), (b"true", "")]


async def test_the_number_of_receipts_that_are_read_is_bounded() -> None:
    """After the last receipt that is read comes an error, so that a missing one is not taken for none."""
    registry = Registry(*(receipt(str(number).encode()) for number in range(MAX_READ + 1)))
    with pytest.raises(ReceiptsUnread, match=f"{MAX_READ}, of"):
        await read(registry)

    assert registry.blobs_read == MAX_READ


async def test_the_bytes_that_are_read_are_bounded() -> None:
    """Few receipts of the greatest length exhaust the limit of bytes."""
    needed = MAX_READ_BYTES // MAX_ATTESTATION_BYTES + 1
    registry = Registry(*(receipt(bytes([number]) * MAX_ATTESTATION_BYTES) for number in range(needed + 1)))
    with pytest.raises(ReceiptsUnread):
        await read(registry)

    assert registry.blobs_read == needed


def test_a_referrer_is_a_manifest_of_the_specification() -> None:
    """What the tests attach is what the specification calls a referrer."""
    document = receipt(b"one").document
    manifest = parse_manifest(document.raw, document.media_type)

    assert (manifest.artifact_type, manifest.subject and manifest.subject.digest) == (ARTIFACT_TYPE, SUBJECT)
