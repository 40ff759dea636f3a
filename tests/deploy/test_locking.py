"""What a lock is made of when Compose has read the project."""

from __future__ import annotations

import json
from pathlib import Path

from boltseal.deploy.compose_lock import with_compose_images
from boltseal.deploy.compose_model import ComposeModel, parse_model
from boltseal.oci.reference import Reference
from boltseal.project.image_references import Format, ImageReference

ROOT = Path("/srv/shop")


def model(**services: object) -> ComposeModel:
    """What Compose printed."""
    return parse_model(json.dumps({"name": "shop", "services": services}).encode())


def site(where: str, image: str | None, format_: Format = Format.COMPOSE) -> ImageReference:
    """What a scan has found."""
    resolved = None if image is None else Reference.parse(image)
    return ImageReference("compose.yaml", format_, where, 7, (10, 20), "${IMAGE}", resolved, "IMAGE is not set")


def test_what_compose_says_wins_over_the_scan() -> None:
    """It knows the environment; where the text stands is the scan's."""
    (found,) = with_compose_images(
        [site("services.web.image", None)], model(web={"image": "app:2"}), ROOT, ROOT / "compose.yaml"
    )

    assert (found.resolved, found.why, found.span) == (Reference.parse("app:2"), None, (10, 20))


def test_what_compose_does_not_know_stays() -> None:
    """A profile that is off, and files of other formats with a place of the same name."""
    sites = [site("services.off.image", "a:1"), site("services.web.image", "b:1", Format.DOCKERFILE)]
    found = with_compose_images(sites, model(web={"image": "app:2"}), ROOT, ROOT / "compose.yaml")

    assert list(found[:2]) == sites
    assert (found[2].where, found[2].path) == ("services.web.image", "compose.yaml")


def test_a_service_that_the_scan_does_not_know_is_added() -> None:
    """One of an `include`, or of a file outside of the project; a build says so."""
    said = model(web={"image": "app:2"}, jobs={"build": {"context": "/srv"}})
    found = with_compose_images([], said, ROOT, Path("/etc/shop/compose.yaml"))

    assert [(each.path, each.where, each.written, each.build) for each in found] == [
        ("compose.yaml", "services.web.image", "app:2", False),
        ("compose.yaml", "services.jobs.image", "shop-jobs", True),
    ]
