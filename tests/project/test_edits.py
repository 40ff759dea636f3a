"""Edits that are refused, and the checks that refuse them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from boltseal.oci.digest import Digest
from boltseal.project.edit_check import structure_differs
from boltseal.project.edits import ScanRequest, edit
from boltseal.project.image_references import EditRange, Format, ScanResult
from boltseal.project.scan import scan_project
from boltseal.project.source_files import ProjectTree, SourceFile
from tests.project.projects import digest_of, shown, trap, written

NEW, OTHER = Digest.of(b"one"), Digest.of(b"other")


def test_two_digests_for_one_anchor_are_refused(tmp_path: Path) -> None:
    """An anchor used with two digests is not pinned; the file's other references are."""
    asked = ScanRequest(ProjectTree(trap("compose_aliases_and_fragments", tmp_path)))
    found = scan_project(asked.project)
    web, worker, cache, _ = found.image_refs
    edited = edit(asked, found, {web: NEW, worker: OTHER, cache: NEW})

    assert {refusal.image_ref for refusal in edited.refusals} == {web, worker}
    assert shown(edited) == {"compose.yml": ["image: 'redis:7.2@DIGEST'   # the fragment's"]}


def test_a_range_that_is_not_the_end_of_a_reference_is_refused(tmp_path: Path) -> None:
    """If a reader reports a wrong position, that file is not written, and the others are."""
    root = written(
        tmp_path, dict.fromkeys(("a/compose.yml", "b/compose.yml"), "services: {web: {image: nginx:1.25}}\n")
    )
    asked = ScanRequest(ProjectTree(root))
    found = scan_project(asked.project)
    wrong, right = found.image_refs
    moved = replace(wrong, edit_range=EditRange(wrong.path, 30, 30))
    edited = edit(asked, ScanResult((moved, right)), {moved: NEW, right: NEW})

    assert [change.path for change in edited.changes] == ["b/compose.yml"]
    assert [refusal.image_ref for refusal in edited.refusals] == [moved]


def test_an_edit_that_changes_the_reference_is_refused(tmp_path: Path) -> None:
    """An edit whose result is another reference, as with a digest before the tag, is refused."""
    root = written(tmp_path, {"compose.yml": "services: {web: {image: 'nginx:1.25'}}\n"})
    asked = ScanRequest(ProjectTree(root))
    (image_ref,) = scan_project(asked.project).image_refs
    moved = replace(image_ref, edit_range=EditRange("compose.yml", image_ref.span[0] + 5, image_ref.span[0] + 5))
    edited = edit(asked, ScanResult((moved,)), {moved: NEW})

    assert edited.changes == ()
    assert edited.refusals[0].reason == "after the edit, services.web.image would not name the expected image"


def test_a_file_that_changes_meanwhile_is_checked_as_it_was_read(tmp_path: Path) -> None:
    """Checks use the project as it was read, and writing compares it with the disk."""
    root = written(tmp_path, {"compose.yml": "services: {web: {image: nginx:1.25}}\n"})
    asked = ScanRequest(ProjectTree(root))
    found = scan_project(asked.project)
    (root / "compose.yml").write_text("gone: true\n")
    (change,) = edit(asked, found, {image_ref: digest_of(image_ref) for image_ref in found.image_refs}).changes

    assert change.before.text == "services: {web: {image: nginx:1.25}}\n"


@pytest.mark.parametrize(
    ("kind", "before", "at", "put"),
    [
        (Format.COMPOSE, "a: b\nc: d\n", 4, " # x"),
        (Format.COMPOSE, "a: b\nc: d\n", 4, "\nx: y"),
        (Format.COMPOSE, "a: b\nc: d\n", 4, ": x"),
        (Format.COMPOSE, "a: b # c\n", 8, "x"),
        (Format.COMPOSE, "a: 'b'\n", 6, "x"),
        (Format.COMPOSE, "a: &x b\nc: *x\n", 5, "x"),
        (Format.COMPOSE, "a: |\n  b\n", 4, "-"),
        (Format.DOCKERFILE, "FROM a\nRUN b\n", 6, "\nRUN x"),
        (Format.DOCKERFILE, "FROM a\nRUN b\n", 6, "\\"),
        (Format.DOCKERFILE, "FROM a\nRUN b\n", 0, "#"),
        (None, "A=b\nC=d\n", 3, " #"),
        (None, "A=b\nC=d\n", 3, "\nE=f"),
        (None, "A=b\nC=d\n", 0, "x"),
    ],
)
def test_an_insertion_that_changes_the_structure_is_refused(
    kind: Format | None, before: str, at: int, put: str
) -> None:
    """An insertion that adds or removes comments, lines, keys, anchors, headers, instructions or variables is refused."""
    old = SourceFile.of("file", before.encode())
    new = old.with_text(before[:at] + put + before[at:])

    assert structure_differs(old, new, {EditRange("file", at, at): put}, kind) is not None


@pytest.mark.parametrize(
    ("kind", "before", "at"),
    [(Format.COMPOSE, "a: b\nc: d\n", 4), (Format.DOCKERFILE, "FROM a\nRUN b\n", 6), (None, "A=b\nC=d\n", 3)],
)
def test_a_change_outside_the_range_is_refused(kind: Format | None, before: str, at: int) -> None:
    """One character changed elsewhere is detected."""
    old = SourceFile.of("file", before.encode())
    good = old.with_text(f"{before[:at]}@x{before[at:]}")
    bad = old.with_text(good.text.replace("d", "e").replace("RUN b", "RUN c"))

    assert structure_differs(old, good, {EditRange("file", at, at): "@x"}, kind) is None
    assert structure_differs(old, bad, {EditRange("file", at, at): "@x"}, kind) is not None


STREAM = "a: 1\n---\nb: x\n---\nc: &c y\nd: [*c, z]\n"


def test_an_edit_of_one_document_of_a_stream_is_allowed() -> None:
    """Edits inside the documents of a stream are allowed, also of a scalar that has an alias."""
    old = SourceFile.of("file", STREAM.encode())
    new = old.with_text(STREAM.replace("x", "x@p").replace("y", "y@q"))
    edits = {
        EditRange("file", at, at): put for at, put in ((STREAM.index("x") + 1, "@p"), (STREAM.index("y") + 1, "@q"))
    }

    assert structure_differs(old, new, edits, Format.KUBERNETES) is None


@pytest.mark.parametrize(
    ("found", "put"),
    [
        ("b: x", "b: x2"),
        ("d: [*c, z]", "d: [y@q, z]"),
        ("d: [*c, z]", "d: [*c, *c]"),
        ("---\nb", "b"),
        ("b: x\n---\n", "b: x\n---\n---\n"),
        ("a: 1", "a: '1'"),
        ("y@q", "y"),
    ],
)
def test_a_change_beside_an_edit_in_a_stream_is_refused(found: str, put: str) -> None:
    """A change in another document, of an alias, of a document's begin, or a missing edit is refused."""
    old = SourceFile.of("file", STREAM.encode())
    new = old.with_text(STREAM.replace("y", "y@q").replace(found, put))
    at = STREAM.index("y") + 1

    assert new.text != STREAM.replace("y", "y@q")
    assert structure_differs(old, new, {EditRange("file", at, at): "@q"}, Format.KUBERNETES) is not None


@pytest.mark.parametrize("at", [5, 6, 8])
def test_an_edit_at_the_begin_of_a_document_is_refused(at: int) -> None:
    """An insertion before, inside or after the line that begins a document is refused."""
    old = SourceFile.of("file", STREAM.encode())
    new = old.with_text(f"{STREAM[:at]}@p{STREAM[at:]}")

    assert structure_differs(old, new, {EditRange("file", at, at): "@p"}, Format.KUBERNETES) is not None


@pytest.mark.parametrize("file_format", list(Format))
def test_an_edit_is_checked_in_every_format(file_format: Format) -> None:
    """Every format has a check of its edits."""
    old = SourceFile.of("file", b"FROM: a\n")
    new = old.with_text("FROM: a\nRUN: b\n")

    assert structure_differs(old, new, {EditRange("file", 7, 7): "@x"}, file_format) is not None


def test_an_unknown_format_is_an_error_and_not_checked_as_yaml() -> None:
    """An edit in an unknown format is an error, and is not checked as YAML."""
    old = SourceFile.of("file", b"a: b\nc: d\n")
    new = old.with_text("a: b@x\nc: d\n")
    edits = {EditRange("file", 4, 4): "@x"}

    assert structure_differs(old, new, edits, Format.KUBERNETES) is None
    with pytest.raises(AssertionError):
        structure_differs(old, new, edits, cast("Format", "unknown"))
