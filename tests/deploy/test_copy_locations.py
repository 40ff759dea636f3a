"""Where the files that services mount come from: the file, an equal copy, or the record of what runs."""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from boltseal.deploy.copy_locations import CLOCK_US, CopyLocations, reads_copies
from boltseal.deploy.mounted_copies import MountedCopies, MountedFile
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import ReleaseContents
from boltseal.engines.address import EngineAddress
from boltseal.files.atomic_files import Disk
from tests.deploy.samples import release
from tests.polling import wait_until

SERVICES = {name: {"image": "x"} for name in ("app", "db")}


class Project:
    """A project with one secret in a folder, deployed by an administrator."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self.secret = self.root / "secrets/token.txt"
        self.secret.parent.mkdir(parents=True)
        self.secret.write_text("one")
        self.folder = ReleaseFolder(folder / "first", "shop")

    def deployed(self, number: int, of: int | None = None) -> Path:
        """Record a release with the file as it is; return the path of the copy that it mounts."""
        wait_until(lambda: time.time_ns() // 1000 > self.changed_us() + 2 * CLOCK_US, "the file is old enough")
        status = self.secret.stat()
        file = MountedFile(self.secret.read_bytes(), (status.st_uid, status.st_gid), stat.S_IMODE(status.st_mode))
        copy = self.folder.make_copy(file)
        text = {"name": "shop", "services": SERVICES, "secrets": {"token": {"file": str(copy)}}}
        name = self.secret.relative_to(self.root).as_posix()
        contents = ReleaseContents(
            json.dumps(text).encode(),
            files={name: file.content},
            modes={name: file.mode},
            owners={name: file.owner},
        )
        started_us = time.time_ns() // 1000
        made = msgspec.structs.replace(release(number, of=of), directory=str(self.root), started_us=started_us)
        self.folder.begin(made, contents)
        return copy

    def changed_us(self) -> int:
        """Return when the file or its folder was changed."""
        return max(each.stat().st_ctime_ns for each in (self.secret, self.secret.parent)) // 1000

    def second(self, tmp_path: Path, *, local: bool = True) -> CopyLocations:
        """Return what another administrator, who has all releases, finds."""
        folder = ReleaseFolder(tmp_path / "second", "shop")
        for each in self.folder.stored():
            folder.put(each)
        return CopyLocations(folder, local)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project that was not deployed yet."""
    return Project(tmp_path)


def test_an_unreadable_file_is_taken_from_the_record_if_it_has_not_changed(project: Project) -> None:
    """The record of what runs stands for a file whose ctime, owner, mode and size are as the deploy found them."""
    project.deployed(1)
    found = CopyLocations(project.folder).unread(project.secret)

    assert found is not None
    assert found.content == b"one"


def written(secret: Path) -> None:
    secret.write_text("two")


def given_the_time_of_before(secret: Path) -> None:
    os.utime(secret, (1, 1))


def replaced_by_rename(secret: Path) -> None:
    (secret.parent / "new").write_text("two")
    (secret.parent / "new").rename(secret)


def folder_replaced(secret: Path) -> None:
    secret.parent.rename(secret.parent.with_name("old"))
    secret.parent.with_name("prepared").rename(secret.parent)


def made_readable(secret: Path) -> None:
    secret.chmod(0o604)


@pytest.mark.parametrize(
    "change", [written, given_the_time_of_before, replaced_by_rename, folder_replaced, made_readable, Path.unlink]
)
def test_a_file_that_may_have_changed_is_not_taken_from_the_record(
    project: Project, change: Callable[[Path], None]
) -> None:
    """A file that was written, renamed, touched, moved with its folder, or given another mode after the deploy is not known."""
    prepared = project.secret.parent.with_name("prepared")
    prepared.mkdir()
    (prepared / project.secret.name).write_text("two")
    project.deployed(1)
    known = CopyLocations(project.folder).unread(project.secret)
    change(project.secret)

    assert known is not None
    assert CopyLocations(project.folder).unread(project.secret) is None


def test_after_a_rollback_a_file_of_the_failed_release_is_not_known(project: Project) -> None:
    """A rollback has the files of an older release, so that a file that was written in between is not what it mounts."""
    project.deployed(1)
    before = project.folder.contents(1)
    project.secret.write_text("two")
    project.deployed(2)
    rollback = msgspec.structs.replace(release(3, of=1), directory=str(project.root), started_us=time.time_ns() // 1000)
    project.folder.begin(rollback, before)

    assert CopyLocations(project.folder).unread(project.secret) is None


def test_a_file_without_a_release_is_not_known(project: Project) -> None:
    """Without a release, or in one that has not recorded the owner, nothing is known of a file."""
    nothing = CopyLocations(project.folder).unread(project.secret)
    project.folder.begin(
        release(1),
        ReleaseContents(
            json.dumps({"name": "shop", "services": SERVICES}).encode(), files={"secrets/token.txt": b"one"}
        ),
    )

    assert nothing is None
    assert CopyLocations(project.folder).unread(project.secret) is None


def test_another_administrator_mounts_an_equal_copy(project: Project, tmp_path: Path) -> None:
    """From the record another administrator makes a copy with the same name, content and mode in a folder of their own."""
    project.secret.chmod(0o640)
    copy = project.deployed(1)
    locations = project.second(tmp_path)
    copy.unlink()
    own = locations.of_copy(copy)
    text = json.loads(locations.folder.compose_file(1, locations.of_copy).read_bytes())

    assert own.name == copy.name
    assert own.is_relative_to(tmp_path / "second")
    assert (own.read_text(), stat.S_IMODE(own.stat().st_mode)) == ("one", 0o640)
    assert text["secrets"]["token"]["file"] == str(own)
    assert locations.of_file(project.secret) == own


def test_a_copy_that_no_record_has_stays_where_it_is(project: Project, tmp_path: Path) -> None:
    """A copy whose content or owner was not recorded is mounted from where it was made."""
    copy = tmp_path / "content" / ("a" * 64)

    assert project.second(tmp_path).of_copy(copy) == copy


def test_on_an_engine_elsewhere_the_copy_there_is_mounted_if_the_file_is_the_same(
    project: Project, tmp_path: Path
) -> None:
    """By ssh a file with the recorded content is mounted from the copy on the engine's host, and another file from its own path."""
    copy = project.deployed(1)
    locations = project.second(tmp_path, local=False)
    same = locations.of_file(project.secret)
    project.secret.write_text("two")

    assert same == copy
    assert locations.of_copy(copy) == copy
    assert locations.of_file(project.secret) == project.secret


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a socket to another user")
def test_an_engine_of_a_user_without_root_does_not_read_copies_of_root(tmp_path: Path) -> None:
    """For root the engine of another user is like one on another machine; root's engine and one that is not there are not."""
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.fspath(path))
        own = reads_copies(EngineAddress.parse(f"unix://{path}"))
        os.chown(path, 64321, 64321)
        other = reads_copies(EngineAddress.parse(f"unix://{path}"))
    missing = reads_copies(EngineAddress.parse(f"unix://{tmp_path}/none"))

    assert (own, other, missing) == (True, False, True)
    assert not reads_copies(EngineAddress.parse("tcp://127.0.0.1:1"))


class ModesAtRename(Disk):
    """A disk that notes the mode of each file at the moment when it gets its name."""

    def __init__(self) -> None:
        self.modes: dict[str, int] = {}

    def rename(self, source: str, target: str) -> None:
        """Rename the file, and note its mode."""
        self.modes[Path(target).name] = stat.S_IMODE(Path(source).stat().st_mode)
        super().rename(source, target)


@pytest.mark.parametrize("mode", [0o400, 0o644, 0o666])
def test_a_copy_has_its_mode_before_it_has_its_name(tmp_path: Path, mode: int) -> None:
    """A deploy that is killed while it copies a secret leaves no copy with another mode than the file's."""
    disk = ModesAtRename()
    file = MountedFile(b"secret", (os.geteuid(), os.getegid()), mode)
    made = MountedCopies(tmp_path, disk).make(file)

    assert disk.modes == {file.name: mode}
    assert stat.S_IMODE(made.stat().st_mode) == mode


def test_a_fifo_in_the_place_of_a_recorded_file_is_not_waited_for(project: Project, tmp_path: Path) -> None:
    """For an engine elsewhere, a FIFO in the place of a file of the running release is mounted as it is."""
    project.deployed(1)
    project.secret.unlink()
    os.mkfifo(project.secret)

    assert project.second(tmp_path, local=False).of_file(project.secret) == project.secret


def test_a_record_does_not_stand_for_a_file_in_a_replaced_folder_behind_a_link(
    project: Project, tmp_path: Path
) -> None:
    """If a link points to a folder outside of the project, another folder in its place makes the record unusable."""
    outside = tmp_path / "outside"
    for folder in (outside / "now", outside / "next"):
        folder.mkdir(parents=True)
        (folder / "token.txt").write_text(folder.name[:2] + "x")
    project.secret.unlink()
    project.secret.parent.rmdir()
    project.secret.parent.symlink_to(outside / "now")
    project.deployed(1)
    assert CopyLocations(project.folder).unread(project.secret) is not None

    (outside / "now").rename(outside / "old")
    (outside / "next").rename(outside / "now")

    assert CopyLocations(project.folder).unread(project.secret) is None
