"""Says that a sealed tag is deleted only when no server of the registry answers with its image any more.

Only sealed tags are cached by servers, so only they need this; a deleted one leaves a row, which says what the tag is sealed at.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from boltseal.errors import NotFound, Precondition, SealedPut
from boltseal.oci.reference import Repository, Tag
from boltseal.server.storage.metadata.protocol import Metadata


async def sealed_at(database: Metadata, repository: Repository, tag: Tag) -> str | None:
    """Return the digest of a sealed tag, which a request has found deleted; None if the tag is not sealed.

    Raises: Unavailable: a server may still answer with the tag.
    """
    digest = await database.lookups.content.bound(repository, tag)
    if digest is not None and database.taken_away is not None:
        await database.taken_away.until_gone()
    return digest


@asynccontextmanager
async def consistently(database: Metadata, repository: Repository, *tags: Tag) -> AsyncIterator[None]:
    """Let a refusal that can be due to deleted tags leave the block only when no server answers with these tags any more."""
    try:
        yield
    except (NotFound, Precondition, SealedPut):
        if database.taken_away is not None:
            for tag in tags:
                await sealed_at(database, repository, tag)
        raise
