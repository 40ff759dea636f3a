"""Read a project's `boltseal.holds` from disk, by the rules for its other files."""

from __future__ import annotations

from pathlib import Path

from boltseal.lockfile.holds import HOLDS_NAME, HeldDigest, HoldsInvalid, parse_holds
from boltseal.project.source_files import ProjectTree, Unreadable


def read_holds(root: Path) -> tuple[HeldDigest, ...]:
    """Return what rollbacks in git hold in a project; () without the file. Raises: HoldsInvalid."""
    path = root / HOLDS_NAME
    if not path.exists() and not path.is_symlink():
        return ()
    try:
        return parse_holds(ProjectTree(root).read(HOLDS_NAME).raw)
    except Unreadable as error:
        raise HoldsInvalid(f"{HOLDS_NAME} {error}; restore it from git") from error
