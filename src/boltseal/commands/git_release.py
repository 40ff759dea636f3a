"""Deploy to a branch of git: one commit with the project's images pinned by digest, and its lock, for Flux or Argo CD to apply.

The project is the folder as the branch has it, with the branch's own lock and settings. Nothing in the user's work tree is read
or changed. The steps:

    1. Open the branch, and write its files to a temporary folder.
    2. Lock them: new references are resolved, known ones only with `update`; never what `boltseal.holds` holds.
    3. Pin every reference by the lock. One that can't be pinned refuses the whole commit.
    4. Make the commit, with the explanation as message, and move the branch if no other process did (`project.git_branch`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from boltseal.commands.explained_changes import Explanation
from boltseal.commands.explained_lock import explain_lock, lock_changes
from boltseal.commands.lock import resolve_lock, unless_held
from boltseal.commands.pin import WITHOUT_DIGEST
from boltseal.commands.project_images import OpenedProject, open_project, registry_filter
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.text import clean, counted
from boltseal.config import child_environment
from boltseal.deploy.holds import Held
from boltseal.errors import Mismatch, Unavailable
from boltseal.lockfile.document import LOCK_NAME, Lock, LockedImage
from boltseal.lockfile.holds import HeldDigest, git_end_hint, held_references
from boltseal.oci.reference import Reference
from boltseal.project.edits import edit
from boltseal.project.git_branch import GitBranch, open_branch
from boltseal.project.held_digests import read_holds
from boltseal.project.image_references import ImageReference
from boltseal.project.lock_file import lock_text, read_lock_file
from boltseal.project.outside_files import outside_files
from boltseal.project.pin import Pin, PinStatus, pins_by_lock
from boltseal.project.written_pins import pins_after

MAX_REPORTED: Final = 5
"""How many references a refusal lists."""

Message = Callable[[Sequence[Explanation]], Sequence[str]]
"""Makes the lines of a commit's message from explained changes."""


class NotPinned(Mismatch):
    """An image of the branch would be deployed without a digest. Nothing was committed."""


@dataclass(frozen=True, slots=True)
class GitReleaseRequest:
    """What to commit to which branch.

    Attributes:
        folder: the project, a folder of a git repository.
        branch: the branch that is deployed.
        remote: the remote that has the branch; "" for the repository itself.
        update: lock what the tags resolve to now.
        allow: further registries that files of the branch may name.
    """

    folder: Path
    branch: str
    remote: str = ""
    update: bool = False
    allow: tuple[str, ...] = ()

    def open(self) -> GitBranch:
        """Open the branch. Raises: as `open_branch`."""
        return open_branch(self.folder, child_environment(), self.branch, self.remote)


@dataclass(frozen=True, slots=True)
class GitRelease:
    """The result.

    Attributes:
        branch: the branch as it was before.
        commit: the new commit; "" if the branch has all of it already.
        images: the images that changed.
        files: the files that the commit changes.
        explained: the explained changes.
        undone: commits of others in the folder that a rollback with its files took back.
    """

    branch: GitBranch
    commit: str
    images: tuple[LockedImage, ...] = ()
    files: tuple[str, ...] = ()
    explained: tuple[Explanation, ...] = ()
    undone: int = 0


def deploy_to_branch(request: GitReleaseRequest, options: RegistryOptions, message: Message) -> GitRelease:
    """Commit the pinned files and the lock of a branch to it. Raises: NotPinned, Held, BranchMoved; as `open_branch`."""
    branch = request.open()  # 1.
    with TemporaryDirectory(prefix="boltseal-") as folder:
        root = Path(folder)
        branch.write_files(branch.start, root)
        _check_whole(branch, root)
        opened, read = open_project(root), read_lock_file(root)
        for path in branch.submodules(branch.start)[:MAX_REPORTED]:
            options.client.notice(clean(f"not pinned: {path} is a submodule, whose files are in another repository"))
        for problem in opened.unknown[:MAX_REPORTED]:
            options.client.notice(clean(f"not pinned: {problem}"))
        old, holds = read.lock or Lock(), read_holds(root)
        lock = _locked(opened, old, request, options, holds)  # 2.
        if not lock.images:
            raise NotPinned(
                f"{_folder(branch)} of {branch.title} has no image; nothing was committed; run this in the folder that has the "
                "manifests"
            )
        _check_holds(branch, lock, holds)
        changes, lock = pinned_files(opened, lock)  # 3.
        text = lock_text(lock)
        if changes or read.lock is None or _without_spellings(lock) != _without_spellings(read.lock):
            changes[LOCK_NAME] = text
        if not changes:
            return GitRelease(branch, "")
        explained = explain_lock(old, lock, options)
    images = changed_images(old, lock)
    subject = f"deploy: {images_text(images)}" if images else "deploy: pin images by digest"
    commit = branch.commit(branch.start, changes, _text(subject, message(explained)))  # 4.
    branch.move(commit, "boltseal deploy")
    return GitRelease(branch, commit, images, tuple(changes), explained)


def _check_whole(branch: GitBranch, root: Path) -> None:
    """Raises: NotPinned: a kustomization takes files from outside of the folder, whose images would not be pinned."""
    found = outside_files(root)
    if found:
        listed = "; ".join(f"{path} takes {outer}" for path, outer in found[:MAX_REPORTED])
        raise NotPinned(
            clean(
                f"{_folder(branch)} of {branch.title} is not all of it: {listed}; these images would not be pinned; nothing was "
                "committed; run this in a folder of the repository that has both, or copy a remote base into it"
            )
        )


def _folder(branch: GitBranch) -> str:
    return f"folder {branch.prefix.rstrip('/')}" if branch.prefix else "the repository"


def _without_spellings(lock: Lock) -> Lock:
    """Return a lock without the spellings of references, which pinning their files changes."""
    return replace(lock, images=tuple(replace(each, written=()) for each in lock.images))


def _locked(
    opened: OpenedProject,
    old: Lock,
    request: GitReleaseRequest,
    options: RegistryOptions,
    holds: Sequence[HeldDigest],
) -> Lock:
    """Return the lock of the branch's files. Raises: Unavailable: a file could not be read, or a reference resolved."""

    def asked(_reference: Reference) -> bool:
        return request.update

    update = unless_held(asked, (), options.client, held_references(holds))
    done = resolve_lock(opened, old, options, registry_filter(options, request.allow), update=update)
    problems = [f"{each.name}: {each.reason}" for each in done.unresolved] + [str(each) for each in opened.problems]
    if problems:
        raise Unavailable(f"nothing was committed: {clean('; '.join(problems[:MAX_REPORTED]))}")
    return done.lock


def pinned_files(opened: OpenedProject, lock: Lock) -> tuple[dict[str, bytes | None], Lock]:
    """Return the files with every image pinned as locked, and the lock that records it. Raises: NotPinned."""
    pins = pins_by_lock(opened.image_refs, lock)
    wanted = {each.image_ref: each.digest for each in pins if each.status is PinStatus.PINNED}
    edited = edit(opened.asked, opened.found, wanted)
    refused = {each.image_ref: each.reason for each in edited.refusals}
    left = [(each.image_ref, refused.get(each.image_ref, each.reason)) for each in pins if _unpinned(each, refused)]
    if left:
        listed = "; ".join(f"{ref.path}:{ref.line}: {ref.written} {why}" for ref, why in left[:MAX_REPORTED])
        more = f"; and {len(left) - MAX_REPORTED} more" if len(left) > MAX_REPORTED else ""
        raise NotPinned(
            clean(
                f"{counted(len(left), 'image')} would be deployed without a digest; nothing was committed: {listed}{more}. "
                "[[lock.ignore]] in .boltseal.toml of the branch leaves one out"
            )
        )
    changes: dict[str, bytes | None] = {each.path: each.after.raw for each in edited.changes}
    return changes, replace(lock, pins=pins_after(lock, opened.image_refs, wanted, unpin=False))


def _unpinned(pin: Pin, refused: Mapping[ImageReference, str]) -> bool:
    return pin.status in WITHOUT_DIGEST or pin.image_ref in refused


def _check_holds(branch: GitBranch, lock: Lock, holds: Sequence[HeldDigest]) -> None:
    """Raises: Held: the lock has a digest that a rollback took back."""
    held = {(each.reference.by_tag, each.digest): each.reason for each in holds}
    for image in lock.images:
        reason = None if image.digest is None else held.get((image.reference.by_tag, image.digest))
        if reason is not None:
            raise Held(
                f"{image.reference.familiar()}: {image.digest} is {reason}; nothing was committed; "
                f"{git_end_hint(branch.options)}"
            )


def changed_images(old: Lock, new: Lock) -> tuple[LockedImage, ...]:
    """Return the images of the new lock whose digest the old one does not have under the same reference."""
    known = new.by_reference()
    changed = {(each.new, each.new_digest) for each in lock_changes(old, new)}
    return tuple(each for each in known.values() if (each.reference.by_tag, each.digest) in changed)


def images_text(images: Sequence[LockedImage]) -> str:
    """Return the first images, for the subject of a commit."""
    first = images[0].reference.familiar()
    return first if len(images) == 1 else f"{first} and {counted(len(images) - 1, 'other image')}"


def _text(subject: str, lines: Sequence[str]) -> str:
    return "\n".join([clean(subject), "", *lines]).rstrip("\n") + "\n"
