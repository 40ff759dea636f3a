"""What an update may do with each service."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from boltseal.client.errors import RemoteUnavailable
from boltseal.client.registry_client import Resolved
from boltseal.client.tag_observations import ObservedInterval
from boltseal.deploy.compose_model import ComposeService
from boltseal.deploy.releases import Release, ReleaseEnd, ServiceState
from boltseal.deploy.update_plan import (
    KnownImages,
    UpdateAction,
    UpdateStep,
    failed_before,
    is_floating,
    is_version,
    plan_updates,
)
from boltseal.lockfile.document import lock_key
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from tests.deploy.test_releases import release

OLD, NEW = (Digest("sha256", letter * 64) for letter in "12")
DAY_US = 86_400_000_000
NOW_US = 20_000 * DAY_US
EDGE = lock_key(Reference.parse("localhost:5000/shop/app:edge"))
VERSION = lock_key(Reference.parse("localhost:5000/shop/app:1.2.3-alpine"))


def service(image: Reference, *, build: bool = False) -> ComposeService:
    """A service of an image."""
    return ComposeService("web", image, build, 1, {}, ())


def step(of: ComposeService, *, major: bool = False, cooldown_us: int = 0, **known: Any) -> UpdateStep:
    """What is to be done with one service."""
    said: dict[str, Any] = {"locked": {EDGE: OLD}, "meanings": {}, "tags": {}, "past": {}} | known
    (found,) = plan_updates([of], KnownImages(**said), now_us=NOW_US, cooldown_us=cooldown_us, major=major)
    return found


def means(digest: Digest) -> dict[Reference, Resolved]:
    """A registry that says what the tag means."""
    return {EDGE: Resolved(digest, "application/vnd.oci.image.index.v1+json", 500)}


def test_what_moves_is_told_apart_from_what_does_not() -> None:
    """By the custom of the tag; what is built here or pinned is neither."""
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
def test_rule_1_nothing_moves_by_itself(of: ComposeService, why: str) -> None:
    """It is built here, or its file pins it."""
    done = step(of, meanings=means(NEW))

    assert (done.act, done.to) == (UpdateAction.NOTHING, None)
    assert why in done.why


def test_rule_2_what_could_not_be_told_is_left() -> None:
    """With the reason: nobody was asked, or nobody answered."""
    asked = step(service(EDGE), meanings={EDGE: RemoteUnavailable("localhost:5000 does not answer")})

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
    """Of the same form; with another first number only when told."""
    done = step(service(VERSION), major=major, tags={VERSION: [Tag(each) for each in tags]})

    assert (done.act, done.tag) == (act, None if tag is None else Tag(tag))


def test_rule_3_another_first_number_is_said() -> None:
    """So that whoever reads it knows how to have it."""
    assert "--major proposes it" in step(service(VERSION), tags={VERSION: [Tag("2.0.0-alpine")]}).why


def test_rule_4_nothing_is_new() -> None:
    """It means what is locked."""
    assert step(service(EDGE), meanings=means(OLD)).act is UpdateAction.NOTHING


def test_rule_5_what_did_not_get_healthy_is_not_tried_again() -> None:
    """By itself; a person may."""
    done = step(service(EDGE), meanings=means(NEW), failed=frozenset({("web", str(NEW))}))

    assert done.act is UpdateAction.NOTHING
    assert "boltseal deploy --update" in done.why
    assert step(service(EDGE), meanings=means(NEW), failed=frozenset({("db", str(NEW))})).act is UpdateAction.TAKE


@pytest.mark.parametrize(
    ("past", "act"),
    [
        ([], UpdateAction.WAIT),
        ([ObservedInterval(NEW, NOW_US - DAY_US, NOW_US, 1)], UpdateAction.WAIT),
        ([ObservedInterval(NEW, NOW_US - 3 * DAY_US, NOW_US, 1)], UpdateAction.TAKE),
        (
            [ObservedInterval(NEW, NOW_US - 9 * DAY_US, NOW_US, 1), ObservedInterval(OLD, NOW_US - DAY_US, NOW_US, 2)],
            UpdateAction.WAIT,
        ),
    ],
)
def test_rule_6_what_is_new_waits_for_the_cooldown(past: list[ObservedInterval], act: UpdateAction) -> None:
    """Since when it was seen to mean that, without a break."""
    done = step(service(EDGE), meanings=means(NEW), past={EDGE: past}, cooldown_us=3 * DAY_US)

    assert (done.act, done.to) == (act, NEW)
    assert f"{OLD.short} -> {NEW.short}" in done.why


def test_rule_6_without_a_cooldown_it_is_taken_at_once() -> None:
    """Also where nothing was locked."""
    assert step(service(EDGE), meanings=means(NEW), locked={}).why == f"nothing -> {NEW.short}"


def ended(number: int, end: ReleaseEnd, failed: str, digest: Digest) -> Release:
    """A release of app and db, of which one may have failed; app has this digest."""
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


def test_what_failed_is_remembered_until_it_gets_healthy() -> None:
    """The service that failed, with its digest; not those beside it."""
    first, failed = ended(1, ReleaseEnd.HEALTHY, "", OLD), ended(2, ReleaseEnd.PUT_BACK, "app", NEW)

    assert failed_before([first, failed]) == {("app", str(NEW))}
    assert failed_before([first, failed, ended(3, ReleaseEnd.HEALTHY, "", NEW)]) == set()
    assert failed_before([first, ended(2, ReleaseEnd.ABANDONED, "app", NEW)]) == set()


def test_where_nobody_knows_which_service_it_was_it_is_what_was_new() -> None:
    """Compose could not start it: else it would be tried, and fail, every night."""
    assert failed_before([ended(1, ReleaseEnd.HEALTHY, "", OLD), ended(2, ReleaseEnd.PUT_BACK, "", NEW)]) == {
        ("app", str(NEW))
    }
    assert failed_before([ended(1, ReleaseEnd.FAILED, "", NEW)]) == {("app", str(NEW)), ("db", str(OLD))}
