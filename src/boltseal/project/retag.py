"""New tags in a project's files: `1.4.2` becomes `1.5.0` where it stands, and nothing else changes. Pure.

Only a reference whose own text has the tag in it as it is can be edited: not one that a variable fills in, and not one that
a digest pins, for that is another image then. Proven as `edit` proves a pin: the same structure but for these texts, and
the same references but for these tags.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from boltseal.oci.reference import Tag
from boltseal.project.edit_check import structure_differs
from boltseal.project.edits import EditRefusal, EditResult, FileEdit, ScanRequest
from boltseal.project.image_references import EditRange, ImageReference, ScanResult
from boltseal.project.scan import scan_project


def retag(asked: ScanRequest, found: ScanResult, tags: Mapping[ImageReference, Tag]) -> EditResult:
    """The files with these tags, and what was refused. `found` is of `asked`. One file that does not prove refuses all."""
    refused: dict[ImageReference, str] = {}
    texts: defaultdict[str, dict[EditRange, str]] = defaultdict(dict)
    for image_ref, tag in tags.items():
        edit_range = _spot(asked, image_ref)
        if isinstance(edit_range, str):
            refused[image_ref] = edit_range
        else:
            texts[edit_range.path][edit_range] = str(tag)
    changes = [_change(asked, path, inside) for path, inside in sorted(texts.items())]
    reason = _unproven(
        asked, found, {image_ref: tag for image_ref, tag in tags.items() if image_ref not in refused}, changes, texts
    )
    if reason is not None:
        refused.update({image_ref: reason for image_ref in tags if image_ref not in refused})
        changes = []
    return EditResult(tuple(changes), tuple(EditRefusal(image_ref, why) for image_ref, why in refused.items()))


def _spot(asked: ScanRequest, image_ref: ImageReference) -> EditRange | str:
    """Where the tag stands, or why it can't be edited."""
    reference = image_ref.resolved
    if reference is None or reference.tag is None:
        return image_ref.why or "it has no tag"
    if reference.digest is not None:
        return "it is pinned to a digest; unpin it first (`boltseal pin --unpin`), or change both by hand"
    start, end = image_ref.span
    text = asked.project.read(image_ref.path).text[start:end]
    at = text.rfind(f":{reference.tag}")
    after = at + 1 + len(reference.tag)
    if at < 0 or text.count(f":{reference.tag}") != 1 or text[after:].strip("\"' \t\r\n"):
        return "its tag is not written there as it is: a variable or another file fills it in"
    return EditRange(image_ref.path, start + at + 1, start + after, "")


def _change(asked: ScanRequest, path: str, inside: Mapping[EditRange, str]) -> FileEdit:
    before = asked.project.read(path)
    parts, at = [], 0
    for edit_range in sorted(inside):
        parts += [before.text[at : edit_range.start], inside[edit_range]]
        at = edit_range.end
    parts.append(before.text[at:])
    return FileEdit(before, before.with_text("".join(parts)))


def _unproven(
    asked: ScanRequest,
    found: ScanResult,
    tags: Mapping[ImageReference, Tag],
    changes: list[FileEdit],
    texts: Mapping[str, Mapping[EditRange, str]],
) -> str | None:
    kinds = {image_ref.path: image_ref.format for image_ref in found.image_refs}
    for change in changes:
        differs = structure_differs(change.before, change.after, texts[change.path], kinds.get(change.path))
        if differs is not None:
            return differs.replace("the digest", "the new tag")
    project = asked.project.with_texts({change.path: change.after for change in changes})
    again = scan_project(project, asked.paths, crds=asked.crds)
    if len(again.image_refs) != len(found.image_refs) or len(again.problems) != len(found.problems):
        return "read again, the files do not hold the same references"
    for image_ref, now in zip(found.image_refs, again.image_refs, strict=True):
        expected = image_ref.resolved
        if expected is not None and image_ref in tags:
            expected = replace(expected, tag=tags[image_ref])
        if (image_ref.path, image_ref.where, expected) != (now.path, now.where, now.resolved):
            return f"read again, {image_ref.where} does not name what it should"
    return None
