"""Run git in a repository. It runs no hook and no file system monitor, and never asks for a password on the terminal.

The folder says which repository it is, also in a hook of another one.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from boltseal.errors import Invalid, Unavailable, quote
from boltseal.files.named_files import FileMissing

TIMEOUT_S: Final = 120
_SAFE_OPTIONS: Final = (
    "--no-optional-locks",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.quotePath=false",
)

_OF_A_REPOSITORY: Final = frozenset(
    {
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_DIR",
        "GIT_GRAFT_FILE",
        "GIT_IMPLICIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_NO_REPLACE_OBJECTS",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_REPLACE_REF_BASE",
        "GIT_SHALLOW_FILE",
        "GIT_WORK_TREE",
    }
)
"""Variables that name a repository, as git sets them for its hooks. The project's folder says which repository it is."""

_IDENTITY: Final = "; set who commits by `git config user.name NAME` and `git config user.email ADDRESS`"


class NotGit(Invalid):
    """The folder is in no git repository, or the repository has no commit."""


class GitFailed(Unavailable):
    """git is not installed, failed, or did not answer in time."""


class GitAnswer(NamedTuple):
    """The result of a run of git."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        """The output without the line break at its end."""
        return self.out.decode(errors="surrogateescape").strip()

    @property
    def why(self) -> str:
        """The line of git's messages that gives the reason."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip() and not line.startswith("hint:")]
        named = [line for line in lines if line.startswith(("fatal:", "error:", "!", "remote:"))]
        return quote((named or lines or [f"exit code {self.code}"])[0], 300)


def ask_git(
    folder: Path,
    environment: Mapping[str, str],
    *arguments: str,
    data: bytes = b"",
    index: str = "",
    timeout_s: float = TIMEOUT_S,
) -> GitAnswer:
    """Run git and return its result, also if it failed. `data`: its standard input. `index`: a temporary index.

    Raises: GitFailed, FileMissing.
    """
    outer = {name: value for name, value in environment.items() if name not in _OF_A_REPOSITORY}
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
            ["git", *_SAFE_OPTIONS, *arguments],  # noqa: S607 - the git of the user who runs the command
            cwd=folder,
            input=data,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env=outer | {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"} | ({"GIT_INDEX_FILE": index} if index else {}),
        )
    except FileNotFoundError as error:
        if not folder.is_dir():
            raise FileMissing(folder) from error
        raise GitFailed(f"git can't be run in {quote(str(folder))}: is it installed?") from error
    except OSError as error:
        raise GitFailed(f"git can't be run in {quote(str(folder))}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise GitFailed(f"git {arguments[0]} did not answer in {quote(str(folder))} within {timeout_s:g} s") from error
    return GitAnswer(done.returncode, done.stdout, done.stderr.decode(errors="replace"))


def run_git(
    folder: Path,
    environment: Mapping[str, str],
    *arguments: str,
    data: bytes = b"",
    index: str = "",
    timeout_s: float = TIMEOUT_S,
) -> GitAnswer:
    """Run git as `ask_git`. Raises: GitFailed: also if it exits with an error."""
    answer = ask_git(folder, environment, *arguments, data=data, index=index, timeout_s=timeout_s)
    if answer.code != 0:
        advice = _IDENTITY if arguments[0] == "commit-tree" and "ident" in answer.err else ""
        raise GitFailed(f"git {arguments[0]} failed in {quote(str(folder))}: {answer.why}{advice}")
    return answer
