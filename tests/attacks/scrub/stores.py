"""Real stores, made by real engines of the image of `image.py` or of other layers, and copies of them to be tampered with.

An engine is started once, loads the image, and is stopped. Each test gets a copy of its files with owners, devices,
attributes and hard links. The check needs no daemon, so that none runs that could repair or refuse anything.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from boltseal.engines.containerd_store import SNAPSHOTS
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.report import ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests import servers
from tests.attacks.scrub.image import NAME, archive, base, middle, top
from tests.real.tools import run

Layers = Sequence[Callable[[], bytes]]
LAYERS: Layers = (base, middle, top)


@dataclass(frozen=True, slots=True)
class Store:
    """A store on disk. `layers`: the folders of the image's layers, lowest first, relative to `root`."""

    name: str
    root: Path
    image: str
    layers: tuple[str, ...] = field(default=())

    def at(self, path: str, layer: int = 0) -> Path:
        """Return a path in a layer."""
        return self.root / self.layers[layer] / path

    def copy(self, to: Path) -> Store:
        """Return a copy that equals the original in everything that is compared."""
        subprocess.run(["cp", "-a", f"{self.root}/.", str(to)], check=True)
        return Store(self.name, to, self.image, self.layers)

    def scrub(self, wanted: ScrubRequest | None = None) -> list[ScrubReport]:
        """Return the reports of a check."""
        return scrub(store_at(self.root), wanted or ScrubRequest(), lambda *_: None)

    def image_report(self, wanted: ScrubRequest | None = None) -> ScrubReport:
        """Return the report of the image."""
        (report,) = [each for each in self.scrub(wanted) if each.what == "image"]
        return report


def docker_overlay2(folder: Path, layers: Layers = LAYERS) -> Store:
    """Create Docker's classic store."""
    return _docker_classic(folder, layers, "overlay2", "overlay2/{}/diff")


def docker_vfs(folder: Path, layers: Layers = LAYERS) -> Store:
    """Create Docker's classic store with the driver vfs."""
    return _docker_classic(folder, layers, "vfs", "vfs/dir/{}")


def _docker_classic(folder: Path, layers: Layers, driver: str, layer_folder: str) -> Store:
    image = archive(folder / "image.tar", [make() for make in layers])
    with servers.dockerd(folder / "engine", driver=driver) as server:
        run("docker", "-H", f"unix://{server.address}", "load", "-i", folder / "image.tar").checked()
    root = folder / "engine" / "data"
    chain = _docker_chain(root / "image" / driver)
    return Store("docker", root, image, tuple(map(layer_folder.format, chain)))


def docker_containerd(folder: Path, layers: Layers = LAYERS) -> Store:
    """Create Docker's store with the containerd image store."""
    image = archive(folder / "image.tar", [make() for make in layers])
    with servers.dockerd(folder / "engine", containerd_store=True, driver="overlayfs") as server:
        run("docker", "-H", f"unix://{server.address}", "load", "-i", folder / "image.tar").checked()
    root = folder / "engine" / "data" / "containerd" / "daemon"
    return Store("docker-containerd", root, image, _snapshots(root))


def containerd(folder: Path, layers: Layers = LAYERS) -> Store:
    """Create containerd's store, with the image unpacked by ctr."""
    archive(folder / "image.tar", [make() for make in layers])
    run(
        "skopeo", "--insecure-policy", "copy", f"docker-archive:{folder}/image.tar",
        f"oci-archive:{folder}/oci.tar:localhost/{NAME}",
    ).checked()  # fmt: skip
    with servers.containerd(folder / "engine") as server:
        ctr = ("ctr", "--address", server.address, "images")
        run(*ctr, "import", "--snapshotter", "overlayfs", folder / "oci.tar").checked()
    root = folder / "engine" / "root"
    return Store("containerd", root, _config_in(folder / "oci.tar"), _snapshots(root))


def podman(folder: Path, layers: Layers = LAYERS) -> Store:
    """Create Podman's store, which Buildah and CRI-O share."""
    return _podman(folder, layers, "overlay", "overlay/{}/diff")


def podman_vfs(folder: Path, layers: Layers = LAYERS) -> Store:
    """Create Podman's store with the driver vfs."""
    return _podman(folder, layers, "vfs", "vfs/dir/{}")


def _podman(folder: Path, layers: Layers, driver: str, layer_folder: str) -> Store:
    image = archive(folder / "image.tar", [make() for make in layers])
    root = folder / "root"
    run(*podman_on(root, folder, driver), "load", "-i", folder / "image.tar").checked()
    records = {each["id"]: each for each in json.loads((root / f"{driver}-layers/layers.json").read_bytes())}
    at, chain = json.loads((root / f"{driver}-images/images.json").read_bytes())[0]["layer"], []
    while at:
        chain.append(at)
        at = records[at].get("parent", "")
    return Store("podman", root, image, tuple(map(layer_folder.format, reversed(chain))))


def podman_on(root: Path, folder: Path, driver: str = "overlay") -> tuple[str, ...]:
    """Return the podman command for this storage."""
    return (
        *("podman", "--root", str(root), "--runroot", f"{folder}/run", "--tmpdir", f"{folder}/tmp"),
        *("--storage-driver", driver, "--cgroup-manager", "cgroupfs", "--events-backend", "file"),
        *("--log-level", "error"),
    )


MAKERS = {
    "docker": docker_overlay2,
    "docker-containerd": docker_containerd,
    "containerd": containerd,
    "podman": podman,
}
VFS_MAKERS = {"docker-vfs": docker_vfs, "podman-vfs": podman_vfs}


def _docker_chain(records: Path) -> list[str]:
    """Return the cache-ids of the only image, lowest layer first."""
    database = records / "layerdb/sha256"
    layers = {folder.name: (folder / "cache-id").read_text() for folder in database.iterdir()}
    parents = {
        name: (database / name / "parent").read_text().removeprefix("sha256:")
        for name in layers
        if (database / name / "parent").exists()
    }
    (at,) = set(layers) - set(parents.values())
    chain = [layers[at]]
    while at in parents:
        at = parents[at]
        chain.append(layers[at])
    return chain[::-1]


def _snapshots(root: Path) -> tuple[str, ...]:
    """Return the folders of the only image: containerd numbers them in order; empty ones were views."""
    folders = [each for each in (root / SNAPSHOTS.decode() / "snapshots").iterdir() if any((each / "fs").iterdir())]
    return tuple(
        f"{SNAPSHOTS.decode()}/snapshots/{each.name}/fs" for each in sorted(folders, key=lambda f: int(f.name))
    )


def _config_in(oci_archive: Path) -> str:
    """Return the config's digest of the only image in an OCI archive, which skopeo rewrote."""
    with tarfile.open(oci_archive) as tar:

        def document(name: str) -> dict[str, Any]:
            file = tar.extractfile(name)

            assert file is not None
            found: dict[str, Any] = json.load(file)
            return found

        (described,) = document("index.json")["manifests"]
        config = document(f"blobs/sha256/{described['digest'].removeprefix('sha256:')}")["config"]["digest"]
    return str(config).removeprefix("sha256:")
