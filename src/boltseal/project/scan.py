"""Find every image reference in a project. Reads files, and never follows a path out of the project.

The file name selects the format: Dockerfiles, Compose files, workflows, pipelines, kustomizations, Helm values. Any
other YAML or JSON file is checked for Kubernetes' `apiVersion`. Templates are read line by line, so that no image in
one is overlooked (`project.references.templates`). A file given by its path is also recognised as a Compose file by its
`services`. If its format is still unknown, that is a problem, as is every file that can't be read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, assert_never

from yaml.nodes import Node

from boltseal.errors import quote
from boltseal.project.image_references import Format, ImageReference, ScanProblem, ScanResult
from boltseal.project.references.actions import read_actions
from boltseal.project.references.compose import read_compose
from boltseal.project.references.dockerfile import read_dockerfile
from boltseal.project.references.gitlab import include_matcher, local_includes, read_gitlab
from boltseal.project.references.helm import ValuesByPath, app_version, read_values, values_by_path
from boltseal.project.references.kubernetes import is_kubernetes, read_kubernetes
from boltseal.project.references.kustomize import patch_files, read_kustomize, read_operations
from boltseal.project.references.templates import (
    affects_build,
    contains_image_line,
    read_chart_template,
    read_template,
    template_of,
)
from boltseal.project.references.yaml_nodes import compose, line_of, pairs
from boltseal.project.source_files import ProjectPath, ProjectTree, SourceFile, Unreadable

MAX_FILES: Final = 100_000
MAX_PATTERNS: Final = 150  # GitLab's own limit on includes
MAX_PATTERN: Final = 255
_NOT_ENTERED: Final = frozenset({".git", ".hg", ".svn", ".tox", ".venv", "__pycache__", "node_modules", "venv"})
_ANY_NAME: Final = re.IGNORECASE | re.DOTALL  # a line break in a file name must not hide the file
_DOCKERFILE: Final = re.compile(r"(?:docker|container)file(?:\..+)?|.+\.(?:docker|container)file", _ANY_NAME)
# `Dockerfile.prod` is a Dockerfile; `dockerfile.py` and `Dockerfile.md` are not
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


class _Scan:
    def __init__(self, project: ProjectTree, crds: Mapping[str, Sequence[str]] | None) -> None:
        self.project = project
        self.crds = crds
        self.compose_files: list[ProjectPath] = []
        self.done: set[tuple[str, Format | None, str]] = set()
        self.files: list[ProjectPath] | None = None
        self.patterns: set[str] = set()
        self.helm_values: dict[str, ValuesByPath] = {}
        self.image_refs: list[ImageReference] = []
        self.problems: list[ScanProblem] = []
        self.notes: list[ScanProblem] = []

    def run(self, paths: Sequence[Path]) -> ScanResult:
        for path in paths:
            try:
                name = self.project.name(path)
                real = self.project.root / name
                if not real.exists():
                    raise Unreadable(str(path), 0, "is not there")
                if real.is_dir():
                    for file, link_path in self.walk(real):
                        self.read_file(file, link_path, by_path=False)
                else:
                    self.read_file(name, self.project.at(path), by_path=True)
            except Unreadable as error:
                self.problems.append(error.problem)
            except OSError as error:  # for example, an ancestor folder that may not be searched
                shown = path if error.filename is None else os.path.relpath(error.filename, self.project.root)
                self.problems.append(ScanProblem(str(shown), 0, f"can't be read: {error.strerror}"))
        self.add(read_compose(self.project, self.compose_files))
        image_refs = sorted(
            dict.fromkeys(self.image_refs), key=lambda image_ref: (image_ref.path, image_ref.span, image_ref.where)
        )
        return ScanResult(
            tuple(image_refs), *(tuple(sorted(dict.fromkeys(each))) for each in (self.problems, self.notes))
        )

    def add(self, found: ScanResult) -> None:
        self.image_refs.extend(found.image_refs)
        self.problems.extend(found.problems)
        self.notes.extend(found.notes)

    def walk(self, real: Path) -> Iterator[ProjectPath]:
        """Yield the files of a folder in name order."""
        count = 0
        for folder, inner, files in os.walk(real, onerror=self.note_unlisted):
            inner[:] = sorted(name for name in inner if name not in _NOT_ENTERED)
            for file in sorted(files):
                if not _may_hold_references(file):
                    continue
                count += 1
                if count > MAX_FILES:
                    raise Unreadable(self.project.name(real), 0, f"holds more than {MAX_FILES} files to look into")
                path = Path(folder, file)
                link_path = path.relative_to(self.project.root).as_posix()
                try:
                    yield ProjectPath(self.project.name(path) if path.is_symlink() else link_path, link_path)
                except Unreadable as error:
                    self.problems.append(ScanProblem(link_path, 0, str(error)))

    def note_unlisted(self, error: OSError) -> None:
        """Record a folder that can't be listed: it may contain references. One deleted meanwhile contains none."""
        if not isinstance(error, FileNotFoundError):
            name = Path(error.filename).relative_to(self.project.root).as_posix()
            self.problems.append(ScanProblem(name, 0, f"can't be read: {error.strerror}; its content is unknown"))

    def read_file(self, name: str, link_path: str, *, by_path: bool) -> None:
        """Read one file. Its real name selects the format, else the name of the link to it."""
        file_format = self.format_by_name(name) or self.format_by_name(link_path)
        key = (name, file_format, link_path if file_format is Format.COMPOSE else "")
        if key in self.done:
            return
        self.done.add(key)
        try:
            if self.is_template(name):
                return
            if file_format is Format.COMPOSE:
                self.compose_files.append(ProjectPath(name, link_path))
            elif file_format is Format.DOCKERFILE:
                self.dockerfile(self.project.read(name))
            elif file_format is not None:
                source = self.project.read(name)
                documents = compose(source)
                if file_format in _MAY_BE_KUBERNETES and any(is_kubernetes(document) for document in documents):
                    file_format = Format.KUBERNETES  # an `action.yaml` or `values.yaml` that is a resource
                self.add(self.read_structured(source, documents, file_format))
            elif by_path or self.may_be_kubernetes(name):
                self.read_unnamed(self.project.read(name), by_path=by_path)
        except Unreadable as error:
            self.problems.append(error.problem)

    def dockerfile(self, source: SourceFile) -> None:
        """Read a Dockerfile. A `Dockerfile.j2` is read as one if no expression affects its instructions."""
        filled_in = template_of(source.path) is not None and affects_build(source)
        self.add(read_template(source) if filled_in else read_dockerfile(source))

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

    def format_by_name(self, name: str) -> Format | None:
        """Return the format that a file's name implies, or None."""
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
                return False  # arbitrary data that the caller did not ask for
            raise

    def read_structured(self, source: SourceFile, documents: tuple[Node, ...], file_format: Format) -> ScanResult:
        match file_format:
            case Format.KUSTOMIZE:
                self.read_patches(source, documents)
                return read_kustomize(source, documents)
            case Format.GITHUB_ACTIONS:
                return read_actions(source, documents)
            case Format.HELM:
                return self.read_helm_values(source, documents)
            case Format.GITLAB_CI:
                self.read_includes(source, documents)
                return read_gitlab(source, documents)
            case Format.KUBERNETES:
                return read_kubernetes(source, documents, self.crds)
            case Format.COMPOSE | Format.DOCKERFILE:
                raise AssertionError(f"{file_format} files are read elsewhere")
            case unknown:
                assert_never(unknown)

    def read_patches(self, source: SourceFile, documents: tuple[Node, ...]) -> None:
        """Read the patch files of a kustomization. Their content does not identify them as resources."""
        for node in patch_files(documents):
            try:
                name = self.project.name(Path(node.value), source.path.rpartition("/")[0])
                if (name, Format.KUSTOMIZE, "") not in self.done and self.project.has(name):
                    self.done.add((name, Format.KUSTOMIZE, ""))
                    inner = self.project.read(name)
                    self.add(read_operations(inner, compose(inner)))
            except Unreadable as error:
                self.problems.append(
                    error.problem if error.problem.line else ScanProblem(source.path, line_of(node), str(error))
                )

    def read_helm_values(self, source: SourceFile, documents: tuple[Node, ...]) -> ScanResult:
        """Read a Helm values file together with the values files that it overrides or that override it."""
        folder, _, last = source.path.rpartition("/")
        if not self.project.has(f"{folder}/Chart.yaml" if folder else "Chart.yaml"):
            return read_values(source, documents, chart=False)
        version = app_version(self.project, source.path)
        if last != _DEFAULT_VALUES:
            own = f"{folder}/{_DEFAULT_VALUES}" if folder else _DEFAULT_VALUES
            under = self.values_of(own) if self.project.has(own) else None
            return read_values(source, documents, version=version, under=under)
        names_there = sorted(path.name for path in (self.project.root / folder).glob("*.y*ml"))
        names = [
            f"{folder}/{name}" if folder else name for name in names_there if _VALUES.fullmatch(name) and name != last
        ]
        return read_values(source, documents, version=version, over=[self.values_of(name) for name in names])

    def values_of(self, name: str) -> ValuesByPath:
        """Return the values of a file by path; empty if it can't be read, which is reported when it is scanned itself."""
        if name not in self.helm_values:
            self.helm_values[name] = {}
            with suppress(Unreadable):
                self.helm_values[name] = values_by_path(compose(self.project.read(self.project.name(name))))
        return self.helm_values[name]

    def read_includes(self, source: SourceFile, documents: tuple[Node, ...]) -> None:
        for node in local_includes(documents):
            try:
                for name in self.included_files(source, node.value):
                    if (name, Format.GITLAB_CI, "") not in self.done:
                        self.done.add((name, Format.GITLAB_CI, ""))
                        inner = self.project.read(name)
                        self.add(self.read_structured(inner, compose(inner), Format.GITLAB_CI))
            except Unreadable as error:
                problem = error.problem
                path, line = (source.path, line_of(node)) if not problem.line else (problem.path, problem.line)
                self.problems.append(ScanProblem(path, line, problem.message))

    def included_files(self, source: SourceFile, written: str) -> list[str]:
        """Return the files that an `include: local` names. GitLab takes `/` as the project's root, and `**` as any folders."""
        pattern = written.lstrip("/")
        if "$" in pattern or ".." in Path(pattern).parts:
            raise Unreadable(source.path, 0, f"{quote(written)} is not followed")
        if "*" not in pattern:
            return [self.project.name(Path(pattern))]
        self.patterns.add(pattern)
        if len(self.patterns) > MAX_PATTERNS or len(pattern) > MAX_PATTERN:
            limit = f"at most {MAX_PATTERNS} patterns of at most {MAX_PATTERN} characters are followed"
            raise Unreadable(source.path, 0, f"{quote(written)} is not followed: {limit}")
        if self.files is None:
            self.files = list(self.walk(self.project.root))
        matches = include_matcher(pattern)
        return [path.name for path in self.files if matches(path.link_path)]

    def read_unnamed(self, source: SourceFile, *, by_path: bool) -> None:
        """Read a file whose name implies no format: its content decides."""
        try:
            documents = compose(source)
        except Unreadable:
            if not by_path and "{{" in source.text and not contains_image_line(source):
                return  # a template without images
            raise
        if any(is_kubernetes(document) for document in documents):
            self.add(read_kubernetes(source, documents, self.crds))
        elif any("services" in pairs(document) for document in documents):
            if by_path:
                self.compose_files.append(ProjectPath(source.path, source.path))
        elif by_path and any({"repository", "image"} & pairs(document).keys() for document in documents):
            self.add(read_values(source, documents))
        elif by_path:
            raise Unreadable(source.path, 0, "is in none of the known formats")


def _may_hold_references(file: str) -> bool:
    """Return whether a file of this name may contain image references and is read."""
    inner = template_of(file) or file
    named = _STRUCTURED.fullmatch(inner) or _DOCKERFILE.fullmatch(inner)
    return bool(named) or file in _KUSTOMIZE or file.endswith(".tpl")
