"""Which release of a project a command is about: the one to go back to, or the unfinished one, and what takes its place.

For all kinds of deployers (Compose, Quadlet, Kubernetes). `options`: the options that the commands in messages need.
"""

from __future__ import annotations

from collections.abc import Sequence

from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import Release, ReleaseEnd, rollback_target
from boltseal.errors import NotFound


def unfinished_release(releases: Sequence[Release]) -> Release | None:
    """Return the newest release that has not ended, None if all have."""
    return next((each for each in reversed(releases) if each.unfinished), None)


def release_to_resume(folder: ReleaseFolder, options: str = "") -> Release:
    """Return the unfinished release of a project. Raises: NotFound: there is none."""
    unfinished = unfinished_release(folder.all())
    if unfinished is None:
        raise NotFound(f"{folder.project} has no unfinished release; see {_list_command(options)}")
    return unfinished


def release_to_restore(
    folder: ReleaseFolder, releases: Sequence[Release], number: int | None, options: str = ""
) -> Release:
    """Return the release that a rollback restores: `number`, or the one before the running release.

    Raises: NotFound: no release ran before the running one. NoSuchRelease: there is no release of this number.
    """
    target = rollback_target(releases) if number is None else folder.read(number)
    if target is None:
        raise NotFound(
            f"can't roll back: {folder.project} has no release before the running one; see {_list_command(options)}"
        )
    return target


def abandon(folder: ReleaseFolder, unfinished: Release | None, now_us: int, number: int) -> None:
    """Record that an unfinished release, if there is one, is abandoned. `number`: of the release that takes its place."""
    if unfinished is not None:
        folder.write(unfinished.ended(ReleaseEnd.ABANDONED, now_us, f"release {number} took over"))


def _list_command(options: str) -> str:
    return f"`{f'boltseal release ls {options}'.rstrip()}`"
