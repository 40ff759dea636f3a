"""The image that was just built, read from the daemon that built it."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.build.local_images import NotBuilt, add_tag, image_id
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from tests.fakes.engine import FakeEngine

APP = Reference.parse("localhost:5000/shop/app:dev")


async def test_the_id_of_an_image(tmp_path: Path) -> None:
    """The daemon returns the ID of an image by its name."""
    fake = FakeEngine()
    id_ = fake.image("app", str(APP))
    async with fake.listening(tmp_path) as daemon:
        found = await image_id(daemon, APP)

    assert str(found) == id_


async def test_a_tag_is_added_to_the_inspected_image(tmp_path: Path) -> None:
    """The tag is set on the image that was inspected, whatever its name resolves to meanwhile."""
    fake = FakeEngine()
    first, second = fake.image("app"), fake.image("app, built again", str(APP))
    async with fake.listening(tmp_path) as daemon:
        new = await add_tag(daemon, APP, Digest.parse(first), Tag("id-1"))

    assert new.familiar() == "localhost:5000/shop/app:id-1"
    assert fake.images[first]["RepoTags"] == [str(new)]
    assert fake.images[second]["RepoTags"] == [str(APP)]


async def test_a_missing_image_is_reported(tmp_path: Path) -> None:
    """A missing image is reported by either query about it."""
    async with FakeEngine().listening(tmp_path) as daemon:
        with pytest.raises(NotBuilt, match="has no image localhost:5000/shop/app:dev; build it first"):
            await image_id(daemon, APP)
        with pytest.raises(NotBuilt, match="build it first"):
            await add_tag(daemon, APP, Digest.of(b"app"), Tag("id-1"))
