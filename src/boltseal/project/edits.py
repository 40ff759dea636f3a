"""Compute new file texts with digests inserted or removed, and check that nothing else changed. Reads files; writes none.

Every edit replaces one short range (`EditRange`) and leaves all other characters alone. The checks:

    1. Refuse references that want different digests in one range, and ranges that overlap.
    2. The new text of each file has the same structure: every node of a YAML document, every instruction of a
       Dockerfile and every variable of an .env is unchanged except for the edited texts.
    3. The whole project, scanned again with the new texts, has the same references, each with its expected digest.

A file that fails a check is refused with the reason. The other files are still edited.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Final

from boltseal.errors import quote
from boltseal.oci.digest import Digest
from boltseal.project.edit_check import structure_differs
from boltseal.project.image_references import EditRange, ImageReference, ScanResult
from boltseal.project.scan import scan_project
from boltseal.project.source_files import ProjectTree, SourceFile

_ROUNDS: Final = 10
CACHED_TEXTS: Final = 1024


@dataclass(frozen=True, slots=True)
class FileEdit:
    """A file before and after an edit."""

    before: SourceFile
    after: SourceFile

    @property
    def path(self) -> str:
        """The file's path in the project."""
        return self.before.path


@dataclass(frozen=True, slots=True)
class EditRefusal:
    """A reference that could not be edited, and the reason."""

    image_ref: ImageReference
    reason: str


@dataclass(frozen=True, slots=True)
class EditResult:
    """The files to write, and the references that were refused."""

    changes: tuple[FileEdit, ...]
    refusals: tuple[EditRefusal, ...]


@dataclass(frozen=True, slots=True)
class ScanRequest:
    """The arguments of a scan, so that it can be repeated."""

    project: ProjectTree
    paths: Sequence[Path] = ()
    crds: Mapping[str, Sequence[str]] | None = None


def edit(request: ScanRequest, scan: ScanResult, pins: Mapping[ImageReference, Digest | None]) -> EditResult:
    """Pin these references in their files; None unpins one. `scan` is the result of `request`."""
    refused: dict[ImageReference, str] = {}
    for image_ref in pins:
        if image_ref.edit_range is None:
            refused[image_ref] = image_ref.override_only or image_ref.why or "a digest can't be written there"
    refused.update(_conflicts(pins))
    for _ in range(_ROUNDS):
        edit_ranges = {
            image_ref.edit_range: digest
            for image_ref, digest in pins.items()
            if image_ref.edit_range and image_ref not in refused
        }
        changes = _apply(request.project, edit_ranges)
        failures = _failed_checks(request, scan, edit_ranges, changes)
        if not failures:
            kept = tuple(change for change in changes if change.before.text != change.after.text)
            return EditResult(kept, tuple(EditRefusal(image_ref, reason) for image_ref, reason in refused.items()))
        for image_ref in pins:
            if image_ref.edit_range is not None and image_ref.edit_range.path in failures:
                refused.setdefault(image_ref, failures[image_ref.edit_range.path])
    reason = f"the checks still failed after {_ROUNDS} attempts; report this as a defect"
    refused = {**dict.fromkeys(pins, reason), **refused}
    return EditResult((), tuple(EditRefusal(image_ref, reason) for image_ref, reason in refused.items()))


def _conflicts(pins: Mapping[ImageReference, Digest | None]) -> dict[ImageReference, str]:
    """Check 1: find references whose ranges conflict."""
    digests: dict[EditRange, Digest | None] = {}
    reasons: dict[EditRange, str] = {}
    for image_ref, digest in pins.items():
        if image_ref.edit_range is not None and digests.setdefault(image_ref.edit_range, digest) != digest:
            reasons[image_ref.edit_range] = "another reference that needs another digest shares its text"
    for first, second in pairwise(sorted(digests)):
        if first.path == second.path and second.start < first.end:
            reasons |= dict.fromkeys((first, second), "its text overlaps another reference's text")
    if not reasons:
        return {}
    return {
        each: reasons[each.edit_range] for each in pins if each.edit_range is not None and each.edit_range in reasons
    }


def _apply(project: ProjectTree, edit_ranges: Mapping[EditRange, Digest | None]) -> list[FileEdit]:
    by_path: defaultdict[str, list[EditRange]] = defaultdict(list)
    for edit_range in edit_ranges:
        by_path[edit_range.path].append(edit_range)
    changes: list[FileEdit] = []
    for path, ranges in sorted(by_path.items()):
        before = project.read(path)
        parts: list[str] = []
        end = 0
        for edit_range in sorted(ranges):
            parts += (before.text[end : edit_range.start], pin_text(edit_range, edit_ranges[edit_range]))
            end = edit_range.end
        parts.append(before.text[end:])
        changes.append(FileEdit(before, before.with_text("".join(parts))))
    return changes


def pin_text(edit_range: EditRange, digest: Digest | None) -> str:
    """Return the text that pins a range to a digest, or "" to unpin it."""
    if digest is None:
        return ""
    return _digest_text(edit_range.lead, digest, hexadecimal=edit_range.hexadecimal)


@lru_cache(maxsize=CACHED_TEXTS)  # most digests are written in several places: one value in memory for all
def _digest_text(lead: str, digest: Digest, *, hexadecimal: bool) -> str:
    return f"{lead}{digest.hex if hexadecimal else digest}"


def _unpinned(image_ref: ImageReference) -> tuple[str, str, str | None] | None:
    """Return what a reference resolves to, without its digest. Unlike `ImageReference.unpinned`, makes no new reference."""
    resolved = image_ref.resolved
    return None if resolved is None else (resolved.registry, resolved.repository, resolved.tag)


def _first_of_one(scan: ScanResult, rescan: ScanResult) -> str:
    """Return the first position that only one of two scans has, for a message; "" for none."""
    before, after = ({(each.path, each.where) for each in found.image_refs} for found in (scan, rescan))
    path, where = min(before ^ after, default=("", ""))
    return (
        f": {quote(path)} would {'no longer' if (path, where) in before else 'also'} have {quote(where)}"
        if path
        else ""
    )


def _failed_checks(
    request: ScanRequest, scan: ScanResult, edit_ranges: Mapping[EditRange, Digest | None], changes: Sequence[FileEdit]
) -> dict[str, str]:
    """Checks 2 and 3: return the files whose new text fails, with the reason."""
    failures: dict[str, str] = {}
    formats = {image_ref.path: image_ref.format for image_ref in scan.image_refs}
    replacements: defaultdict[str, dict[EditRange, str]] = defaultdict(dict)
    for edit_range, digest in edit_ranges.items():
        replacements[edit_range.path][edit_range] = pin_text(edit_range, digest)
    for change in changes:  # 2.
        reason = structure_differs(change.before, change.after, replacements[change.path], formats.get(change.path))
        if reason is not None:
            failures[change.path] = reason
    if failures:
        return failures
    rescan = scan_project(  # 3.
        request.project.with_texts({change.path: change.after for change in changes}), request.paths, crds=request.crds
    )
    if len(rescan.image_refs) != len(scan.image_refs) or len(rescan.problems) != len(scan.problems):
        reason = f"after the edit, the project would not have the same image references{_first_of_one(scan, rescan)}"
        return {change.path: reason for change in changes}
    for image_ref, now in zip(scan.image_refs, rescan.image_refs, strict=True):
        expected = (
            edit_ranges.get(image_ref.edit_range, image_ref.pinned)
            if image_ref.edit_range is not None
            else image_ref.pinned
        )
        same = (image_ref.path, image_ref.where, image_ref.line, _unpinned(image_ref), image_ref.build) == (
            now.path,
            now.where,
            now.line,
            _unpinned(now),
            now.build,
        )
        if not same or now.pinned != expected:
            reason = f"after the edit, {image_ref.where} would not name the expected image"
            for change in changes:
                if change.path in (
                    image_ref.path,
                    image_ref.edit_range.path if image_ref.edit_range is not None else image_ref.path,
                ):
                    failures[change.path] = reason
            failures = failures or {change.path: reason for change in changes}
    return failures
