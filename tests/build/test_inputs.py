"""Equal inputs have one hash, and any different input gives another."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from boltseal.build.dockerignore import Ignore, parse_ignore
from boltseal.build.input_hash import ContextUnreadable, Inputs, files, input_hash
from tests.lockfile.locks import digest

INPUTS = Inputs(b"FROM node:16\n", {"V": "1"}, [("node:16", digest(1))])


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return fill(tmp_path / "context")


def fill(folder: Path) -> Path:
    (folder / "src").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "src/app.py").write_text("print(1)\n")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("src/app.py")
    return folder


def hashed(context: Path, inputs: Inputs = INPUTS, ignore: str = "") -> str:
    return input_hash(inputs, context, parse_ignore(ignore))


def test_the_same_files_elsewhere_have_the_same_hash(context: Path, tmp_path: Path) -> None:
    """Equal files have one hash, whatever their folder, time, group's write bit, and order of arguments and bases."""
    other = fill(tmp_path / "other")
    os.utime(other / "src/app.py", (1, 1))
    (other / "src/app.py").chmod(0o664)
    (other / "run.sh").chmod(0o775)
    (other / "src").chmod(0o775)
    more = replace(INPUTS, build_args={"A": "1", "B": "2"}, bases=[("a", digest(1)), ("b", digest(2))])
    turned = replace(
        more, build_args={"B": "2", "A": "1"}, bases=[("b", digest(2)), ("a", digest(1)), ("a", digest(1))]
    )

    assert hashed(context) == hashed(other)
    assert hashed(context, more) == hashed(other, turned)


@pytest.mark.parametrize(
    "other",
    [
        replace(INPUTS, dockerfile=b"FROM node:16 \n"),
        replace(INPUTS, build_args={}),
        replace(INPUTS, build_args={"V": "2"}),
        replace(INPUTS, bases=[("node:16", digest(2))]),
        replace(INPUTS, target="build"),
        replace(INPUTS, platform="linux/arm64"),
    ],
)
def test_another_input_gives_another_hash(context: Path, other: Inputs) -> None:
    """Each different input gives another hash, even if only the digest behind the base's tag differs."""
    assert hashed(context, other) != hashed(context)


def _write(context: Path) -> None:
    (context / "src/app.py").write_text("print(2)\n")


def _add(context: Path) -> None:
    (context / "new").write_text("")


def _rename(context: Path) -> None:
    (context / "src/app.py").rename(context / "src/apq.py")


def _run(context: Path) -> None:
    (context / "src/app.py").chmod(0o755)


def _hide(context: Path) -> None:
    (context / "src/app.py").chmod(0o600)


def _set_user(context: Path) -> None:
    (context / "run.sh").chmod(0o4755)


def _open(context: Path) -> None:
    (context / "run.sh").chmod(0o757)


def _close_folder(context: Path) -> None:
    (context / "src").chmod(0o700)


def _link(context: Path) -> None:
    (context / "link").unlink()
    (context / "link").symlink_to("run.sh")


def _folder(context: Path) -> None:
    (context / "empty").rmdir()


def _pipe(context: Path) -> None:
    os.mkfifo(context / "pipe")


@pytest.mark.parametrize(
    "change", [_write, _add, _rename, _run, _hide, _set_user, _open, _close_folder, _link, _folder, _pipe]
)
def test_another_context_gives_another_hash(context: Path, change: Callable[[Path], None]) -> None:
    """Content, name, permission bits, link target and an empty folder count; a pipe is not read."""
    before = hashed(context)
    change(context)

    assert hashed(context) != before


def test_excluded_files_do_not_count(context: Path) -> None:
    """Files that `.dockerignore` excludes do not change the hash."""
    before = hashed(context, ignore="*.log\nnode_modules\n")
    (context / "src/a.log").write_text("noise")
    (context / "a.log").write_text("noise")
    (context / "node_modules/x").mkdir(parents=True)

    assert hashed(context, ignore="*.log\nnode_modules\n") != before  # *.log does not match src/a.log
    (context / "src/a.log").unlink()
    assert hashed(context, ignore="*.log\nnode_modules\n") == before


def test_a_file_that_is_included_again_counts(context: Path) -> None:
    """A file that `.dockerignore` includes again changes the hash, even in an excluded folder."""
    found = [path for _, path, _ in files(context, parse_ignore("src\n!src/app.py\nempty\nlink"))]

    assert found == ["run.sh", "src/app.py"]


def test_two_lists_of_inputs_never_have_one_encoding(tmp_path: Path) -> None:
    """Two lists of inputs never have one encoding, because each text is preceded by its length."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    (one / "a").write_text("x")
    (one / "b").write_text("x")
    line = f"x\n{len('file a')} file b"
    (two / f"a {line}").write_text("x")

    assert input_hash(INPUTS, one, Ignore()) != input_hash(INPUTS, two, Ignore())
    assert hashed(one, replace(INPUTS, build_args={"A": "1\narg B=2"})) != hashed(
        one, replace(INPUTS, build_args={"A": "1", "B": "2"})
    )


def test_a_missing_context_is_an_error(tmp_path: Path) -> None:
    """A missing context is refused, and is not treated as an empty one."""
    with pytest.raises(ContextUnreadable, match="can't be read: No such file"):
        hashed(tmp_path / "none")
