"""GitLab CI: `image` and `services` of the file, of `default` and of every job, each a text or a mapping with `name`.

Variables come from the job's own `variables`, then from those that it extends, then from the file's; what a project sets
elsewhere is not known. An image that a job has of another (`extends`, `default`) is a site of its own where the job's
variables make another image of it; one of a hidden job that only those who extend it can name is none. No digest is
written into a variable: every script of the job could read it there. The prefix of GitLab's dependency proxy stands
for Docker Hub. `include: local` leads to more files of the project, whose
jobs are read with their own variables only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from boltseal.project.image_references import EditRange, Format, ImageReference, ScanResult
from boltseal.project.references.interpolation import Dialect, Interpolated, InterpolationFailed, fill, steering_reason
from boltseal.project.references.scalars import digest_length, parse_reference
from boltseal.project.references.yaml_nodes import Pairs, content_end, items, line_of, pairs, span_of, text_of
from boltseal.project.source_files import SourceFile, Unreadable

MAX_EXTENDS: Final = 100
MAX_INHERITED: Final = 10_000
_INPUT: Final = (
    "an input ($[[ ]]) is known only when the pipeline is made; a file with one is left out by [lock] exclude"
)
_PROXIES: Final = ("CI_DEPENDENCY_PROXY_GROUP_IMAGE_PREFIX", "CI_DEPENDENCY_PROXY_DIRECT_GROUP_IMAGE_PREFIX")
_NO_JOBS: Final = frozenset({"image", "services", "variables", "include", "stages", "workflow", "cache", "spec"})
_PROXY: Final = "\0"  # stands for the proxy's prefix while a text is filled in; no file holds it


def read_gitlab(source: SourceFile, documents: Sequence[Node]) -> ScanResult:
    """The sites of one file."""
    image_refs: list[ImageReference] = []
    for document in documents:
        keys = pairs(document)
        image_refs.extend(_Jobs(source, keys).image_refs())
    return ScanResult(tuple(image_refs))


class _Jobs:
    """The jobs of a document: what each says, and what it has of those that it extends."""

    def __init__(self, source: SourceFile, keys: Pairs) -> None:
        self.source = source
        self.keys = keys
        self.jobs = {
            name: pairs(job) for name, job in keys.items() if name not in _NO_JOBS and isinstance(job, MappingNode)
        }
        self.extends = {name: _extended(job.get("extends")) for name, job in self.jobs.items()}
        self.inherited = 0

    def image_refs(self) -> list[ImageReference]:
        everywhere = _variables(self.keys)
        found = {id(node): _image_ref(self.source, node, where, everywhere) for node, where in _images(self.keys, "")}
        for name, job in self.jobs.items():
            here = {**everywhere, **_variables(job)}
            found |= {id(node): _image_ref(self.source, node, where, here) for node, where in _images(job, f"{name}.")}
        more = [image_ref for name in self.jobs for image_ref in self.by_way_of(name, everywhere, found)]
        told = {image_ref.span for image_ref in more if image_ref.resolved is not None}
        own = (
            image_ref
            for image_ref in found.values()
            if image_ref.resolved is not None or image_ref.span not in told or image_ref.where[0] != "."
        )
        return [*own, *more]

    def by_way_of(
        self, name: str, everywhere: dict[str, ScalarNode], found: dict[int, ImageReference]
    ) -> Iterator[ImageReference]:
        """What a job has of others, where it is another image there."""
        if name.startswith(".") or name == "default":
            return
        lines = self.ancestors(name)
        here = dict(everywhere)
        for each in reversed(lines):
            here |= _variables(each)
        for key in ("image", "services"):
            has = next(
                (each[key] for each in (*lines, pairs(self.keys.get("default")), self.keys) if key in each), None
            )
            if has is None or key in lines[0]:
                continue
            for node, where in _images({key: has}, f"{name}."):
                self.inherited += 1
                if self.inherited > MAX_INHERITED:
                    said = f"its jobs have more than {MAX_INHERITED} images of each other: not read"
                    raise Unreadable(self.source.path, line_of(node), said)
                image_ref = _image_ref(self.source, node, where, here) if "$" in node.value else None
                if (
                    image_ref is not None
                    and id(node) in found
                    and image_ref.resolved not in (None, found[id(node)].resolved)
                ):
                    yield image_ref

    def ancestors(self, name: str) -> list[Pairs]:
        """A job and all that it extends, what counts more first; each once."""
        lines: list[Pairs] = []
        seen: set[str] = set()
        waiting = [name]
        while waiting and len(seen) < MAX_EXTENDS:
            each = waiting.pop()
            if each in seen or each not in self.jobs:
                continue
            seen.add(each)
            lines.append(self.jobs[each])
            waiting += self.extends[each]
        return lines


def _extended(node: Node | None) -> list[str]:
    """The names of the jobs that an `extends` names, a text or a list of them."""
    named = [text_of(each) for each in items(node)] or [text_of(node)]
    return [name for name in named if name]


def included(documents: Sequence[Node]) -> list[ScalarNode]:
    """The scalars that name files of the same project."""
    found: list[ScalarNode] = []
    for document in documents:
        node = pairs(document).get("include")
        for entry in items(node) or ([node] if node is not None else []):
            local = pairs(entry).get("local", entry)
            if isinstance(local, ScalarNode) and text_of(local) and "://" not in local.value:
                found.append(local)
    return found


def wildcards(pattern: str) -> Callable[[str], bool]:
    """What an `include: local` with `*` (within one folder) and `**` (any folders) matches, from the project's root on.

    Takes time that grows with pattern times path: every place in the pattern that could be reached is followed at once.
    """
    steps = re.findall(r"\*\*|\*|[^*]", pattern)

    def matches(path: str) -> bool:
        places = _past_stars(steps, {0})
        for char in path:
            reached = set[int]()
            for place in places:
                if place < len(steps) and (steps[place] == "**" or (steps[place] == "*" and char != "/")):
                    reached.add(place)
                elif place < len(steps) and steps[place] == char:
                    reached.add(place + 1)
            if not reached:
                return False
            places = _past_stars(steps, reached)
        return len(steps) in places

    return matches


def _past_stars(steps: Sequence[str], places: set[int]) -> set[int]:
    """These places, and those behind the stars that stand there, which may take nothing."""
    found = set(places)
    for place in places:
        while place < len(steps) and steps[place].startswith("*"):
            place += 1
            found.add(place)
    return found


def _variables(keys: dict[str, Node]) -> dict[str, ScalarNode]:
    found: dict[str, ScalarNode] = {}
    for name, node in pairs(keys.get("variables")).items():
        value = pairs(node).get("value", node)
        if isinstance(value, ScalarNode):
            found[name] = value
    return found


def _images(keys: dict[str, Node], begin: str) -> Iterator[tuple[ScalarNode, str]]:
    yield from _image(keys.get("image"), f"{begin}image")
    services = keys.get("services")
    if isinstance(services, SequenceNode) and services.tag != "!reference":
        for index, node in enumerate(items(services)):
            yield from _image(node, f"{begin}services[{index}]")


def _image(node: Node | None, where: str) -> Iterator[tuple[ScalarNode, str]]:
    if isinstance(node, MappingNode):
        node, where = pairs(node).get("name"), f"{where}.name"
    if isinstance(node, ScalarNode) and text_of(node):
        yield node, where


def _image_ref(source: SourceFile, node: ScalarNode, where: str, variables: dict[str, ScalarNode]) -> ImageReference:
    def value(name: str) -> str | None:
        if name in _PROXIES:
            return _PROXY
        found = variables.get(name)
        return None if found is None or "$" in found.value else str(found.value)

    span = span_of(source, node)
    filled: Interpolated | None = None
    resolved, why = None, None
    try:
        filled = fill(node.value.rstrip("\n"), value, Dialect.GITLAB)
        resolved, why = parse_reference(filled.text.removeprefix(f"{_PROXY}/").strip())
    except InterpolationFailed as error:
        why = str(error)
    if "$[[" in node.value:
        resolved, why = None, _INPUT
    edit_range, reason = (None, why) if resolved is None or filled is None else _spot(source, node, filled)
    return ImageReference(
        path=source.path,
        format=Format.GITLAB_CI,
        where=where,
        line=source.line(span.start),
        span=span,
        written=node.value.strip(),
        resolved=resolved,
        why=why,
        edit_range=edit_range,
        override_only=reason,
    )


def _spot(source: SourceFile, node: ScalarNode, filled: Interpolated) -> tuple[EditRange | None, str | None]:
    pinned, last = digest_length(filled.text), filled.last
    if last is None or pinned > len(last.text):
        return None, "what the reference ends with depends on a variable"
    steering_variable = filled.steering_variable()
    if steering_variable is not None:
        return None, steering_reason(steering_variable)
    if last.variable is None:
        end = content_end(source, node)
        return EditRange(source.path, end - pinned, end), None
    return None, f"its end comes from {last.variable}, and scripts of the job would see the digest in it"
