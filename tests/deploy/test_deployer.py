"""Which images a deploy may start: locally built ones that did not change between check and start."""

from __future__ import annotations

import pytest

from boltseal.deploy.compose_model import LockMismatch
from boltseal.deploy.deployer import check_unchanged
from boltseal.deploy.release_images import PreparedImage
from boltseal.engines.inventory import EngineImage
from boltseal.oci.digest import Digest

RUNNING, OTHER = Digest.of(b"running"), Digest.of(b"other")


def prepared(image: Digest) -> PreparedImage:
    return PreparedImage(EngineImage(image), None, "web:1")


def test_an_image_that_is_tagged_anew_during_the_deploy_is_refused() -> None:
    """A locally built image whose tag resolves to another image after the check is refused."""
    running = {"web": str(RUNNING)}
    check_unchanged(running, {"web": prepared(RUNNING), "db": prepared(OTHER)})
    with pytest.raises(LockMismatch, match=rf"web \(got {OTHER.short}, expected {RUNNING.short}\)"):
        check_unchanged(running, {"web": prepared(OTHER), "db": prepared(OTHER)})
