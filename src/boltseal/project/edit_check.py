"""Check that an edit changed a file's structure nowhere but in the edited ranges. Pure.

The text outside the ranges is unchanged by construction. This check shows that it is also parsed as before: no
insertion ended a scalar early, began a comment, joined two lines or changed the type of a value.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any, Final

from yaml.nodes import Node, ScalarNode

from boltseal.project.image_references import EditRange
from boltseal.project.references.dockerfile_lines import DockerfileLines, Text, read_lines
from boltseal.project.references.dotenv import parse_dotenv
from boltseal.project.references.formats import BY_NAME
from boltseal.project.references.reader import Syntax
from boltseal.project.references.yaml_nodes import compose, walk
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
    old, new = _nodes(before), _nodes(after)
    if len(old) != len(new):
        return False
    edited = _edited(before, old, replacements)
    if edited is None:
        return False
    for index, (was, now) in enumerate(zip(old, new, strict=True)):
        edit_ranges = edited.get(index)
        if edit_ranges is None:
            if _shape(was) != _shape(now):
                return False
        elif _style(now) != _style(was) or not _replaced(before, was, now, edit_ranges, replacements):
            return False
    return _order(old) == _order(new)


def _nodes(source: SourceFile) -> list[Node]:
    return list(walk(compose(source)))


def _shape(node: Node) -> tuple[Any, ...]:
    if isinstance(node, ScalarNode):
        return (node.tag, node.value, node.style)
    return (type(node), node.tag, len(node.value))


def _style(node: Node) -> str:
    return node.style or "bare" if isinstance(node, ScalarNode) else "no scalar"


def _order(nodes: list[Node]) -> list[list[int]]:
    """Return the children of each collection by node number; an alias has its anchor's number."""
    number = {id(node): index for index, node in enumerate(nodes)}
    found: list[list[int]] = []
    for node in nodes:
        if not isinstance(node, ScalarNode):
            children = (part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,)))
            found.append([number[id(part)] for part in children])
    return found


def _edited(
    source: SourceFile, nodes: list[Node], replacements: Mapping[EditRange, str]
) -> dict[int, list[EditRange]] | None:
    """Return the edited ranges by the number of the scalar that contains them; None if a range is in no scalar."""
    scalars = sorted(
        (node.start_mark.index, node.end_mark.index, index)
        for index, node in enumerate(nodes)
        if isinstance(node, ScalarNode)
    )
    starts = [start for start, _, _ in scalars]
    found: dict[int, list[EditRange]] = {}
    for edit_range in sorted(replacements):
        removed = source.text[edit_range.start : edit_range.end]
        begin = edit_range.start + len(removed) - len(removed.lstrip())
        at = bisect_right(starts, begin)
        nearby = [scalars[i] for i in (at - 1, at, at + 1) if 0 <= i < len(scalars)]
        containing = [
            index
            for start, end, index in nearby
            if (start <= begin and edit_range.end <= end and end > start)
            or (
                not nodes[index].value
                and start >= edit_range.start
                and not source.text[edit_range.start : start].strip()
            )
        ]
        if len(containing) != 1:
            containing = [index for index in containing if not nodes[index].value] or containing
        if not containing:
            return None
        found.setdefault(containing[0], []).append(edit_range)
    return found


def _replaced(
    source: SourceFile, was: Node, now: Node, edit_ranges: list[EditRange], replacements: Mapping[EditRange, str]
) -> bool:
    """Return whether a scalar's new value is the old one with each range's text replaced, in order."""
    old, new = str(was.value), str(now.value)
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
