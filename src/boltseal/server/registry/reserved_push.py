"""The local side of a push that the push proxy forwards to an upstream. No HTTP.

    reserve    checks the push as if it were made now, undoes that, reserves the tag and keeps the push's blobs for a
               day: one transaction, so that no other push gets the tag and no blob is collected meanwhile
    publish    upstream has the manifest: writes tag, ledger entry and what the mirror serves, and deletes the
               reservation: one transaction, through the tag writer like any other push
    drop       upstream does not have it: deletes the reservation, the only thing that was written

A reservation is a row of its own: it is no tag, and no client sees it. It has the manifest, so that another process can
publish a push whose process died after upstream took it. It blocks other pushes for one hour.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from boltseal.errors import Unavailable
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import LinkKind
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.rule_decision import decide
from boltseal.policy.rules import Mode
from boltseal.policy.upstream_moves import UpstreamAnswer
from boltseal.policy.upstreams import MoveTerms, OnMove
from boltseal.server.auth.actor import Actor
from boltseal.server.registry import observations
from boltseal.server.registry.manifests import Manifests, parse_upload
from boltseal.server.registry.models import UNCONDITIONAL, ManifestPush, ManifestUpload, Published, RepositoryRow
from boltseal.server.registry.observations import ObservationMissing
from boltseal.server.registry.refusals import RefusalLog
from boltseal.server.registry.sequencer import LedgerFrozen, LedgerMissing
from boltseal.server.registry.tag_writer import TagWriter
from boltseal.server.storage.metadata import hidden_blobs, queries, reservations
from boltseal.server.storage.metadata.protocol import Metadata, UnitOfWork
from boltseal.server.storage.metadata.reservations import ReservationRow

RESERVED_US: Final = 3_600_000_000
_FOLLOW: Final = MoveTerms(OnMove.FOLLOW)
"""The rules for tags that moved upstream do not hold back what was pushed through this registry."""


@dataclass(frozen=True, slots=True)
class ApprovedPush:
    """A push that the local rules accept.

    `mode`: the mode that the tag has or gets. `current`: the digest that it resolves to here now, or None.
    """

    mode: Mode
    current: Digest | None


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reserved tag: the push that reserved it, which has exactly one tag, and when the reservation ends."""

    push: ManifestPush
    expires_us: int

    @property
    def tag(self) -> Tag:
        """The reserved tag."""
        return self.push.tags[0]


class ReservedPushes:
    """Reserves, publishes and drops forwarded pushes.

    The preconditions of a push are those that its client set for upstream's state, so the methods here ignore them.
    """

    def __init__(self, database: Metadata, manifests: Manifests, tag_writer: TagWriter, refusals: RefusalLog) -> None:
        self._database = database
        self._refusals = refusals
        self._manifests = manifests
        self._tag_writer = tag_writer

    async def ensure_repository(self, repository: Repository, mirror: Actor) -> None:
        """Create the repository on behalf of the mirror, if it does not exist.

        A repository under an upstream's name that a client created would stop the server at its next start.
        """
        if not await self._database.lookups.content.repository(repository):
            await self._database.write(
                lambda tx: queries.ensure_repository(tx, repository, mirror.name), repository=repository
            )

    async def reserve(self, push: ManifestPush) -> ApprovedPush:
        """Check a push to one tag and reserve the tag.

        Raises:
            Unavailable: another push has reserved it.
            SealedPut, ManifestInvalid, ...: as `Manifests.put`.
        """
        (tag,) = push.tags
        push = await self._manifests.with_evidence(push)

        def job(tx: UnitOfWork) -> ApprovedPush:
            number = queries.ensure_repository(tx, push.repository, push.actor.name)
            repository = RepositoryRow(push.repository, number)
            current = self._tag_writer.digest_of(tx, repository, tag)
            with tx.rolled_back():
                self._manifests.publish(tx, _local(push))
                sealed = self._tag_writer.is_sealed(tx, repository, tag)
            row = reservations.find(tx, push.repository, tag)
            if row is not None and row.expires_us > tx.now_us:
                raise Unavailable(f"another push to {push.repository}:{tag} is unfinished; try again in a moment")
            reservations.remove(tx, push.repository, tag)
            reservations.add(tx, _row(push, tag, tx.now_us))
            _keep_parts(tx, number, push)
            mode = Mode.SEALED if sealed else decide(self._tag_writer.rules, push.repository, tag).mode
            return ApprovedPush(mode, current)

        with self._refusals.logged("push", push.repository, push.tags, push.pushed.digest, push.actor):
            return await self._database.write(job, repository=push.repository)

    async def publish(self, push: ManifestPush) -> Published:
        """Publish a push that upstream has taken. Raises as `Manifests.put`: the rules may have changed meanwhile."""
        (tag,) = push.tags
        push = await self._manifests.with_evidence(await self._manifests.with_chain(push))

        def job(tx: UnitOfWork) -> Published:
            published = self._manifests.publish(tx, _local(push))
            _observe(tx, push, tag)
            reservations.remove(tx, push.repository, tag)
            return published

        with self._refusals.logged("push", push.repository, push.tags, push.pushed.digest, push.actor):
            return await self._database.write(job, repository=push.repository)

    async def put(self, push: ManifestPush) -> Published:
        """Store a manifest without tags that upstream has taken."""
        unconditional = await self._manifests.with_chain(replace(push, conditions=UNCONDITIONAL))
        return await self._database.write(
            lambda tx: self._manifests.publish(tx, unconditional), repository=push.repository
        )

    async def check(self, push: ManifestPush) -> None:
        """Raise what `put` would raise, and keep the blobs of the push for a day."""

        def job(tx: UnitOfWork) -> None:
            number = queries.ensure_repository(tx, push.repository, push.actor.name)
            with tx.rolled_back():
                self._manifests.publish(tx, replace(push, conditions=UNCONDITIONAL))
            _keep_parts(tx, number, push)

        await self._database.write(job, repository=push.repository)

    async def drop(self, repository: Repository, tag: Tag) -> None:
        """Delete the reservation: upstream has not taken the push, and will not."""
        await self._database.write(lambda tx: reservations.remove(tx, repository, tag), repository=repository)

    async def drop_if_expired(self, repository: Repository, tag: Tag) -> bool:
        """Delete the reservation if its hour is over, and return whether the tag is free now."""

        def job(tx: UnitOfWork) -> bool:
            row = reservations.find(tx, repository, tag)
            if row is not None and row.expires_us > tx.now_us:
                return False
            reservations.remove(tx, repository, tag)
            return True

        return await self._database.write(job, repository=repository)

    async def find(self, repository: Repository, tag: Tag) -> Reservation | None:
        """Return the reservation of a tag, or None."""
        row = await self._database.read(lambda snapshot: reservations.find(snapshot, repository, tag))
        return None if row is None else _reservation(row)

    async def every(self) -> list[Reservation]:
        """Return all reservations, the oldest first."""
        return [_reservation(row) for row in await self._database.read(reservations.all_reservations)]

    async def repositories_with_blob(self, digest: Digest, prefix: str) -> list[Repository]:
        """Return the repositories whose name starts with a prefix and that have a blob."""

        found = await self._database.read(lambda snapshot: queries.repositories_with_blob(snapshot, str(digest), None))
        return [Repository(each.repository) for each in found if each.repository.startswith(prefix)]


def _keep_parts(tx: UnitOfWork, repository_id: int, push: ManifestPush) -> None:
    """Keep the blobs of a push for a day, as no manifest refers to them until it is published.

    That is longer than a reservation, so garbage collection takes none of them before the push is settled or its reservation expires.
    """
    blobs = {
        str(link.descriptor.digest)
        for link in push.pushed.manifest.references()
        if link.kind not in (LinkKind.CHILD, LinkKind.SUBJECT)
    }
    hidden_blobs.keep(tx, repository_id, blobs)


def _local(push: ManifestPush) -> ManifestPush:
    """Return the push as this registry makes it: the tag does not settle, since the upstream has no such state."""
    return replace(push, conditions=UNCONDITIONAL, may_settle=False)


def _observe(tx: UnitOfWork, push: ManifestPush, tag: Tag) -> None:
    pushed = push.pushed
    answer = UpstreamAnswer(pushed.identity.canonical, pushed.manifest.media_type, len(pushed.manifest.raw))
    try:
        observations.note(tx, push.repository, tag, answer, _FOLLOW, push.actor, "pushed through the push proxy")
    except (LedgerFrozen, LedgerMissing, ObservationMissing):
        # Upstream has the manifest and the ledger records it: a doubted log of observations undoes neither.
        tx.invalidates_caches = True  # caches may have the digest that the tag had before


def _row(push: ManifestPush, tag: Tag, now_us: int) -> ReservationRow:
    return ReservationRow(
        repository=push.repository,
        tag=tag,
        digest=str(push.pushed.digest),
        media_type=push.pushed.manifest.media_type,
        raw=push.pushed.manifest.raw,
        actor=push.actor.recorded,
        reserved_us=now_us,
        expires_us=now_us + RESERVED_US,
    )


def _reservation(row: ReservationRow) -> Reservation:
    upload = ManifestUpload(
        Repository(row.repository), Digest.parse(row.digest), row.raw, row.media_type, Actor.of_record(row.actor)
    )
    return Reservation(replace(parse_upload(upload), tags=(Tag(row.tag),)), row.expires_us)
