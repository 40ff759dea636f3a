"""GitLab CI: `image` and `services` of the file, of `default` and of every job, each a text or a mapping with `name`.

Variables come from the job's `variables`, then from the jobs that it extends, then from the file's; project settings on
the server are not known. An inherited image (`extends`, `default`) is a reference of its own if the job's variables
change it. An image of a hidden job that resolves only in jobs extending it is not reported. No digest is written into a
variable, because every script of the job could read it there. The prefix of GitLab's dependency proxy stands for Docker
Hub.

Files named by `include: local` are one pipeline with the file that includes them: its variables count in them, and
theirs in it, and jobs may extend jobs of another file. A value may contain other variables, unless `expand` is false.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from boltseal.project.image_references import Accounted, EditRange, Format, ImageReference, ScanResult
from boltseal.project.references.interpolation import (
    MAX_NESTING,
    Dialect,
    Interpolated,
    InterpolationFailed,
    fill,
    steering_reason,
)
from boltseal.project.references.reader import FileToFollow, FormatReader, ProjectFile
from boltseal.project.references.scalars import digest_length, parse_reference
from boltseal.project.references.yaml_nodes import Pairs, compose, content_end, items, line_of, pairs, span_of, text_of
from boltseal.project.references.yaml_tree import MappingNode, Node, ScalarNode, SequenceNode
from boltseal.project.source_files import ProjectTree, SourceFile, Unreadable

MAX_EXTENDS: Final = 100
MAX_INHERITED: Final = 10_000
MAX_INCLUDES: Final = 150  # GitLab's own limit
_INPUT: Final = (
    "an input ($[[ ]]) is evaluated only when the pipeline is created; [lock] exclude skips a file that contains one"
)
_PROXIES: Final = ("CI_DEPENDENCY_PROXY_GROUP_IMAGE_PREFIX", "CI_DEPENDENCY_PROXY_DIRECT_GROUP_IMAGE_PREFIX")
_PIPELINE: Final = re.compile(r"(?:.+)?\.gitlab-ci\.ya?ml", re.DOTALL)
_NO_JOBS: Final = frozenset({"image", "services", "variables", "include", "stages", "workflow", "cache", "spec"})
_COMMON: Final = frozenset({"default", "image", "services"})
_PROXY: Final = "\0"  # a placeholder for the proxy's prefix; a file can't contain it


def read_gitlab(file: ProjectFile) -> ScanResult:
    """Return the image references of a file, and those of the files it includes that differ in this pipeline."""
    own, accounted = _alone(file.source, file.documents)
    parts = [*_included(file.project, file.documents, {file.source.path}), _Part(file.source, file.documents)]
    if len(parts) == 1:
        return ScanResult(tuple(own), accounted=tuple(accounted))
    pipeline = [_Jobs(part, parts) for part in parts]
    together = [image_ref for jobs in pipeline for image_ref in jobs.image_refs()]
    accounted = [each for jobs in pipeline for each in jobs.accounted()]
    image_refs = [each for each in together if each.path == file.source.path]
    for part in parts[:-1]:
        alone = {(each.where, each.span): each.resolved for each in _alone(part.source, part.documents)[0]}
        for each in together:
            if each.path == part.source.path and alone.get((each.where, each.span)) != each.resolved:
                image_refs.append(each)
                accounted += [] if each.resolved is None else [Accounted(each.path, each.span)]
    return ScanResult(tuple(dict.fromkeys(image_refs)), accounted=tuple(accounted))


class _Part(NamedTuple):
    """A file of a pipeline."""

    source: SourceFile
    documents: Sequence[Node]

    @property
    def keys(self) -> Pairs:
        """The keys of all documents. A file with `spec` has two, of which the second is the pipeline."""
        return {name: node for document in self.documents for name, node in pairs(document).items()}


def _alone(source: SourceFile, documents: Sequence[Node]) -> tuple[list[ImageReference], list[Accounted]]:
    """Return the image references of a file without those that include it, and the variables in them."""
    each_jobs = [_Jobs(part, (part,)) for part in (_Part(source, (document,)) for document in documents)]
    image_refs = [image_ref for jobs in each_jobs for image_ref in jobs.image_refs()]
    return image_refs, [each for jobs in each_jobs for each in jobs.accounted()]


def _included(project: ProjectTree, documents: Sequence[Node], seen: set[str]) -> Iterator[_Part]:
    """Yield the files that local includes name, and those that they include, in the order in which they are merged."""
    for node in local_includes(documents):
        for name in _named(project, node.value.lstrip("/")):
            if name not in seen and len(seen) <= MAX_INCLUDES:
                seen.add(name)
                with suppress(Unreadable):  # reported where it is followed
                    source = project.read(name)
                    inner = compose(source)
                    yield from _included(project, inner, seen)
                    yield _Part(source, inner)


def _named(project: ProjectTree, path: str) -> list[str]:
    """Return the files of a local include. One with `*` is in the folder before it."""
    folder, star, _ = path.partition("*")
    with suppress(Unreadable, OSError):
        if "$" in path or ".." in path.split("/"):
            return []
        if not star:
            name = project.name(path)
            return [name] if project.has(name) else []
        matches = include_matcher(path)
        begin = folder.rpartition("/")[0]
        if not begin:
            return []
        found = sorted((project.root / begin).rglob("*.y*ml"))[:MAX_INCLUDES]
        names = [each.relative_to(project.root).as_posix() for each in found]
        return [project.name(name) for name in names if matches(name)]
    return []


class _Jobs:
    """The jobs of a file, with what each inherits by `extends` in the pipeline. `parts`: all files of the pipeline."""

    def __init__(self, part: _Part, parts: Sequence[_Part]) -> None:
        self.source = part.source
        self.keys = part.keys
        self.jobs: dict[str, Pairs] = {}
        self.defaults: dict[str, _Variable] = {}
        self.common: Pairs = {}
        self.foreign: dict[Node, SourceFile] = {}
        for each in parts:
            keys = each.keys
            self.defaults |= _variables(keys)
            self.common |= {name: node for name, node in keys.items() if name in _COMMON}
            for name, job in _jobs(keys).items():
                self.jobs[name] = {**self.jobs.get(name, {}), **job}
            if each.source.path != part.source.path:
                with_images = (keys, *_jobs(keys).values())
                self.foreign |= {node: each.source for mapping in with_images for node, _ in _images(mapping, "")}
                self.foreign |= {v.node: each.source for keys in with_images for v in _variables(keys).values()}
        self.own = _jobs(self.keys)
        self.extends = {name: _extended(job.get("extends")) for name, job in self.jobs.items()}
        self.inherited = 0
        self.used: dict[ScalarNode, None] = {}

    def image_refs(self) -> list[ImageReference]:
        defaults = self.defaults
        found = {node: self.image_ref(self.source, node, where, defaults) for node, where in _images(self.keys, "")}
        for name, job in self.own.items():
            variables = {**defaults, **_variables(self.jobs[name])}
            found |= {
                node: self.image_ref(self.source, node, where, variables) for node, where in _images(job, f"{name}.")
            }
        more = [image_ref for name in self.own for image_ref in self.inherited_images(name, defaults, found)]
        resolved_spans = {image_ref.span for image_ref in more if image_ref.resolved is not None}
        own = (
            image_ref
            for image_ref in found.values()
            if image_ref.resolved is not None or image_ref.span not in resolved_spans or image_ref.where[0] != "."
        )
        return [*own, *more]

    def image_ref(
        self, source: SourceFile, node: ScalarNode, where: str, variables: Mapping[str, _Variable]
    ) -> ImageReference:
        """Return the reference in a scalar, and record which variables it is resolved by."""
        values = _Values(variables)
        image_ref = _image_ref(source, node, where, values)
        if image_ref.resolved is not None:
            self.used |= dict.fromkeys(values.used)
        return image_ref

    def accounted(self) -> Iterator[Accounted]:
        """Yield the values of variables that are in resolved images. Call it after `image_refs`."""
        for node in self.used:
            source = self.foreign.get(node, self.source)
            yield Accounted(source.path, span_of(source, node))

    def inherited_images(
        self, name: str, defaults: dict[str, _Variable], found: dict[ScalarNode, ImageReference]
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
                (job[key] for job in (*ancestors, pairs(self.common.get("default")), self.common) if key in job), None
            )
            if inherited is None or key in ancestors[0]:
                continue
            for node, where in _images({key: inherited}, f"{name}."):
                self.inherited += 1
                if self.inherited > MAX_INHERITED:
                    message = f"its jobs inherit more than {MAX_INHERITED} images: not read"
                    raise Unreadable(self.source.path, line_of(node), message)
                source = self.foreign.get(node, self.source)
                image_ref = self.image_ref(source, node, where, variables) if "$" in node.value else None
                known = found.get(node) or self.image_ref(source, node, where, defaults)
                if image_ref is not None and image_ref.resolved not in (None, known.resolved):
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


def _jobs(keys: Pairs) -> dict[str, Pairs]:
    return {name: pairs(job) for name, job in keys.items() if name not in _NO_JOBS and isinstance(job, MappingNode)}


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


class _Variable(NamedTuple):
    """A variable's value. `raw`: a dollar sign in it is literal. `node`: where it is written."""

    value: str
    raw: bool
    node: ScalarNode


def _variables(keys: Pairs) -> dict[str, _Variable]:
    found: dict[str, _Variable] = {}
    for name, node in pairs(keys.get("variables")).items():
        value = pairs(node).get("value", node)
        if isinstance(value, ScalarNode):
            found[name] = _Variable(str(value.value), text_of(pairs(node).get("expand")) == "false", value)
    return found


class _Values:
    """The values of a job's variables, with the variables in them filled in."""

    def __init__(self, variables: Mapping[str, _Variable]) -> None:
        self.variables = variables
        self.known: dict[str, str | None] = {}
        self.above: list[str] = []
        self.used: list[ScalarNode] = []

    def get(self, name: str) -> str | None:
        """Return a value, or None if it is not known."""
        if name in _PROXIES:
            return _PROXY
        found = self.variables.get(name)
        if found is not None:
            self.used.append(found.node)
        if found is None or found.raw or "$" not in found.value:
            return None if found is None else found.value
        if name in self.above or len(self.above) > MAX_NESTING:
            raise InterpolationFailed(f"{name} contains itself, or more than {MAX_NESTING} others inside each other")
        if name not in self.known:
            self.above.append(name)
            self.known[name] = fill(found.value, self.get, Dialect.GITLAB).text
            self.above.pop()
        return self.known[name]


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


def _image_ref(source: SourceFile, node: ScalarNode, where: str, values: _Values) -> ImageReference:
    span = span_of(source, node)
    filled: Interpolated | None = None
    resolved, why = None, None
    try:
        filled = fill(node.value.rstrip("\n"), values.get, Dialect.GITLAB)
        resolved, why = parse_reference(filled.text.removeprefix(f"{_PROXY}/").strip())
    except InterpolationFailed as error:
        why = str(error)
    if "$[[" in node.value:
        resolved, why = None, _INPUT
    edit_range, reason = (None, why) if resolved is None or filled is None else _edit_range(source, node, filled)
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
    return (
        None,
        f"its end comes from {last.variable}, and the job's scripts would see the digest in it; write the tag into the image",
    )


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
    read=read_gitlab,
    follows=_includes,
)
