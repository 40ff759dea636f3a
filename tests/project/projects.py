"""Small projects for the tests of pin: the trap files of tests/data/pin, and texts; pinned with digests of our own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from boltseal.oci.digest import Digest
from boltseal.project.edits import EditResult, ScanRequest, edit
from boltseal.project.image_references import ImageReference, ScanResult
from boltseal.project.scan import scan_project
from boltseal.project.source_files import ProjectTree

DATA = Path(__file__).parent.parent / "data" / "pin"


def trap(name: str, folder: Path) -> Path:
    """A copy of a trap's files."""
    return Path(shutil.copytree(DATA / name, folder / name, symlinks=True))


def written(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """A project with these files."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def found_in(root: Path, *paths: str) -> ScanResult:
    """What a scan of the project finds."""
    return scan_project(ProjectTree(root), [Path(path) for path in paths])


def digest_of(image_ref: ImageReference) -> Digest:
    """The digest that our tests give to whatever a site names."""
    return Digest.of(str(image_ref.unpinned).encode())


def pinned(root: Path) -> EditResult:
    """Every site that has a place for it, with its digest."""
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
    """Every site that has a digest, without it."""
    asked = ScanRequest(ProjectTree(root))
    found = scan_project(asked.project)
    return edit(asked, found, {image_ref: None for image_ref in found.image_refs if image_ref.pinned})


def put(root: Path, edited: EditResult) -> None:
    """The new texts, on the disk."""
    for change in edited.changes:
        (root / change.path).write_bytes(change.after.raw)


def shown(edited: EditResult) -> dict[str, list[str]]:
    """The lines that are new, by file, each digest shortened to @DIGEST."""
    lines: dict[str, list[str]] = {}
    for change in edited.changes:
        old, new = change.before.text.splitlines(), change.after.text.splitlines()
        assert len(old) == len(new), "no line comes or goes"
        lines[change.path] = [_short(line).strip() for line, was in zip(new, old, strict=True) if line != was]
    return lines


def names(found: ScanResult) -> list[tuple[str, str]]:
    """Each site: where, and what it names, or why it names nothing."""
    return [
        (image_ref.where, image_ref.resolved.familiar() if image_ref.resolved else f"? {image_ref.why}")
        for image_ref in found.image_refs
    ]


def _short(line: str) -> str:
    head, at, tail = line.partition("sha256:")
    return f"{head}DIGEST{_short(tail[64:])}" if at else line
