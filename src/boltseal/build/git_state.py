"""Read the state of a git work tree with the git program: nearest tag, commit, uncommitted changes, address of the remote.

Reading changes nothing there, not even git's index. git runs no program that the repository's own configuration names: no
hook, file system monitor, filter or external diff. The hash of uncommitted changes covers the files' contents, so equal
changes give the same hash on every machine.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from shlex import quote as quoted
from typing import Final, NamedTuple

from boltseal.errors import quote
from boltseal.project.git_program import GitFailed, NotGit, ask_git

_ABBREVIATED: Final = 12
_MAX_NESTED: Final = 10
_PIECE_BYTES: Final = 1024 * 1024
_is_scp = re.compile(r"(?:[^@/]+@)?(?P<host>[^:/]+):(?P<path>(?!//).+)").fullmatch
_is_url = re.compile(
    r"(?P<scheme>https?|ssh|git)://(?:[^@/]*@)?(?P<host>[^/:]+)(?P<port>:[0-9]+)?/(?P<path>.+)"
).fullmatch


@dataclass(frozen=True, slots=True)
class GitState:
    """The state of a work tree. `described`: the output of `git describe --tags --always`.

    `dirt`: a hash of the uncommitted changes, None without any. `source`: the public address of the repository, "" without
    one. `shallow`: a shallow clone, in which tags may be missing.
    """

    revision: str
    described: str
    dirt: str | None
    source: str
    shallow: bool


def git_state(folder: Path, environment: Mapping[str, str]) -> GitState:
    """Return the git state of a folder. `environment`: for git. Raises: NotGit, GitFailed."""
    top = _git(folder, environment, "rev-parse", "--show-toplevel")
    if top is None:
        raise NotGit(
            f"{folder} is in no git repository, or git does not trust its owner; `git -C {quoted(str(folder))} status` shows which"
        )
    root = Path(top)
    revision = _git(root, environment, "rev-parse", "--verify", "--quiet", "HEAD")
    if revision is None:
        raise NotGit(f"{root} has no commit yet")
    described = (
        _git(root, environment, "describe", "--tags", "--always", f"--abbrev={_ABBREVIATED}") or revision[:_ABBREVIATED]
    )
    origin = _git(root, environment, "config", "--get", "remote.origin.url") or ""
    return GitState(
        revision,
        described,
        _dirt(root, environment),
        public_source(origin),
        _git(root, environment, "rev-parse", "--is-shallow-repository") == "true",
    )


class MergeStages(NamedTuple):
    """A file in a merge conflict: the common ancestor, None without one, and both sides."""

    base: bytes | None
    ours: bytes
    theirs: bytes


def merge_stages(folder: Path, environment: Mapping[str, str], name: str) -> MergeStages | None:
    """Return the versions of a file in a merge conflict; None if it is in none.

    Raises: GitFailed.
    """
    base, ours, theirs = (
        _git(folder, environment, "cat-file", "blob", f":{stage}:./{name}", strip=False) for stage in ("1", "2", "3")
    )
    if ours is None or theirs is None:
        return None
    return MergeStages(None if base is None else os.fsencode(base), os.fsencode(ours), os.fsencode(theirs))


def public_source(origin: str) -> str:
    """Return a remote's address for publication: https, without user and password; "" for a local path."""
    found = _is_url(origin)
    if found is None:
        found = _is_scp(origin)
        return "" if found is None else f"https://{found['host']}/{_path(found['path'])}"
    port = (found["port"] or "") if found["scheme"] in ("http", "https") else ""
    scheme = "http" if found["scheme"] == "http" else "https"
    return f"{scheme}://{found['host']}{port}/{_path(found['path'])}"


def _path(path: str) -> str:
    return re.sub(r"[^A-Za-z0-9._~/%@+-]", "-", path.partition("?")[0].partition("#")[0].lstrip("/")).removesuffix(
        ".git"
    )


def _dirt(root: Path, environment: Mapping[str, str], nested: int = 0) -> str | None:
    """Return a hash of all files that were changed, added or deleted since the commit; None without any.

    Ignored files do not count.
    """
    filters = _without_filters(root, environment)
    listed = _git(
        root,
        environment,
        *filters,
        "status",
        "--porcelain=v1",
        "-z",
        "--untracked-files=all",
        "--no-renames",
        strip=False,
    )
    if listed is None:
        raise GitFailed(f"git status failed in {root}; the uncommitted changes are unknown")
    paths = sorted({entry[3:] for entry in listed.split("\0") if entry})
    if not paths:
        return None
    hasher = sha256()
    for path in paths:
        name, content = os.fsencode(path), _content(root / path, environment, nested)
        hasher.update(b"%d %s %d %s\n" % (len(name), name, len(content), content))
    return hasher.hexdigest()


def _without_filters(root: Path, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the options that disable filters of the repository's own configuration. The user's own filters stay.

    Raises: GitFailed.
    """
    listed = _git(
        root,
        environment,
        "config",
        "--show-scope",
        "-z",
        "--name-only",
        "--get-regexp",
        r"^filter\..*\.(clean|process)$",
        strip=False,
    )
    fields = (listed or "").split("\0")
    found: list[str] = []
    for scope, name in zip(fields[::2], fields[1::2], strict=False):
        if scope in ("local", "worktree"):
            if "=" in name:  # -c can't set such a key
                raise GitFailed(
                    f"{quote(str(root))}: its configuration has a filter {quote(name)}, which git would run; remove the filter"
                )
            found += ("-c", f"{name}=", "-c", f"{name.rpartition('.')[0]}.required=false")
    return tuple(found)


def _content(path: Path, environment: Mapping[str, str], nested: int) -> bytes:
    try:
        found = path.lstat()
    except OSError:
        return b"gone"
    if stat.S_ISLNK(found.st_mode):
        return b"link " + os.fsencode(path.readlink())
    if stat.S_ISDIR(found.st_mode):  # a nested repository: its commit and uncommitted changes
        head = _git(path, environment, "rev-parse", "--verify", "--quiet", "HEAD") or ""
        return f"repository {head} {_dirt(path, environment, nested + 1) if head and nested < _MAX_NESTED else ''}".encode()
    if not stat.S_ISREG(found.st_mode):
        return b"special"
    hasher = sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                hasher.update(piece)
    except OSError as error:
        raise GitFailed(f"{path} can't be read: {error.strerror}") from error
    return b"%s %s" % (b"program" if found.st_mode & stat.S_IXUSR else b"file", hasher.hexdigest().encode())


def _git(folder: Path, environment: Mapping[str, str], *arguments: str, strip: bool = True) -> str | None:
    """Run git and return its output; None when it exits with an error. Raises: GitFailed, FileMissing."""
    answer = ask_git(folder, environment, *arguments)
    if answer.code != 0:
        return None
    output = os.fsdecode(answer.out)
    return output.strip() if strip else output
