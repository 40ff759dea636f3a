"""Find every image reference in a project. Reads files, and never follows a path out of the project.

A file's name selects its format, else its content does (`project.references.formats`). Templates are read line by line,
so that no image in one is overlooked (`project.references.templates`). A file given by its path whose format is unknown
is a problem, as is every file that can't be read. A scan ends with an account of the values that look like images
(`project.account`): those that no reader understands are `unknown` in the result.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

from boltseal.errors import quote
from boltseal.project.account import OTHER_LOCKS, ImageCandidate, candidates, document_candidates, unknown_values
from boltseal.project.image_references import Accounted, Format, ImageReference, ScanProblem, ScanResult, Span
from boltseal.project.references.build_arguments import without_selected
from boltseal.project.references.formats import BY_NAME, READERS
from boltseal.project.references.gitlab import include_matcher
from boltseal.project.references.kubernetes import is_kubernetes, read_kubernetes
from boltseal.project.references.kustomize_names import as_deployed
from boltseal.project.references.reader import FileToFollow, FormatReader, ProjectFile, Syntax, follows_nothing
from boltseal.project.references.templates import contains_image_line, read_chart_template, read_template, template_of
from boltseal.project.references.yaml_nodes import (
    TextPart,
    check_size,
    compose,
    is_null,
    pairs,
    part_documents,
    text_parts,
)
from boltseal.project.references.yaml_tree import Node
from boltseal.project.source_files import ProjectPath, ProjectTree, SourceFile, Unreadable

MAX_FILES: Final = 100_000
MAX_PATTERNS: Final = 150  # GitLab's own limit on includes
MAX_PATTERN: Final = 255
_NOT_ENTERED: Final = frozenset({".git", ".hg", ".svn", ".tox", ".venv", "__pycache__", "node_modules", "venv"})
_ANY_NAME: Final = re.IGNORECASE | re.DOTALL  # a line break in a file name must not hide the file
_STRUCTURED: Final = re.compile(r".+\.(?:ya?ml|jsonc?)|\.devcontainer\.json", _ANY_NAME)
_ACCOUNTED: Final = re.compile(r".+\.(?:ya?ml|jsonc?|toml|hcl|nomad)", _ANY_NAME)
_IN_CHART: Final = re.compile(r".+\.(?:ya?ml|tpl)", _ANY_NAME)
STREAMED_CHARACTERS: Final = 256 * 1024
"""From this size on, a stream of resources is not kept in memory as a whole."""
REMEMBERED_CHARACTERS: Final = 200
"""From this size on, a part of such a stream is not read again where it is repeated."""
_KUBERNETES: Final = BY_NAME[Format.KUBERNETES]
_HINTS: Final = (b"image", b"apiversion", b"services", b"container", b"docker")


def scan(root: Path, paths: Sequence[Path] = (), *, crds: Mapping[str, Sequence[str]] | None = None) -> ScanResult:
    """Find every image reference in the given files and folders; without paths, in all of `root`.

    Paths are relative to `root` or absolute. `crds`: paths inside custom resources, by kind (see
    `project.references.kubernetes`). Never raises because of a file's content: that becomes a problem of the result.
    """
    return scan_project(ProjectTree(root), paths, crds=crds)


def scan_project(
    project: ProjectTree, paths: Sequence[Path] = (), *, crds: Mapping[str, Sequence[str]] | None = None
) -> ScanResult:
    """Find every image reference as `scan` does, in a tree whose files may be cached already."""
    return _Scan(project, crds).run(paths or (Path(),))


class _FileResult(NamedTuple):
    """The result of one file that depends only on its text and on `crds`."""

    crds: Mapping[str, Sequence[str]]
    found: ScanResult
    candidates: tuple[ImageCandidate, ...] | None


class _PartResult(NamedTuple):
    """The result of a part of a stream, which depends only on its text, its position and `crds`."""

    crds: Mapping[str, Sequence[str]]
    part: TextPart
    documents: int
    resources: int
    found: ScanResult
    candidates: tuple[ImageCandidate, ...]


class _Scan:
    def __init__(self, project: ProjectTree, crds: Mapping[str, Sequence[str]] | None) -> None:
        self.project = project
        self.crds = crds or {}
        self.together: dict[str, list[ProjectPath]] = {}
        self.done: set[tuple[str, str | None, str]] = set()
        self.seen: dict[str, None] = {}
        self.files: list[ProjectPath] | None = None
        self.patterns: set[str] = set()
        self.image_refs: list[ImageReference] = []
        self.problems: list[ScanProblem] = []
        self.notes: list[ScanProblem] = []
        self.accounted: list[Accounted] = []
        self.candidates: dict[str, tuple[ImageCandidate, ...]] = {}
        self.kustomizations: list[str] = []

    def run(self, paths: Sequence[Path]) -> ScanResult:
        for path in paths:
            try:
                name = self.project.name(path)
                real = self.project.root / name
                if not real.exists():
                    raise Unreadable(str(path), 0, "is not there")
                if real.is_dir():
                    for file in self.walk(real):
                        self.read_file(file.name, file.link_path, by_path=False)
                else:
                    self.read_file(name, self.project.at(path), by_path=True)
            except Unreadable as error:
                self.problems.append(error.problem)
            except OSError as error:  # for example, an ancestor folder that may not be searched
                shown = path if error.filename is None else os.path.relpath(error.filename, self.project.root)
                self.problems.append(ScanProblem(str(shown), 0, f"can't be read: {error.strerror}"))
        for reader in READERS:
            if reader.read_together is not None:
                self.add(reader.read_together(self.project, self.together.get(reader.name, [])))
        found = ScanResult(
            _sorted(without_selected(self.image_refs, self.accounted)),
            tuple(sorted(dict.fromkeys(self.problems))),
            tuple(sorted(dict.fromkeys(self.notes))),
            (),
            tuple(self.accounted),
        )
        found = as_deployed(self.project, self.kustomizations, found)
        return unknown_values(self.project, self.seen, found, self.candidates)

    def add(self, found: ScanResult) -> None:
        self.image_refs.extend(found.image_refs)
        self.problems.extend(found.problems)
        self.notes.extend(found.notes)
        self.accounted.extend(found.accounted)

    def walk(self, real: Path) -> Iterator[ProjectPath]:
        """Yield the files of a folder in name order."""
        count = 0
        root = os.fspath(self.project.root).rstrip("/") + "/"
        for folder, inner, files in os.walk(real, onerror=self.note_unlisted):
            inner[:] = sorted(name for name in inner if name not in _NOT_ENTERED)
            for file in sorted(files):
                path = os.path.join(folder, file)  # noqa: PTH118 - for every file of the project
                link_path = path.removeprefix(root)
                if not _may_hold_references(link_path):
                    continue
                count += 1
                if count > MAX_FILES:
                    raise Unreadable(self.project.name(real), 0, f"holds more than {MAX_FILES} files to look into")
                try:
                    yield ProjectPath(self.project.name(path) if os.path.islink(path) else link_path, link_path)  # noqa: PTH114
                except Unreadable as error:
                    self.problems.append(ScanProblem(link_path, 0, str(error)))

    def note_unlisted(self, error: OSError) -> None:
        """Record a folder that can't be listed: it may contain references. One deleted meanwhile contains none."""
        if not isinstance(error, FileNotFoundError):
            name = Path(error.filename).relative_to(self.project.root).as_posix()
            self.problems.append(ScanProblem(name, 0, f"can't be read: {error.strerror}; its content is unknown"))

    def read_file(self, name: str, link_path: str, *, by_path: bool) -> None:
        """Read one file. Its real name selects the format, else the name of the link to it."""
        reader = reader_by_name(name) or (None if link_path == name else reader_by_name(link_path))
        together = reader is not None and reader.read_together is not None
        key = (name, None if reader is None else reader.name, link_path if together else "")
        if key in self.done:
            return
        self.done.add(key)
        if _ACCOUNTED.fullmatch(template_of(name) or name) or _IN_CHART.fullmatch(name):
            self.seen[name] = None
        try:
            if self.is_template(name):
                return
            if reader is not None:
                self.read_with(reader, ProjectPath(name, link_path))
            elif by_path or self.may_be_known(name):
                self.read_unnamed(self.project.read(name), by_path=by_path)
        except Unreadable as error:
            self.problems.append(error.problem)

    def read_with(self, reader: FormatReader, path: ProjectPath) -> None:
        """Read a file of a known format, and the files that it names. Raises: Unreadable."""
        if reader.read_together is not None:
            self.together.setdefault(reader.name, []).append(path)
            return
        try:
            source = self.project.read(path.name)
        except Unreadable as error:
            if reader.common_suffix and not error.is_text:
                return
            raise
        if self.recall(source, reader.name):
            return
        how = reader.name
        documents = compose(source) if reader.syntax is Syntax.YAML else ()
        if reader.may_be_kubernetes and any(map(is_kubernetes, documents)):
            reader = BY_NAME[Format.KUBERNETES]  # an `action.yaml` or `values.yaml` that is a resource
        self.read_documents(reader, source, documents, how)

    def read_documents(self, reader: FormatReader, source: SourceFile, documents: tuple[Node, ...], how: str) -> None:
        """Read a parsed file. `how`: what selected the reader, so that the result can be used again."""
        lookups = self.project.lookups
        file = ProjectFile(source, self.project, documents, self.crds)
        if reader.name == Format.KUSTOMIZE:
            self.kustomizations.append(source.path)
        for each in reader.follows(file):
            self.follow(source, each)
        found = reader.read(file)
        self.add(found)
        if documents and source.path not in self.candidates:  # now, because a large file is not kept parsed
            self.candidates[source.path] = candidates(source, documents, found)
        if reader.follows is follows_nothing and self.project.lookups == lookups:
            self.remember(source, how, found)

    def remember(self, source: SourceFile, how: str, found: ScanResult) -> None:
        """Keep the result of a file that depends on no other file, for the scan that checks an edit of other files."""
        source.results[how] = _FileResult(self.crds, found, self.candidates.get(source.path))

    def recall(self, source: SourceFile, how: str) -> bool:
        """Use the result that `remember` kept, and return whether there is one."""
        known: _FileResult | None = source.results.get(how)
        if known is None or known.crds != self.crds:
            return False
        self.add(known.found)
        if known.candidates is not None:
            self.candidates.setdefault(source.path, known.candidates)
        return True

    def is_template(self, name: str) -> bool:
        """Return whether a file is a template by its folder or name, after reading it as one."""
        parts = name.split("/")
        charts = ("/".join((*parts[:at], "Chart.yaml")) for at, part in enumerate(parts[:-1]) if part == "templates")
        if _IN_CHART.fullmatch(parts[-1]) and any(self.project.has(chart) for chart in charts):
            self.add(read_chart_template(self.project.read(name)))
            return True
        inner = template_of(parts[-1])
        if inner is None or not _STRUCTURED.fullmatch(inner):
            return False
        self.add(read_template(self.project.read(name)))
        return True

    def may_be_known(self, name: str) -> bool:
        """Return whether a file whose name implies no format may have a known one by its content."""
        if _STRUCTURED.fullmatch(name) is None or name.rpartition("/")[2] in OTHER_LOCKS:
            return False
        try:
            text = self.project.read(name).raw.lower()
            return any(hint in text for hint in _HINTS)
        except Unreadable:
            if name.endswith(".json"):
                return False  # arbitrary data that the caller did not ask for
            raise

    def follow(self, source: SourceFile, each: FileToFollow) -> None:
        """Read the files that another file names, each once in that format."""
        reader = BY_NAME[each.format]
        try:
            for name in self.named_files(source, each):
                if (name, reader.name, "") not in self.done:
                    self.done.add((name, reader.name, ""))
                    self.read_with(reader, ProjectPath(name, name))
        except Unreadable as error:
            problem = error.problem
            path, line = (problem.path, problem.line) if problem.line else (source.path, each.line)
            self.problems.append(ScanProblem(path, line, problem.message))

    def named_files(self, source: SourceFile, each: FileToFollow) -> list[str]:
        """Return the existing files that a path or pattern names. Raises: Unreadable."""
        if not each.pattern:
            name = self.project.name(Path(each.path), each.folder)
            return [] if each.optional and not self.project.has(name) else [name]
        if "$" in each.path or ".." in Path(each.path).parts:
            raise Unreadable(source.path, 0, f"{quote(each.path)} is not followed")
        self.patterns.add(each.path)
        if len(self.patterns) > MAX_PATTERNS or len(each.path) > MAX_PATTERN:
            limit = f"at most {MAX_PATTERNS} patterns of at most {MAX_PATTERN} characters are followed"
            raise Unreadable(source.path, 0, f"{quote(each.path)} is not followed: {limit}")
        if self.files is None:
            self.files = list(self.walk(self.project.root))
        matches = include_matcher(each.path)
        return [path.name for path in self.files if matches(path.link_path)]

    def read_unnamed(self, source: SourceFile, *, by_path: bool) -> None:
        """Read a file whose name implies no format: its content decides."""
        how = "a format by path" if by_path else "a format"
        if self.recall(source, how):
            return
        if self.read_resources(source, how):
            return
        try:
            documents = compose(source)
        except Unreadable:
            if not by_path and b"apiVersion" not in source.raw:
                return  # the account reports what looks like an image in it
            if not by_path and "{{" in source.text and not contains_image_line(source):
                return  # a template without images
            raise
        reader = next((reader for reader in READERS if reader.by_content(documents)), None)
        named_helm = by_path and any({"repository", "image"} & pairs(document).keys() for document in documents)
        if reader is not None and reader.read_together is not None:
            self.together.setdefault(reader.name, []).append(
                ProjectPath(source.path, source.path, by_content=not by_path)
            )
        elif reader is not None:
            self.read_documents(reader, source, documents, how)
        elif named_helm:
            self.read_documents(BY_NAME[Format.HELM], source, documents, how)
        else:
            self.candidates[source.path] = candidates(source, documents, ScanResult())
            if by_path:
                raise Unreadable(source.path, 0, "is in none of the known formats")
            self.remember(source, how, ScanResult())

    def read_resources(self, source: SourceFile, how: str) -> bool:
        """Read a large stream of Kubernetes resources, one document in memory at a time; return whether it is one."""
        if len(source.text) < STREAMED_CHARACTERS or b"\n---" not in source.raw:
            return False
        results: list[ScanResult] = []
        named: list[ImageCandidate] = []
        documents = resources = 0
        try:
            check_size(source)
            for part in text_parts(source):
                read = self.known_part(source, part) or self.read_part(source, part, documents)
                if read is None:
                    return False
                documents += read.documents
                resources += read.resources
                results.append(read.found)
                named += read.candidates
        except Unreadable:
            return False  # the reading of the whole file reports it
        if resources < 2:
            return False
        found = ScanResult(*(tuple(chain.from_iterable(parts)) for parts in zip(*map(_parts, results), strict=True)))
        self.add(found)
        self.candidates[source.path] = tuple(named)
        self.remember(source, how, found)
        return True

    def read_part(self, source: SourceFile, part: TextPart, number: int) -> _PartResult | None:
        """Read a part of a stream, whose first document has this number; None if one is no resource.

        Raises: Unreadable.
        """
        results: list[ScanResult] = []
        named: list[ImageCandidate] = []
        documents = 0
        for document in part_documents(source, part):
            documents += 1
            if is_null(document):
                continue
            if next((each for each in READERS if each.by_content((document,))), None) is not _KUBERNETES:
                return None
            results.append(read_kubernetes(source, (document,), self.crds, number + documents - 1))
            named += document_candidates(source, (document,), results[-1])
        found = ScanResult(*(tuple(chain.from_iterable(each)) for each in zip(*map(_parts, results), strict=True)))
        read = _PartResult(self.crds, part, documents, len(results), found, tuple(named))
        if len(part.text) >= REMEMBERED_CHARACTERS and not named and found == ScanResult(accounted=found.accounted):
            self.project.parts[part.text] = read
        return read

    def known_part(self, source: SourceFile, part: TextPart) -> _PartResult | None:
        """Return the result of an equal part without images, such as a schema that several files repeat."""
        known: _PartResult | None = self.project.parts.get(part.text)
        if known is None or known.crds != self.crds:
            return None
        moved = part.offset - known.part.offset
        return known._replace(
            found=ScanResult(
                accounted=tuple(
                    Accounted(source.path, Span(each.span.start + moved, each.span.end + moved), each.reason)
                    for each in known.found.accounted
                )
            )
        )


def _sorted(image_refs: Iterable[ImageReference]) -> tuple[ImageReference, ...]:
    """Return references by path and position, each once."""

    def position(image_ref: ImageReference) -> tuple[str, Span, str]:
        return image_ref.path, image_ref.span, image_ref.where

    groups = groupby(sorted(image_refs, key=position), position)
    return tuple(chain.from_iterable(dict.fromkeys(group) for _, group in groups))


def _parts(found: ScanResult) -> tuple[tuple[Any, ...], ...]:
    return found.image_refs, found.problems, found.notes, found.unknown, found.accounted


def reader_by_name(path: str) -> FormatReader | None:
    """Return the reader of the format that a path implies, or None."""
    return next((reader for reader in READERS if reader.by_name(path)), None)


def _may_hold_references(path: str) -> bool:
    """Return whether a file of this name may contain image references and is read."""
    file = path.rpartition("/")[2]
    inner = template_of(file) or file
    return bool(_ACCOUNTED.fullmatch(inner)) or file.endswith(".tpl") or reader_by_name(path) is not None
