"""A push that is passed on to an upstream, as our store sees it: judged and reserved before, published after. No HTTP.

    reserve    the door judges the push as if it were made now, nothing of that stays, and the name is reserved: one
               transaction, so that nobody else is let to it meanwhile
    publish    upstream has it: tag, ledger entry, and what the mirror is to serve, and the reservation is gone: one
               transaction, through the door like any other push
    drop       upstream has it not: the reservation is gone, and nothing else was ever there

A reservation is a row of its own: no tag, served to nobody, listed nowhere. It holds the manifest, so that what was passed
on by a process that died can be published by another. After an hour it stands in nobody's way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from boltseal.errors import Unavailable
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.rule_decision import decide
from boltseal.policy.rules import Mode
from boltseal.policy.upstream_moves import UpstreamAnswer
from boltseal.policy.upstreams import MoveTerms, OnMove
from boltseal.server.auth.actor import Actor
from boltseal.server.registry import observations
from boltseal.server.registry.manifests import prepare
from boltseal.server.registry.models import UNCONDITIONAL, RepositoryRow
from boltseal.server.registry.observations import ObservationMissing
from boltseal.server.registry.sequencer import LedgerFrozen, LedgerMissing
from boltseal.server.storage.metadata import queries, reservations
from boltseal.server.storage.metadata.reservations import ReservationRow

if TYPE_CHECKING:
    from boltseal.server.registry.manifests import Manifests
    from boltseal.server.registry.models import Published, PushedManifest
    from boltseal.server.registry.refusals import RefusalLog
    from boltseal.server.registry.tag_writer import TagWriter
    from boltseal.server.storage.metadata.protocol import Metadata, UnitOfWork

RESERVED_US: Final = 3_600_000_000
_OURS: Final = MoveTerms(OnMove.FOLLOW)
"""What was pushed through our own gate is not held back by a rule about other people's moves."""


class PushInProgress(Unavailable):
    """Another push to this name is on its way, or was when its process died, and upstream can't be asked what became of it."""


@dataclass(frozen=True, slots=True)
class ApprovedPush:
    """A push that our rules let through. `mode`: what the name is, or becomes; `ours`: what it means here now, or None."""

    mode: Mode
    ours: Digest | None


@dataclass(frozen=True, slots=True)
class Reservation:
    """A name that is reserved, for whom, and for what."""

    repository: Repository
    tag: Tag
    pushed: PushedManifest
    actor: Actor
    expires_us: int


class ReservedPushes:
    """The store's side of the gate. `door`: whose rules hold."""

    def __init__(self, database: Metadata, manifests: Manifests, door: TagWriter, refusals: RefusalLog) -> None:
        self._database = database
        self._refusals = refusals
        self._manifests = manifests
        self._door = door

    async def begin(self, repository: Repository, mirror: Actor) -> None:
        """Let a repository be there, made by the mirror: else its name would be taken for one of ours at the next start."""
        if not await self._database.lookups.repository(repository):
            await self._database.write(lambda tx: queries.ensure_repository(tx, repository, mirror.name))

    async def reserve(self, repository: Repository, tag: Tag, pushed: PushedManifest, actor: Actor) -> ApprovedPush:
        """Judge a push and reserve its name. What the door raises; PushInProgress."""

        def job(tx: UnitOfWork) -> ApprovedPush:
            place = RepositoryRow(repository, queries.ensure_repository(tx, repository, actor.name))
            ours = self._door.meaning(tx, place, tag)
            with tx.rolled_back():
                self._manifests.publish(tx, repository, pushed, (tag,), UNCONDITIONAL, actor)
                sealed = self._door.seals(tx, place, tag)
            held = reservations.find(tx, repository, tag)
            if held is not None and held.expires_us > tx.now_us:
                raise PushInProgress(f"another push to {repository}:{tag} is on its way; try again in a moment")
            reservations.remove(tx, repository, tag)
            reservations.add(tx, _row(repository, tag, pushed, actor, tx.now_us))
            mode = decide(self._door.rules, repository, tag).mode
            return ApprovedPush(Mode.SEALED if sealed else mode, ours)

        with self._refusals.told("push", repository, (tag,), pushed.digest, actor):
            return await self._database.write(job)

    async def publish(self, repository: Repository, tag: Tag, pushed: PushedManifest, actor: Actor) -> Published:
        """Upstream has it. What the door raises: our rules may have changed meanwhile."""

        def job(tx: UnitOfWork) -> Published:
            published = self._manifests.publish(tx, repository, pushed, (tag,), UNCONDITIONAL, actor)
            self._observe(tx, repository, tag, pushed, actor)
            reservations.remove(tx, repository, tag)
            return published

        with self._refusals.told("push", repository, (tag,), pushed.digest, actor):
            return await self._database.write(job)

    async def put(self, repository: Repository, pushed: PushedManifest, actor: Actor) -> Published:
        """Hold a manifest that upstream has, by its digest alone."""
        return await self._database.write(
            lambda tx: self._manifests.publish(tx, repository, pushed, (), UNCONDITIONAL, actor)
        )

    async def check(self, repository: Repository, pushed: PushedManifest, actor: Actor) -> None:
        """Raise what would be raised if a manifest were held by its digest alone; nothing of it stays."""

        def job(tx: UnitOfWork) -> None:
            with tx.rolled_back():
                self._manifests.publish(tx, repository, pushed, (), UNCONDITIONAL, actor)

        await self._database.write(job)

    async def drop(self, repository: Repository, tag: Tag) -> None:
        """Upstream has it not, and will not get it from this push."""
        await self._database.write(lambda tx: reservations.remove(tx, repository, tag))

    async def drop_if_over(self, repository: Repository, tag: Tag) -> bool:
        """Let a name go whose hour is over; whether it was so."""

        def job(tx: UnitOfWork) -> bool:
            row = reservations.find(tx, repository, tag)
            if row is not None and row.expires_us > tx.now_us:
                return False
            reservations.remove(tx, repository, tag)
            return True

        return await self._database.write(job)

    async def reserved(self, repository: Repository, tag: Tag) -> Reservation | None:
        """Who has reserved a name, or None."""
        row = await self._database.read(lambda held: reservations.find(held, repository, tag))
        return None if row is None else _reservation(row)

    async def every(self) -> list[Reservation]:
        """All names that are reserved, the oldest first."""
        return [_reservation(row) for row in await self._database.read(reservations.all_reservations)]

    async def holders(self, digest: Digest, prefix: str) -> list[Repository]:
        """The repositories below a prefix that hold a blob."""

        def names(tx: UnitOfWork) -> list[Repository]:
            found = queries.repositories_with_blob(tx, str(digest), None)
            return [Repository(name) for name, _ in found if name.startswith(prefix)]

        return await self._database.write(names)

    def _observe(self, tx: UnitOfWork, repository: Repository, tag: Tag, pushed: PushedManifest, actor: Actor) -> None:
        seen = UpstreamAnswer(pushed.identity.canonical, pushed.manifest.media_type, len(pushed.manifest.raw))
        try:
            observations.note(tx, repository, tag, seen, _OURS, actor, "pushed through the gate")
        except (LedgerFrozen, LedgerMissing, ObservationMissing):
            tx.invalidates_caches = True  # what was served under that name is over all the same
            return  # upstream has it, and the ledger says so: a doubted log of observations undoes neither


def _row(repository: Repository, tag: Tag, pushed: PushedManifest, actor: Actor, now_us: int) -> ReservationRow:
    return ReservationRow(
        repository=repository,
        tag=tag,
        digest=str(pushed.digest),
        media_type=pushed.manifest.media_type,
        raw=pushed.manifest.raw,
        actor=actor.name,
        reserved_us=now_us,
        expires_us=now_us + RESERVED_US,
    )


def _reservation(row: ReservationRow) -> Reservation:
    pushed, _ = prepare(Digest.parse(row.digest), (), row.raw, row.media_type)
    return Reservation(Repository(row.repository), Tag(row.tag), pushed, Actor(row.actor), row.expires_us)
