"""Enforces what users may add: quotas, open uploads per user, referrers per image.

`policy.quotas` has the rules, `server.storage.metadata.usage` the totals. Quotas are checked twice: before an upload, so
that a client does not send bytes for an hour and is refused at the end, and in the transaction that adds the rows. Only
the second check decides, so two concurrent pushes cannot both use the same remainder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from boltseal.errors import TooMany
from boltseal.oci.digest import Digest
from boltseal.policy.quotas import NO_QUOTAS, UNLIMITED, QuotaExceeded, Quotas
from boltseal.server.storage.metadata import queries, upload_table, usage
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot, UnitOfWork


class UploadsTooMany(TooMany):
    """The client has as many open uploads as it may have."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"you have {most} uploads open, and may have no more: finish or cancel some, then try again; uploads that are "
            "not continued end by themselves after a day"
        )


@dataclass(frozen=True, slots=True)
class QuotaChecks:
    """Every limit in force. 0 means no limit."""

    quotas: Quotas = NO_QUOTAS
    uploads_per_user: int = 0
    referrers_per_image: int = 0

    @contextmanager
    def counting(self, tx: UnitOfWork, user: str) -> Iterator[None]:
        """Check the user's quota after a block that adds rows for that user.

        Raises:
            QuotaExceeded: the block added something, and the total is over the quota.
        """
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
        """Return how many bytes a user may add to a repository now; None: any amount.

        Raises:
            QuotaExceeded: none.
        """
        quota = self.quotas.of(user)
        if quota is UNLIMITED:
            return None

        def look_up(snapshot: Snapshot) -> tuple[usage.UserUsage, bool]:
            return usage.total_of(snapshot, user), queries.repository_exists(snapshot, repository)

        used, exists = await database.read(look_up)
        quota.check(user, used.size_bytes + 1, 0 if exists else used.repositories + 1)
        return None if quota.max_bytes is None else quota.max_bytes - used.size_bytes

    def check_bytes(self, user: str, left_bytes: int, size_bytes: int) -> None:
        """Check a growing upload against the bytes that were left when it began.

        Raises:
            QuotaExceeded: the upload is larger.
        """
        quota = self.quotas.of(user)
        if size_bytes > left_bytes and quota.max_bytes is not None:
            quota.check(user, quota.max_bytes - left_bytes + size_bytes, 0)

    def check_uploads(self, tx: UnitOfWork, owner: str) -> None:
        """Check that an owner may begin another upload.

        Raises:
            UploadsTooMany: the owner has the maximum.
        """
        limit = self.uploads_per_user
        if limit and upload_table.count_of(tx, owner) >= limit:
            raise UploadsTooMany(limit)

    def check_referrers(self, tx: UnitOfWork, repository_id: int, subject: Digest) -> None:
        """Check that an image may have one more referrer.

        Raises:
            QuotaExceeded: it has the maximum.
        """
        limit = self.referrers_per_image
        if limit and queries.count_referrers(tx, repository_id, str(subject), limit) >= limit:
            raise QuotaExceeded(
                f"{subject.short} has {limit} referrers (signatures, SBOMs, ...), the maximum: delete referrers that are "
                "no longer needed, or ask the operator to raise max_referrers_per_image"
            )


UNCHECKED = QuotaChecks()
