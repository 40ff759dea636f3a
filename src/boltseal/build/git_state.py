"""What git says of a folder: its nearest tag and commit, what differs from that, and where it came from. By the git program.

Asking changes nothing there, not even git's own index. Nothing that git could be told to run by the repository's own
configuration is run for asking: no hooks, no file system monitor, no filter, no external diff. What is dirty is hashed from the files
themselves, so the same changes give the same hash on every machine.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from boltseal.errors import Invalid, Unavailable, quote

TIMEOUT_S: Final = 120
_SAFE: Final = (
    "--no-optional-locks",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.quotePath=false",
)
_ABBREVIATED: Final = 12
_MAX_NESTED: Final = 10
_PIECE_BYTES: Final = 1024 * 1024
_is_scp = re.compile(r"(?:[^@/]+@)?(?P<host>[^:/]+):(?P<path>(?!//).+)").fullmatch
_is_url = re.compile(
    r"(?P<scheme>https?|ssh|git)://(?:[^@/]*@)?(?P<host>[^/:]+)(?P<port>:[0-9]+)?/(?P<path>.+)"
).fullmatch


class NotGit(Invalid):
    """A folder of no git repository, or one without a commit."""


class GitFailed(Unavailable):
    """git is missing, or did not answer."""


@dataclass(frozen=True, slots=True)
class GitState:
    """`described` as `git describe --tags --always` says; `dirt`: a hash of what differs from the commit, None if nothing.

    `source`: the address of the repository for people, "" where there is none. `shallow`: tags may be missing.
    """

    revision: str
    described: str
    dirt: str | None
    source: str
    shallow: bool


def git_state(folder: Path) -> GitState:
    """Ask git about a folder. NotGit, GitFailed."""
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None:
        raise NotGit(f"{folder} is in no git repository, or git does not trust it")
    root = Path(top)
    revision = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    if revision is None:
        raise NotGit(f"{root} has no commit yet")
    described = _git(root, "describe", "--tags", "--always", f"--abbrev={_ABBREVIATED}") or revision[:_ABBREVIATED]
    origin = _git(root, "config", "--get", "remote.origin.url") or ""
    return GitState(
        revision,
        described,
        _dirt(root),
        public_source(origin),
        _git(root, "rev-parse", "--is-shallow-repository") == "true",
    )


def public_source(origin: str) -> str:
    """A remote's address as anybody may read it: https, without user and password; "" for a path of this machine."""
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


def _dirt(root: Path, nested: int = 0) -> str | None:
    """A hash of every file that is not as the commit has it: changed, added, taken away; what is ignored does not count."""
    filters = _without_filters(root)
    listed = _git(
        root, *filters, "status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames", strip=False
    )
    if listed is None:
        raise GitFailed(f"git can't tell what has changed in {root}")
    paths = sorted({entry[3:] for entry in listed.split("\0") if entry})
    if not paths:
        return None
    hasher = sha256()
    for path in paths:
        name, content = os.fsencode(path), _content(root / path, nested)
        hasher.update(b"%d %s %d %s\n" % (len(name), name, len(content), content))
    return hasher.hexdigest()


def _without_filters(root: Path) -> tuple[str, ...]:
    """What keeps git from running the filters that the repository itself names; those of the user are the user's. GitFailed."""
    listed = _git(
        root,
        "config",
        "--show-scope",
        "-z",
        "--name-only",
        "--get-regexp",
        r"^filter\..*\.(clean|process)$",
        strip=False,
    )
    said = (listed or "").split("\0")
    found: list[str] = []
    for scope, name in zip(said[::2], said[1::2], strict=False):
        if scope in ("local", "worktree"):
            if "=" in name:  # which can't be given by -c
                raise GitFailed(
                    f"{quote(str(root))}: its configuration names a filter {quote(name)}, which would be run: not asked"
                )
            found += ("-c", f"{name}=", "-c", f"{name.rpartition('.')[0]}.required=false")
    return tuple(found)


def _content(path: Path, nested: int) -> bytes:
    try:
        found = path.lstat()
    except OSError:
        return b"gone"
    if stat.S_ISLNK(found.st_mode):
        return b"link " + os.fsencode(path.readlink())
    if stat.S_ISDIR(found.st_mode):  # a repository within: its commit, and what differs from that
        head = _git(path, "rev-parse", "--verify", "--quiet", "HEAD") or ""
        return f"repository {head} {_dirt(path, nested + 1) if head and nested < _MAX_NESTED else ''}".encode()
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


def _git(folder: Path, *arguments: str, strip: bool = True) -> str | None:
    """What git prints, None where it fails."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed words, no shell
            ["git", *_SAFE, *arguments],  # noqa: S607 - the git of whoever runs the build
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        if not folder.is_dir():
            raise NotGit(f"{quote(str(folder))}: there is no such folder") from error
        raise GitFailed(f"git can't be run in {quote(str(folder))}: is it installed?") from error
    except OSError as error:
        raise GitFailed(f"git can't be run in {quote(str(folder))}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise GitFailed(f"git did not answer for {quote(str(folder))} within {TIMEOUT_S:g} s") from error
    if done.returncode != 0:
        return None
    said = os.fsdecode(done.stdout)
    return said.strip() if strip else said
