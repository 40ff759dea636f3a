"""Whether two texts of a file have one structure, but for the places that were edited. Pure.

The texts outside of the spots are the same by construction. What is shown here is that they still mean the same: that no
insertion ended a scalar early, began a comment, joined two lines or turned one kind of value into another.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

from yaml.nodes import Node, ScalarNode

from boltseal.project.image_references import EditRange, Format
from boltseal.project.references.dockerfile_lines import DockerfileLines, Text, read_lines
from boltseal.project.references.dotenv import parse_dotenv
from boltseal.project.references.yaml_nodes import compose, walk
from boltseal.project.source_files import SourceFile, Unreadable


def structure_differs(
    before: SourceFile, after: SourceFile, inside: Mapping[EditRange, str], kind: Format | None
) -> str | None:
    """Why `after` is not `before` with these texts in these spots; None when it is. `kind` None: an .env file."""
    try:
        if kind is None:
            same = _same_variables(before, after, inside)
        elif kind is Format.DOCKERFILE:
            same = _meant(read_lines(before), inside) == _meant(read_lines(after), {})
        else:
            same = _same_nodes(before, after, inside)
    except Unreadable as error:
        return f"with the digest in it, it can't be read: {error}"
    return None if same else "with the digest in it, something else would change too"


def _same_nodes(before: SourceFile, after: SourceFile, inside: Mapping[EditRange, str]) -> bool:
    old, new = _nodes(before), _nodes(after)
    if len(old) != len(new):
        return False
    edited = _edited(before, old, inside)
    if edited is None:
        return False
    for index, (was, now) in enumerate(zip(old, new, strict=True)):
        edit_ranges = edited.get(index)
        if edit_ranges is None:
            if _shape(was) != _shape(now):
                return False
        elif _style(now) != _style(was) or not _replaced(before, was, now, edit_ranges, inside):
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
    """What each collection holds, by the numbers of its nodes: an alias has its anchor's number."""
    number = {id(node): index for index, node in enumerate(nodes)}
    found: list[list[int]] = []
    for node in nodes:
        if not isinstance(node, ScalarNode):
            held = (part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,)))
            found.append([number[id(part)] for part in held])
    return found


def _edited(
    source: SourceFile, nodes: list[Node], inside: Mapping[EditRange, str]
) -> dict[int, list[EditRange]] | None:
    """The scalars in which the spots lie, by number; None when a spot lies in none."""
    scalars = sorted(
        (node.start_mark.index, node.end_mark.index, index)
        for index, node in enumerate(nodes)
        if isinstance(node, ScalarNode)
    )
    starts = [start for start, _, _ in scalars]
    found: dict[int, list[EditRange]] = {}
    for edit_range in sorted(inside):
        gone = source.text[edit_range.start : edit_range.end]
        begin = edit_range.start + len(gone) - len(gone.lstrip())
        at = bisect_right(starts, begin)
        near = [scalars[i] for i in (at - 1, at, at + 1) if 0 <= i < len(scalars)]
        held = [
            index
            for start, end, index in near
            if (start <= begin and edit_range.end <= end and end > start)
            or (
                not nodes[index].value
                and start >= edit_range.start
                and not source.text[edit_range.start : start].strip()
            )
        ]
        if len(held) != 1:
            held = [index for index in held if not nodes[index].value] or held
        if not held:
            return None
        found.setdefault(held[0], []).append(edit_range)
    return found


def _replaced(
    source: SourceFile, was: Node, now: Node, edit_ranges: list[EditRange], inside: Mapping[EditRange, str]
) -> bool:
    """Whether a scalar's value is the old one with each spot's text, in order, in place of what stood there."""
    old, new = str(was.value), str(now.value)
    at = past = 0
    for edit_range in edit_ranges:
        gone, put = source.text[edit_range.start : edit_range.end].strip(), inside[edit_range].strip()
        place = old.find(gone, at) if gone else new.find(put, past) - past + at
        if place < at or old[at:place] != new[past : past + place - at]:
            return False
        past += place - at
        if not new.startswith(put, past) or not old.startswith(gone, place):
            return False
        at, past = place + len(gone), past + len(put)
    return old[at:] == new[past:]


def _meant(lines: DockerfileLines, inside: Mapping[EditRange, str]) -> list[Any]:
    """What a Dockerfile says, with the texts of the spots put in."""

    behind = {edit_range.start - 1: put for edit_range, put in inside.items() if edit_range.start == edit_range.end}
    instead = {edit_range.start: put for edit_range, put in inside.items() if edit_range.start != edit_range.end}
    gone = {offset for edit_range in inside for offset in range(edit_range.start, edit_range.end)}

    def text(part: Text) -> str:
        if not inside:
            return part.text
        out: list[str] = []
        for char, offset in zip(part.text, part.at, strict=True):
            out += (instead.get(offset, ""), "" if offset in gone else char, behind.get(offset, ""))
        return "".join(out)

    directives = {name: text(value) for name, value in lines.directives.items()}
    return [directives] + [
        (found.name, found.line, tuple(text(flag) for flag in found.flags), text(found.rest), found.bodies)
        for found in lines.instructions
    ]


def _same_variables(before: SourceFile, after: SourceFile, inside: Mapping[EditRange, str]) -> bool:
    old, new = parse_dotenv(before), parse_dotenv(after)
    expected = {name: value.text for name, value in old.values.items()}
    ends = {value.end: name for name, value in old.values.items()}
    for edit_range, put in inside.items():
        name = ends.get(edit_range.end)
        if name is None:
            return False
        expected[name] = expected[name][: len(expected[name]) - (edit_range.end - edit_range.start)] + put
    return expected == {name: value.text for name, value in new.values.items()}
