"""Scrubbing a pulled image before it is tagged: it holds, it differs, or it could not be checked."""

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


async def test_an_unmodified_image_holds(disk: Disk) -> None:
    """Nothing is raised."""
    await disk.scrub()


async def test_a_changed_file_differs(disk: Disk) -> None:
    """Exit code 1, with the first difference and the command that lists all."""
    change(disk.store)

    with pytest.raises(
        ScrubDiffers, match=r"etc/passwd: expected .*; list all differences with `boltseal scrub sha256:"
    ) as error:
        await disk.scrub()
    assert exit_code(error.value) is ExitCode.DIFFERS


async def test_an_image_that_no_store_has(disk: Disk) -> None:
    """The engine says that it has it, and it is not there: that is no success."""
    disk.image = EngineImage(Digest.of(b"elsewhere"))

    with pytest.raises(NotScrubbed, match="not scrubbed: not found in the searched stores") as error:
        await disk.scrub()
    assert exit_code(error.value) is ExitCode.UNKNOWN


@pytest.mark.parametrize("root", ["/nowhere/at/all", "relative", ""])
async def test_an_engine_that_does_not_say_where(disk: Disk, root: str) -> None:
    """Or says what is not there."""
    disk.shop.fake.root = root

    with pytest.raises(NotScrubbed, match="not scrubbed: "):
        await disk.scrub()


@pytest.mark.parametrize("address", ["ssh://web1", "tcp://127.0.0.1:2375"])
async def test_a_remote_engine_is_scrubbed_on_its_host(disk: Disk, address: str) -> None:
    """The disk of a remote engine is read on its own host."""
    disk.shop.host.engine.address = EngineAddress.parse(address)

    with pytest.raises(NotScrubbed, match="is on another host; run `boltseal scrub` there"):
        await disk.scrub()
