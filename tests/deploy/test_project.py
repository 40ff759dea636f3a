"""What a Compose file wants on an engine."""

from __future__ import annotations

from dataclasses import replace

from boltseal.host.project_images import UnresolvedImage, project_images
from boltseal.host.pull import PullRequest
from boltseal.lockfile.document import Lock, LockedImage, LockedPlatform
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.image_references import Format, ImageReference, ScanProblem
from tests.deploy.hosting import NOW_US

APP = Reference.parse("localhost:5000/shop/app:1.4.2")
ONE, TWO, IMAGE = Digest.of(b"one"), Digest.of(b"two"), Digest.of(b"image")


def site(resolved: Reference | None, **more: object) -> ImageReference:
    found = ImageReference("compose.yaml", Format.COMPOSE, "services.web.image", 3, (0, 1), str(resolved), resolved)
    return replace(found, **more)  # type: ignore[arg-type]  # whatever a test wants


def locked(digest: Digest | None, *platforms: LockedPlatform) -> Lock:
    return Lock((LockedImage(APP, digest, NOW_US, platforms=platforms),))


def test_a_tag_is_asked_about_unless_it_is_locked() -> None:
    """The lock also says which image it is on each platform, where it has read that of all."""
    whole = locked(ONE, LockedPlatform("linux/amd64", TWO, IMAGE))
    part = locked(ONE, LockedPlatform("linux/amd64", TWO, IMAGE), LockedPlatform("linux/arm64", TWO))

    assert project_images([site(APP)], [], None).wanted == (PullRequest(APP),)
    assert project_images([site(APP)], [], Lock()).wanted == (PullRequest(APP),)
    assert project_images([site(APP)], [], whole).wanted == (PullRequest(APP, ONE, locked=True, images=(IMAGE,)),)
    assert project_images([site(APP)], [], part).wanted == (PullRequest(APP, ONE, locked=True),)


def test_a_digest_in_the_file_wins_and_its_tag_is_named() -> None:
    """What the tag means next keeps what it means now."""
    found = project_images([site(replace(APP, digest=TWO))], [], locked(ONE))

    assert found.wanted == (PullRequest(APP, TWO),)


def test_an_image_that_several_services_run_is_brought_once() -> None:
    """For each platform that one of them wants."""
    found = project_images([site(APP), site(APP), site(APP, platforms=("linux/arm64",))], [], None)

    assert found.wanted == (PullRequest(APP), PullRequest(APP, platform="linux/arm64"))


def test_what_is_built_here_is_nobodys_to_pull() -> None:
    """A service with a build, what builds are made of, and what the lock calls a local build."""
    base = site(Reference.parse("node:20"), where="services.web.build.additional_contexts.base")

    assert project_images([site(APP, build=True), base], [], None).built == (str(APP),)
    assert project_images([site(APP, build=True), base], [], None).wanted == ()
    assert project_images([site(APP)], [], locked(None)).built == (str(APP),)


def test_what_can_not_be_told_is_said() -> None:
    """With its place and the reason."""
    found = project_images(
        [site(None, written="app:${V}", why="V is not set")], [ScanProblem("other.yaml", 0, "a tab")], None
    )

    assert found.unclear == (
        UnresolvedImage("", "other.yaml", "a tab"),
        UnresolvedImage("app:${V}", "compose.yaml:3", "V is not set"),
    )
