"""Image stores of a host: default folders, configurations and links, never outside of its disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.engines.locations import USUAL, inside, store_locations


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """The root of a host's disk, beside a folder that is not part of it."""
    for made in ("disk/srv/docker", "disk/var/lib", "disk/etc", "outside/docker"):
        (tmp_path / made).mkdir(parents=True)
    return tmp_path / "disk"


@pytest.mark.parametrize("target", ["/srv/docker", "../../srv/docker", "../../../../../../srv/docker"])
def test_absolute_links_start_at_the_disks_root(disk: Path, target: str) -> None:
    """An absolute link on a mounted disk starts at the disk's root, as on its own host."""
    (disk / "var/lib/docker").symlink_to(target)

    assert inside(disk, "var/lib/docker") == disk / "srv/docker"


def test_a_link_is_never_followed_out_of_the_disk(disk: Path) -> None:
    """A link on a mounted disk never reaches files of this host."""
    (disk / "var/lib/docker").symlink_to(disk.parent / "outside/docker")

    assert inside(disk, "var/lib/docker") is None


def test_a_link_to_itself_has_no_target(disk: Path) -> None:
    """A link to itself has no target, as for the kernel."""
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
def test_a_configured_folder_is_found(disk: Path, name: str) -> None:
    """A configured store folder is found beside the default one, which may have an older store."""
    written(disk, name, CONFIGS[name])

    assert store_locations(disk) == ([*USUAL, "srv/docker"], [])


@pytest.mark.parametrize("raw", [b"\xff", b"[" * 100_000, b'{"data-root":'], ids=["no-text", "deep", "cut-off"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_malformed_configuration_is_reported(disk: Path, name: str, raw: bytes) -> None:
    """A malformed engine configuration is reported, because its store folder is unknown."""
    written(disk, name, raw)

    found, (unknown,) = store_locations(disk)

    assert found == list(USUAL)
    assert str(disk / name) in unknown


@pytest.mark.parametrize("raw", [b"", b"{}", b"data = 1", b"root = 7", b"[storage]\ngraphroot = [1]"])
def test_a_configuration_without_a_folder_uses_the_default(disk: Path, raw: bytes) -> None:
    """An engine configuration without a folder means the package's default folder."""
    written(disk, "etc/containerd/config.toml" if b"=" in raw or not raw else "etc/docker/daemon.json", raw)
    written(disk, "etc/containers/storage.conf", raw if b"=" in raw else b"")

    assert store_locations(disk) == (list(USUAL), [])
