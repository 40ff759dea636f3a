"""Holds: what a rollback took back stays so until a person ends it."""

from __future__ import annotations

import msgspec
import pytest

from boltseal.deploy.holds import Held, check_images, check_repeated, held_images, held_services, holding, without_hold
from boltseal.deploy.releases import Release, ReleaseEnd
from tests.deploy.samples import release

OTHER = f"sha256:{'b' * 64}"


def running(number: int, app: str, **more: object) -> Release:
    """Return a healthy release whose service `app` has this image."""
    made = release(number)
    service = msgspec.structs.replace(made.services[0], digest=app, image_id=app)
    return msgspec.structs.replace(made, services=(service, made.services[1]), **more)


GOOD, BAD = release(1), running(2, OTHER)
ROLLBACK = msgspec.structs.replace(release(3, of=1), previous=2, hold=True)


def test_a_rollback_holds_the_images_that_it_took_back() -> None:
    """A rollback holds the changed image of the release before, and not the images that are equal."""
    held = held_images([GOOD, BAD, ROLLBACK])

    assert [(each.service, each.digest, each.undone, each.by) for each in held] == [("app", OTHER, 2, 3)]
    assert held_services([GOOD, BAD, ROLLBACK])["app"].startswith("held since release 3 went back from release 2")


@pytest.mark.parametrize("wanted", [{"app": OTHER}, {"app": OTHER, "db": OTHER}])
def test_a_held_image_is_not_deployed(wanted: dict[str, str]) -> None:
    """A deploy of a held image is refused with the command that ends the hold; other images of the service are not."""
    with pytest.raises(Held, match="release hold --end"):
        check_images([GOOD, BAD, ROLLBACK], wanted)
    check_images([GOOD, BAD, ROLLBACK], {"app": f"sha256:{'c' * 64}", "db": OTHER})


def test_a_person_ends_a_hold() -> None:
    """After a person has ended the hold nothing is held."""
    releases = [GOOD, BAD, without_hold(ROLLBACK)]

    assert holding(releases) == ()
    check_images(releases, {"app": OTHER})


def test_a_failed_rollback_holds_nothing() -> None:
    """A rollback that failed, so that the release before runs again, holds nothing."""
    failed = msgspec.structs.replace(ROLLBACK, end=ReleaseEnd.PUT_BACK)

    assert held_images([GOOD, BAD, failed]) == ()


def test_a_rollback_that_was_abandoned_holds() -> None:
    """A rollback that a later release replaced, or whose number another administrator's release has, still holds."""
    abandoned = msgspec.structs.replace(ROLLBACK, end=ReleaseEnd.ABANDONED)
    later = running(4, f"sha256:{'c' * 64}")

    assert [each.digest for each in held_images([GOOD, BAD, abandoned, later])] == [OTHER]


def test_a_later_deploy_does_not_end_a_hold() -> None:
    """A deploy of a third image leaves the image held that was rolled back."""
    later = running(4, f"sha256:{'c' * 64}")

    assert [each.digest for each in held_images([GOOD, BAD, ROLLBACK, later])] == [OTHER]


def test_an_image_that_runs_by_a_persons_choice_is_not_held() -> None:
    """A rollback to the held release by its number runs its image, which is then not held; the other one is."""
    again = running(4, OTHER, of=2, previous=3, hold=True)
    held = held_images([GOOD, BAD, ROLLBACK, again])

    assert [each.digest for each in held] == [GOOD.services[0].digest]


def test_a_repeated_rollback_is_refused_and_names_the_next_release() -> None:
    """`rollback` after a rollback changes nothing, and names the release to which a further one would go."""
    with pytest.raises(Held, match=r"went back from release 3 to release 2.*`boltseal rollback 1`"):
        check_repeated([GOOD, BAD, running(3, GOOD.services[0].digest), running(4, OTHER, of=2, previous=3, hold=True)])
    with pytest.raises(Held, match=r"there is no release before it; .*`boltseal rollback 3 --restore-files`"):
        check_repeated([GOOD, BAD, ROLLBACK])


def test_hints_of_releases_on_a_cluster_can_be_pasted() -> None:
    """A hint names project, context and namespace, and nothing that a cluster does not have."""
    options = "--project-name shop --kube prod --namespace web"
    with pytest.raises(Held, match=rf"`boltseal rollback 1 {options}`$"):
        check_repeated(
            [GOOD, BAD, running(3, GOOD.services[0].digest), running(4, OTHER, of=2, previous=3, hold=True)], options
        )
    with pytest.raises(Held, match=rf"`boltseal release hold --end {options}`"):
        check_images([GOOD, BAD, ROLLBACK], {"app": OTHER}, options)


def test_a_rollback_of_an_unfinished_release_is_not_a_repeated_one() -> None:
    """After a rollback, an unfinished or a later deploy can be rolled back."""
    check_repeated([GOOD, BAD, ROLLBACK, release(4, None)])
    check_repeated([GOOD, BAD, ROLLBACK, release(4)])
    check_repeated([])
