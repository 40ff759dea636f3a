"""The patch of an edit, applied by the real git, gives exactly the bytes that `pin --write` writes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from boltseal.project.edits import EditResult
from boltseal.project.patch import patch_lines
from tests.project.projects import DATA, pinned, put, trap, unpinned, written

TRAPS = sorted(path.name for path in DATA.iterdir())
NAMES = ("a b", 'quote"d', "back\\slash", "tab\there", "é", os.fsdecode(b"\xff"), "line\nbreak")


def git_apply(root: Path, edited: EditResult, *, subfolder: str = "") -> None:
    """Apply the patch of an edit with git, in a repository of the project's files."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    patch = "".join(line for change in edited.changes for line in patch_lines(change))
    if not patch:  # git refuses an empty one
        return
    for arguments in (["init", "--quiet", "."], ["-c", "core.autocrlf=false", "apply", "--verbose", "-"]):
        subprocess.run(
            ["git", *arguments],
            cwd=root if arguments[0] == "init" else root / subfolder,
            input=patch.encode("utf-8", "surrogateescape"),
            env=environment | {"HOME": str(root)},
            capture_output=True,
            check=True,
        )


def contents(root: Path) -> dict[Path, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and ".git" not in path.relative_to(root).parts)
    return {path.relative_to(root): path.read_bytes() for path in files}


def applied_and_written(first: Path, second: Path) -> tuple[dict[Path, bytes], dict[Path, bytes]]:
    """Return the files of two equal projects: one pinned by git with the patch, the other by writing."""
    git_apply(first, pinned(first))
    put(second, pinned(second))
    return contents(first), contents(second)


@pytest.mark.parametrize("name", TRAPS)
def test_git_applies_the_patch_of_every_format(name: str, tmp_path: Path) -> None:
    """For each trap project `git apply` of the patch gives the bytes of `pin --write`."""
    first, second = trap(name, tmp_path / "first"), trap(name, tmp_path / "second")
    applied, wrote = applied_and_written(first, second)

    assert applied == wrote


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_of_every_kind_survive_the_patch(bom: str, end: str, last: bool, tmp_path: Path) -> None:
    """A last line without a line end, carriage returns and a byte order mark stay as they are."""
    lines = ["services:", *(f"  s{n}: {{image: nginx:1.{n % 3}, x-a: '\x0b\x0c\u2028\x85'}}" for n in (1, 2, 3))]
    lines[2:2] = [f"  # {number}" for number in range(9)]
    text = bom + end.join(lines).replace("\x0b\x0c", "") + (end if last else "")
    first, second = (written(tmp_path / name, {"compose.yml": text}) for name in ("first", "second"))
    applied, wrote = applied_and_written(first, second)

    assert applied == wrote
    assert applied[Path("compose.yml")] != text.encode()


@pytest.mark.parametrize("name", NAMES)
def test_git_finds_files_with_unusual_names(name: str, tmp_path: Path) -> None:
    """Spaces, quotes, control characters and bytes that are no text are written in file names as git reads them."""
    files: dict[str, str | bytes] = {f"{name}/Dockerfile": "FROM nginx:1.25", f"{name}.dockerfile": "FROM redis:7\n"}
    first, second = (written(tmp_path / side, files) for side in ("first", "second"))
    applied, wrote = applied_and_written(first, second)

    assert applied == wrote
    assert all(b"@sha256:" in content for content in applied.values())


def test_a_patch_of_a_subfolder_applies_there(tmp_path: Path) -> None:
    """The patch of a project in a subfolder of a repository is applied in that subfolder."""
    root = written(tmp_path, {"deploy/Dockerfile": "FROM nginx:1.25\n"})
    git_apply(root, pinned(root / "deploy"), subfolder="deploy")

    assert b"FROM nginx:1.25@sha256:" in (root / "deploy/Dockerfile").read_bytes()


def test_the_patch_of_an_unpin_restores_the_bytes(tmp_path: Path) -> None:
    """Patches work in both directions: that of unpinning restores the original bytes."""
    root = trap("compose_crlf_bom_tabs", tmp_path)
    before = contents(root)
    put(root, pinned(root))
    git_apply(root, unpinned(root))

    assert contents(root) == before
