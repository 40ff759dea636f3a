"""Releases on disk: complete or absent, written by one process at a time, and private."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from boltseal.deploy.copy_locations import CopyLocations
from boltseal.deploy.release_file import TornFile
from boltseal.deploy.release_store import (
    AnotherDeploys,
    NoSuchRelease,
    ReleaseFolder,
    ReleasesFull,
    ReleasesUnusable,
    projects,
)
from boltseal.deploy.releases import (
    ReleaseContents,
    ReleaseEnd,
    ReleaseInvalid,
    ReleaseStep,
    ReleaseUnreadable,
    format_release,
)
from boltseal.files.atomic_files import Disk
from tests.deploy.samples import release

TEXT = b'{"name": "shop", "services": {"app": {"image": "x"}, "db": {"image": "y"}}}'
CONTENTS = ReleaseContents(TEXT, b'{"TOKEN": "x"}', {"compose.yaml": b"services:\n", ".env": b"A=1\n"}, b"lock")


@pytest.fixture
def folder(tmp_path: Path) -> ReleaseFolder:
    """A project without releases."""
    return ReleaseFolder(tmp_path, "shop")


def begun(folder: ReleaseFolder, number: int, end: ReleaseEnd | None = ReleaseEnd.HEALTHY) -> None:
    """Return a release that was written to disk."""
    folder.begin(release(number, end), CONTENTS)


def test_a_release_is_read_back(folder: ReleaseFolder) -> None:
    """A stored release is read with record, text, environment, files and lock."""
    with folder.deploying():
        begun(folder, 1)
    read = folder.read(1)

    assert folder.all() == (read,)
    assert read.number == 1
    assert folder.contents(1) == CONTENTS
    assert folder.next_number() == 2
    assert projects(folder.folder.parent.parent) == ("shop",)


def test_a_project_that_was_only_locked_has_no_releases(folder: ReleaseFolder) -> None:
    """A project whose folder has only a lock file of processes has no releases, as after a rollback that found nothing."""
    with folder.deploying():
        pass

    assert projects(folder.folder.parent.parent) == ()


def test_releases_are_private(folder: ReleaseFolder) -> None:
    """Release files are private, because environments contain secrets."""
    with folder.deploying():
        begun(folder, 1)
        folder.hmac("x")
    modes = {
        stat.S_IMODE(path.stat().st_mode) for path in [folder.folder, *folder.folder.rglob("*")] if not path.is_file()
    }
    files = {stat.S_IMODE(path.stat().st_mode) for path in folder.folder.rglob("*") if path.is_file()}

    assert (modes, files) == ({0o700}, {0o600})


def test_a_second_deploy_is_refused(folder: ReleaseFolder) -> None:
    """While a deploy runs, a second one is refused at once, also from another process."""
    other = ReleaseFolder(folder.folder.parent.parent, "shop")
    with folder.deploying(), pytest.raises(AnotherDeploys), other.deploying():
        raise AssertionError("both deploy")
    with other.deploying():
        begun(other, 1)

    assert folder.next_number() == 2


def test_the_lock_ends_with_its_process(folder: ReleaseFolder) -> None:
    """A killed process releases the project's lock."""
    code = (
        "import sys, os, signal; from pathlib import Path\n"
        "from boltseal.deploy.release_store import ReleaseFolder\n"
        "with ReleaseFolder(Path(sys.argv[1]), 'shop').deploying():\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    state = folder.folder.parent.parent
    done = subprocess.run([sys.executable, "-c", code, state], check=False)
    with folder.deploying():
        begun(folder, 1)

    assert done.returncode < 0


class FailingDisk(Disk):
    """Fails one of its calls, before or after its effect."""

    def __init__(self, fails: int, *, done: bool, number: int = errno.EIO) -> None:
        self.calls = 0
        self._fails, self._done, self._number = fails, done, number

    def _failing(self) -> bool:
        self.calls += 1
        return self.calls == self._fails

    def append(self, fd: int, parts: object) -> None:
        failing = self._failing()
        if not failing or self._done:
            super().append(fd, parts)  # type: ignore[arg-type]
        if failing:
            raise OSError(self._number, os.strerror(self._number))

    def rename(self, source: str, target: str) -> None:
        failing = self._failing()
        if not failing or self._done:
            super().rename(source, target)
        if failing:
            raise OSError(self._number, os.strerror(self._number))


@pytest.mark.parametrize("done", [False, True])
def test_a_release_is_complete_or_absent(tmp_path: Path, done: bool) -> None:
    """Each write of a release fails once before and once after its effect; the release is then complete or absent."""
    for fails in range(1, 4):
        state = tmp_path / f"{fails}"
        disk = FailingDisk(fails, done=done)
        with contextlib.suppress(ReleasesUnusable):
            ReleaseFolder(state, "shop", disk).begin(release(1, None), CONTENTS)
        found = ReleaseFolder(state, "shop")
        assert [each.number for each in found.all()] in ([], [1])
        for each in found.all():
            assert found.contents(each.number) == CONTENTS
        assert not list((state / "releases/shop").glob(".*"))

    assert disk.calls == 2  # so the last round had no failure


@pytest.mark.parametrize("done", [False, True])
def test_a_failed_write_of_a_step_leaves_a_whole_record(tmp_path: Path, done: bool) -> None:
    """After a failed write of a step, the record is the old or the new one, never a mixture."""
    good = ReleaseFolder(tmp_path, "shop")
    good.begin(release(1, None), CONTENTS)
    for fails in (1, 2):
        bad = ReleaseFolder(tmp_path, "shop", FailingDisk(fails, done=done))
        with pytest.raises(ReleasesUnusable):
            bad.write(good.read(1).at(ReleaseStep.RETURNING))
        assert good.read(1).step in (ReleaseStep.WAITING, ReleaseStep.RETURNING)


def test_a_full_disk_is_reported_before_anything_starts(tmp_path: Path) -> None:
    """A full disk is reported with a remedy before any service starts."""
    full = ReleaseFolder(tmp_path, "shop", FailingDisk(1, done=False, number=errno.ENOSPC))

    with pytest.raises(ReleasesFull, match="nothing was started"):
        full.begin(release(1, None), CONTENTS)


def copied(folder: ReleaseFolder, path: Path) -> Path:
    """Return where a file of a project is mounted from."""
    return CopyLocations(folder).of_file(path)


def test_mounted_files_are_stored_by_content(folder: ReleaseFolder, tmp_path: Path) -> None:
    """A mounted file is stored once per content and mode."""
    secret = tmp_path / "secret.txt"
    secret.write_text("one")
    secret.chmod(0o644)
    first, again = copied(folder, secret), copied(folder, secret)
    secret.write_text("two")
    second = copied(folder, secret)

    assert first == again != second
    assert (first.read_text(), second.read_text()) == ("one", "two")
    assert stat.S_IMODE(first.stat().st_mode) == 0o644
    assert copied(folder, first) == first


def test_only_regular_files_are_copied(folder: ReleaseFolder, tmp_path: Path) -> None:
    """Mounted folders are not copied, and a missing file is an error."""
    assert copied(folder, tmp_path) == tmp_path
    with pytest.raises(ReleaseInvalid, match="No such file"):
        copied(folder, tmp_path / "gone")


def test_hmacs_are_stable_on_one_host_only(tmp_path: Path) -> None:
    """HMACs of values are equal on one host and differ between hosts, since the key stays on its host."""
    here, there = ReleaseFolder(tmp_path / "a", "shop"), ReleaseFolder(tmp_path / "b", "shop")

    assert here.hmac("A=1") == here.hmac("A=1") != here.hmac("A=2")
    assert here.hmac("A=1") != there.hmac("A=1")


def test_old_releases_keep_only_their_record(folder: ReleaseFolder, tmp_path: Path) -> None:
    """Healthy and held releases keep their files up to a number; other releases keep only their record."""
    secret = tmp_path / "secret.txt"
    for number in range(1, 6):
        secret.write_text(f"{number}")
        copy = copied(folder, secret)
        text = {"name": "shop", "services": {}, "secrets": {"token": {"file": str(copy)}}}
        folder.begin(release(number), ReleaseContents(json.dumps(text).encode()))
    gone = folder.prune(frozenset({1}), keep=2)

    assert [each.number for each in gone] == [2, 3]
    assert len(folder.all()) == 5
    assert len(list((folder.folder / "content").iterdir())) == 3
    with pytest.raises(NoSuchRelease, match="only the record of so old a release is kept"):
        folder.contents(2)


def test_a_recent_failure_keeps_its_files(folder: ReleaseFolder) -> None:
    """A recently failed release keeps its files, which are needed to find the cause."""
    for number, end in (
        (1, ReleaseEnd.FAILED),
        (2, ReleaseEnd.HEALTHY),
        (3, ReleaseEnd.HEALTHY),
        (4, ReleaseEnd.FAILED),
        (5, None),
    ):
        begun(folder, number, end)

    assert [each.number for each in folder.prune(frozenset(), keep=1)] == [1, 2]


def earlier(folder: ReleaseFolder, number: int) -> Path:
    """Write a release as earlier versions did, and return its folder."""
    place = folder.folder / f"{number}"
    (place / "files").mkdir(parents=True)
    names = {name: f"{index}" for index, name in enumerate(sorted(CONTENTS.files))}
    for name, content in CONTENTS.files.items():
        (place / "files" / names[name]).write_bytes(content)
    (place / "compose.json").write_bytes(CONTENTS.compose)
    (place / "environment.json").write_bytes(CONTENTS.environment)
    (place / "boltseal.lock").write_bytes(b"lock")
    (place / "release.json").write_bytes(format_release(msgspec.structs.replace(release(number), files=names)))
    return place


def test_a_release_of_an_earlier_version_is_read(folder: ReleaseFolder) -> None:
    """A release that an earlier version recorded in a folder of files is read, and its next step is written as one file."""
    earlier(folder, 1)
    read = folder.contents(1)
    folder.write(msgspec.structs.replace(folder.read(1), reason="read"))

    assert read == folder.contents(1) == CONTENTS
    assert folder.read(1).reason == "read"
    assert (folder.folder / "1.release").is_file()


@pytest.mark.parametrize(
    "harm",
    [
        lambda place: (place / "release.json").write_bytes(b"{}"),
        lambda place: (place / "release.json").write_bytes(
            (place / "release.json").read_bytes().replace(b": 1,", b": 2,")
        ),
        lambda place: (place / "files/0").unlink(),
        lambda place: (place / "compose.json").write_bytes(b"no JSON"),
        lambda place: (place / "compose.json").write_bytes(b"[]"),
        lambda place: (place / "compose.json").write_bytes(b'{"name": "shop", "services": []}'),
        lambda place: (place / "compose.json").write_bytes(TEXT.replace(b"db", b"cache")),
        lambda place: (place / "compose.json").write_bytes(TEXT.replace(b'"x"', b'"x", "labels": []')),
        lambda place: (place / "compose.json").write_bytes(b"[" * 100_000),
        lambda place: (place / "environment.json").write_bytes(b'{"TOKEN": 1}'),
        lambda place: (place / "environment.json").write_bytes(b"no JSON"),
        lambda place: (place / "compose.json").unlink(),
    ],
)
def test_damaged_contents_of_an_earlier_version_are_refused(folder: ReleaseFolder, harm: object) -> None:
    """Damaged contents of a release of an earlier version are refused with the file's name."""
    harm(earlier(folder, 1))  # type: ignore[operator]

    with pytest.raises((ReleaseUnreadable, NoSuchRelease)):
        folder.contents(1)


@pytest.mark.parametrize(
    "contents",
    [
        ReleaseContents(b"no JSON"),
        ReleaseContents(b'{"name": "shop", "services": []}'),
        ReleaseContents(TEXT.replace(b"db", b"cache")),
        ReleaseContents(TEXT, b'{"TOKEN": 1}'),
    ],
)
def test_contents_that_do_not_fit_are_refused(folder: ReleaseFolder, contents: ReleaseContents) -> None:
    """Contents that can't have been recorded are refused with the file's name, although their hash fits."""
    folder.begin(release(1), contents)

    with pytest.raises(ReleaseUnreadable, match=r"1\.release"):
        folder.contents(1)


def test_a_torn_file_is_ignored_and_its_number_is_not_used_again(folder: ReleaseFolder) -> None:
    """A release whose file ends early, at any byte, is ignored; a new release gets another number."""
    for number in (1, 2):
        begun(folder, number)
    path = folder.folder / "2.release"
    whole = path.read_bytes()
    for size in (*range(0, len(whole), 97), len(whole) - 1):
        path.write_bytes(whole[:size])

        assert [each.number for each in folder.all()] == [1]
        assert folder.torn() == (path,)
        assert folder.next_number() == 3
        with pytest.raises(TornFile, match=r"2\.release"):
            folder.read(2)


def test_a_changed_file_is_ignored(folder: ReleaseFolder) -> None:
    """A release's file in which one byte was changed is ignored as a torn one is."""
    begun(folder, 1)
    path = folder.folder / "1.release"
    path.write_bytes(path.read_bytes().replace(b"ann@host", b"eve@host"))

    assert folder.all() == ()


def test_a_link_is_not_followed(folder: ReleaseFolder, tmp_path: Path) -> None:
    """A symbolic link in place of a release's file is not followed."""
    begun(folder, 1)
    record = folder.folder / "1.release"
    record.rename(tmp_path / "elsewhere")
    record.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ReleasesUnusable):
        folder.read(1)


def test_other_folders_are_ignored(folder: ReleaseFolder) -> None:
    """Folders whose names are not release numbers are ignored."""
    begun(folder, 1)
    for name in ("0", "01", "-1", "99999999999999999999", "9" * 200, "1.bak"):
        (folder.folder / name).mkdir()

    assert [each.number for each in folder.all()] == [1]
    assert folder.next_number() == 2


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("/etc")])
def test_a_numbered_folder_without_a_record_is_an_error(folder: ReleaseFolder, make: object) -> None:
    """A numbered folder without a record is an error, because the operator has to decide what it was."""
    begun(folder, 1)
    make(folder.folder / "7")  # type: ignore[operator]

    with pytest.raises(ReleaseUnreadable, match=r"has no release\.json .*no release 7"):
        folder.all()


def test_each_engine_has_its_own_releases(tmp_path: Path) -> None:
    """Releases of other engines are neither restored nor pruned; numbers are per project."""
    one, two, all_ = (ReleaseFolder(tmp_path, "shop", engine=each) for each in ("unix:///one", "ssh://two", ""))
    one.begin(release(1), CONTENTS)
    for number in (2, 3):
        two.begin(release(number), CONTENTS)
    gone = two.prune(frozenset(), keep=1)

    assert [[each.number for each in folder.all()] for folder in (one, two, all_)] == [[1], [2, 3], [1, 2, 3]]
    assert [each.number for each in gone] == [2]
    assert one.contents(1) == CONTENTS
    assert one.next_number() == 4
    with pytest.raises(NoSuchRelease, match=r"release 3 of shop belongs to another engine .*expected ssh://two"):
        one.read(3)


def test_a_record_without_an_engine_belongs_to_all(folder: ReleaseFolder, tmp_path: Path) -> None:
    """An old record without an engine field belongs to every engine."""
    folder.begin(release(1), CONTENTS)

    assert [each.number for each in ReleaseFolder(tmp_path, "shop", engine="unix:///one").all()] == [1]
