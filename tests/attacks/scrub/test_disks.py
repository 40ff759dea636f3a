"""What is below the files: something mounted over one, and a disk that has changed under a warm page cache."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boltseal.scrub.differences import Kind
from boltseal.scrub.layers import Manner
from boltseal.scrub.report import Status
from boltseal.scrub.scrub import Wanted
from tests.attacks.scrub.stores import Store
from tests.programs import program

pytestmark = pytest.mark.real

DISK_BYTES = 64 << 20


def test_a_file_that_is_mounted_over_one_of_a_layer(store: Store, tmp_path: Path) -> None:
    """The layer's own file is as it was, and nobody gets to see it."""
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

    assert (Kind.MOUNT, "etc/passwd") in {(each.kind, each.path) for each in report.differences}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in a file, mounted; `disk.img` beside it is the disk itself."""
    image, mounted = tmp_path / "disk.img", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    mounted.mkdir()
    subprocess.run([program("mke2fs"), "-q", "-t", "ext4", "-O", "^metadata_csum", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    yield mounted
    subprocess.run(["umount", mounted], check=True)


def test_a_disk_that_changed_under_a_warm_cache_is_seen_from_the_disk(
    originals: Callable[[str], Store], disk: Path
) -> None:
    """The page cache still has the old bytes; `--from-disk` lets go of them first."""
    store = originals("docker").copy(disk)
    subprocess.run(["sync", "-f", disk], check=True)
    warm = store.image_report()
    raw = disk.with_name("disk.img")
    with raw.open("r+b") as file:
        content = file.read()
        at = content.find(b"#!tool\n" * 3000)
        file.seek(at)
        file.write(b"#!EVIL")

    read = store.image_report(Wanted(manner=Manner(from_disk=True)))

    assert at > 0
    assert warm.status is Status.HOLDS
    assert (Kind.CONTENT, "bin/tool") in {(each.kind, each.path) for each in read.differences}
