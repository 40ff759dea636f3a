"""Scrubbing a pulled image before it is tagged: clean, different, or could not be checked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from boltseal.engines.address import EngineAddress
from boltseal.engines.inventory import EngineImage
from boltseal.errors import ExitCode, exit_code
from boltseal.host.pulled_check import NotScrubbed, ScrubDiffers, scrub_pulled_image
from boltseal.oci.digest import Digest
from tests.deploy.hosting import Hosting, hosting
from tests.host.scrub.made_stores import DockerStore


@dataclass
class Disk:
    """An engine and its store on disk, with one image of two layers."""

    shop: Hosting
    store: DockerStore
    image: EngineImage

    async def scrub(self) -> None:
        await scrub_pulled_image(self.shop.host, self.image)


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    """An unmodified store."""
    store = made(tmp_path)
    async with hosting(tmp_path) as shop:
        shop.fake.root = str(store.root)
        yield Disk(shop, store, EngineImage(image_in(store)))


def made(folder: Path) -> DockerStore:
    store = DockerStore.at(folder)
    store.image("shop/app:1.4.2", {"etc/passwd": b"root"}, {"bin/tool": b"tool" * 1000})
    return store


def image_in(store: DockerStore) -> Digest:
    (image,) = (store.root / "image/overlay2/imagedb/content/sha256").iterdir()
    return Digest("sha256", image.name)


def change(store: DockerStore) -> None:
    (store.layer() / "etc/passwd").write_bytes(b"evil")


async def test_an_unmodified_image_is_accepted(disk: Disk) -> None:
    """An unmodified image raises no error."""
    await disk.scrub()


async def test_a_changed_file_differs(disk: Disk) -> None:
    """A changed file is exit code 1, with the first difference and the command that lists all."""
    change(disk.store)

    with pytest.raises(
        ScrubDiffers, match=r"etc/passwd: expected .*; list all differences with `boltseal scrub sha256:"
    ) as error:
        await disk.scrub()
    assert exit_code(error.value) is ExitCode.DIFFERS


async def test_an_image_that_no_store_has_could_not_be_checked(disk: Disk) -> None:
    """If the engine lists an image that no store has, the result is not a success."""
    disk.image = EngineImage(Digest.of(b"elsewhere"))

    with pytest.raises(NotScrubbed, match="not scrubbed: not found in the searched stores") as error:
        await disk.scrub()
    assert exit_code(error.value) is ExitCode.UNKNOWN


@pytest.mark.parametrize("root", ["/nowhere/at/all", "relative", ""])
async def test_an_engine_without_a_store_path_could_not_be_checked(disk: Disk, root: str) -> None:
    """An engine that does not report its store's path, or a missing one, could not be checked."""
    disk.shop.fake.root = root

    with pytest.raises(NotScrubbed, match="not scrubbed: "):
        await disk.scrub()


@pytest.mark.parametrize("address", ["ssh://web1", "tcp://127.0.0.1:2375"])
async def test_a_remote_engine_is_scrubbed_on_its_host(disk: Disk, address: str) -> None:
    """A remote engine's image is refused: its disk is scrubbed on its own host."""
    disk.shop.host.engine.address = EngineAddress.parse(address)

    with pytest.raises(NotScrubbed, match="is on another host; run `boltseal scrub` there"):
        await disk.scrub()
