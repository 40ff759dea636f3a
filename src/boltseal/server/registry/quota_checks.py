"""What users may add: their quotas, how many uploads they may have open, how many referrers an image may have.

The rules are `policy.quotas`, the totals `server.storage.metadata.usage`. Quotas are looked at twice: before bytes are taken in, so that
nobody sends for an hour what is refused at its end, and in the transaction that adds the rows, which alone decides: two
pushes at once can't both take what is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from boltseal.errors import Denied
from boltseal.policy.quotas import NO_QUOTAS, UNLIMITED, Quotas
from boltseal.server.storage.metadata import queries, usage

if TYPE_CHECKING:
    from boltseal.oci.digest import Digest
    from boltseal.server.storage.metadata.protocol import Metadata, Snapshot, UnitOfWork


class ReferrersTooMany(Denied):
    """An image that has as many referrers as it may."""


@dataclass(frozen=True, slots=True)
class QuotaChecks:
    """Every bound in force; 0: none."""

    quotas: Quotas = NO_QUOTAS
    uploads_per_user: int = 0
    referrers_per_image: int = 0

    @contextmanager
    def counting(self, tx: UnitOfWork, user: str) -> Iterator[None]:
        """Around whatever adds rows for a user: QuotaExceeded when they hold more than before, and too much."""
        quota = self.quotas.of(user)
        if quota is UNLIMITED:
            yield
            return
        before = usage.total_of(tx, user)
        yield
        after = usage.total_of(tx, user)
        quota.check(
            user,
            after.size_bytes if after.size_bytes > before.size_bytes else 0,
            after.repositories if after.repositories > before.repositories else 0,
        )

    async def left_bytes(self, database: Metadata, user: str, repository: str) -> int | None:
        """How much a user may add to a repository now, None: any amount. QuotaExceeded when it is nothing."""
        quota = self.quotas.of(user)
        if quota is UNLIMITED:
            return None

        def look(snapshot: Snapshot) -> tuple[usage.UserUsage, bool]:
            return usage.total_of(snapshot, user), queries.repository_exists(snapshot, repository)

        held, exists = await database.read(look)
        quota.check(user, held.size_bytes + 1, 0 if exists else held.repositories + 1)
        return None if quota.max_bytes is None else quota.max_bytes - held.size_bytes

    def check_bytes(self, user: str, left_bytes: int, size_bytes: int) -> None:
        """QuotaExceeded when an upload that has grown so large is more than was left."""
        quota = self.quotas.of(user)
        if size_bytes > left_bytes and quota.max_bytes is not None:
            quota.check(user, quota.max_bytes - left_bytes + size_bytes, 0)

    def check_referrers(self, tx: UnitOfWork, repository_id: int, subject: Digest) -> None:
        """ReferrersTooMany when another one is too many."""
        most = self.referrers_per_image
        if most and queries.count_referrers(tx, repository_id, str(subject), most) >= most:
            raise ReferrersTooMany(
                f"{subject.short} has {most} referrers (signatures, SBOMs, ...) and may have no more: delete what is not "
                "needed any more, or ask whoever runs this registry to raise max_referrers_per_image"
            )


UNCHECKED = QuotaChecks()
