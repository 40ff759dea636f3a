"""Manifest pushes. One push is one transaction, from its references to its tags.

The steps of a push:

1. Parse the bytes and compare their digest with the one in the URL. This reads nothing from the store.
2. In the transaction: check that a digest keeps the media type that it was first pushed with.
3. Write manifest, bytes and links if they are not stored yet.
4. Pass each tag to the tag writer. One refusal rolls back everything: a refused push adds no row.

With an object store the manifest is written as an object before step 2 (`object_manifests`), and step 3 names it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from boltseal.errors import BoltsealError, Unavailable
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.manifest import Link, LinkKind, ManifestInvalid, parse_manifest
from boltseal.policy.image_parts import platform_of
from boltseal.policy.name_resolution import MIRROR_ACTOR
from boltseal.policy.rule_decision import decide
from boltseal.server.registry import tag_refusals
from boltseal.server.registry.absent_tags import consistently
from boltseal.server.registry.evidence_checks import EvidenceChecks
from boltseal.server.registry.layer_chains import LayerChains
from boltseal.server.registry.models import ManifestPush, ManifestUpload, Published, PushedManifest, RepositoryRow
from boltseal.server.registry.pulls import BlobUnknown, Pulls
from boltseal.server.registry.quota_checks import UNCHECKED, QuotaChecks
from boltseal.server.registry.refusals import RefusalLog
from boltseal.server.registry.required_evidence import EvidenceChanged
from boltseal.server.registry.tag_writer import TagWriter
from boltseal.server.storage.blobs.protocol import StoreBroken
from boltseal.server.storage.metadata import hidden_blobs, layer_chain_table, queries
from boltseal.server.storage.metadata.protocol import BlobFound, Metadata, UnitOfWork
from boltseal.server.storage.metadata.queries import ManifestRow
from boltseal.server.storage.object_manifests import ObjectManifests, WrittenObject

MAX_CONFIG_BYTES: Final = 1024 * 1024
"""Of the config of an image whose platform is read."""
EVIDENCE_ATTEMPTS: Final = 3


class Manifests:
    """Stores pushed manifests and publishes their tags.

    `pulls`: reads the platform of images; without it none is known. `chains`: computes layer chains; without it they are pending.
    `objects`: writes manifests as objects too.
    """

    def __init__(
        self,
        database: Metadata,
        tag_writer: TagWriter,
        refusals: RefusalLog,
        quotas: QuotaChecks = UNCHECKED,
        pulls: Pulls | None = None,
        chains: LayerChains | None = None,
        objects: ObjectManifests | None = None,
        evidence: EvidenceChecks | None = None,
    ) -> None:
        self._database = database
        self._tag_writer = tag_writer
        self._refusals = refusals
        self._quotas = quotas
        self._pulls = pulls
        self._chains = chains
        self._objects = objects
        self._evidence = evidence or EvidenceChecks(tag_writer.rules, pulls)

    async def put(self, upload: ManifestUpload) -> Published:
        """Store a manifest and let its tags resolve to it (end-7).

        Raises:
            ManifestInvalid: the manifest cannot be parsed, or contradicts what is stored.
            DigestInvalid: its digest is not the one in the URL.
            SealedPut, Precondition: as `TagWriter.publish`.
            Denied: a quota is exceeded.
            ReferencesMissing: garbage collection removed a blob that the manifest names; push that again.
            TagUnsigned, EvidenceChanged: as `TagWriter.publish`, the latter after EVIDENCE_ATTEMPTS.
        """
        push = parse_upload(upload)
        settles = any(decide(self._tag_writer.rules, push.repository, tag).settle_us for tag in push.tags)
        return await self.put_parsed(replace(push, platform=await self._platform(push)) if settles else push)

    async def put_parsed(self, push: ManifestPush) -> Published:
        """Store a manifest whose bytes were already verified and parsed. Raises as `put`."""
        with self._refusals.logged("push", push.repository, push.tags, push.pushed.digest, push.actor):
            push, written = await self._prepared(push)
            try:
                return await self._write(push, written)
            except EvidenceChanged:
                await self._drop(written)
                raise
            except Unavailable:  # the transaction may have taken effect
                raise
            except BoltsealError:
                await self._drop(written)
                raise

    async def _write(self, push: ManifestPush, written: WrittenObject | None) -> Published:
        """Judge the evidence that the rules require, and publish; again if it changed in between, EVIDENCE_ATTEMPTS times."""
        attempt = 1
        while True:
            judged = await self.with_evidence(push)
            try:
                async with consistently(self._database, push.repository, *push.tags):
                    return await self._database.write(
                        partial(self.publish, push=judged, written=written), repository=push.repository
                    )
            except EvidenceChanged:
                if attempt == EVIDENCE_ATTEMPTS:
                    raise
                attempt += 1

    async def with_evidence(self, push: ManifestPush) -> ManifestPush:
        """Return a push with the judgement of its evidence, if a rule of its tags requires any."""
        evidence = await self._evidence.judged(push.repository, push.pushed.identity, push.tags)
        return push if evidence is None else replace(push, evidence=evidence)

    async def _prepared(self, push: ManifestPush) -> tuple[ManifestPush, WrittenObject | None]:
        """Return a push with its layer chain, and the manifest's object, if manifests are objects too.

        The object is written while the config is read. Waits for both, also if one fails.
        """
        if self._objects is None:
            return await self.with_chain(push), None
        pushed = push.pushed
        chained, written = await asyncio.gather(
            self.with_chain(push),
            self._objects.write(push.repository, pushed.digest, pushed.manifest, push.actor.name),
            return_exceptions=True,
        )
        if isinstance(written, BaseException):
            raise written
        if isinstance(chained, BaseException):
            await self._drop(written)
            raise chained
        return chained, written

    async def _drop(self, written: WrittenObject | None) -> None:
        if written is not None and self._objects is not None:
            await self._objects.drop(written)

    async def with_chain(self, push: ManifestPush) -> ManifestPush:
        """Return a push with its layer chain, as far as its config is stored."""
        if self._chains is None:
            return push
        pushed = push.pushed
        return replace(push, chain=await self._chains.document(push.repository, pushed.manifest, pushed.digest))

    async def _platform(self, push: ManifestPush) -> str:
        """Return the platform of a pushed image, from its config in this repository; "" if it is not known."""
        config = push.pushed.manifest.config
        if config is None or config.size > MAX_CONFIG_BYTES or self._pulls is None:
            return ""
        try:
            stored = await self._pulls.blob(push.repository, config.digest, hidden=True)
            pieces = [
                piece async for piece in self._pulls.read_blob(config.digest, 0, min(stored.size, MAX_CONFIG_BYTES))
            ]
        except (BlobUnknown, StoreBroken):
            return ""
        return platform_of(b"".join(pieces))

    def publish(self, tx: UnitOfWork, push: ManifestPush, written: WrittenObject | None = None) -> Published:
        """Store and publish a parsed push within a transaction. `written`: the manifest's object. Raises as `put`."""
        pushed, actor = push.pushed, push.actor
        with self._quotas.counting(tx, actor.name):
            repository = RepositoryRow(push.repository, queries.ensure_repository(tx, push.repository, actor.name))
            stored = queries.find_manifest(tx, repository.id, str(pushed.digest))
            if not push.tags:
                push.conditions.check(f"manifest {pushed.digest.short}", pushed.digest if stored else None)
            self._store(tx, repository, push, stored)
            if written is not None:
                ObjectManifests.name(tx, repository.id, str(pushed.digest), written)
            results = {}
            for tag in push.tags:
                change = self._tag_writer.change(
                    tx,
                    repository,
                    tag,
                    actor,
                    conditions=push.conditions,
                    may_settle=push.may_settle,
                    platform=push.platform,
                    evidence=push.evidence,
                )
                result = self._tag_writer.publish(tx, change, pushed)
                if result is not None:
                    results[tag] = result
        first = next(iter(results.values()), None)
        subject = pushed.manifest.subject
        return Published(
            digest=pushed.digest,
            tags=tuple(results),
            subject=None if subject is None else subject.digest,
            ledger_index=None if first is None or first.settles_us is not None else first.entry_index,
            created=stored is None or any(result.changed for result in results.values()),
            settles_us=None if first is None else first.settles_us,
        )

    def _store(self, tx: UnitOfWork, repository: RepositoryRow, push: ManifestPush, stored: ManifestRow | None) -> None:
        """Steps 2 and 3."""
        pushed, manifest = push.pushed, push.pushed.manifest
        known = (
            {stored.media_type} if stored else queries.media_types_of(tx, repository.id, str(pushed.identity.canonical))
        )
        if known and manifest.media_type not in known:
            raise ManifestInvalid(
                f"{pushed.digest.short} was first pushed to {repository.name} as {min(known)} and keeps that media type; "
                f"this push says {manifest.media_type}"
            )
        signed = [image for tag in push.tags if (image := self._tag_writer.signed_image(tx, repository, tag))]
        if stored is not None:
            for image in signed:
                queries.add_link(tx, repository.id, str(pushed.digest), str(image), str(LinkKind.SIGNATURE_TAG))
            return
        references = list(manifest.references())
        parts = _parts(tx, repository, push, references)
        if manifest.subject is not None:
            self._quotas.check_referrers(tx, repository.id, manifest.subject.digest)
        add_row(tx, repository.id, push, tx.now_us, signed)
        hidden_blobs.keep(tx, repository.id, [digest for digest, part in parts.items() if part.hidden])
        layer_chain_table.put(tx, repository.id, str(pushed.digest), push.chain)


def add_row(
    tx: UnitOfWork, repository_id: int, push: ManifestPush, pushed_us: int, signed: Sequence[Digest] = ()
) -> None:
    """Add a manifest that the repository does not have, with its bytes and links. `signed`: images that its tags sign."""
    manifest = push.pushed.manifest
    links = [(str(link.descriptor.digest), str(link.kind)) for link in manifest.references()]
    links += [(str(image), str(LinkKind.SIGNATURE_TAG)) for image in signed]
    queries.add_manifest(tx, repository_id, _row(push, pushed_us), manifest.raw, links)


def parse_upload(upload: ManifestUpload) -> ManifestPush:
    """Parse an uploaded manifest and list its tags, each once (step 1).

    Raises:
        ManifestInvalid: it cannot be parsed.
        DigestInvalid: its digest is not the one in the URL.
    """
    manifest = parse_manifest(upload.body, upload.content_type)
    tags = upload.extra_tags
    if isinstance(upload.reference, Digest):
        digest = Digest.of(upload.body, upload.reference.algorithm)
        if digest != upload.reference:
            raise DigestInvalid(f"the manifest has digest {digest}, but was sent to {upload.reference}")
    else:
        digest = Digest.of(upload.body)
        tags = (upload.reference, *tags)
    return ManifestPush(
        repository=upload.repository,
        pushed=PushedManifest.of(manifest, digest),
        tags=tuple(dict.fromkeys(tags)),
        actor=upload.actor,
        conditions=upload.conditions,
    )


def _parts(
    tx: UnitOfWork, repository: RepositoryRow, push: ManifestPush, references: Sequence[Link]
) -> dict[str, BlobFound]:
    """Return what the repository has of a manifest's parts, by digest.

    Raises:
        ManifestInvalid: the manifest states another size than the stored content has, so no client could pull it.
        ReferencesMissing: garbage collection has removed a part since the client found it, or could have.
    """
    named = {str(link.descriptor.digest): link.descriptor for link in references if link.kind is not LinkKind.SUBJECT}
    parts = queries.parts_of(tx, repository.id, named)
    for digest, (size, _) in parts.items():
        if named[digest].size != size:
            raise ManifestInvalid(
                f"the manifest says that {named[digest].digest.short} has {named[digest].size} bytes, "
                f"but the content in {repository.name} has {size}; build and push the image again"
            )
    is_mirrored = push.actor.name.startswith(MIRROR_ACTOR)  # a mirror fetches blobs after manifests
    if len(parts) < len(named) and not is_mirrored:
        own = {str(link.descriptor.digest) for link in references if link.kind in (LinkKind.CONFIG, LinkKind.LAYER)}
        removed = hidden_blobs.removed(tx, repository.id, own - parts.keys())
        if removed:
            raise tag_refusals.incomplete(repository, push.pushed.digest, removed)
    return parts


def _row(push: ManifestPush, now_us: int) -> ManifestRow:
    pushed, manifest = push.pushed, push.pushed.manifest
    return ManifestRow(
        digest=str(pushed.digest),
        canonical=str(pushed.identity.canonical),
        media_type=manifest.media_type,
        size=len(manifest.raw),
        subject=None if manifest.subject is None else str(manifest.subject.digest),
        artifact_type=manifest.artifact_type,
        annotations=json.dumps(dict(manifest.annotations)) if manifest.annotations else None,
        pushed_us=now_us,
        pushed_by=push.actor.name,
    )
