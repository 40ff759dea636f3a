"""Decides what `update` does for each service: take a new digest or version, or propose a newer version. Pure.

For a service, in this order:

1. It is built here, a rollback holds it, or its file has a digest that `boltseal pin` did not write: no update.
2. Its tag could not be resolved: unknown, with the reason.
3. Its tag looks like a release, so it should not move. A newer version of the same form whose deploy did not fail before
   is taken where the project's policy includes it, after the cooldown; a larger step is proposed for a person to take.
4. Its tag floats and resolves to the locked digest: no update.
5. It resolves to another digest whose deploy failed before: not taken automatically.
6. It has resolved to another digest for less than the cooldown: wait. Otherwise take it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from boltseal.client.registry_client import Resolved
from boltseal.deploy.compose_model import ComposeService
from boltseal.deploy.releases import Release, ReleasedService, ReleaseEnd, ServiceState
from boltseal.errors import BoltsealError
from boltseal.lockfile.document import lock_key
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from boltseal.policy.durations import rough_duration
from boltseal.policy.release_tags import looks_like_release
from boltseal.policy.update_policy import UpdateRules, candidates, choose
from boltseal.policy.version_order import VersionStep, newest_within


class UpdateAction(StrEnum):
    """The action for one service."""

    NOTHING = "nothing"
    TAKE = "take"
    WAIT = "wait"
    PROPOSE = "propose"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class UpdateStep:
    """A service and its action. `to`: the digest to take; `tag`: the version to take or to propose."""

    service: str
    image: Reference
    act: UpdateAction
    why: str
    to: Digest | None = None
    tag: Tag | None = None


@dataclass(frozen=True, slots=True)
class KnownImages:
    """What is known of the images, by their key in the lock.

    `locked`: digests in the lock. `resolutions`: the registries' digests, or the error. `tags`: the repositories' tags, or
    the error. `since_us`: since when we know the digest that a reference resolves to now. `failed`: services and digests whose deploy failed here;
    `failed_versions`: services and images. `held`: services that a rollback holds, with the reason.
    """

    locked: Mapping[Reference, Digest]
    resolutions: Mapping[Reference, Resolved | BoltsealError]
    tags: Mapping[Reference, Sequence[Tag] | BoltsealError]
    since_us: Mapping[Reference, int]
    failed: frozenset[tuple[str, str]] = frozenset()
    failed_versions: frozenset[tuple[str, str]] = frozenset()
    held: Mapping[str, str] = field(default_factory=dict)


def plan_updates(
    services: Iterable[ComposeService], known: KnownImages, rules: UpdateRules, *, now_us: int, major: bool
) -> tuple[UpdateStep, ...]:
    """Return one step for each service, in their order. `major`: also propose versions with a higher first number."""
    return tuple(_step(each, known, rules, now_us, major=major) for each in services)


def versions_to_resolve(
    services: Iterable[ComposeService],
    tags: Mapping[Reference, Sequence[Tag] | BoltsealError],
    failed: frozenset[tuple[str, str]],
    rules: UpdateRules,
) -> list[Reference]:
    """Return the newer versions that the rules may take, as references; what they resolve to decides about the cooldown."""
    found: list[Reference] = []
    for service in services:
        image, tag = lock_key(service.image), service.image.tag
        available, policy = tags.get(image), rules.of(service.name).policy
        if tag is None or policy is None or not isinstance(available, Sequence) or not is_version(service):
            continue
        allowed = [each for each in available if (service.name, _with_tag(image, each).familiar()) not in failed]
        found += [_with_tag(image, each) for each in candidates(tag, allowed, policy, rules.separator)]
    return list(dict.fromkeys(found))


def is_floating(service: ComposeService) -> bool:
    """Return whether a service's tag is of a floating form and its image is neither built here nor pinned."""
    tag = service.image.tag or Tag("latest")
    return not service.build and service.image.digest is None and not looks_like_release(tag)


def is_version(service: ComposeService) -> bool:
    """Return whether a service's tag is a version, so that newer ones can be proposed."""
    tag = service.image.tag
    return not service.build and service.image.digest is None and tag is not None and looks_like_release(tag)


def failed_before(releases: Iterable[Release]) -> frozenset[tuple[str, str]]:
    """Return the services and digests whose deploy failed and did not succeed later. `releases`: oldest first.

    Where Compose could not start a release and no single service is known to be the cause, all that was new in it counts.
    """
    return _failed(releases, lambda each: each.digest)


def failed_versions(releases: Iterable[Release]) -> frozenset[tuple[str, str]]:
    """Return the services and images, as the files have them but without digest, whose deploy failed and did not succeed later."""
    return _failed(releases, lambda each: each.image.partition("@")[0])


def _failed(releases: Iterable[Release], key: Callable[[ReleasedService], str]) -> frozenset[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    ran: set[tuple[str, str]] = set()
    for release in releases:
        deployed = {(each.name, key(each)) for each in release.services}
        if release.end is ReleaseEnd.HEALTHY:
            found -= deployed
            ran |= deployed
        elif release.end in (ReleaseEnd.PUT_BACK, ReleaseEnd.FAILED):
            named = {(each.name, key(each)) for each in release.services if each.state is ServiceState.FAILED}
            found |= named or deployed - ran
    return frozenset(found)


def _step(service: ComposeService, known: KnownImages, rules: UpdateRules, now_us: int, *, major: bool) -> UpdateStep:
    image = lock_key(service.image)
    if service.build:  # 1
        return UpdateStep(service.name, image, UpdateAction.NOTHING, "it is built here")
    if service.name in known.held:
        return UpdateStep(service.name, image, UpdateAction.NOTHING, known.held[service.name])
    if is_version(service):
        return _version(service, known, rules, now_us, major=major)
    if not is_floating(service):
        return UpdateStep(
            service.name,
            image,
            UpdateAction.NOTHING,
            "its file has a digest that `boltseal pin` did not write: change tag and digest by hand, or remove the digest",
        )
    resolved = known.resolutions.get(image)
    if not isinstance(resolved, Resolved):  # 2
        return UpdateStep(
            service.name, image, UpdateAction.UNKNOWN, "no registry was asked" if resolved is None else resolved.message
        )
    locked = known.locked.get(image)
    if locked == resolved.digest:  # 4
        return UpdateStep(
            service.name, image, UpdateAction.NOTHING, "it resolves to the locked digest", resolved.digest
        )
    if (service.name, str(resolved.digest)) in known.failed:  # 5
        why = f"health checks of {resolved.digest} failed here before; retry it with `boltseal deploy --update`"
        return UpdateStep(service.name, image, UpdateAction.NOTHING, why, resolved.digest)
    left_us = known.since_us.get(image, now_us) + rules.of(service.name).cooldown_us - now_us
    moved = f"{'nothing' if locked is None else locked} -> {resolved.digest}"
    if left_us > 0:  # 6
        return UpdateStep(
            service.name, image, UpdateAction.WAIT, f"{moved}, taken in {rough_duration(left_us)}", resolved.digest
        )
    return UpdateStep(service.name, image, UpdateAction.TAKE, moved, resolved.digest)


def _version(
    service: ComposeService, known: KnownImages, rules: UpdateRules, now_us: int, *, major: bool
) -> UpdateStep:
    """Return the step of rule 3."""
    image, tag = lock_key(service.image), service.image.tag
    if tag is None:
        raise AssertionError("no tag, though `is_version` requires one")
    available = known.tags.get(image)
    if available is None or isinstance(available, BoltsealError):
        return UpdateStep(
            service.name,
            image,
            UpdateAction.UNKNOWN,
            "no registry was asked" if available is None else available.message,
        )
    failed = {each for each in available if (service.name, _with_tag(image, each).familiar()) in known.failed_versions}
    allowed = [each for each in available if each not in failed]
    by_policy = _by_policy(service, tag, allowed, known, rules, now_us)
    if by_policy is not None:
        return by_policy
    step = VersionStep.MAJOR if major else VersionStep.MINOR
    best = newest_within(tag, allowed, step, rules.separator)
    if best is not None:
        return UpdateStep(service.name, image, UpdateAction.PROPOSE, f"{tag} -> {best}", tag=best)
    any_major = newest_within(tag, allowed, VersionStep.MAJOR, rules.separator)
    if any_major is not None:
        why = f"{any_major} is a new major version: --major proposes it"
        return UpdateStep(service.name, image, UpdateAction.NOTHING, why)
    best_failed = newest_within(tag, sorted(failed), VersionStep.MAJOR, rules.separator)
    if best_failed is not None:
        why = f"{best_failed} was deployed here before and failed; write it into the files to try it again"
        return UpdateStep(service.name, image, UpdateAction.NOTHING, why)
    return UpdateStep(service.name, image, UpdateAction.NOTHING, "there is no newer version of the same form")


def _by_policy(
    service: ComposeService, tag: Tag, allowed: Sequence[Tag], known: KnownImages, rules: UpdateRules, now_us: int
) -> UpdateStep | None:
    """Return the step to the version that the project's policy takes; None if it takes none."""
    rule, image = rules.of(service.name), lock_key(service.image)
    wanted = [] if rule.policy is None else candidates(tag, allowed, rule.policy, rules.separator)
    if not wanted:
        return None
    resolved = {each: known.resolutions.get(_with_tag(image, each)) for each in wanted}
    since_us = {
        each: known.since_us.get(_with_tag(image, each), now_us)
        for each, found in resolved.items()
        if isinstance(found, Resolved)
    }
    chosen = choose(wanted, since_us, now_us=now_us, cooldown_us=rule.cooldown_us)
    if chosen is None:
        error = resolved[wanted[0]]
        why = error.message if isinstance(error, BoltsealError) else "no registry was asked"
        return UpdateStep(service.name, image, UpdateAction.UNKNOWN, f"{wanted[0]}: {why}", tag=wanted[0])
    found = resolved[chosen.tag]
    digest = found.digest if isinstance(found, Resolved) else None
    if digest is not None and (service.name, str(digest)) in known.failed:
        why = f"{chosen.tag} is {digest}, whose health checks failed here before"
        return UpdateStep(service.name, image, UpdateAction.NOTHING, why, digest)
    why = f"{tag} -> {chosen.tag}"
    if chosen.wait_us > 0:
        why = f"{why}, taken in {rough_duration(chosen.wait_us)}"
        return UpdateStep(service.name, image, UpdateAction.WAIT, why, digest, chosen.tag)
    return UpdateStep(service.name, image, UpdateAction.TAKE, why, digest, chosen.tag)


def _with_tag(image: Reference, tag: Tag) -> Reference:
    return Reference(image.registry, image.repository, tag)
