"""GitLab CI: `image` and `services` of the file, of `default` and of every job, each a text or a mapping with `name`.

Variables come from the job's `variables`, then from the jobs that it extends, then from the file's; project settings on
the server are not known. An inherited image (`extends`, `default`) is a reference of its own if the job's variables
change it. An image of a hidden job that resolves only in jobs extending it is not reported. No digest is written into a
variable, because every script of the job could read it there. The prefix of GitLab's dependency proxy stands for Docker
Hub. Files named by `include: local` are read too, with their own variables only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from boltseal.project.image_references import Accounted, EditRange, Format, ImageReference, ScanResult
from boltseal.project.references.interpolation import Dialect, Interpolated, InterpolationFailed, fill, steering_reason
from boltseal.project.references.reader import FileToFollow, FormatReader, ProjectFile
from boltseal.project.references.scalars import digest_length, parse_reference
from boltseal.project.references.yaml_nodes import Pairs, content_end, items, line_of, pairs, span_of, text_of
from boltseal.project.source_files import SourceFile, Unreadable

MAX_EXTENDS: Final = 100
MAX_INHERITED: Final = 10_000
_INPUT: Final = (
    "an input ($[[ ]]) is evaluated only when the pipeline is created; [lock] exclude skips a file that contains one"
)
_PROXIES: Final = ("CI_DEPENDENCY_PROXY_GROUP_IMAGE_PREFIX", "CI_DEPENDENCY_PROXY_DIRECT_GROUP_IMAGE_PREFIX")
_PIPELINE: Final = re.compile(r"(?:.+)?\.gitlab-ci\.ya?ml", re.DOTALL)
_NO_JOBS: Final = frozenset({"image", "services", "variables", "include", "stages", "workflow", "cache", "spec"})
_PROXY: Final = "\0"  # a placeholder for the proxy's prefix; a file can't contain it


def read_gitlab(source: SourceFile, documents: Sequence[Node]) -> ScanResult:
    """Return the image references of one file."""
    image_refs: list[ImageReference] = []
    accounted: list[Accounted] = []
    for document in documents:
        jobs = _Jobs(source, pairs(document))
        image_refs.extend(jobs.image_refs())
        accounted += (Accounted(source.path, span_of(source, node)) for node in jobs.used.values())
    return ScanResult(tuple(image_refs), accounted=tuple(accounted))


class _Jobs:
    """The jobs of a document, with what each inherits by `extends`. `used`: the variables' values that are in their images."""

    def __init__(self, source: SourceFile, keys: Pairs) -> None:
        self.source = source
        self.keys = keys
        self.jobs = {
            name: pairs(job) for name, job in keys.items() if name not in _NO_JOBS and isinstance(job, MappingNode)
        }
        self.extends = {name: _extended(job.get("extends")) for name, job in self.jobs.items()}
        self.inherited = 0
        self.used: dict[int, ScalarNode] = {}

    def image_refs(self) -> list[ImageReference]:
        defaults = _variables(self.keys)
        found = {id(node): self.image_ref(node, where, defaults) for node, where in _images(self.keys, "")}
        for name, job in self.jobs.items():
            variables = {**defaults, **_variables(job)}
            found |= {id(node): self.image_ref(node, where, variables) for node, where in _images(job, f"{name}.")}
        more = [image_ref for name in self.jobs for image_ref in self.inherited_images(name, defaults, found)]
        resolved_spans = {image_ref.span for image_ref in more if image_ref.resolved is not None}
        own = (
            image_ref
            for image_ref in found.values()
            if image_ref.resolved is not None or image_ref.span not in resolved_spans or image_ref.where[0] != "."
        )
        return [*own, *more]

    def image_ref(self, node: ScalarNode, where: str, variables: dict[str, ScalarNode]) -> ImageReference:
        """Return the reference in a scalar, and record which variables it is resolved by."""
        image_ref, used = _image_ref(self.source, node, where, variables)
        self.used |= {id(each): each for each in used}
        return image_ref

    def inherited_images(
        self, name: str, defaults: dict[str, ScalarNode], found: dict[int, ImageReference]
    ) -> Iterator[ImageReference]:
        """Yield a job's inherited images that its variables change."""
        if name.startswith(".") or name == "default":
            return
        ancestors = self.ancestors(name)
        variables = dict(defaults)
        for job in reversed(ancestors):
            variables |= _variables(job)
        for key in ("image", "services"):
            inherited = next(
                (job[key] for job in (*ancestors, pairs(self.keys.get("default")), self.keys) if key in job), None
            )
            if inherited is None or key in ancestors[0]:
                continue
            for node, where in _images({key: inherited}, f"{name}."):
                self.inherited += 1
                if self.inherited > MAX_INHERITED:
                    message = f"its jobs inherit more than {MAX_INHERITED} images: not read"
                    raise Unreadable(self.source.path, line_of(node), message)
                image_ref = self.image_ref(node, where, variables) if "$" in node.value else None
                if (
                    image_ref is not None
                    and id(node) in found
                    and image_ref.resolved not in (None, found[id(node)].resolved)
                ):
                    yield image_ref

    def ancestors(self, name: str) -> list[Pairs]:
        """Return a job and all that it extends, in order of priority, each once."""
        jobs: list[Pairs] = []
        seen: set[str] = set()
        waiting = [name]
        while waiting and len(seen) < MAX_EXTENDS:
            current = waiting.pop()
            if current in seen or current not in self.jobs:
                continue
            seen.add(current)
            jobs.append(self.jobs[current])
            waiting += self.extends[current]
        return jobs


def _extended(node: Node | None) -> list[str]:
    """Return the jobs that an `extends` names."""
    named = [text_of(each) for each in items(node)] or [text_of(node)]
    return [name for name in named if name]


def local_includes(documents: Sequence[Node]) -> list[ScalarNode]:
    """Return the scalars that name included files of this project."""
    found: list[ScalarNode] = []
    for document in documents:
        node = pairs(document).get("include")
        for entry in items(node) or ([node] if node is not None else []):
            local = pairs(entry).get("local", entry)
            if isinstance(local, ScalarNode) and text_of(local) and "://" not in local.value:
                found.append(local)
    return found


def include_matcher(pattern: str) -> Callable[[str], bool]:
    """Return a matcher for an `include: local` with `*` (within one folder) and `**` (any folders).

    It follows all possible positions in the pattern at once, so it takes at most pattern length times path length.
    """
    steps = re.findall(r"\*\*|\*|[^*]", pattern)

    def matches(path: str) -> bool:
        positions = _skip_wildcards(steps, {0})
        for char in path:
            reached = set[int]()
            for position in positions:
                if position < len(steps) and (steps[position] == "**" or (steps[position] == "*" and char != "/")):
                    reached.add(position)
                elif position < len(steps) and steps[position] == char:
                    reached.add(position + 1)
            if not reached:
                return False
            positions = _skip_wildcards(steps, reached)
        return len(steps) in positions

    return matches


def _skip_wildcards(steps: Sequence[str], positions: set[int]) -> set[int]:
    """Return these positions, and those after the wildcards there, which may match nothing."""
    found = set(positions)
    for position in positions:
        while position < len(steps) and steps[position].startswith("*"):
            position += 1
            found.add(position)
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


def _image_ref(
    source: SourceFile, node: ScalarNode, where: str, variables: dict[str, ScalarNode]
) -> tuple[ImageReference, list[ScalarNode]]:
    """Return the reference in a scalar, and the values of variables that it is resolved by."""
    used: list[ScalarNode] = []

    def value(name: str) -> str | None:
        if name in _PROXIES:
            return _PROXY
        found = variables.get(name)
        if found is None or "$" in found.value:
            return None
        used.append(found)
        return str(found.value)

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
    edit_range, reason = (None, why) if resolved is None or filled is None else _edit_range(source, node, filled)
    image_ref = ImageReference(
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
    return image_ref, used if resolved is not None else []


def _edit_range(source: SourceFile, node: ScalarNode, filled: Interpolated) -> tuple[EditRange | None, str | None]:
    pinned, last = digest_length(filled.text), filled.last
    if last is None or pinned > len(last.text):
        return None, "its end depends on a variable"
    steering_variable = filled.steering_variable()
    if steering_variable is not None:
        return None, steering_reason(steering_variable)
    if last.variable is None:
        end = content_end(source, node)
        return EditRange(source.path, end - pinned, end), None
    return None, f"its end comes from {last.variable}, and the job's scripts would see the digest in it"


def _is_pipeline(documents: tuple[Node, ...]) -> bool:
    """Return whether a document has a job with a script and a stage, an image or services."""
    return any(
        "script" in job and {"stage", "image", "services"} & job.keys()
        for document in documents
        for job in map(pairs, pairs(document).values())
    )


def _includes(file: ProjectFile) -> Iterator[FileToFollow]:
    """Yield the files that `include: local` names. GitLab takes `/` as the project's root, and `**` as any folders."""
    for node in local_includes(file.documents):
        path = node.value.lstrip("/")
        pattern = bool({"*", "$"} & set(path)) or ".." in path.split("/")
        yield FileToFollow(path, "", line_of(node), Format.GITLAB_CI, pattern=pattern)


READER: Final = FormatReader(
    Format.GITLAB_CI,
    by_name=lambda path: _PIPELINE.fullmatch(path.rpartition("/")[2]) is not None,
    by_content=_is_pipeline,
    read=lambda file: read_gitlab(file.source, file.documents),
    follows=_includes,
)
