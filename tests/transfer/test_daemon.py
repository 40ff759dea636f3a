"""A Docker daemon as source and target of copies, and to what an error is attributed."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.oci.reference import Reference
from boltseal.transfer.daemon import daemon_source
from boltseal.transfer.protocols import LocationNotFound, LocationUnavailable
from tests.fakes.engine import FakeEngine

APP = Reference.parse("localhost:5000/shop/app:1.4.2")


async def test_an_image_that_the_daemon_lacks_is_a_miss(tmp_path: Path) -> None:
    """An image that the daemon lacks is a miss of the location."""
    async with FakeEngine().listening(tmp_path) as daemon:
        with pytest.raises(LocationNotFound, match=r"shop/app:1\.4\.2: no such image"):
            await daemon_source(APP, daemon, tmp_path)


async def test_an_unwritable_scratch_folder_is_named(tmp_path: Path) -> None:
    """If the local scratch folder can't be written, the error names it and not the daemon."""
    fake = FakeEngine()
    fake.image("app", str(APP))
    async with fake.listening(tmp_path) as daemon:
        with pytest.raises(
            LocationUnavailable, match=r"none/from-daemon\.tar can't be written: No such file or directory"
        ):
            await daemon_source(APP, daemon, tmp_path / "none")
