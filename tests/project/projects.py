"""Small projects for tests: the trap files of tests/data/pin, and texts, pinned with invented digests."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from boltseal.oci.digest import Digest
from boltseal.project.edits import EditResult, ScanRequest, edit
from boltseal.project.image_references import ImageReference, ScanResult
from boltseal.project.scan import scan_project
from boltseal.project.source_files import ProjectTree

DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    spec:
      containers:
      - {name: web, image: app}
"""
"""A Deployment whose image is the bare name `app`."""
DATA = Path(__file__).parent.parent / "data" / "pin"


def trap(name: str, folder: Path) -> Path:
    """Copy a trap's files."""
    return Path(shutil.copytree(DATA / name, folder / name, symlinks=True))


def written(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Create a project with these files."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def found_in(root: Path, *paths: str) -> ScanResult:
    """Scan the project."""
    return scan_project(ProjectTree(root), [Path(path) for path in paths])


def digest_of(image_ref: ImageReference) -> Digest:
    """Return the test digest of a reference."""
    return Digest.of(str(image_ref.unpinned).encode())


def pinned(root: Path) -> EditResult:
    """Pin every reference that can be edited."""
    asked = ScanRequest(ProjectTree(root))
    found = scan_project(asked.project)
    return edit(
        asked,
        found,
        {
            image_ref: digest_of(image_ref)
            for image_ref in found.image_refs
            if image_ref.resolved and not image_ref.build
        },
    )


def unpinned(root: Path) -> EditResult:
    """Unpin every pinned reference."""
    asked = ScanRequest(ProjectTree(root))
    found = scan_project(asked.project)
    return edit(asked, found, {image_ref: None for image_ref in found.image_refs if image_ref.pinned})


def put(root: Path, edited: EditResult) -> None:
    """Write the new texts."""
    for change in edited.changes:
        (root / change.path).write_bytes(change.after.raw)


def shown(edited: EditResult) -> dict[str, list[str]]:
    """Return the new lines by file, each digest shortened to @DIGEST."""
    lines: dict[str, list[str]] = {}
    for change in edited.changes:
        old, new = change.before.text.splitlines(), change.after.text.splitlines()
        assert len(old) == len(new), "no line comes or goes"
        lines[change.path] = [_short(line).strip() for line, was in zip(new, old, strict=True) if line != was]
    return lines


def names(found: ScanResult) -> list[tuple[str, str]]:
    """Return each reference's position, and its resolved name or the reason for having none."""
    return [
        (image_ref.where, image_ref.resolved.familiar() if image_ref.resolved else f"? {image_ref.why}")
        for image_ref in found.image_refs
    ]


def _short(line: str) -> str:
    head, at, tail = line.partition("sha256:")
    return f"{head}DIGEST{_short(tail[64:])}" if at else line
