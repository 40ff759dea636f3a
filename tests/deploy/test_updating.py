"""The update plan of each service."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from boltseal.client.errors import RemoteUnavailable
from boltseal.client.registry_client import Resolved
from boltseal.deploy.compose_model import ComposeService
from boltseal.deploy.releases import Release, ReleasedService, ReleaseEnd, ServiceState
from boltseal.deploy.update_plan import (
    KnownImages,
    UpdateAction,
    UpdateStep,
    failed_before,
    failed_versions,
    is_floating,
    is_version,
    plan_updates,
    versions_to_resolve,
)
from boltseal.lockfile.document import lock_key
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from boltseal.policy.update_policy import UpdateRule, UpdateRules
from boltseal.policy.version_order import VersionStep
from tests.deploy.samples import release

OLD, NEW = (Digest("sha256", letter * 64) for letter in "12")
DAY_US = 86_400_000_000
NOW_US = 20_000 * DAY_US
EDGE = lock_key(Reference.parse("localhost:5000/shop/app:edge"))
VERSION = lock_key(Reference.parse("localhost:5000/shop/app:1.2.3-alpine"))


def service(image: Reference, *, build: bool = False) -> ComposeService:
    """Return a service of an image."""
    return ComposeService("web", image, build, 1, {}, ())


def _service(image: str, state: ServiceState) -> ReleasedService:
    return ReleasedService(name="web", image=image, digest=str(NEW), image_id=str(NEW), state=state)


def step(
    of: ComposeService,
    *,
    major: bool = False,
    cooldown_us: int = 0,
    policy: VersionStep | None = None,
    **known: Any,
) -> UpdateStep:
    """Return the update step of one service."""
    rules = UpdateRules(UpdateRule(policy, cooldown_us))
    known_values: dict[str, Any] = {"locked": {EDGE: OLD}, "resolutions": {}, "tags": {}, "since_us": {}} | known
    (found,) = plan_updates([of], KnownImages(**known_values), rules, now_us=NOW_US, major=major)
    return found


def resolves_to(digest: Digest) -> dict[Reference, Resolved]:
    """Return a registry's answer for a tag."""
    return {EDGE: Resolved(digest, "application/vnd.oci.image.index.v1+json", 500)}


def test_floating_tags_are_distinguished_from_versions() -> None:
    """Floating tags and versions are distinguished by the tag's form; local builds and pinned images are neither."""
    names = ("app", "app:edge", "app:1.2.3", f"app:edge@{OLD}", f"app:1.2.3@{OLD}")
    services = [service(Reference.parse(name)) for name in names]
    built = service(Reference.parse("app:1.2.3"), build=True)

    assert [is_floating(each) for each in services] == [True, True, False, False, False]
    assert [is_version(each) for each in services] == [False, False, True, False, False]
    assert not is_floating(built)
    assert not is_version(built)


@pytest.mark.parametrize(
    ("of", "why"),
    [
        (service(EDGE, build=True), "it is built here"),
        (service(Reference.parse(f"localhost:5000/shop/app:edge@{OLD}")), "boltseal pin"),
    ],
)
def test_rule_1_local_builds_and_pins_are_not_updated(of: ComposeService, why: str) -> None:
    """Rule 1: a local build, or an image that its file pins, is not updated."""
    done = step(of, resolutions=resolves_to(NEW))

    assert (done.act, done.to) == (UpdateAction.NOTHING, None)
    assert why in done.why


def test_rule_2_an_unresolved_tag_is_unknown() -> None:
    """Rule 2: an unresolved tag is unknown, with the reason: no registry was asked, or none answered."""
    asked = step(service(EDGE), resolutions={EDGE: RemoteUnavailable("localhost:5000 does not answer")})

    assert (asked.act, asked.why) == (UpdateAction.UNKNOWN, "localhost:5000 does not answer")
    assert step(service(EDGE)).act is UpdateAction.UNKNOWN
    assert step(service(VERSION)).act is UpdateAction.UNKNOWN
    assert step(service(VERSION), tags={VERSION: RemoteUnavailable("no")}).act is UpdateAction.UNKNOWN


@pytest.mark.parametrize(
    ("tags", "major", "act", "tag"),
    [
        (["1.2.3-alpine", "1.3.0-alpine", "1.4.0", "edge"], False, UpdateAction.PROPOSE, "1.3.0-alpine"),
        (["1.2.3-alpine", "2.0.0-alpine"], False, UpdateAction.NOTHING, None),
        (["1.2.3-alpine", "2.0.0-alpine"], True, UpdateAction.PROPOSE, "2.0.0-alpine"),
        (["1.2.3-alpine", "1.2.4", "1.2.2-alpine"], True, UpdateAction.NOTHING, None),
        ([], False, UpdateAction.NOTHING, None),
    ],
)
def test_rule_3_a_version_stays_and_a_newer_one_is_proposed(
    tags: list[str], major: bool, act: UpdateAction, tag: str | None
) -> None:
    """Rule 3: a version stays, and a newer one of the same form is proposed; a major one only with `major`."""
    done = step(service(VERSION), major=major, tags={VERSION: [Tag(each) for each in tags]})

    assert (done.act, done.tag) == (act, None if tag is None else Tag(tag))


def test_rule_3_a_new_major_version_is_mentioned() -> None:
    """Rule 3: a new major version is mentioned with the option that proposes it."""
    assert "--major proposes it" in step(service(VERSION), tags={VERSION: [Tag("2.0.0-alpine")]}).why


@pytest.mark.parametrize("pin", ["", f"@{NEW}"])
def test_rule_3_a_version_that_failed_is_not_proposed(pin: str) -> None:
    """Rule 3: a version whose deploy failed here, pinned or not, is not proposed; the next lower one is, else the reason."""
    image = f"localhost:5000/shop/app:1.4.0-alpine{pin}"
    failed = failed_versions(
        [replace(release(1, ReleaseEnd.PUT_BACK), services=(_service(image, ServiceState.FAILED),))]
    )
    tags = {VERSION: [Tag("1.3.0-alpine"), Tag("1.4.0-alpine")]}
    only = {VERSION: [Tag("1.4.0-alpine")]}

    assert step(service(VERSION), tags=tags, failed_versions=failed).tag == Tag("1.3.0-alpine")
    assert step(service(VERSION), tags=only, failed_versions=failed).act is UpdateAction.NOTHING
    assert (
        "1.4.0-alpine was deployed here before and failed"
        in step(service(VERSION), tags=only, failed_versions=failed).why
    )


@pytest.mark.parametrize("image", [EDGE, VERSION])
def test_rule_1_what_a_rollback_holds_is_not_updated(image: Reference) -> None:
    """Rule 1: a service that a rollback holds is neither updated nor is a version proposed for it."""
    done = step(
        service(image),
        resolutions=resolves_to(NEW),
        tags={VERSION: [Tag("1.3.0-alpine")]},
        held={"web": "held since release 3 went back from release 2"},
    )

    assert (done.act, done.why) == (UpdateAction.NOTHING, "held since release 3 went back from release 2")


def versions(*names: str) -> dict[str, Any]:
    """Return what is known of newer versions of `VERSION`: they are listed, and all resolve to one digest."""
    references = [Reference(VERSION.registry, VERSION.repository, Tag(name)) for name in names]
    media_type = "application/vnd.oci.image.index.v1+json"
    return {
        "tags": {VERSION: [Tag(name) for name in names]},
        "resolutions": {each: Resolved(NEW, media_type, 500) for each in references},
        "since_us": dict.fromkeys(references, NOW_US - 3 * DAY_US),
    }


@pytest.mark.parametrize(
    ("policy", "taken"),
    [
        (VersionStep.REVISION, "1.2.3.2-alpine"),
        (VersionStep.PATCH, "1.2.4-alpine"),
        (VersionStep.MINOR, "1.3.0-alpine"),
        (VersionStep.MAJOR, "2.0.0-alpine"),
    ],
)
def test_rule_3_the_policy_says_how_large_a_step_is_taken(policy: VersionStep, taken: str) -> None:
    """Rule 3: the newest version within the policy is taken with its digest, and larger steps are left."""
    known = versions("1.2.3.1-alpine", "1.2.3.2-alpine", "1.2.4-alpine", "1.3.0-alpine", "2.0.0-alpine", "1.2.3.3")
    done = step(service(VERSION), policy=policy, cooldown_us=DAY_US, **known)

    assert (done.act, done.tag, done.to) == (UpdateAction.TAKE, Tag(taken), NEW)


def test_rule_3_a_version_waits_for_the_cooldown_and_an_older_one_is_taken() -> None:
    """Rule 3: of two newer versions the older one is taken while the newest is in its cooldown; alone, it waits."""
    known = versions("1.2.3.1-alpine", "1.2.3.2-alpine")
    newest = Reference(VERSION.registry, VERSION.repository, Tag("1.2.3.2-alpine"))
    known["since_us"][newest] = NOW_US - 1
    both = step(service(VERSION), policy=VersionStep.REVISION, cooldown_us=DAY_US, **known)
    alone = step(
        service(VERSION),
        policy=VersionStep.REVISION,
        cooldown_us=DAY_US,
        **{**known, "tags": {VERSION: [newest.tag]}},
    )

    assert (both.act, both.tag) == (UpdateAction.TAKE, Tag("1.2.3.1-alpine"))
    assert (alone.act, alone.tag) == (UpdateAction.WAIT, newest.tag)


def test_rule_3_a_version_that_failed_or_can_not_be_resolved_is_not_taken() -> None:
    """Rule 3: neither a version nor a digest whose deploy failed here is taken, and one that can't be resolved is unknown."""
    known = versions("1.2.3.1-alpine")
    tag = "localhost:5000/shop/app:1.2.3.1-alpine"
    failed = step(service(VERSION), policy=VersionStep.REVISION, failed_versions=frozenset({("web", tag)}), **known)
    digest = step(service(VERSION), policy=VersionStep.REVISION, failed=frozenset({("web", str(NEW))}), **known)
    unknown = step(service(VERSION), policy=VersionStep.REVISION, tags=known["tags"])

    assert failed.act is UpdateAction.NOTHING
    assert digest.act is UpdateAction.NOTHING
    assert unknown.act is UpdateAction.UNKNOWN


def test_versions_are_resolved_only_where_the_policy_may_take_them() -> None:
    """Only versions that a rule may take are resolved: not those of a floating tag, of a failed deploy, or without a policy."""
    known = versions("1.2.3.1-alpine", "1.2.4-alpine")
    rules = UpdateRules(UpdateRule(VersionStep.REVISION), {"db": UpdateRule()})
    services = [service(VERSION), service(EDGE), replace_name(service(VERSION), "db")]
    wanted = versions_to_resolve(services, known["tags"], frozenset(), rules)
    failed = frozenset({("web", "localhost:5000/shop/app:1.2.3.1-alpine")})

    assert [each.tag for each in wanted] == ["1.2.3.1-alpine"]
    assert versions_to_resolve(services, known["tags"], failed, rules) == []
    assert versions_to_resolve(services, {VERSION: RemoteUnavailable("no")}, frozenset(), rules) == []


def replace_name(of: ComposeService, name: str) -> ComposeService:
    """Return a service under another name."""
    return ComposeService(name, of.image, of.build, of.wanted, of.environment, of.volumes)


def test_rule_4_nothing_is_new() -> None:
    """Rule 4: if the tag resolves to the locked digest, nothing is new."""
    assert step(service(EDGE), resolutions=resolves_to(OLD)).act is UpdateAction.NOTHING


def test_rule_5_a_failed_digest_is_not_tried_again() -> None:
    """Rule 5: a failed digest is not tried again automatically, but a user may."""
    done = step(service(EDGE), resolutions=resolves_to(NEW), failed=frozenset({("web", str(NEW))}))

    assert done.act is UpdateAction.NOTHING
    assert "boltseal deploy --update" in done.why
    assert (
        step(service(EDGE), resolutions=resolves_to(NEW), failed=frozenset({("db", str(NEW))})).act is UpdateAction.TAKE
    )


@pytest.mark.parametrize(
    ("since_us", "act"),
    [
        ({}, UpdateAction.WAIT),
        ({EDGE: NOW_US - DAY_US}, UpdateAction.WAIT),
        ({EDGE: NOW_US - 3 * DAY_US}, UpdateAction.TAKE),
    ],
)
def test_rule_6_a_new_digest_waits_for_the_cooldown(since_us: dict[Reference, int], act: UpdateAction) -> None:
    """Rule 6: a new digest waits for the cooldown since we know it; one that is seen for the first time waits as well."""
    done = step(service(EDGE), resolutions=resolves_to(NEW), since_us=since_us, cooldown_us=3 * DAY_US)

    assert (done.act, done.to) == (act, NEW)
    assert f"{OLD} -> {NEW}" in done.why


def test_rule_6_without_a_cooldown_it_is_taken_at_once() -> None:
    """Rule 6: without a cooldown a new digest is taken at once, also if nothing was locked."""
    assert step(service(EDGE), resolutions=resolves_to(NEW), locked={}).why == f"nothing -> {NEW}"


def ended(number: int, end: ReleaseEnd, failed: str, digest: Digest) -> Release:
    """Return a release of app and db, one of which may have failed; app has this digest."""
    made = release(number, end)
    return replace(
        made,
        services=tuple(
            replace(
                each,
                digest=str(digest) if each.name == "app" else str(OLD),
                state=ServiceState.FAILED if each.name == failed else ServiceState.PUT_BACK,
            )
            for each in made.services
        ),
    )


def test_a_failed_digest_counts_until_it_succeeds() -> None:
    """A failed digest counts, for its own service only, until it succeeds."""
    first, failed = ended(1, ReleaseEnd.HEALTHY, "", OLD), ended(2, ReleaseEnd.PUT_BACK, "app", NEW)

    assert failed_before([first, failed]) == {("app", str(NEW))}
    assert failed_before([first, failed, ended(3, ReleaseEnd.HEALTHY, "", NEW)]) == set()
    assert failed_before([first, ended(2, ReleaseEnd.ABANDONED, "app", NEW)]) == set()


def test_an_unattributed_failure_counts_for_all_new_digests() -> None:
    """A failure without a service counts for all new digests, or the update would fail again every night."""
    assert failed_before([ended(1, ReleaseEnd.HEALTHY, "", OLD), ended(2, ReleaseEnd.PUT_BACK, "", NEW)]) == {
        ("app", str(NEW))
    }
    assert failed_before([ended(1, ReleaseEnd.FAILED, "", NEW)]) == {("app", str(NEW)), ("db", str(OLD))}
