"""Since when we know what a tag resolves to: for the cooldown of `update`.

1. This machine's own observations (`client.tag_observations`); this look is recorded too.
2. At our own registry, its ledger: the time of the entry by which the tag resolved to the digest, proven to be in the signed
   ledger. A registry is ours if its ledger's key was given (`boltseal ledger trust`), or if it is on this machine: any
   registry can serve a ledger with times of its choice.
3. At our own mirror, its log of observations: since when it has served the digest. The key of that log counts.

The creation time in an image is not used, since its publisher can choose it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from boltseal.client.history import ProvenHistory, read_tags
from boltseal.client.hosts import is_loopback
from boltseal.client.tag_observations import TagObservations
from boltseal.client.transport import Transport
from boltseal.commands.mirror_observations import observed_since
from boltseal.commands.registry_access import RegistryOptions, followed
from boltseal.errors import BoltsealError
from boltseal.ledger.follow import LedgerBroken
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag


async def known_since(
    transport: Transport, options: RegistryOptions, current: Mapping[Reference, Digest], now_us: int, *, remember: bool
) -> dict[Reference, int]:
    """Return since when we know the digest of each reference, in microseconds since the epoch.

    `now_us`: the time of the caller's decision. `remember`: record this look. Raises: LedgerBroken, StateUnusable.
    """
    with TagObservations(options.client.state) as observations:
        if remember and current:
            observations.record_all(current.items(), now_us)
        found = {}
        for reference, digest in current.items():
            past = observations.past(reference)
            seen = past and past[-1].digest == digest
            found[reference] = past[-1].first_seen_us if seen else now_us
    for registry in sorted({reference.registry for reference in current}):
        here = {reference: digest for reference, digest in current.items() if reference.registry == registry}
        has_ledger, times = await _by_ledger(transport, options, registry, here)
        for reference, digest in here.items():
            if reference not in times:
                mirrored = await observed_since(transport, options, reference, digest, has_ledger=has_ledger)
                if mirrored is not None and mirrored.ours and mirrored.proven:
                    times[reference] = mirrored.time_us
        for reference, time_us in times.items():
            found[reference] = min(found[reference], time_us)
    return found


class _LedgerTimes(NamedTuple):
    """Whether a registry has a ledger, and the times of its entries."""

    has_ledger: bool
    times: dict[Reference, int]


async def _by_ledger(
    transport: Transport, options: RegistryOptions, registry: str, current: Mapping[Reference, Digest]
) -> _LedgerTimes:
    """Return the times of the ledger's entries; none for a registry that is not ours, or that does not show them."""
    has_ledger = False
    try:
        check = await followed(options, transport, registry)
        has_ledger = check.head is not None
        if not has_ledger or not (check.given or is_loopback(registry)):
            return _LedgerTimes(has_ledger, {})
        names = {(each.repository, each.tag or Tag("latest")): each for each in current}
        digests = {name: str(current[each]) for name, each in names.items()}
        read = await read_tags(transport, registry, digests, lambda registry: followed(options, transport, registry))
    except LedgerBroken:
        raise
    except BoltsealError:
        return _LedgerTimes(has_ledger, {})
    times = {
        names[name]: time_us
        for name, history in read.items()
        if isinstance(history, ProvenHistory) and (time_us := _began_us(history, name[1], digests[name])) is not None
    }
    return _LedgerTimes(has_ledger, times)


def _began_us(history: ProvenHistory, tag: Tag, digest: str) -> int | None:
    """Return the time since when a tag has resolved to a digest, by a history without problems."""
    began = None
    for at in history.history.of(tag):
        if at.entry.digest != digest:
            began = None
        elif began is None and at.index in history.proven:
            began = at.entry.time_us
    return None if history.problems else began
