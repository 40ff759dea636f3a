"""`boltseal lock --merge`: real merges of git, with boltseal as the merge driver and after a conflict."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from boltseal.lockfile.document import LOCK_NAME, Lock, LockedImage, Use, sorted_lock
from boltseal.lockfile.format import format_lock
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.lock_file import read_lock
from tests.cli import program
from tests.cli.program import Run

DRIVER = f"{shlex.quote(sys.executable)} -m boltseal lock --merge %O %A %B"


def locked(tag: str, words: str = "") -> LockedImage:
    return LockedImage(
        Reference.parse(f"app:{tag}"), Digest.of((words or tag).encode()), 10**15, used=(Use("x.yaml", tag),)
    )


A, B, C, D = map(locked, "abcd")


class Branches:
    """A repository whose branches `main` and `other` have different locks."""

    def __init__(self, folder: Path, base: Lock, ours: Lock, theirs: Lock, *, driver: bool) -> None:
        self.folder = folder
        self.lock = folder / "sub" / LOCK_NAME
        self.lock.parent.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")
        if driver:
            (folder / ".gitattributes").write_text(f"{LOCK_NAME} merge=boltseal\n")
            self.git("config", "merge.boltseal.driver", DRIVER)
        self.commit(base)
        self.git("checkout", "--quiet", "-b", "other")
        self.commit(theirs)
        self.git("checkout", "--quiet", "main")
        self.commit(ours)

    def git(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        who = ("-c", "user.name=Tester", "-c", "user.email=tester@example.com")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        return subprocess.run(
            ["git", *who, *arguments],
            cwd=self.folder,
            env=environment | {"HOME": str(self.folder)},
            capture_output=True,
            text=True,
            check=check,
        )

    def commit(self, lock: Lock) -> None:
        self.lock.write_text(format_lock(lock))
        self.git("add", ".")
        self.git("commit", "--quiet", "--allow-empty", "-m", "lock")

    def merge(self) -> bool:
        return self.git("merge", "--no-edit", "other", check=False).returncode == 0

    def resolve(self) -> Run:
        return program.call("lock", "--merge", "--project", self.lock.parent)


def lock_of(*images: LockedImage) -> Lock:
    return sorted_lock(images, {})


def test_the_driver_merges_images_that_two_branches_add(tmp_path: Path) -> None:
    """With boltseal as merge driver, two branches that add neighbouring images are merged by `git merge` alone."""
    branches = Branches(tmp_path, lock_of(A), lock_of(A, B), lock_of(A, C), driver=True)

    assert branches.merge()
    assert read_lock(branches.lock.parent) == lock_of(A, B, C)
    assert branches.git("status", "--porcelain").stdout == ""


@pytest.mark.parametrize("style", ["merge", "diff3", "zdiff3"])
@pytest.mark.parametrize("index", [True, False])
def test_a_conflict_of_git_is_merged_by_image(style: str, index: bool, tmp_path: Path) -> None:
    """Without the driver git has a conflict, which `boltseal lock --merge` resolves, from git's index or the marks alone."""
    branches = Branches(tmp_path, lock_of(A), lock_of(A, B), lock_of(A, C), driver=False)
    branches.git("config", "merge.conflictStyle", style)
    merged = branches.merge()
    refused = program.call("verify", "--offline", "--allow-empty", "--project", branches.lock.parent)
    if not index:
        branches.git("add", ".")
    resolved, again = branches.resolve(), branches.resolve()

    assert (merged, refused.code) == (False, 2)
    assert "run `boltseal lock --merge`" in refused.err
    assert (resolved.code, resolved.err) == (0, "boltseal.lock: 3 images merged, 0 conflicts\n")
    assert (again.code, again.err) == (0, "boltseal.lock has no merge conflict\n")
    assert read_lock(branches.lock.parent) == lock_of(A, B, C)


@pytest.mark.parametrize("driver", [True, False])
def test_an_image_that_one_branch_updated_beside_a_new_one(driver: bool, tmp_path: Path) -> None:
    """The update of one branch and the additions of both are all in the merged lock."""
    newer = locked("a", "newer")
    branches = Branches(tmp_path, lock_of(A, B), lock_of(newer, B, D), lock_of(A, B, C), driver=driver)
    merged = branches.merge()
    if not driver:
        assert branches.resolve().code == 0

    assert merged == driver
    assert read_lock(branches.lock.parent) == lock_of(newer, B, C, D)


@pytest.mark.parametrize("driver", [True, False])
def test_digests_that_both_branches_changed_stay_a_conflict(driver: bool, tmp_path: Path) -> None:
    """If both branches locked an image to another digest, a person decides: exit code 1, both entries between marks."""
    ours, theirs = locked("a", "ours"), locked("a", "theirs")
    branches = Branches(tmp_path, lock_of(A), lock_of(ours, B), lock_of(theirs, C), driver=driver)

    assert not branches.merge()
    text = branches.lock.read_text()
    resolved = branches.resolve()
    assert resolved.code == 1
    assert "conflict  app:a: both sides changed it" in resolved.out
    assert text == branches.lock.read_text() or not driver
    chosen = branches.lock.read_text().partition("<<<<<<< ours\n")
    block, _, rest = chosen[2].partition("=======\n")
    branches.lock.write_text(chosen[0] + block + rest.partition(">>>>>>> theirs\n")[2])
    assert read_lock(branches.lock.parent) == lock_of(ours, B, C)


def test_the_driver_takes_files_as_git_passes_them(tmp_path: Path) -> None:
    """The driver writes the result into the second file, takes an empty base, and refuses what is no lock."""
    names = [str(tmp_path / name) for name in ("base", "ours", "theirs")]
    for name, text in zip(names, ("", format_lock(lock_of(A)), format_lock(lock_of(B))), strict=True):
        Path(name).write_text(text)
    done = program.call("lock", "--merge", *names)
    Path(names[2]).write_text("version = 9\n")
    refused = program.call("lock", "--merge", *names)

    assert done.code == 0
    assert Path(names[1]).read_text() == format_lock(lock_of(A, B))
    assert (refused.code, "use a newer boltseal" in refused.err) == (2, True)
    assert Path(names[1]).read_text() == format_lock(lock_of(A, B))


@pytest.mark.parametrize(
    "arguments", [("a",), ("a", "b", "c"), ("--update",), ("--emit", "kustomize"), ()], ids=lambda each: " ".join(each)
)
def test_a_merge_without_its_files_is_refused(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Missing files, other options and a project without a lock are exit code 2."""
    assert program.call("lock", "--merge", "--project", tmp_path, *arguments).code == 2


def test_incomplete_marks_are_reported_with_their_line(tmp_path: Path) -> None:
    """A lock with marks in a wrong order is refused with the line, and is not changed."""
    text = format_lock(replace(lock_of(A))) + "<<<<<<< ours\n"
    (tmp_path / LOCK_NAME).write_text(text)
    result = program.call("lock", "--merge", "--project", tmp_path)

    assert result.code == 2
    assert "is a merge conflict" in result.err
    assert (tmp_path / LOCK_NAME).read_text() == text
