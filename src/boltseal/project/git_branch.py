"""Read and write a branch of a git repository without its work tree and its index.

A commit is made from objects alone, with a temporary index. No filter of the repository runs: a file is the bytes of its blob.
The branch is moved last, by one compare-and-swap: `git update-ref` with the former commit, or with a remote `git push` with a
lease on it. So a process that is killed leaves the branch as it was or with the whole commit; without it the objects are
unreferenced, and git removes them.

A commit comes with the repository and is untrusted: a path that leaves the folder ends the command.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote as quoted
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from boltseal.errors import Invalid, Unavailable, quote
from boltseal.project.git_program import GitAnswer, GitFailed, NotGit, ask_git, run_git
from boltseal.project.source_files import MAX_FILE_BYTES

_AT_ONCE_BYTES: Final = 32 * 1024 * 1024
_LINK, _MODULE, _PROGRAM = "120000", "160000", "100755"
_NEW_FILE: Final = "100644"
_PUSH: Final = ("push", "--quiet", "--no-follow-tags", "--recurse-submodules=no", "--no-signed")
"""Pushes the branch alone, whatever the user has configured for other pushes."""
_FETCH: Final = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head")


class BranchMoved(Unavailable):
    """Another process moved the branch meanwhile. Nothing was committed to it."""


class _Entry(NamedTuple):
    """A file of a commit. `path`: relative to the folder of the branch."""

    mode: str
    blob: str
    size: int
    path: str


@dataclass(frozen=True, slots=True)
class GitBranch:
    """A branch as it was when it was opened.

    Attributes:
        folder: a folder of the repository; only files in it are read and written.
        prefix: that folder relative to the repository, "" or with a slash at its end.
        name: the branch, without refs/heads/.
        remote: the remote that has the branch; "" for this repository.
        address: what git calls the remote: its name, or its push URL where that is another one.
        tip: its commit, "" for none yet.
        start: the commit that a new one is made from: `tip`, else that of HEAD.
    """

    folder: Path
    environment: Mapping[str, str]
    prefix: str
    name: str
    remote: str
    tip: str
    start: str
    address: str = ""

    @property
    def ref(self) -> str:
        """The full name of the branch."""
        return f"refs/heads/{self.name}"

    @property
    def title(self) -> str:
        """The branch for messages."""
        return f"{self.name} of {self.remote}" if self.remote else self.name

    @property
    def options(self) -> str:
        """The options of a command that name the branch."""
        return f"--git-branch {quoted(self.name)}" + (f" --git-remote {quoted(self.remote)}" if self.remote else "")

    def run(self, *arguments: str, data: bytes = b"", index: str = "") -> GitAnswer:
        """Run git in the folder. `index`: a temporary index. Raises: GitFailed."""
        return run_git(self.folder, self.environment, *arguments, data=data, index=index)

    def read(self, commit: str, name: str) -> bytes | None:
        """Return a file of the folder in a commit, None if it has none. Raises: GitFailed: it can't be read, or is too large."""
        listed = self.run("ls-tree", "-l", "-z", commit, "--", name).out
        if not listed:
            return None
        _, _, blob, size = listed.partition(b"\t")[0].decode().split()
        if size.isdigit() and int(size) > MAX_FILE_BYTES:
            raise GitFailed(
                f"{name} of commit {commit[:12]} has {size} bytes, expected at most {MAX_FILE_BYTES}; restore it from git"
            )
        return self.run("cat-file", "blob", blob).out

    def submodules(self, commit: str) -> list[str]:
        """Return the paths of the folder that are submodules in a commit: their files are in other repositories."""
        lines = self.run("ls-tree", "-r", "-z", commit).out.split(b"\0")
        return [os.fsdecode(line.partition(b"\t")[2]) for line in lines if line.startswith(_MODULE.encode())]

    def write_files(self, commit: str, target: Path) -> None:
        """Write the files of the folder in a commit to an empty folder. Raises: GitFailed."""
        try:
            self._write_files(commit, target)
        except OSError as error:  # also two entries of one path, which git itself would not write
            raise GitFailed(
                f"the files of commit {commit[:12]} can't be written to {target}: {error.strerror}"
            ) from error

    def _write_files(self, commit: str, target: Path) -> None:
        links = []
        for entry, raw in self._contents(commit):
            path = target / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if entry.mode == _LINK:
                links.append((path, raw))
            elif raw is None:  # the scan reports its size
                with path.open("xb") as file:
                    file.truncate(entry.size)
            else:
                with path.open("xb") as file:
                    file.write(raw)
        for path, raw in links:  # last, so that no file is written through one
            path.symlink_to(os.fsdecode(raw or b""))

    def _contents(self, commit: str) -> Iterator[tuple[_Entry, bytes | None]]:
        """Yield each file with its bytes; None for one that is larger than any file with references."""
        waiting: list[_Entry] = []
        size = 0
        for entry in self._entries(commit):
            if entry.size > MAX_FILE_BYTES:
                yield entry, None
                continue
            waiting.append(entry)
            size += entry.size
            if size > _AT_ONCE_BYTES:
                yield from self._blobs(waiting)
                waiting, size = [], 0
        yield from self._blobs(waiting)

    def _blobs(self, entries: Sequence[_Entry]) -> Iterator[tuple[_Entry, bytes]]:
        wanted = "".join(f"{each.blob}\n" for each in entries).encode()
        out, at = self.run("cat-file", "--batch", data=wanted).out if entries else b"", 0
        for entry in entries:
            end = out.index(b"\n", at)
            if out[at:end].split()[1:] != [b"blob", str(entry.size).encode()]:
                raise GitFailed(f"git can't read {quote(entry.path)}: {quote(out[at:end].decode(errors='replace'))}")
            yield entry, out[end + 1 : end + 1 + entry.size]
            at = end + 1 + entry.size + 1

    def _entries(self, commit: str) -> Iterator[_Entry]:
        """Yield the files of the folder; submodules are left out. Raises: GitFailed: a path leaves the folder."""
        for line in self.run("ls-tree", "-r", "-l", "-z", commit).out.split(b"\0"):
            if not line:
                continue
            head, _, name = line.partition(b"\t")
            mode, _, blob, size = head.decode().split()
            path = os.fsdecode(name)
            if any(part in ("", ".", "..", ".git") for part in path.split("/")):
                raise GitFailed(f"commit {commit[:12]} has the path {quote(path)}, which is not written")
            if mode != _MODULE:
                yield _Entry(mode, blob, int(size), path)

    def commit(self, base: str, changes: Mapping[str, bytes | None], message: str, folder_from: str = "") -> str:
        """Return a new commit on `start`, which no branch has yet. Raises: GitFailed.

        `base`: the commit whose files it has. `changes`: new bytes of files in the folder; None removes one. `folder_from`: take
        the whole folder from this commit first.
        """
        with TemporaryDirectory(prefix="boltseal-") as folder:
            index = str(Path(folder) / "index")
            self.run("read-tree", base, index=index)
            modes = {entry.path: entry.mode for entry in self._entries(base)}
            if folder_from:
                modes = self._replace_folder(folder_from, index)
            lines = b""
            for path, raw in changes.items():
                name = os.fsencode(self.prefix + path)
                blob = "" if raw is None else self.run("hash-object", "-w", "--no-filters", "--stdin", data=raw).text
                mode = modes.get(path, _NEW_FILE)
                lines += (
                    b"%s %s\t%s\0" % (mode.encode(), blob.encode(), name)
                    if blob
                    else b"0 %s\t%s\0" % (b"0" * len(base), name)
                )
            self.run("update-index", "-z", "--index-info", data=lines, index=index)
            tree = self.run("write-tree", index=index).text
        return self.run("commit-tree", tree, "-p", self.start, "-F", "-", data=message.encode()).text

    def _replace_folder(self, commit: str, index: str) -> dict[str, str]:
        """Make the folder in an index that of a commit, and return the modes of its files."""
        listed = self.run("ls-files", "-z", "--full-name", index=index).out
        gone = b"".join(b"0 %s\t%s\0" % (b"0" * len(commit), name) for name in listed.split(b"\0") if name)
        self.run("update-index", "-z", "--index-info", data=gone, index=index)
        whole = self.run("ls-tree", "-r", "-z", "--full-name", commit).out
        self.run("update-index", "-z", "--index-info", data=whole, index=index)
        return {entry.path: entry.mode for entry in self._entries(commit)}

    def move(self, new: str, action: str) -> None:
        """Move the branch to a commit if it is still where it was when opened. `action`: for git's own log of the ref.

        Raises: BranchMoved; GitFailed: it was not moved, or with a remote whether it was could not be found out.
        """
        if self.remote:
            lease = f"--force-with-lease={self.ref}:{self.tip}"
            answer = ask_git(self.folder, self.environment, *_PUSH, lease, self.address, f"{new}:{self.ref}")
        else:
            former = self.tip or "0" * len(new)
            answer = ask_git(
                self.folder, self.environment, "update-ref", "--no-deref", "-m", action, self.ref, new, former
            )
        if answer.code == 0:
            return
        try:
            now = _tip(self.folder, self.environment, self.address, self.ref)
        except GitFailed as error:
            raise GitFailed(
                f"whether {self.title} has commit {new} is not known: {answer.why}; then {error.message}; run the command "
                "again when it can be reached"
            ) from error
        if now == new:  # done, although the answer was lost
            return
        if now != self.tip:
            raise BranchMoved(
                f"{self.title} moved from {self.tip[:12] or 'nothing'} to {now[:12] or 'nothing'} meanwhile; nothing was "
                "committed to it; run the command again"
            )
        raise GitFailed(f"{self.title} could not be moved to commit {new[:12]}: {answer.why}; it is unchanged")

    def changes_of(self, name: str) -> list[str]:
        """Return the commits on the branch that changed a file of the folder, the newest first."""
        return self.run("rev-list", "--first-parent", self.start, "--", name).text.split()


def open_branch(folder: Path, environment: Mapping[str, str], name: str, remote: str = "") -> GitBranch:
    """Return a branch of the repository that has a folder. `remote`: of this remote; its commits are fetched.

    Raises: Invalid: the name, or the remote; the branch is checked out, or only a remote has it. NotGit, GitFailed.
    """
    shown = ask_git(folder, environment, "rev-parse", "--show-prefix")
    if shown.code != 0:
        raise NotGit(f"{folder} is in no git repository that can be used: {shown.why}")
    ref = f"refs/heads/{name}"
    if name.startswith("-") or ask_git(folder, environment, "check-ref-format", ref).code != 0:
        raise Invalid(f"--git-branch: got {quote(name)}, expected the name of a git branch")
    remotes = run_git(folder, environment, "remote").text.split()
    if remote and remote not in remotes:
        raise Invalid(
            f"--git-remote: got {quote(remote)}, expected a remote of this repository: {', '.join(remotes) or 'it has none'}"
        )
    if not remote:
        _check_not_checked_out(folder, environment, name)
    address = _address(folder, environment, remote) if remote else ""
    tip = _tip(folder, environment, address, ref)
    if tip and remote:
        run_git(folder, environment, *_FETCH, address, ref)
    if not tip and not remote:
        for each in remotes:
            if (
                ask_git(folder, environment, "rev-parse", "--verify", "--quiet", f"refs/remotes/{each}/{name}").code
                == 0
            ):
                raise Invalid(
                    f"branch {name} is not in this repository, but in {each}: use --git-remote {each}, or create it by "
                    f"`git branch {name} {each}/{name}`"
                )
    head = ask_git(folder, environment, "rev-parse", "--verify", "--quiet", "HEAD^{commit}").text
    if not tip and not head:
        raise NotGit(f"{folder} has no commit yet, and there is no branch {name}")
    return GitBranch(folder, environment, shown.out.decode().rstrip("\n"), name, remote, tip, tip or head, address)


def _address(folder: Path, environment: Mapping[str, str], remote: str) -> str:
    """Return where a remote's branch is read and pushed: one place, so that the lease compares what was read.

    Raises: Invalid: it has several push URLs, whose branches may differ.
    """
    urls, pushed = (
        run_git(folder, environment, "remote", "get-url", *option, "--all", remote).text.splitlines()
        for option in ((), ("--push",))
    )
    if len(pushed) != 1:
        raise Invalid(
            f"--git-remote: remote {remote} has {len(pushed)} push URLs, expected one; add a remote for the one that is deployed"
        )
    return remote if pushed == urls else pushed[0]


def _tip(folder: Path, environment: Mapping[str, str], address: str, ref: str) -> str:
    """Return the commit of a branch, "" for none. `address`: of a remote. Raises: GitFailed: the remote can't be reached."""
    if address:
        rows = (line.split() for line in run_git(folder, environment, "ls-remote", address, ref).text.splitlines())
        return next((row[0] for row in rows if row[1:] == [ref]), "")
    return ask_git(folder, environment, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").text


def _check_not_checked_out(folder: Path, environment: Mapping[str, str], name: str) -> None:
    """Raises: Invalid: the files of a work tree are those of the branch, and would differ from it after a commit."""
    where = ""
    for line in run_git(folder, environment, "worktree", "list", "--porcelain").text.splitlines():
        key, _, value = line.partition(" ")
        if key == "worktree":
            where = value
        if key == "branch" and value == f"refs/heads/{name}":
            raise Invalid(
                f"branch {name} is checked out in {quote(where)}, whose files would then differ from it; name another branch, "
                "or push to it by --git-remote"
            )
