"""The volume with an engine's releases, on real engines."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from boltseal.engines.address import EngineAddress
from boltseal.engines.api import connected
from boltseal.engines.release_volume import VolumeContainer
from tests import servers

pytestmark = pytest.mark.real


def test_podman_keeps_no_file_of_the_image_without_files(empty_home: None, tmp_path: Path) -> None:
    """Each container with the volume needs an image, and giving it to Podman leaves nothing in its folder for temporary files."""

    async def used(address: EngineAddress) -> dict[str, bytes]:
        async with connected(address) as engine:
            container = await VolumeContainer.create(engine, "boltseal-test", {})
            try:
                await container.write({"shop/1.0": b"release"})
                return await container.read()
            finally:
                await container.remove()

    with servers.podman(tmp_path / "e") as engine:
        found = [asyncio.run(used(EngineAddress.parse(f"unix://{engine.address}"))) for _ in range(2)]
        left = [each.name for each in (tmp_path / "e/temporary").iterdir()]

    assert found == [{"shop/1.0": b"release"}] * 2
    assert left == []
