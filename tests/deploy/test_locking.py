"""The images of a lock, as Compose resolved them."""

from __future__ import annotations

import json
from pathlib import Path

from boltseal.deploy.compose_lock import with_compose_images
from boltseal.deploy.compose_model import ComposeModel, parse_model
from boltseal.oci.reference import Reference
from boltseal.project.image_references import Format, ImageReference, Span

ROOT = Path("/srv/shop")


def model(**services: object) -> ComposeModel:
    """Return a project as Compose resolved it."""
    return parse_model(json.dumps({"name": "shop", "services": services}).encode())


def reference(where: str, image: str | None, format_: Format = Format.COMPOSE) -> ImageReference:
    """Return an image reference as a scan found it."""
    resolved = None if image is None else Reference.parse(image)
    return ImageReference("compose.yaml", format_, where, 7, Span(10, 20), "${IMAGE}", resolved, "IMAGE is not set")


def test_composes_image_replaces_the_scans() -> None:
    """Compose's image replaces the scanned one, since Compose knows the environment; the position in the file stays."""
    (found,) = with_compose_images(
        [reference("services.web.image", None)], model(web={"image": "app:2"}), ROOT, ROOT / "compose.yaml"
    )

    assert (found.resolved, found.why, found.span) == (Reference.parse("app:2"), None, (10, 20))


def test_references_unknown_to_compose_stay() -> None:
    """References of disabled profiles, or of other file formats at an equal path, stay unchanged."""
    image_refs = [reference("services.off.image", "a:1"), reference("services.web.image", "b:1", Format.DOCKERFILE)]
    found = with_compose_images(image_refs, model(web={"image": "app:2"}), ROOT, ROOT / "compose.yaml")

    assert list(found[:2]) == image_refs
    assert (found[2].where, found[2].path) == ("services.web.image", "compose.yaml")


def test_a_service_that_the_scan_does_not_know_is_added() -> None:
    """A service from an `include` or a file outside of the project is added, also with a build."""
    compose_model = model(web={"image": "app:2"}, jobs={"build": {"context": "/srv"}})
    found = with_compose_images([], compose_model, ROOT, Path("/etc/shop/compose.yaml"))

    assert [(each.path, each.where, each.written, each.build) for each in found] == [
        ("compose.yaml", "services.web.image", "app:2", False),
        ("compose.yaml", "services.jobs.image", "shop-jobs", True),
    ]
