"""Go back on a branch of git: one commit with the digests of an earlier one, and `boltseal.holds`, which holds what was taken back.

A release of the branch is a commit that changed its lock. The steps:

    1. Open the branch, and find the release to go back to: the one before the newest, or the one that was asked for.
    2. Give the lock of the branch the digests of that release, and pin the files as they are now; or take the whole folder from it.
    3. Hold each digest that was taken back: `update`, `lock --update` and `deploy --update` leave its reference as it is. A digest
       that is restored is held no more.
    4. Make the commit, and move the branch if no other process did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from boltseal.commands.git_release import GitRelease, GitReleaseRequest, changed_images, images_text, pinned_files
from boltseal.commands.project_images import open_project
from boltseal.commands.text import clean
from boltseal.deploy.holds import Held
from boltseal.errors import Invalid, Precondition, quote
from boltseal.lockfile.document import LOCK_NAME, Lock, LockedImage, LockInvalid
from boltseal.lockfile.holds import HOLDS_NAME, HeldDigest, format_holds, parse_holds
from boltseal.lockfile.parse import parse_lock
from boltseal.project.git_branch import GitBranch
from boltseal.project.git_program import ask_git
from boltseal.project.lock_file import lock_text


class NothingBefore(Precondition):
    """The branch has no earlier release, or what it has now can't be taken back alone. Nothing was committed."""


@dataclass(frozen=True, slots=True)
class _Back:
    """A way back: the newest release and the one to go back to, as commits and locks."""

    newest: str
    target: str
    now: Lock
    then: Lock

    @property
    def restored(self) -> tuple[LockedImage, ...]:
        """The images of `then` that differ from now."""
        return changed_images(self.now, self.then)

    def restores(self, held: HeldDigest) -> bool:
        """Return whether going back deploys a held digest again, because a person asked for its release."""
        return any(
            (each.reference.by_tag, each.digest) == (held.reference.by_tag, held.digest) for each in self.then.images
        )

    def holds(self) -> list[HeldDigest]:
        """What going back holds: the digests of now that `then` does not have."""
        kept = {(each.reference.by_tag, each.digest) for each in self.then.images}
        return [
            HeldDigest(each.reference.by_tag, each.digest, self.newest)
            for each in self.now.images
            if each.digest is not None and (each.reference.by_tag, each.digest) not in kept
        ]


def roll_back_branch(request: GitReleaseRequest, to: str = "", *, restore_files: bool = False) -> GitRelease:
    """Commit an earlier release of a branch to it again. `to`: its commit; default: the one before the newest.

    `restore_files`: take the whole folder from it, not only the digests. Raises: NothingBefore, Held, BranchMoved, NotPinned.
    """
    branch = request.open()  # 1.
    before = holds_of(branch)
    back = _find(branch, to, before)
    if restore_files:
        changes, undone = {LOCK_NAME: branch.read(back.target, LOCK_NAME)}, _others(branch, back)
    else:
        changes, undone = _repinned(branch, back), 0  # 2.
    holds = [each for each in before if not back.restores(each)] + back.holds()  # 3.
    changes[HOLDS_NAME] = format_holds(holds).encode() if holds else None
    subject = f"rollback: {images_text(back.restored)}" if back.restored else "rollback: restore the files"
    lines = [clean(f"{each.reference.familiar()} is {each.digest} again") for each in back.restored]
    lines += [
        "",
        f"Goes back from commit {back.newest}",
        f"to commit {back.target}.",
        *([f"{HOLDS_NAME} holds what it took back."] if holds else []),
    ]
    commit = branch.commit(  # 4.
        branch.start, changes, "\n".join([clean(subject), "", *lines]) + "\n", back.target if restore_files else ""
    )
    branch.move(commit, "boltseal rollback")
    return GitRelease(branch, commit, back.restored, tuple(changes), undone=undone)


def end_branch_holds(request: GitReleaseRequest) -> tuple[GitRelease, tuple[HeldDigest, ...]]:
    """Commit a branch without its holds, and return them. Raises: HoldsInvalid, BranchMoved; as `open_branch`."""
    branch = request.open()
    found = holds_of(branch)
    if not found:
        return GitRelease(branch, ""), ()
    lines = [clean(f"{each.reference.familiar()} {each.digest}") for each in found]
    message = "\n".join(["release hold: end what a rollback holds", "", *lines]) + "\n"
    commit = branch.commit(branch.start, {HOLDS_NAME: None}, message)
    branch.move(commit, "boltseal release hold --end")
    return GitRelease(branch, commit, files=(HOLDS_NAME,)), found


def branch_holds(request: GitReleaseRequest) -> tuple[HeldDigest, ...]:
    """Return what rollbacks of a branch hold. Raises: HoldsInvalid; as `open_branch`."""
    return holds_of(request.open())


def holds_of(branch: GitBranch) -> tuple[HeldDigest, ...]:
    """Return what rollbacks of a branch hold. Raises: HoldsInvalid, GitFailed."""
    raw = branch.read(branch.start, HOLDS_NAME)
    return () if raw is None else parse_holds(raw)


def _find(branch: GitBranch, to: str, holds: Sequence[HeldDigest]) -> _Back:
    """Return the way back. Raises: NothingBefore, Held, Invalid, LockInvalid."""
    releases = branch.changes_of(LOCK_NAME) if branch.tip else []
    if not releases:
        raise NothingBefore(f"branch {branch.title} has no {LOCK_NAME}: `boltseal deploy {branch.options}` makes it")
    if not to and any(each.undone in releases[1:2] for each in holds):
        raise Held(
            f"the newest release of {branch.title}, commit {releases[0][:12]}, is a rollback already; nothing was committed; to go "
            f"back further: `boltseal rollback {branch.options} --to COMMIT`"
        )
    target = _commit(branch, to) if to else releases[1] if len(releases) > 1 else ""
    raw = branch.read(target, LOCK_NAME) if target else None
    if raw is None:
        raise NothingBefore(
            f"there is no release of {branch.title} before commit {releases[0][:12]}; nothing was committed"
        )
    now = branch.read(branch.start, LOCK_NAME)
    if now is None:
        raise LockInvalid(f"{branch.title} has no {LOCK_NAME} now; restore it from git")
    return _Back(releases[0], target, parse_lock(now), parse_lock(raw))


def _commit(branch: GitBranch, to: str) -> str:
    """Return a commit of the branch. Raises: Invalid."""
    found = ask_git(
        branch.folder, branch.environment, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{to}^{{commit}}"
    )
    inside = (
        found.code == 0
        and not ask_git(branch.folder, branch.environment, "merge-base", "--is-ancestor", found.text, branch.start).code
    )
    if not inside:
        raise Invalid(f"--to: got {quote(to)}, expected a commit of branch {branch.title}")
    return found.text


def _repinned(branch: GitBranch, back: _Back) -> dict[str, bytes | None]:
    """Return the files of now with the digests of the earlier release. Raises: NothingBefore, NotPinned."""
    then = back.then.by_reference()
    unknown = [each.reference.familiar() for each in back.now.images if each.reference not in then]
    if unknown:
        raise NothingBefore(
            clean(
                f"commit {back.target[:12]} has no digest of {', '.join(unknown[:5])}: the files name other images now; nothing was "
                "committed; --restore-files takes the whole folder from that commit"
            )
        )
    images = tuple(replace(then[each.reference], used=each.used) for each in back.now.images)
    with TemporaryDirectory(prefix="boltseal-") as folder:
        branch.write_files(branch.start, Path(folder))
        changes, lock = pinned_files(open_project(Path(folder)), replace(back.now, images=images))
    if not back.restored:
        raise NothingBefore(
            f"{branch.title} has the digests of commit {back.target[:12]} already; nothing was committed"
        )
    changes[LOCK_NAME] = lock_text(lock)
    return changes


def _others(branch: GitBranch, back: _Back) -> int:
    """Return how many commits after the target changed the folder but not its lock: they are taken back as well."""
    count = branch.run("rev-list", "--count", f"{back.target}..{branch.start}", "--", ".").text
    own = branch.run("rev-list", "--count", f"{back.target}..{branch.start}", "--", LOCK_NAME).text
    return max(int(count) - int(own), 0)
