"""Since when our mirror has served a digest under an upstream's tag, by its log of observations.

The registry in a reference may be a mirror itself, and the user may have configured one for it (`[client] mirrors`). The log
says what the mirror observed; who pushed an image upstream, and when, is not in it.
"""

from __future__ import annotations

from typing import NamedTuple

from boltseal.client.history import ProvenHistory, read_observed
from boltseal.client.hosts import is_loopback
from boltseal.client.transport import Transport
from boltseal.commands.registry_access import RegistryOptions, followed
from boltseal.errors import BoltsealError
from boltseal.ledger.follow import LedgerBroken
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from boltseal.project.bases.former_images import SERVED_KINDS
from boltseal.project.bases.image_documents import RemoteRepository, read_from


class Observed(NamedTuple):
    """The observation by which a tag resolves to a digest: the mirror, the time, and whether its log proves it.

    `ours`: the key of the log was given, or the mirror is on this machine.
    """

    mirror: str
    time_us: int
    proven: bool
    ours: bool


async def observed_since(
    transport: Transport, options: RegistryOptions, reference: Reference, digest: Digest, *, has_ledger: bool
) -> Observed | None:
    """Return since when a mirror has served a digest under a tag; None if no mirror says that it still does.

    `has_ledger`: of the registry in the reference; only such a registry can be a mirror with a log. Raises: LedgerBroken.
    """
    remote = RemoteRepository(reference.registry, reference.repository)
    tag = reference.tag or Tag("latest")
    for place in read_from(options.client.settings.mirrors, remote):
        if place == remote and not has_ledger:
            continue
        try:
            history = await read_observed(
                transport, place.registry, place.repository, tag, lambda log: followed(options, transport, log)
            )
        except LedgerBroken:
            raise
        except BoltsealError:  # it has no log of observations, or does not show it
            continue
        found = None if history is None else _since(history, place.registry, str(digest))
        if found is not None:
            return found
    return None


def _since(history: ProvenHistory, mirror: str, digest: str) -> Observed | None:
    """Return the first of the last observations in a row that have the digest. What was held back was not served."""
    found = None
    for at in history.history.entries:
        if at.entry.kind not in SERVED_KINDS:
            continue
        if at.entry.digest != digest:
            found = None
        elif found is None:
            found = at
    if found is None:
        return None
    proven = found.index in history.proven and not history.problems
    return Observed(mirror, found.entry.time_us, proven, history.followed.given or is_loopback(mirror))
