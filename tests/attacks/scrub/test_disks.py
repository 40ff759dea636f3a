"""Attacks below the file system: mounts over files, and a disk that changed while the page cache has the old bytes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.layer_check import CheckMode
from boltseal.host.scrub.report import ReportStatus
from boltseal.host.scrub.scrub import ScrubRequest
from tests.attacks.scrub.stores import Store
from tests.cli import program as program_of_boltseal
from tests.cli.program import clean_environment
from tests.programs import program

pytestmark = pytest.mark.real

DISK_BYTES = 64 << 20


def test_a_file_mounted_over_one_of_a_layer_differs(store: Store, tmp_path: Path) -> None:
    """A mount over a layer's file is a difference, although the layer's own file is unchanged."""
    evil = tmp_path / "evil"
    evil.write_bytes(store.at("etc/passwd").read_bytes())
    before = store.at("etc/passwd").stat()
    os.utime(evil, ns=(before.st_atime_ns, before.st_mtime_ns))
    memory = tmp_path / "memory"
    memory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", memory], check=True)
    subprocess.run(["cp", "-a", evil, memory / "evil"], check=True)
    subprocess.run(["mount", "--bind", memory / "evil", store.at("etc/passwd")], check=True)

    report = store.image_report()

    assert (DifferenceKind.MOUNT, "etc/passwd") in {(each.kind, each.path) for each in report.differences}


def test_a_read_error_leaves_the_other_files(store: Store) -> None:
    """A bad sector makes only its layer "could not check", with the reason, and is not a difference."""
    listed = {
        "docker": "image/overlay2/layerdb/sha256/*/tar-split.json.gz",
        "podman": "overlay-layers/*.tar-split.gz",
        "containerd": "io.containerd.metadata.v1.bolt/meta.db",
        "docker-containerd": "io.containerd.snapshotter.v1.overlayfs/metadata.db",
    }[store.name]
    path = next(store.root.glob(listed))
    subprocess.run(
        ["mount", "--bind", f"/proc/{os.getpid()}/mem", path], check=True
    )  # a file whose first sector gives EIO

    found = store.scrub()

    assert {each.status for each in found} == {ReportStatus.UNKNOWN}
    assert "Input/output error" in " ".join(reason for each in found for reason in each.unknown)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system in a file; `disk.img` beside it is the disk itself."""
    image, mounted = tmp_path / "disk.img", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    mounted.mkdir()
    subprocess.run([program("mke2fs"), "-q", "-t", "ext4", "-O", "^metadata_csum", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    yield mounted
    subprocess.run(["umount", mounted], check=True)


def test_from_disk_leaves_nothing_in_the_page_cache(originals: Callable[[str], Store], disk: Path) -> None:
    """`--from-disk` leaves none of the store's files in the page cache, unlike a check without it."""
    store = originals("docker").copy(disk)
    subprocess.run(["sync", "-f", disk], check=True)

    def kept() -> int:
        result = subprocess.run(
            ["fincore", "--bytes", "--raw", "--noheadings", "--output", "RES", store.at("bin/tool")],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return int(result.stdout)

    store.image_report()
    warm = kept()
    report = store.image_report(ScrubRequest(check_mode=CheckMode(from_disk=True)))

    assert (report.status, report.differences) == (ReportStatus.HOLDS, ())
    assert warm > 0
    assert kept() == 0


def test_the_disk_of_a_stopped_host_has_the_stores_of_all_its_engines(
    originals: Callable[[str], Store], tmp_path: Path
) -> None:
    """On a mounted disk, the stores of Docker, containerd and Podman are found at their usual paths and reported
    separately."""
    usual = {"docker": "docker", "containerd": "containerd", "podman": "containers/storage"}
    made = {name: originals(name).copy(mkdir(tmp_path / "disk/var/lib" / at)) for name, at in usual.items()}
    at_the_usual_path(made["podman"].root)
    clean = program_of_boltseal.call("scrub", "--root", tmp_path / "disk")
    made["podman"].at("bin/tool").chmod(0o4755)
    dirty = program_of_boltseal.call("scrub", "--root", tmp_path / "disk", "--json")

    assert (clean.code, [line.split(":")[0] for line in clean.out.splitlines()]) == (0, ["holds L0"] * 3)
    assert {each["root"]: each["status"] for each in dirty.json["results"]} == {
        str(made[name].root): "differs" if name == "podman" else "holds" for name in usual
    }


@pytest.mark.parametrize("at", ["docker", "containerd", "containers/storage"])
def test_a_hosts_stores_are_found_without_root(originals: Callable[[str], Store], tmp_path: Path, at: str) -> None:
    """Without `--root`, scrub finds the stores of this host."""
    name = {"containers/storage": "podman"}.get(at, at)
    folder = originals(name).copy(tmp_path / "store").root
    if name == "podman":
        at_the_usual_path(folder)
    lay = f"mount -t tmpfs none /var/lib && mkdir -p /var/lib/{at} && mount --bind {folder} /var/lib/{at}"
    argv = [
        program("unshare"),
        "--mount",
        *("--pid", "--fork", "--mount-proc"),  # without the engines of other tests, which scrub would find
        program("sh"),
        "-c",
        f'{lay} && exec "$@"',
        "sh",
        sys.executable,
        "-m",
        "boltseal",
        "scrub",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, env=clean_environment(), cwd=tmp_path, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("holds L0: ")
    assert f" ({name}): 3 layers, 27 entries" in done.stdout


def at_the_usual_path(root: Path) -> None:
    """Record the default folder in the database of a copied store of Podman, as Podman does when it creates a store there."""
    with closing(sqlite3.connect(root / "db.sql")) as database, database:
        database.execute("UPDATE DBConfig SET GraphRoot = '/var/lib/containers/storage'")


def mkdir(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def test_a_disk_changed_under_a_warm_cache_is_found_from_disk(originals: Callable[[str], Store], disk: Path) -> None:
    """`--from-disk` drops the page cache first, so it finds a change of the disk that the cache hides."""
    store = originals("docker").copy(disk)
    subprocess.run(["sync", "-f", disk], check=True)
    warm = store.image_report()
    raw = disk.with_name("disk.img")
    with raw.open("r+b") as file:
        content = file.read()
        at = content.find(b"#!tool\n" * 3000)
        file.seek(at)
        file.write(b"#!EVIL")

    read = store.image_report(ScrubRequest(check_mode=CheckMode(from_disk=True)))

    assert at > 0
    assert warm.status is ReportStatus.HOLDS
    assert (DifferenceKind.CONTENT, "bin/tool") in {(each.kind, each.path) for each in read.differences}
