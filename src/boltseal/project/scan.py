"""Walk a project and find every image reference in it. Reads, and follows nothing out of the project.

What a file is, its name says: Dockerfiles, Compose files, workflows, pipelines, kustomizations, values beside a chart.
Any other YAML or JSON file is looked into for Kubernetes' `apiVersion`. Templates are read line by line, so that no image
in one passes unseen (`project.references.templates`). A file that is named outright is also known as a
Compose file by its `services`; when it is still nothing known, that is a problem, as is whatever can't be read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from yaml.nodes import Node

from boltseal.errors import quote
from boltseal.project.image_references import Format, ImageReference, ScanProblem, ScanResult
from boltseal.project.references.actions import read_actions
from boltseal.project.references.compose import read_compose
from boltseal.project.references.dockerfile import read_dockerfile
from boltseal.project.references.gitlab import included, read_gitlab, wildcards
from boltseal.project.references.helm import ValuesByPath, app_version, laid_out, read_values
from boltseal.project.references.kubernetes import is_kubernetes, read_kubernetes
from boltseal.project.references.kustomize import patch_files, read_kustomize, read_operations
from boltseal.project.references.templates import (
    names_an_image,
    read_chart_template,
    read_template,
    steers_a_build,
    template_of,
)
from boltseal.project.references.yaml_nodes import compose, line_of, pairs
from boltseal.project.source_files import ProjectTree, SourceFile, Unreadable

MAX_FILES: Final = 100_000
MAX_PATTERNS: Final = 150  # as many includes as GitLab takes
MAX_PATTERN: Final = 255
_NOT_ENTERED: Final = frozenset({".git", ".hg", ".svn", ".tox", ".venv", "__pycache__", "node_modules", "venv"})
_ANY_NAME: Final = re.IGNORECASE | re.DOTALL  # a line break in a name hides nothing
_DOCKERFILE: Final = re.compile(r"(?:docker|container)file(?:\..+)?|.+\.(?:docker|container)file", _ANY_NAME)
# `Dockerfile.prod` is one; `dockerfile.py` is a program about them, and `Dockerfile.md` a page
_ABOUT_DOCKERFILES: Final = tuple(
    f".{word}"
    for word in (
        *("bak", "c", "cpp", "cs", "css", "dockerignore", "ex", "go", "html", "java", "js", "json", "jsx", "kt", "lua"),
        *("md", "orig", "php", "pl", "py", "pyi", "rb", "rej", "rs", "rst", "scala", "sh", "swift", "ts", "tsx", "txt"),
        *("vim", "yaml", "yml"),
    )
)
_COMPOSE: Final = re.compile(r"(?:docker-)?(?:compose|stack)(?:[.-].*)?\.ya?ml|.+[.-]compose\.ya?ml", _ANY_NAME)
_KUSTOMIZE: Final = frozenset({"kustomization.yaml", "kustomization.yml", "Kustomization"})
_GITLAB: Final = re.compile(r"(?:.+)?\.gitlab-ci\.ya?ml", re.DOTALL)
_VALUES: Final = re.compile(r"values(?:[.-].*)?\.ya?ml|.+[.-]values\.ya?ml", re.DOTALL)
_DEFAULT_VALUES: Final = "values.yaml"
_MAY_BE_KUBERNETES: Final = frozenset({Format.GITHUB_ACTIONS, Format.HELM})
_WORKFLOW: Final = re.compile(r"(?:.*/)?\.(?:github|gitea|forgejo)/workflows/[^/]+\.ya?ml", re.DOTALL)
_ACTION: Final = re.compile(r"(?:.*/)?action\.ya?ml", re.DOTALL)
_STRUCTURED: Final = re.compile(r".+\.(?:ya?ml|json)", _ANY_NAME)
_IN_CHART: Final = re.compile(r".+\.(?:ya?ml|tpl)", _ANY_NAME)


def scan(root: Path, paths: Sequence[Path] = (), *, crds: Mapping[str, Sequence[str]] | None = None) -> ScanResult:
    """Every reference in the given files and folders (none: all of `root`), and what could not be read.

    Paths are relative to `root` or absolute. `crds`: paths inside resources, by kind, as `project.references.kubernetes` has them.
    Never raises for what a file holds.
    """
    return scan_project(ProjectTree(root), paths, crds=crds)


def scan_project(
    project: ProjectTree, paths: Sequence[Path] = (), *, crds: Mapping[str, Sequence[str]] | None = None
) -> ScanResult:
    """The same, of files that may have been read already."""
    return _Scan(project, crds).of(paths or (Path(),))


class _Scan:
    def __init__(self, project: ProjectTree, crds: Mapping[str, Sequence[str]] | None) -> None:
        self.project = project
        self.crds = crds
        self.composed: list[tuple[str, str]] = []
        self.done: set[tuple[str, Format | None, str]] = set()
        self.files: list[tuple[str, str]] | None = None
        self.patterns: set[str] = set()
        self.laid_out: dict[str, ValuesByPath] = {}
        self.image_refs: list[ImageReference] = []
        self.problems: list[ScanProblem] = []
        self.notes: list[ScanProblem] = []

    def of(self, paths: Sequence[Path]) -> ScanResult:
        for path in paths:
            try:
                name = self.project.name(path)
                real = self.project.root / name
                if not real.exists():
                    raise Unreadable(str(path), 0, "is not there")
                if real.is_dir():
                    for found, at in self.walk(real):
                        self.one(found, at, asked=False)
                else:
                    self.one(name, self.project.at(path), asked=True)
            except Unreadable as error:
                self.problems.append(error.problem)
            except OSError as error:  # whether it is a link, say, can't even be asked
                shown = path if error.filename is None else os.path.relpath(error.filename, self.project.root)
                self.problems.append(ScanProblem(str(shown), 0, f"can't be read: {error.strerror}"))
        self.take(read_compose(self.project, self.composed))
        image_refs = sorted(
            dict.fromkeys(self.image_refs), key=lambda image_ref: (image_ref.path, image_ref.span, image_ref.where)
        )
        return ScanResult(
            tuple(image_refs), *(tuple(sorted(dict.fromkeys(each))) for each in (self.problems, self.notes))
        )

    def take(self, found: ScanResult) -> None:
        self.image_refs.extend(found.image_refs)
        self.problems.extend(found.problems)
        self.notes.extend(found.notes)

    def walk(self, real: Path) -> Iterator[tuple[str, str]]:
        """The files of a folder by name, in order, each with the path that leads to it, which may be a link's."""
        count = 0
        for folder, inner, files in os.walk(real, onerror=self.closed):
            inner[:] = sorted(name for name in inner if name not in _NOT_ENTERED)
            for file in sorted(files):
                if not _may_hold_references(file):
                    continue
                count += 1
                if count > MAX_FILES:
                    raise Unreadable(self.project.name(real), 0, f"holds more than {MAX_FILES} files to look into")
                path = Path(folder, file)
                at = path.relative_to(self.project.root).as_posix()
                try:
                    yield self.project.name(path) if path.is_symlink() else at, at
                except Unreadable as error:
                    self.problems.append(ScanProblem(at, 0, str(error)))

    def closed(self, error: OSError) -> None:
        """A folder that can't be listed may hold any reference; one that has gone meanwhile holds none."""
        if not isinstance(error, FileNotFoundError):
            name = Path(error.filename).relative_to(self.project.root).as_posix()
            self.problems.append(ScanProblem(name, 0, f"can't be read: {error.strerror}; nobody knows what is in it"))

    def one(self, name: str, at: str, *, asked: bool) -> None:
        """A file, which is what its own name says, or that of the link that leads to it."""
        kind = self.kind(name) or self.kind(at)
        way = (name, kind, at if kind is Format.COMPOSE else "")
        if way in self.done:
            return
        self.done.add(way)
        try:
            if self.is_template(name):
                return
            if kind is Format.COMPOSE:
                self.composed.append((name, at))
            elif kind is Format.DOCKERFILE:
                self.dockerfile(self.project.read(name))
            elif kind is not None:
                source = self.project.read(name)
                documents = compose(source)
                if kind in _MAY_BE_KUBERNETES and any(is_kubernetes(document) for document in documents):
                    kind = Format.KUBERNETES  # an `action.yaml` or `values.yaml` of somebody else's
                self.take(self.structured(source, documents, kind))
            elif asked or self.may_be_kubernetes(name):
                self.unnamed(self.project.read(name), asked=asked)
        except Unreadable as error:
            self.problems.append(error.problem)

    def dockerfile(self, source: SourceFile) -> None:
        """A `Dockerfile.j2` may well be one as it is, whatever is filled in behind a RUN."""
        filled_in = template_of(source.path) is not None and steers_a_build(source)
        self.take(read_template(source) if filled_in else read_dockerfile(source))

    def is_template(self, name: str) -> bool:
        """Whether a file is a template by its place or its name; then it has been read as one."""
        parts = name.split("/")
        charts = ("/".join((*parts[:at], "Chart.yaml")) for at, part in enumerate(parts[:-1]) if part == "templates")
        if _IN_CHART.fullmatch(parts[-1]) and any(self.project.has(chart) for chart in charts):
            self.take(read_chart_template(self.project.read(name)))
            return True
        inner = template_of(parts[-1])
        if inner is None or not _STRUCTURED.fullmatch(inner):
            return False
        self.take(read_template(self.project.read(name)))
        return True

    def kind(self, name: str) -> Format | None:
        """What a file is by its name."""
        last = name.rpartition("/")[2]
        if _DOCKERFILE.fullmatch(template_of(last) or last) and not last.lower().endswith(_ABOUT_DOCKERFILES):
            return Format.DOCKERFILE
        if _COMPOSE.fullmatch(last):
            return Format.COMPOSE
        if last in _KUSTOMIZE:
            return Format.KUSTOMIZE
        if _WORKFLOW.fullmatch(name) or _ACTION.fullmatch(name):
            return Format.GITHUB_ACTIONS
        if _GITLAB.fullmatch(last):
            return Format.GITLAB_CI
        if _VALUES.fullmatch(last):
            return Format.HELM
        return None

    def may_be_kubernetes(self, name: str) -> bool:
        try:
            return _STRUCTURED.fullmatch(name) is not None and b"apiVersion" in self.project.read(name).raw
        except Unreadable:
            if name.endswith(".json"):
                return False  # data of any size and kind; nobody named it
            raise

    def structured(self, source: SourceFile, documents: tuple[Node, ...], kind: Format) -> ScanResult:
        match kind:
            case Format.KUSTOMIZE:
                self.patches(source, documents)
                return read_kustomize(source, documents)
            case Format.GITHUB_ACTIONS:
                return read_actions(source, documents)
            case Format.HELM:
                return self.values(source, documents)
            case Format.GITLAB_CI:
                self.follow(source, documents)
                return read_gitlab(source, documents)
            case _:
                return read_kubernetes(source, documents, self.crds)

    def patches(self, source: SourceFile, documents: tuple[Node, ...]) -> None:
        """The files of patches that are no resources, and so are not known by what they hold."""
        for node in patch_files(documents):
            try:
                name = self.project.name(Path(node.value), source.path.rpartition("/")[0])
                if (name, Format.KUSTOMIZE, "") not in self.done and self.project.has(name):
                    self.done.add((name, Format.KUSTOMIZE, ""))
                    inner = self.project.read(name)
                    self.take(read_operations(inner, compose(inner)))
            except Unreadable as error:
                self.problems.append(
                    error.problem if error.problem.line else ScanProblem(source.path, line_of(node), str(error))
                )

    def values(self, source: SourceFile, documents: tuple[Node, ...]) -> ScanResult:
        """A file of values, with those that lie under it or over it beside the chart."""
        folder, _, last = source.path.rpartition("/")
        if not self.project.has(f"{folder}/Chart.yaml" if folder else "Chart.yaml"):
            return read_values(source, documents, chart=False)
        version = app_version(self.project, source.path)
        if last != _DEFAULT_VALUES:
            own = f"{folder}/{_DEFAULT_VALUES}" if folder else _DEFAULT_VALUES
            under = self.laid(own) if self.project.has(own) else None
            return read_values(source, documents, version=version, under=under)
        there = sorted(path.name for path in (self.project.root / folder).glob("*.y*ml"))
        names = [f"{folder}/{name}" if folder else name for name in there if _VALUES.fullmatch(name) and name != last]
        return read_values(source, documents, version=version, over=[self.laid(name) for name in names])

    def laid(self, name: str) -> ValuesByPath:
        """What a file of values has; nothing of one that can't be read, which is told when its turn comes."""
        if name not in self.laid_out:
            self.laid_out[name] = {}
            with suppress(Unreadable):
                self.laid_out[name] = laid_out(compose(self.project.read(self.project.name(name))))
        return self.laid_out[name]

    def follow(self, source: SourceFile, documents: tuple[Node, ...]) -> None:
        for node in included(documents):
            try:
                for name in self.local(source, node.value):
                    if (name, Format.GITLAB_CI, "") not in self.done:
                        self.done.add((name, Format.GITLAB_CI, ""))
                        inner = self.project.read(name)
                        self.take(self.structured(inner, compose(inner), Format.GITLAB_CI))
            except Unreadable as error:
                problem = error.problem
                at = (source.path, line_of(node)) if not problem.line else (problem.path, problem.line)
                self.problems.append(ScanProblem(*at, problem.message))

    def local(self, source: SourceFile, written: str) -> list[str]:
        """The files that an `include: local` means; GitLab reads `/` as the project's root, and `**` as any folders."""
        pattern = written.lstrip("/")
        if "$" in pattern or ".." in Path(pattern).parts:
            raise Unreadable(source.path, 0, f"{quote(written)} is not followed")
        if "*" not in pattern:
            return [self.project.name(Path(pattern))]
        self.patterns.add(pattern)
        if len(self.patterns) > MAX_PATTERNS or len(pattern) > MAX_PATTERN:
            said = f"at most {MAX_PATTERNS} patterns of at most {MAX_PATTERN} characters are followed"
            raise Unreadable(source.path, 0, f"{quote(written)} is not followed: {said}")
        if self.files is None:
            self.files = list(self.walk(self.project.root))
        matches = wildcards(pattern)
        return [name for name, at in self.files if matches(at)]

    def unnamed(self, source: SourceFile, *, asked: bool) -> None:
        """A file whose name says nothing: what it holds decides."""
        try:
            documents = compose(source)
        except Unreadable:
            if not asked and "{{" in source.text and not names_an_image(source):
                return  # a template of somebody's that names no image
            raise
        if any(is_kubernetes(document) for document in documents):
            self.take(read_kubernetes(source, documents, self.crds))
        elif any("services" in pairs(document) for document in documents):
            if asked:
                self.composed.append((source.path, source.path))
        elif asked and any({"repository", "image"} & pairs(document).keys() for document in documents):
            self.take(read_values(source, documents))
        elif asked:
            raise Unreadable(source.path, 0, "is none of the formats that are known here")


def _may_hold_references(file: str) -> bool:
    """Whether a file is looked into, by the last part of its name."""
    inner = template_of(file) or file
    named = _STRUCTURED.fullmatch(inner) or _DOCKERFILE.fullmatch(inner)
    return bool(named) or file in _KUSTOMIZE or file.endswith(".tpl")
