"""Running engines for the differential test: they load images, and start a container whose root can be read.

An engine holds many images at once, so that it is started once for a batch. Its layers' folders are found by marker files,
and not by the engine's metadata.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from boltseal.engines.containerd_store import SNAPSHOTS
from tests import servers
from tests.attacks.scrub.container_view import Making
from tests.attacks.scrub.stores import podman_on
from tests.attacks.scrub.users import disk
from tests.programs import program
from tests.real.tools import run

CAPABILITY = "security.capability"
BY_CONTAINERD = Making(inherits=True, keeps_bit=False, keeps_group=True)
_SNAPSHOTS = f"{SNAPSHOTS.decode()}/snapshots/*/fs"


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine. `making`: how it makes folders without an entry.

    `copied`: a container has a copy of its image, with only the attributes of these prefixes; None: it has the image's files.
    `mapped`: containers have a user namespace. `adds`: an entry for a folder of a lower layer keeps the attributes that the folder has there.
    `load`: load an archive. `start`: start a container of an image, and return its ID and its process, 0 if it does not start.
    `stop`: remove containers.
    """

    name: str
    root: Path
    layers: str
    load: Callable[[Path], None]
    start: Callable[[str], tuple[str, int]]
    stop: Callable[[list[str]], None]
    making: Making = field(default_factory=Making)
    copied: tuple[str, ...] | None = None
    adds: bool = False
    mapped: bool = False
    _folders: dict[str, Path] = field(default_factory=dict)

    def folder(self, marker: str) -> Path:
        """Return the folder of the layer that has a marker file."""
        if marker not in self._folders:
            found = [
                (folder, {each.name for each in folder.glob("marker-*")}) for folder in self.root.glob(self.layers)
            ]
            for folder, markers in sorted(
                found, key=lambda each: -len(each[1])
            ):  # with vfs those of lower layers as well
                self._folders.update(dict.fromkeys(markers, folder))
        return self._folders[marker]


@contextlib.contextmanager
def _docker(folder: Path, *, containerd_store: bool = False, vfs: bool = False) -> Iterator[Engine]:
    driver = "vfs" if vfs else "overlayfs" if containerd_store else "overlay2"
    layers = "vfs/dir/*" if vfs else _SNAPSHOTS if containerd_store else "overlay2/*/diff"
    with servers.dockerd(folder / "engine", containerd_store=containerd_store, driver=driver) as server:
        docker = ("docker", "-H", f"unix://{server.address}")

        def start(image: str) -> tuple[str, int]:
            box = run(*docker, "create", "--network", "none", image)
            if not box.ok:
                return "", 0
            name = box.text.strip()
            if not run(*docker, "start", name).ok:
                return name, 0
            return name, int(run(*docker, "inspect", "--format", "{{.State.Pid}}", name).checked())

        def stop(boxes: list[str]) -> None:
            run(*docker, "rm", "--force", *boxes).checked()

        data = folder / "engine/data"
        yield Engine(
            "docker-vfs" if vfs else "docker-containerd" if containerd_store else "docker",
            data / "containerd/daemon" if containerd_store else data,
            layers,
            lambda archive: _none(run(*docker, "load", "-i", archive).checked()),
            start,
            stop,
            making=BY_CONTAINERD if containerd_store else Making(inherits=vfs),
            copied=(CAPABILITY,) if vfs else None,
        )


@contextlib.contextmanager
def _containerd(folder: Path) -> Iterator[Engine]:
    with servers.containerd(folder / "engine") as server:
        ctr = ("ctr", "--address", server.address)

        def load(archive: Path) -> None:
            run(*ctr, "images", "import", "--snapshotter", "overlayfs", archive).checked()

        def start(image: str) -> tuple[str, int]:
            name = f"box-{uuid4()}"  # runc's folder is that of all instances of containerd
            begin = (*ctr, "run", "--detach", "--cpu-shares", "0", "--snapshotter", "overlayfs")
            if not run(*begin, image, name).ok:
                return name, 0
            rows = run(*ctr, "tasks", "list").checked().splitlines()
            return name, next(int(row.split()[1]) for row in rows if row.split()[0] == name)

        def stop(boxes: list[str]) -> None:
            for box in boxes:
                run(*ctr, "tasks", "delete", "--force", box)
                run(*ctr, "containers", "delete", box)

        yield Engine("containerd", folder / "engine/root", _SNAPSHOTS, load, start, stop, making=BY_CONTAINERD)


@contextlib.contextmanager
def _podman(folder: Path, driver: str = "overlay") -> Iterator[Engine]:
    root, vfs = folder / "root", driver == "vfs"
    podman = (*podman_on(root, folder, driver), "--runtime", "runc")

    def start(image: str) -> tuple[str, int]:
        begun = run(*podman, "run", "-d", "--pull", "never", "--network", "none", "--pids-limit", "0", image)
        box = begun.text.strip()
        if not begun.ok:
            return "", 0
        return box, int(run(*podman, "inspect", "--format", "{{.State.Pid}}", box).checked())

    def stop(boxes: list[str]) -> None:
        run(*podman, "rm", "--force", "--time", "0", *boxes).checked()

    try:
        yield Engine(
            "podman-vfs" if vfs else "podman",
            root,
            "vfs/dir/*" if vfs else "overlay/*/diff",
            lambda archive: _none(run(*podman, "load", "-i", archive).checked()),
            start,
            stop,
            making=Making(inherits=vfs, keeps_group=vfs),
            copied=(CAPABILITY, "user.") if vfs else None,
            adds=vfs,
        )
    finally:
        run(*podman, "rm", "--force", "--all", "--time", "0")
        servers.unmounted(folder)


@contextlib.contextmanager
def _rootless(folder: Path) -> Iterator[Engine]:
    """Podman of a user without root."""
    user = disk(folder / "disk")
    options = ("--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "file")
    podman = (*user.as_user(), program("podman"), *options, "--log-level", "error", "--runtime", "runc")

    def load(archive: Path) -> None:
        archive.chmod(0o644)
        run(*podman, "load", "-i", archive).checked()

    def start(image: str) -> tuple[str, int]:
        begun = run(*podman, "run", "-d", "--pull", "never", "--network", "none", "--pids-limit", "0", image)
        if not begun.ok:
            return "", 0
        box = next(each for each in begun.text.split() if len(each) == 64)  # a warning may precede the ID
        return box, int(run(*podman, "inspect", "--format", "{{.State.Pid}}", box).checked())

    try:
        yield Engine(
            "podman-rootless",
            user.home / ".local/share/containers/storage",
            "overlay/*/diff",
            load,
            start,
            lambda boxes: _none(run(*podman, "rm", "--force", "--time", "0", *boxes).checked()),
            making=Making(devices=False),
            mapped=True,
        )
    finally:
        run(*podman, "rm", "--force", "--all", "--time", "0")
        user.ended()
        servers.unmounted(folder)


def _none(_: object) -> None:
    return None


ENGINES: Mapping[str, Callable[[Path], AbstractContextManager[Engine]]] = {
    "docker": _docker,
    "docker-vfs": lambda folder: _docker(folder, vfs=True),
    "docker-containerd": lambda folder: _docker(folder, containerd_store=True),
    "containerd": _containerd,
    "podman": _podman,
    "podman-rootless": _rootless,
    "podman-vfs": lambda folder: _podman(folder, "vfs"),
}
