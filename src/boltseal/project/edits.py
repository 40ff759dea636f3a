"""New texts of a project's files: digests put in or taken out, and the proof that nothing else has changed. Pure.

Every edit replaces one short range (`Spot`) and leaves all other characters alone. That this changed what it should, and
nothing besides, is then read out of the new text:

    1. Sites that want different digests in one spot, and spots that overlap, are refused.
    2. The new text of each file has the same structure: every node of a YAML document, every instruction of a
       Dockerfile, every variable of an .env is what it was, but for the texts that were edited.
    3. The whole project, read again with the new texts, has the same sites, and each names what it should.

What does not pass is refused, file by file, with the reason; the rest goes on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from boltseal.oci.digest import Digest
from boltseal.project.edit_check import structure_differs
from boltseal.project.image_references import EditRange, ImageReference, ScanResult
from boltseal.project.scan import scan_project
from boltseal.project.source_files import ProjectTree, SourceFile

_ROUNDS: Final = 10


@dataclass(frozen=True, slots=True)
class FileEdit:
    """One file, before and after."""

    before: SourceFile
    after: SourceFile

    @property
    def path(self) -> str:
        """The file's name in the project."""
        return self.before.path


@dataclass(frozen=True, slots=True)
class EditRefusal:
    """A site that could not be edited, and why."""

    image_ref: ImageReference
    reason: str


@dataclass(frozen=True, slots=True)
class EditResult:
    """What would be written, and what was refused."""

    changes: tuple[FileEdit, ...]
    refusals: tuple[EditRefusal, ...]


@dataclass(frozen=True, slots=True)
class ScanRequest:
    """What was scanned, so that the same can be scanned again."""

    project: ProjectTree
    paths: Sequence[Path] = ()
    crds: Mapping[str, Sequence[str]] | None = None


def edit(asked: ScanRequest, found: ScanResult, pins: Mapping[ImageReference, Digest | None]) -> EditResult:
    """The files with these sites pinned (or, with None, unpinned), and what was refused. `found` is of `asked`."""
    refused: dict[ImageReference, str] = {}
    wanted: dict[ImageReference, Digest | None] = {}
    for image_ref, digest in pins.items():
        if image_ref.edit_range is None:
            refused[image_ref] = image_ref.override_only or image_ref.why or "there is no place for a digest"
        else:
            wanted[image_ref] = digest
    refused.update(_in_conflict(wanted))
    for _ in range(_ROUNDS):
        edit_ranges = {
            image_ref.edit_range: digest
            for image_ref, digest in wanted.items()
            if image_ref.edit_range and image_ref not in refused
        }
        changes = _apply(asked.project, edit_ranges)
        bad = _unproven(asked, found, edit_ranges, changes)
        if not bad:
            kept = tuple(change for change in changes if change.before.text != change.after.text)
            return EditResult(kept, tuple(EditRefusal(image_ref, reason) for image_ref, reason in refused.items()))
        for image_ref in wanted:
            if image_ref.edit_range is not None and image_ref.edit_range.path in bad:
                refused.setdefault(image_ref, bad[image_ref.edit_range.path])
    refused = {**dict.fromkeys(wanted, "the project does not come out the same twice"), **refused}
    return EditResult((), tuple(EditRefusal(image_ref, reason) for image_ref, reason in refused.items()))


def _in_conflict(wanted: Mapping[ImageReference, Digest | None]) -> dict[ImageReference, str]:
    """1. One spot holds one digest."""
    by_spot: defaultdict[EditRange, list[ImageReference]] = defaultdict(list)
    for image_ref in wanted:
        if image_ref.edit_range is not None:
            by_spot[image_ref.edit_range].append(image_ref)
    refused: dict[ImageReference, str] = {}
    for image_refs in by_spot.values():
        if len({wanted[image_ref] for image_ref in image_refs}) > 1:
            refused.update(
                (image_ref, "it shares its text with another reference, which has another digest")
                for image_ref in image_refs
            )
    order = sorted(by_spot)
    for first, second in pairwise(order):
        if first.path == second.path and second.start < first.end:
            refused.update(
                (image_ref, "its text overlaps with another reference's")
                for image_ref in by_spot[first] + by_spot[second]
            )
    return refused


def _apply(project: ProjectTree, edit_ranges: Mapping[EditRange, Digest | None]) -> list[FileEdit]:
    by_path: defaultdict[str, list[EditRange]] = defaultdict(list)
    for edit_range in edit_ranges:
        by_path[edit_range.path].append(edit_range)
    changes: list[FileEdit] = []
    for path, inside in sorted(by_path.items()):
        before = project.read(path)
        parts: list[str] = []
        at = 0
        for edit_range in sorted(inside):
            parts += (before.text[at : edit_range.start], written(edit_range, edit_ranges[edit_range]))
            at = edit_range.end
        parts.append(before.text[at:])
        changes.append(FileEdit(before, before.with_text("".join(parts))))
    return changes


def written(edit_range: EditRange, digest: Digest | None) -> str:
    """What stands in a spot once it holds this digest."""
    return "" if digest is None else f"{edit_range.lead}{digest}"


def _unproven(
    asked: ScanRequest, found: ScanResult, edit_ranges: Mapping[EditRange, Digest | None], changes: Sequence[FileEdit]
) -> dict[str, str]:
    """The files whose new text does not hold, and why."""
    bad: dict[str, str] = {}
    kinds = {image_ref.path: image_ref.format for image_ref in found.image_refs}
    inside: defaultdict[str, dict[EditRange, str]] = defaultdict(dict)
    for edit_range, digest in edit_ranges.items():
        inside[edit_range.path][edit_range] = written(edit_range, digest)
    for change in changes:  # 2.
        reason = structure_differs(change.before, change.after, inside[change.path], kinds.get(change.path))
        if reason is not None:
            bad[change.path] = reason
    if bad:
        return bad
    again = scan_project(  # 3.
        asked.project.with_texts({change.path: change.after for change in changes}), asked.paths, crds=asked.crds
    )
    if len(again.image_refs) != len(found.image_refs) or len(again.problems) != len(found.problems):
        return {change.path: "read again, it does not hold the same references" for change in changes}
    for image_ref, now in zip(found.image_refs, again.image_refs, strict=True):
        expected = (
            edit_ranges.get(image_ref.edit_range, image_ref.pinned)
            if image_ref.edit_range is not None
            else image_ref.pinned
        )
        same = (image_ref.path, image_ref.where, image_ref.line, image_ref.unpinned, image_ref.build) == (
            now.path,
            now.where,
            now.line,
            now.unpinned,
            now.build,
        )
        if not same or now.pinned != expected:
            reason = f"read again, {image_ref.where} does not name what it should"
            for change in changes:
                if change.path in (
                    image_ref.path,
                    image_ref.edit_range.path if image_ref.edit_range is not None else image_ref.path,
                ):
                    bad[change.path] = reason
            bad = bad or {change.path: reason for change in changes}
    return bad
