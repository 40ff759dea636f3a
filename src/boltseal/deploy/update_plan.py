"""What `update` may do for each service: take what a floating tag means now, or propose a newer version. Pure.

For a service, in this order:

1. It is built here, or its file pins it: nothing moves by itself.
2. What its tag means could not be told: it is left, with the reason.
3. Its tag looks like a release: it does not move. A newer version of the same form is proposed, for a person to take.
4. Its tag floats and means what is locked: nothing is new.
5. It means something else, and that was deployed before and did not get healthy: not again by itself.
6. It means something else, for less than the cooldown: wait. Otherwise it is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from boltseal.client.registry_client import Resolved
from boltseal.client.tag_observations import ObservedInterval
from boltseal.deploy.compose_model import ComposeService
from boltseal.deploy.releases import Release, ReleaseEnd, ServiceState
from boltseal.errors import BoltsealError
from boltseal.lockfile.document import lock_key
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from boltseal.policy.durations import format_duration
from boltseal.policy.release_tags import looks_like_release
from boltseal.policy.version_order import newer


class UpdateAction(StrEnum):
    """What is to be done with a service."""

    NOTHING = "nothing"
    TAKE = "take"
    WAIT = "wait"
    PROPOSE = "propose"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class UpdateStep:
    """A service, and what is to be done with it. `to`: the digest that is taken, `tag`: the version that is proposed."""

    service: str
    image: Reference
    act: UpdateAction
    why: str
    to: Digest | None = None
    tag: Tag | None = None


@dataclass(frozen=True, slots=True)
class KnownImages:
    """What is known of the images, by their name in a lock.

    `locked`: what the lock says. `meanings`, `tags`: what registries say, or why they do not. `past`: what tags were seen
    to mean, the newest last. `failed`: what did not get healthy here, as service and digest.
    """

    locked: Mapping[Reference, Digest]
    meanings: Mapping[Reference, Resolved | BoltsealError]
    tags: Mapping[Reference, Sequence[Tag] | BoltsealError]
    past: Mapping[Reference, Sequence[ObservedInterval]]
    failed: frozenset[tuple[str, str]] = frozenset()


def plan_updates(
    services: Iterable[ComposeService], known: KnownImages, *, now_us: int, cooldown_us: int, major: bool
) -> tuple[UpdateStep, ...]:
    """One for each service, in their order. `major`: also versions with a higher first number are proposed."""
    return tuple(_step(each, known, now_us, cooldown_us, major=major) for each in services)


def is_floating(service: ComposeService) -> bool:
    """Whether a service's image moves by the custom of its tag."""
    tag = service.image.tag or Tag("latest")
    return not service.build and service.image.digest is None and not looks_like_release(tag)


def is_version(service: ComposeService) -> bool:
    """Whether newer versions of a service's image may be looked for."""
    tag = service.image.tag
    return not service.build and service.image.digest is None and tag is not None and looks_like_release(tag)


def failed_before(releases: Iterable[Release]) -> frozenset[tuple[str, str]]:
    """Service and digest of what was deployed and did not get healthy, unless it did later. `releases`: oldest first.

    Where Compose could not start a release and no service is known to be the reason, it is whatever was new in it.
    """
    found: set[tuple[str, str]] = set()
    ran: set[tuple[str, str]] = set()
    for release in releases:
        deployed = {(each.name, each.digest) for each in release.services}
        if release.end is ReleaseEnd.HEALTHY:
            found -= deployed
            ran |= deployed
        elif release.end in (ReleaseEnd.PUT_BACK, ReleaseEnd.FAILED):
            named = {(each.name, each.digest) for each in release.services if each.state is ServiceState.FAILED}
            found |= named or deployed - ran
    return frozenset(found)


def _step(service: ComposeService, known: KnownImages, now_us: int, cooldown_us: int, *, major: bool) -> UpdateStep:
    image = lock_key(service.image)
    if service.build:  # 1
        return UpdateStep(service.name, image, UpdateAction.NOTHING, "it is built here")
    if is_version(service):
        return _version(service, known, major=major)
    if not is_floating(service):
        return UpdateStep(
            service.name, image, UpdateAction.NOTHING, "its file pins it, and is not edited: see `boltseal pin`"
        )
    meaning = known.meanings.get(image)
    if not isinstance(meaning, Resolved):  # 2
        return UpdateStep(
            service.name, image, UpdateAction.UNKNOWN, "nobody was asked" if meaning is None else meaning.message
        )
    locked = known.locked.get(image)
    if locked == meaning.digest:  # 4
        return UpdateStep(service.name, image, UpdateAction.NOTHING, "it means what is locked", meaning.digest)
    if (service.name, str(meaning.digest)) in known.failed:  # 5
        why = f"{meaning.digest.short} was deployed here and did not get healthy; `boltseal deploy --update` tries it again"
        return UpdateStep(service.name, image, UpdateAction.NOTHING, why, meaning.digest)
    past = known.past.get(image, ())
    since_us = past[-1].first_seen_us if past and past[-1].digest == meaning.digest else now_us
    left_us = since_us + cooldown_us - now_us
    moved = f"{'nothing' if locked is None else locked.short} -> {meaning.digest.short}"
    if left_us > 0:  # 6
        return UpdateStep(
            service.name, image, UpdateAction.WAIT, f"{moved}, taken in {format_duration(left_us)}", meaning.digest
        )
    return UpdateStep(service.name, image, UpdateAction.TAKE, moved, meaning.digest)


def _version(service: ComposeService, known: KnownImages, *, major: bool) -> UpdateStep:
    """3."""
    image, tag = lock_key(service.image), service.image.tag
    if tag is None:
        raise AssertionError("a version has a tag")
    there = known.tags.get(image)
    if there is None or isinstance(there, BoltsealError):
        return UpdateStep(
            service.name, image, UpdateAction.UNKNOWN, "nobody was asked" if there is None else there.message
        )
    found = newer(tag, there)
    best = found.any_major if major else found.same_major
    if best is not None:
        return UpdateStep(service.name, image, UpdateAction.PROPOSE, f"{tag} -> {best}", tag=best)
    if found.any_major is not None:
        why = f"{found.any_major} is there, with another first number: --major proposes it"
        return UpdateStep(service.name, image, UpdateAction.NOTHING, why)
    return UpdateStep(service.name, image, UpdateAction.NOTHING, "no newer version of the same form is there")
