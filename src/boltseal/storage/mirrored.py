"""What the store knows of repositories that are mirrored, beside their rows. Plain reads and writes, no rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from boltseal.storage.schema import foreign_tag

if TYPE_CHECKING:
    from sqlalchemy import Connection


def tags_seen(connection: Connection, repository: str, limit: int) -> list[str]:
    """The tags of a mirrored repository that were seen upstream and not missed since, sorted by bytes."""
    query = select(foreign_tag.c.name).where(
        foreign_tag.c.repository == repository, foreign_tag.c.digest.is_not(None), foreign_tag.c.gone_us.is_(None)
    )
    return list(connection.execute(query.order_by(foreign_tag.c.name).limit(limit)).scalars())
