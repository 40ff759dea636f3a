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

    site: ImageReference
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
    for site, digest in pins.items():
        if site.spot is None:
            refused[site] = site.override_only or site.why or "there is no place for a digest"
        else:
            wanted[site] = digest
    refused.update(_in_conflict(wanted))
    for _ in range(_ROUNDS):
        spots = {site.spot: digest for site, digest in wanted.items() if site.spot and site not in refused}
        changes = _apply(asked.project, spots)
        bad = _unproven(asked, found, spots, changes)
        if not bad:
            kept = tuple(change for change in changes if change.before.text != change.after.text)
            return EditResult(kept, tuple(EditRefusal(site, reason) for site, reason in refused.items()))
        for site in wanted:
            if site.spot is not None and site.spot.path in bad:
                refused.setdefault(site, bad[site.spot.path])
    refused = {**dict.fromkeys(wanted, "the project does not come out the same twice"), **refused}
    return EditResult((), tuple(EditRefusal(site, reason) for site, reason in refused.items()))


def _in_conflict(wanted: Mapping[ImageReference, Digest | None]) -> dict[ImageReference, str]:
    """1. One spot holds one digest."""
    by_spot: defaultdict[EditRange, list[ImageReference]] = defaultdict(list)
    for site in wanted:
        if site.spot is not None:
            by_spot[site.spot].append(site)
    refused: dict[ImageReference, str] = {}
    for sites in by_spot.values():
        if len({wanted[site] for site in sites}) > 1:
            refused.update(
                (site, "it shares its text with another reference, which has another digest") for site in sites
            )
    order = sorted(by_spot)
    for first, second in pairwise(order):
        if first.path == second.path and second.start < first.end:
            refused.update(
                (site, "its text overlaps with another reference's") for site in by_spot[first] + by_spot[second]
            )
    return refused


def _apply(project: ProjectTree, spots: Mapping[EditRange, Digest | None]) -> list[FileEdit]:
    by_path: defaultdict[str, list[EditRange]] = defaultdict(list)
    for spot in spots:
        by_path[spot.path].append(spot)
    changes: list[FileEdit] = []
    for path, inside in sorted(by_path.items()):
        before = project.read(path)
        parts: list[str] = []
        at = 0
        for spot in sorted(inside):
            parts += (before.text[at : spot.start], written(spot, spots[spot]))
            at = spot.end
        parts.append(before.text[at:])
        changes.append(FileEdit(before, before.with_text("".join(parts))))
    return changes


def written(spot: EditRange, digest: Digest | None) -> str:
    """What stands in a spot once it holds this digest."""
    return "" if digest is None else f"{spot.lead}{digest}"


def _unproven(
    asked: ScanRequest, found: ScanResult, spots: Mapping[EditRange, Digest | None], changes: Sequence[FileEdit]
) -> dict[str, str]:
    """The files whose new text does not hold, and why."""
    bad: dict[str, str] = {}
    kinds = {site.path: site.format for site in found.sites}
    inside: defaultdict[str, dict[EditRange, str]] = defaultdict(dict)
    for spot, digest in spots.items():
        inside[spot.path][spot] = written(spot, digest)
    for change in changes:  # 2.
        reason = structure_differs(change.before, change.after, inside[change.path], kinds.get(change.path))
        if reason is not None:
            bad[change.path] = reason
    if bad:
        return bad
    again = scan_project(  # 3.
        asked.project.with_texts({change.path: change.after for change in changes}), asked.paths, crds=asked.crds
    )
    if len(again.sites) != len(found.sites) or len(again.problems) != len(found.problems):
        return {change.path: "read again, it does not hold the same references" for change in changes}
    for site, now in zip(found.sites, again.sites, strict=True):
        expected = spots.get(site.spot, site.pinned) if site.spot is not None else site.pinned
        same = (site.path, site.where, site.line, site.unpinned, site.build) == (
            now.path,
            now.where,
            now.line,
            now.unpinned,
            now.build,
        )
        if not same or now.pinned != expected:
            reason = f"read again, {site.where} does not name what it should"
            for change in changes:
                if change.path in (site.path, site.spot.path if site.spot is not None else site.path):
                    bad[change.path] = reason
            bad = bad or {change.path: reason for change in changes}
    return bad
