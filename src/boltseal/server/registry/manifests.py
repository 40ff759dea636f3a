"""Manifests on their way in: one push is one transaction, from its references to its tags.

The steps of a push, in order:

1. The bytes are parsed and their digest compared with the one in the address; nothing is read from the store.
2. In the transaction: a digest keeps the media type that it was first pushed with.
3. Manifest, bytes and links are written if they are not there.
4. The door is asked for each tag. One refusal undoes everything: a refused push adds no row.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from boltseal.oci.digest import SHA256, Digest, DigestInvalid
from boltseal.oci.manifest import LinkKind, ManifestInvalid, parse_manifest
from boltseal.policy.seal import Identity
from boltseal.server.registry.models import Published, PushedManifest, RepositoryRow
from boltseal.server.registry.preconditions import check_conditions
from boltseal.server.registry.quota_checks import UNCHECKED, QuotaChecks
from boltseal.server.storage.metadata import queries
from boltseal.server.storage.metadata.queries import ManifestRow

if TYPE_CHECKING:
    from boltseal.oci.manifest import Manifest
    from boltseal.oci.reference import Repository, Tag
    from boltseal.server.auth.actor import Actor
    from boltseal.server.registry.models import Conditions
    from boltseal.server.registry.refusals import RefusalLog
    from boltseal.server.registry.tag_writer import TagWriter
    from boltseal.server.storage.metadata.protocol import Metadata, UnitOfWork


class Manifests:
    """Every manifest push of the registry."""

    def __init__(
        self, database: Metadata, door: TagWriter, refusals: RefusalLog, bounds: QuotaChecks = UNCHECKED
    ) -> None:
        self._database = database
        self._door = door
        self._refusals = refusals
        self._bounds = bounds

    async def put(
        self,
        repository: Repository,
        reference: Tag | Digest,
        extra_tags: tuple[Tag, ...],
        body: bytes,
        content_type: str | None,
        conditions: Conditions,
        actor: Actor,
    ) -> Published:
        """Hold a manifest and let the tags mean it (end-7). See the door for what is refused.

        ManifestInvalid: it can't be read, or is not what it says. DigestInvalid: it has another digest than addressed.
        """
        pushed, tags = prepare(reference, extra_tags, body, content_type)

        def job(tx: UnitOfWork) -> Published:
            return self.publish(tx, repository, pushed, tags, conditions, actor)

        with self._refusals.told("push", repository, tags, pushed.digest, actor):
            return await self._database.write(job)

    def publish(
        self,
        tx: UnitOfWork,
        repository: Repository,
        pushed: PushedManifest,
        tags: tuple[Tag, ...],
        conditions: Conditions,
        actor: Actor,
    ) -> Published:
        """The same in a transaction that is under way, of what was prepared."""
        with self._bounds.counting(tx, actor.name):
            return self._publish(tx, repository, pushed, tags, conditions, actor)

    def _publish(
        self,
        tx: UnitOfWork,
        repository: Repository,
        pushed: PushedManifest,
        tags: tuple[Tag, ...],
        conditions: Conditions,
        actor: Actor,
    ) -> Published:
        place = RepositoryRow(repository, queries.ensure_repository(tx, repository, actor.name))
        there = queries.find_manifest(tx, place.id, str(pushed.digest))
        if not tags:
            check_conditions(conditions, f"manifest {pushed.digest.short}", there.digest if there else None)
        self._write(tx, place, pushed, tags, there, actor)
        standings = [self._door.publish(tx, place, tag, pushed, conditions, actor) for tag in tags]
        subject = pushed.manifest.subject
        return Published(
            digest=pushed.digest,
            tags=tags,
            subject=None if subject is None else subject.digest,
            ledger_index=standings[0].entry_index if standings else None,
            created=there is None or any(standing.changed for standing in standings),
        )

    def _write(
        self,
        tx: UnitOfWork,
        place: RepositoryRow,
        pushed: PushedManifest,
        tags: tuple[Tag, ...],
        there: ManifestRow | None,
        actor: Actor,
    ) -> None:
        manifest = pushed.manifest
        first = {there.media_type} if there else queries.media_types_of(tx, place.id, str(pushed.identity.canonical))
        if first and manifest.media_type not in first:
            raise ManifestInvalid(
                f"{pushed.digest.short} was first pushed to {place.repository} as {min(first)} and keeps that media type; "
                f"this push says {manifest.media_type}"
            )
        subjects = (self._door.spoken_of(tx, place, tag) for tag in tags)
        spoken_of = [subject for subject in subjects if subject is not None]
        if there is None:
            self._check_sizes(tx, place, manifest)
            if manifest.subject is not None:
                self._bounds.check_referrers(tx, place.id, manifest.subject.digest)
            links = [(str(link.descriptor.digest), str(link.kind)) for link in manifest.references()]
            links += [(str(subject), str(LinkKind.SIGNATURE_TAG)) for subject in spoken_of]
            queries.add_manifest(tx, place.id, _row(pushed, manifest, tx.now_us, actor), manifest.raw, links)
        else:
            for subject in spoken_of:
                queries.add_link(tx, place.id, str(pushed.digest), str(subject), str(LinkKind.SIGNATURE_TAG))

    def _check_sizes(self, tx: UnitOfWork, place: RepositoryRow, manifest: Manifest) -> None:
        """A manifest that says another size than what is held has could be published, and pulled by nobody."""
        named = {
            str(link.descriptor.digest): link.descriptor
            for link in manifest.references()
            if link.kind is not LinkKind.SUBJECT
        }
        for digest, size in queries.sizes_of(tx, place.id, list(named)).items():
            if named[digest].size != size:
                raise ManifestInvalid(
                    f"the manifest says that {named[digest].digest.short} has {named[digest].size} bytes, "
                    f"but what {place.repository} holds has {size}; build and push the image again"
                )


def prepare(
    reference: Tag | Digest, extra_tags: tuple[Tag, ...], body: bytes, content_type: str | None
) -> tuple[PushedManifest, tuple[Tag, ...]]:
    """What is pushed, and which tags shall mean it, each once. ManifestInvalid, DigestInvalid."""
    manifest = parse_manifest(body, content_type)
    canonical = Digest.of(body)
    digest = canonical
    tags = extra_tags
    if isinstance(reference, Digest):
        digest = canonical if reference.algorithm == SHA256 else Digest.of(body, reference.algorithm)
        if digest != reference:
            raise DigestInvalid(f"the manifest has digest {digest}, but was sent to {reference}")
    else:
        tags = (reference, *extra_tags)
    return PushedManifest(digest, Identity(canonical, manifest.media_type), manifest), tuple(dict.fromkeys(tags))


def _row(pushed: PushedManifest, manifest: Manifest, now_us: int, actor: Actor) -> ManifestRow:
    return ManifestRow(
        digest=str(pushed.digest),
        canonical=str(pushed.identity.canonical),
        media_type=manifest.media_type,
        size=len(manifest.raw),
        subject=None if manifest.subject is None else str(manifest.subject.digest),
        artifact_type=manifest.artifact_type,
        annotations=json.dumps(dict(manifest.annotations)) if manifest.annotations else None,
        pushed_us=now_us,
        pushed_by=actor.name,
    )
