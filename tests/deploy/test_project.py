"""Which images of a Compose file are pulled."""

from __future__ import annotations

from dataclasses import replace

from boltseal.host.project_images import UnresolvedImage, project_images
from boltseal.host.pull import PullRequest
from boltseal.lockfile.document import Lock, LockedImage, LockedPlatform
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.image_references import Format, ImageReference, ScanProblem, Span
from tests.deploy.hosting import NOW_US

APP = Reference.parse("localhost:5000/shop/app:1.4.2")
LOCKED, OTHER, IMAGE = Digest.of(b"one"), Digest.of(b"two"), Digest.of(b"image")


def image_ref(resolved: Reference | None, **more: object) -> ImageReference:
    found = ImageReference("compose.yaml", Format.COMPOSE, "services.web.image", 3, Span(0, 1), str(resolved), resolved)
    return replace(found, **more)  # type: ignore[arg-type]  # whatever a test wants


def locked(digest: Digest | None, *platforms: LockedPlatform) -> Lock:
    return Lock((LockedImage(APP, digest, NOW_US, platforms=platforms),))


def test_a_tag_is_resolved_unless_it_is_locked() -> None:
    """A tag is resolved unless it is locked; the lock also has image IDs for the platforms it has read."""
    whole = locked(LOCKED, LockedPlatform("linux/amd64", OTHER, IMAGE))
    part = locked(LOCKED, LockedPlatform("linux/amd64", OTHER, IMAGE), LockedPlatform("linux/arm64", OTHER))

    assert project_images([image_ref(APP)], [], None).wanted == (PullRequest(APP),)
    assert project_images([image_ref(APP)], [], Lock()).wanted == (PullRequest(APP),)
    assert project_images([image_ref(APP)], [], whole).wanted == (
        PullRequest(APP, LOCKED, locked=True, images=(IMAGE,)),
    )
    assert project_images([image_ref(APP)], [], part).wanted == (PullRequest(APP, LOCKED, locked=True),)


def test_a_digest_in_the_file_takes_precedence_and_its_tag_is_set() -> None:
    """A digest in the file is pulled and its tag set, so a later pull of the tag keeps this image."""
    found = project_images([image_ref(replace(APP, digest=OTHER))], [], locked(LOCKED))

    assert found.wanted == (PullRequest(APP, OTHER),)


def test_an_image_of_several_services_is_pulled_once() -> None:
    """An image of several services is pulled once for each requested platform."""
    found = project_images([image_ref(APP), image_ref(APP), image_ref(APP, platforms=("linux/arm64",))], [], None)

    assert found.wanted == (PullRequest(APP), PullRequest(APP, platform="linux/arm64"))


def test_local_builds_are_not_pulled() -> None:
    """Services with a build, base images of builds, and the lock's local builds are not pulled."""
    base = image_ref(Reference.parse("node:20"), where="services.web.build.additional_contexts.base")

    assert project_images([image_ref(APP, build=True), base], [], None).built == (str(APP),)
    assert project_images([image_ref(APP, build=True), base], [], None).wanted == ()
    assert project_images([image_ref(APP)], [], locked(None)).built == (str(APP),)


def test_unresolvable_images_are_reported() -> None:
    """Unresolvable images are reported with position and reason."""
    found = project_images(
        [image_ref(None, written="app:${V}", why="V is not set")], [ScanProblem("other.yaml", 0, "a tab")], None
    )

    assert found.unclear == (
        UnresolvedImage("", "other.yaml", "a tab"),
        UnresolvedImage("app:${V}", "compose.yaml:3", "V is not set"),
    )
