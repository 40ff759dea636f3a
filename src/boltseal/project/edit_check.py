"""Check that an edit changed a file's structure nowhere but in the edited ranges. Pure.

The text outside the ranges is unchanged by construction. This check shows that it is also parsed as before: no
insertion ended a scalar early, began a comment, joined two lines or changed the type of a value.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, groupby
from typing import Any, Final

from boltseal.project.image_references import EditRange
from boltseal.project.references.dockerfile_lines import DockerfileLines, Text, read_lines
from boltseal.project.references.dotenv import parse_dotenv
from boltseal.project.references.formats import BY_NAME
from boltseal.project.references.reader import Syntax
from boltseal.project.references.yaml_nodes import compose, document_texts
from boltseal.project.references.yaml_tree import Node, ScalarNode, Tree
from boltseal.project.source_files import SourceFile, Unreadable


def structure_differs(
    before: SourceFile, after: SourceFile, replacements: Mapping[EditRange, str], file_format: str | None
) -> str | None:
    """Return why `after` differs from `before` in more than these replacements, or None. `file_format` None: an .env."""
    try:
        same = _SAME[_syntax(file_format)](before, after, replacements)
    except Unreadable as error:
        return f"with the digest inserted, the file can't be parsed: {error}"
    return None if same else "the edit would change more than the digest"


def _syntax(file_format: str | None) -> Syntax | None:
    if file_format is not None and file_format not in BY_NAME:
        raise AssertionError(f"format {file_format} has no reader: without its parser no edit is known to be safe")
    return None if file_format is None else BY_NAME[file_format].syntax


def _same_nodes(before: SourceFile, after: SourceFile, replacements: Mapping[EditRange, str]) -> bool:
    """Compare the edited documents of a stream; if an edit is not inside one document, the whole streams."""
    old, new = document_texts(before), document_texts(after)
    starts = list(accumulate((len(text) for text in old), initial=0))
    inside: dict[int, dict[EditRange, str]] = {}
    for edit_range, inserted in replacements.items():
        number = max(bisect_right(starts, edit_range.start, hi=len(old)) - 1, 0)
        start = starts[number]
        moved = replace(edit_range, start=edit_range.start - start, end=edit_range.end - start)
        inside.setdefault(number, {})[moved] = inserted
    across = any(
        (number and not edit_range.start) or edit_range.end > len(old[number])
        for number, ranges in inside.items()
        for edit_range in ranges
    )
    if across or len(old) != len(new) or len(old) == 1:
        return _same_documents(before, after, replacements)
    return all(
        (was == now and number not in inside)
        or _same_documents(before.part(was), after.part(now), inside.get(number, {}))
        for number, (was, now) in enumerate(zip(old, new, strict=True))
    )


def _same_documents(before: SourceFile, after: SourceFile, replacements: Mapping[EditRange, str]) -> bool:
    """Return whether only scalars with edited ranges differ, and each of them by exactly these edits."""
    changed = _changed_scalars(compose(before), compose(after))
    if changed is None:
        return False
    edits = sorted(replacements)
    owners = _owners(before, changed, edits, replacements)
    if owners is None:
        return False
    replaced = 0
    for index, numbers in groupby(sorted(range(len(edits)), key=owners.__getitem__), owners.__getitem__):
        ranges = [edits[number] for number in numbers]
        if index >= 0:
            replaced += 1
            if not _replaced(before, *changed[index], ranges, replacements):
                return False
    return replaced == len(changed)  # a scalar that no edit is in is unchanged


class _ChangedScalars:
    """The scalars of two equal structures whose texts differ, in text order: was, and is now."""

    def __init__(self) -> None:
        self._trees: list[tuple[Tree, Tree]] = []
        self._tree = array("I")
        self._at = array("I")

    def add(self, was: Tree, now: Tree) -> None:
        for at in was.scalars():
            if was.scalar(at) != now.scalar(at):
                self._tree.append(len(self._trees))
                self._at.append(at)
        self._trees.append((was, now))

    def __len__(self) -> int:
        return len(self._at)

    def __getitem__(self, index: int) -> tuple[ScalarNode, ScalarNode]:
        was, now = self._trees[self._tree[index]]
        return ScalarNode(was, self._at[index]), ScalarNode(now, self._at[index])


def _changed_scalars(old: Sequence[Node], new: Sequence[Node]) -> _ChangedScalars | None:
    """Return the scalars whose texts differ; None if anything else differs."""
    if len(old) != len(new):
        return None
    changed = _ChangedScalars()
    for before, after in zip(old, new, strict=True):
        if not before.tree.has_structure_of(after.tree):
            return None
        changed.add(before.tree, after.tree)
    return changed


def _owners(
    source: SourceFile, changed: _ChangedScalars, edits: Sequence[EditRange], replacements: Mapping[EditRange, str]
) -> array[int] | None:
    """Return for each edit the number of the changed scalar that contains it; -1 if it changes nothing.

    None if an edit that changes something is in none of them.
    """
    nodes = range(len(changed))
    starts = array("I", (changed[index][0].start for index in nodes))
    owners = array("q")
    for edit_range in edits:
        removed = source.text[edit_range.start : edit_range.end]
        begin = edit_range.start + len(removed) - len(removed.lstrip())
        at = bisect_right(starts, begin)
        containing = [
            index
            for index in (at - 1, at, at + 1)
            if index in nodes and _contains(source, changed[index][0], edit_range, begin)
        ]
        if len(containing) != 1:
            containing = [index for index in containing if not changed[index][0].value] or containing
        if not containing and replacements[edit_range] != removed:
            return None
        owners.append(containing[0] if containing else -1)
    return owners


def _contains(source: SourceFile, node: ScalarNode, edit_range: EditRange, begin: int) -> bool:
    """Return whether a scalar contains an edited range, whose text begins at `begin`, or is empty and follows it."""
    start, end = node.start, node.end
    if start <= begin and edit_range.end <= end and end > start:
        return True
    return not node.value and start >= edit_range.start and not source.text[edit_range.start : start].strip()


def _replaced(
    source: SourceFile,
    was: ScalarNode,
    now: ScalarNode,
    edit_ranges: list[EditRange],
    replacements: Mapping[EditRange, str],
) -> bool:
    """Return whether a scalar's new value is the old one with each range's text replaced, in order."""
    old, new = was.value, now.value
    old_at = new_at = 0
    for edit_range in edit_ranges:
        removed, inserted = source.text[edit_range.start : edit_range.end].strip(), replacements[edit_range].strip()
        match_at = old.find(removed, old_at) if removed else new.find(inserted, new_at) - new_at + old_at
        if match_at < old_at or old[old_at:match_at] != new[new_at : new_at + match_at - old_at]:
            return False
        new_at += match_at - old_at
        if not new.startswith(inserted, new_at) or not old.startswith(removed, match_at):
            return False
        old_at, new_at = match_at + len(removed), new_at + len(inserted)
    return old[old_at:] == new[new_at:]


def _instructions(lines: DockerfileLines, replacements: Mapping[EditRange, str]) -> list[Any]:
    """Return the instructions of a Dockerfile, with the replacements applied."""
    inserted_after = {
        edit_range.start - 1: inserted
        for edit_range, inserted in replacements.items()
        if edit_range.start == edit_range.end
    }
    replaced_at = {
        edit_range.start: inserted
        for edit_range, inserted in replacements.items()
        if edit_range.start != edit_range.end
    }
    removed = {offset for edit_range in replacements for offset in range(edit_range.start, edit_range.end)}

    def text(part: Text) -> str:
        if not replacements:
            return part.text
        out: list[str] = []
        for char, offset in zip(part.text, part.at, strict=True):
            out += (replaced_at.get(offset, ""), "" if offset in removed else char, inserted_after.get(offset, ""))
        return "".join(out)

    directives = {name: text(value) for name, value in lines.directives.items()}
    return [directives] + [
        (found.name, found.line, tuple(text(flag) for flag in found.flags), text(found.rest), found.bodies)
        for found in lines.instructions
    ]


def _same_variables(before: SourceFile, after: SourceFile, replacements: Mapping[EditRange, str]) -> bool:
    old, new = parse_dotenv(before), parse_dotenv(after)
    expected = {name: value.text for name, value in old.values.items()}
    ends = {value.end: name for name, value in old.values.items()}
    for edit_range, inserted in replacements.items():
        name = ends.get(edit_range.end)
        if name is None:
            return False
        expected[name] = expected[name][: len(expected[name]) - (edit_range.end - edit_range.start)] + inserted
    return expected == {name: value.text for name, value in new.values.items()}


def _same_instructions(before: SourceFile, after: SourceFile, replacements: Mapping[EditRange, str]) -> bool:
    return _instructions(read_lines(before), replacements) == _instructions(read_lines(after), {})


def _same_lines(before: SourceFile, after: SourceFile, replacements: Mapping[EditRange, str]) -> bool:
    """Return whether each replacement is within one line, and inserts nothing but a digest."""
    removed = (before.text[edit_range.start : edit_range.end] for edit_range in replacements)
    plain = all(_DIGEST.fullmatch(text) for text in (*removed, *replacements.values()))
    return plain and len(before.text.splitlines()) == len(after.text.splitlines())


_DIGEST: Final = re.compile(r"(?:@[a-z0-9]+:[a-f0-9]+)?")
_SAME: Final[Mapping[Syntax | None, Callable[[SourceFile, SourceFile, Mapping[EditRange, str]], bool]]] = {
    Syntax.YAML: _same_nodes,
    Syntax.DOCKERFILE: _same_instructions,
    Syntax.TEXT: _same_lines,
    None: _same_variables,
}
