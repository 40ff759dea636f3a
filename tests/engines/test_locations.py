"""Where a host's engines keep images: by its packages, its configurations and its links, and never outside its disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.engines.locations import USUAL, inside, store_locations


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """The root of a host's disk, with a folder beside it that is none of its own."""
    for made in ("disk/srv/docker", "disk/var/lib", "disk/etc", "outside/docker"):
        (tmp_path / made).mkdir(parents=True)
    return tmp_path / "disk"


@pytest.mark.parametrize("target", ["/srv/docker", "../../srv/docker", "../../../../../../srv/docker"])
def test_a_link_means_what_it_meant_to_the_disks_own_host(disk: Path, target: str) -> None:
    """Absolute ones begin at the disk's root, which is above everything."""
    (disk / "var/lib/docker").symlink_to(target)

    assert inside(disk, "var/lib/docker") == disk / "srv/docker"


def test_a_link_never_leads_out_of_the_disk(disk: Path) -> None:
    """What lies there on this host is another host's."""
    (disk / "var/lib/docker").symlink_to(disk.parent / "outside/docker")

    assert inside(disk, "var/lib/docker") is None


def test_a_link_to_itself_leads_nowhere(disk: Path) -> None:
    """The kernel gives up too."""
    (disk / "var/lib/docker").symlink_to("docker")

    assert inside(disk, "var/lib/docker") is None


CONFIGS = {
    "etc/docker/daemon.json": b'{"data-root": "/srv/docker", "debug": true}',
    "etc/containerd/config.toml": b'version = 2\nroot = "/srv/docker"\n[grpc]\naddress = "/x"\n',
    "etc/containers/storage.conf": b'[storage]\ndriver = "overlay"\ngraphroot = "/srv/docker"\n',
}


def written(disk: Path, name: str, raw: bytes) -> None:
    (disk / name).parent.mkdir(exist_ok=True)
    (disk / name).write_bytes(raw)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_says_where_its_engine_keeps_images(disk: Path, name: str) -> None:
    """Beside where they usually are: an older store may still lie there."""
    written(disk, name, CONFIGS[name])

    assert store_locations(disk) == ([*USUAL, "srv/docker"], [])


@pytest.mark.parametrize("raw", [b"\xff", b"[" * 100_000, b'{"data-root":'], ids=["no-text", "deep", "cut-off"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_that_can_not_be_read_is_said(disk: Path, name: str, raw: bytes) -> None:
    """Its engine may keep images where nobody looks."""
    written(disk, name, raw)

    found, (unknown,) = store_locations(disk)

    assert found == list(USUAL)
    assert str(disk / name) in unknown


@pytest.mark.parametrize("raw", [b"", b"{}", b"data = 1", b"root = 7", b"[storage]\ngraphroot = [1]"])
def test_a_configuration_that_says_nothing_of_it(disk: Path, raw: bytes) -> None:
    """Then it is where the package puts it."""
    written(disk, "etc/containerd/config.toml" if b"=" in raw or not raw else "etc/docker/daemon.json", raw)
    written(disk, "etc/containers/storage.conf", raw if b"=" in raw else b"")

    assert store_locations(disk) == (list(USUAL), [])
