"""Reserves a prefix of a bucket from the start of a move or a restore, so that no other registry, move or restore gets it meanwhile.

The reservation is the owner object (`bucket_owner`) with the ID that the registry will have there. A server that starts on the prefix with
another database is refused, and so is another move. In the last step the object is compared once more (`take_over`).
"""

from __future__ import annotations

from typing import Final

from boltseal.server.storage.bucket_owner import KEY, PROBE, BucketTaken, owner_now, registry_in, take_over
from boltseal.server.storage.object_client import ObjectClient, SmallObject

NOT_CONTENT: Final = frozenset({PROBE, "health"})
"""What the start of a server that was refused leaves in an unused prefix."""


def foreign_object(client: ObjectClient) -> str | None:
    """Return the key of an object in the prefix, None if the prefix is unused. Raises: Unavailable."""
    for page in client.listed(""):
        for each in page:
            if each.key not in NOT_CONTENT:
                return each.key
    return None


def reserve(client: ObjectClient, registry: str, shown: str, *, former: str = "") -> SmallObject:
    """Reserve a prefix that has no owner, or the owner `former`: that of an undone move. Idempotent. Return the owner object.

    Raises: BucketTaken: another registry owns the prefix. Unavailable: perhaps done; repeat it.
    """
    before = owner_now(client)
    if before is None or (former and registry_in(before, shown) == former):
        take_over(client, registry, shown, before)
        before = owner_now(client)
    if before is None or registry_in(before, shown) != registry:
        raise BucketTaken(
            f"{shown} belongs to another registry, or another move or restore has reserved it (its object {KEY!r}); name an unused "
            "bucket or prefix"
        )
    return before
