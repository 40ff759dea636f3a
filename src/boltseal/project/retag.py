"""Change tags in a project's files, such as `1.4.2` to `1.5.0`, and check that nothing else changed. Writes no file.

A reference can be edited if its own text contains the tag literally, or the text that ends it does, where that is one
place: a default (`${WEB_TAG:-1.4.2}`) or a value in `.env`. A reference that is pinned gets tag and digest in one edit,
because the former digest would still select the old image; without a new digest it is refused. The checks are those of
`edits`: the same structure except for the edited texts, and the same references except for these tags and digests. So a
variable that other references use too is refused, unless all of them get the same tag.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Tag
from boltseal.project.edit_check import structure_differs
from boltseal.project.edits import EditRefusal, EditResult, FileEdit, ScanRequest, pin_text
from boltseal.project.image_references import EditRange, ImageReference, ScanResult
from boltseal.project.scan import scan_project


class NewImage(NamedTuple):
    """What a reference gets: a tag, None to keep the one it has; and the tag's digest, None for a reference without one."""

    tag: Tag | None = None
    digest: Digest | None = None


def retag(request: ScanRequest, scan: ScanResult, images: Mapping[ImageReference, NewImage]) -> EditResult:
    """Change these references in their files. `scan` is the result of `request`. One failed check refuses all edits.

    A digest is written only where the reference has one already.
    """
    refused: dict[ImageReference, str] = {}
    texts: defaultdict[str, dict[EditRange, str]] = defaultdict(dict)
    for image_ref, image in images.items():
        edit_range = _edit_range(request, image_ref, image)
        if isinstance(edit_range, str):
            refused[image_ref] = edit_range
        else:
            texts[edit_range.path][edit_range] = _new_text(image_ref, image)
    changes = [_apply(request, path, replacements) for path, replacements in sorted(texts.items())]
    wanted = {image_ref: image for image_ref, image in images.items() if image_ref not in refused}
    reason = _failed_check(request, scan, wanted, changes, texts)
    if reason is not None:
        refused.update(dict.fromkeys(wanted, reason))
        changes = []
    return EditResult(tuple(changes), tuple(EditRefusal(image_ref, why) for image_ref, why in refused.items()))


def _edit_range(request: ScanRequest, image_ref: ImageReference, image: NewImage) -> EditRange | str:
    """Return the range to replace, or why it can't be edited."""
    if image_ref.pinned is None:
        return _tag_range(request, image_ref)
    if image.digest is None:
        return "it is pinned to a digest; unpin it first (`boltseal pin --unpin`), or change both by hand"
    return _pinned_range(request, image_ref, image)


def _pinned_range(request: ScanRequest, image_ref: ImageReference, image: NewImage) -> EditRange | str:
    """Return the range of the digest, and of the tag before it if that changes; or why it can't be edited."""
    at, tag = image_ref.edit_range, None if image_ref.resolved is None else image_ref.resolved.tag
    if at is None:
        return image_ref.override_only or "its digest can't be written there"
    if image.tag is None:
        return at
    text = request.project.read(at.path).text[: at.start]
    if tag is None or not text.endswith(tag) or _is_tag_character(text[-len(tag) - 1 : -len(tag)]):
        return f"{at.path}: the text before its digest is not the whole tag {tag or ''}".rstrip()
    return replace(at, start=at.start - len(tag))


def _new_text(image_ref: ImageReference, image: NewImage) -> str:
    digest = (
        "" if image_ref.edit_range is None or image_ref.pinned is None else pin_text(image_ref.edit_range, image.digest)
    )
    return f"{image.tag or ''}{digest}"


def _tag_range(request: ScanRequest, image_ref: ImageReference) -> EditRange | str:
    """Return the range of the tag of a reference without a digest, or why it can't be edited."""
    reference = image_ref.resolved
    if reference is None or reference.tag is None:
        return image_ref.why or "it has no tag"
    start, end = image_ref.span
    text = request.project.read(image_ref.path).text[start:end]
    at = text.rfind(f":{reference.tag}")
    after = at + 1 + len(reference.tag)
    if at < 0 or text.count(f":{reference.tag}") != 1 or text[after:].strip("\"' \t\r\n"):
        return _variable_range(request, image_ref, reference.tag)
    return EditRange(image_ref.path, start + at + 1, start + after, "")


def _variable_range(request: ScanRequest, image_ref: ImageReference, tag: Tag) -> EditRange | str:
    """Return the range of a tag that ends the text of a variable, or why it can't be edited."""
    at = image_ref.tag_end
    if at is None:
        return "its text does not contain the tag literally, and no variable in one place supplies it"
    text = request.project.read(at.path).text[: at.end]
    if not text.endswith(tag) or _is_tag_character(text[-len(tag) - 1 : -len(tag)]):
        return f"{at.path}: the value that ends its name is not the whole tag {tag}"
    return EditRange(at.path, at.end - len(tag), at.end, "")


def _is_tag_character(before: str) -> bool:
    return before.isalnum() or before in ("_", ".")


def _apply(request: ScanRequest, path: str, replacements: Mapping[EditRange, str]) -> FileEdit:
    before = request.project.read(path)
    parts, position = [], 0
    for edit_range in sorted(replacements):
        parts += [before.text[position : edit_range.start], replacements[edit_range]]
        position = edit_range.end
    parts.append(before.text[position:])
    return FileEdit(before, before.with_text("".join(parts)))


def _failed_check(
    request: ScanRequest,
    scan: ScanResult,
    images: Mapping[ImageReference, NewImage],
    changes: list[FileEdit],
    texts: Mapping[str, Mapping[EditRange, str]],
) -> str | None:
    formats = {image_ref.path: image_ref.format for image_ref in scan.image_refs}
    for change in changes:
        reason = structure_differs(change.before, change.after, texts[change.path], formats.get(change.path))
        if reason is not None:
            return reason.replace("the digest", "the new tag")
    project = request.project.with_texts({change.path: change.after for change in changes})
    rescan = scan_project(project, request.paths, crds=request.crds)
    if len(rescan.image_refs) != len(scan.image_refs) or len(rescan.problems) != len(scan.problems):
        return "after the edit, the files would not contain the same image references"
    for image_ref, now in zip(scan.image_refs, rescan.image_refs, strict=True):
        expected = image_ref.resolved
        if expected is not None and image_ref in images:
            tag, digest = images[image_ref]
            expected = replace(expected, tag=tag or expected.tag, digest=expected.digest and digest)
        if (image_ref.path, image_ref.where, expected) != (now.path, now.where, now.resolved):
            return f"after the edit, {image_ref.where} would not name the expected image"
    return None
