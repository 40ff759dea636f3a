"""Load the files of Compose projects: those that are included, extended and read together, and their env files.

A file is loaded once, with the env files of the first path to it; those of other paths are in `also`. Problems
are collected. What the services contain is read by `project.references.compose`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from boltseal.errors import quote
from boltseal.project.image_references import COMPOSE_NAMES, COMPOSE_OVERRIDES, ScanProblem
from boltseal.project.references.compose_files import ComposeFile, FileToRead
from boltseal.project.references.compose_places import named_files
from boltseal.project.references.dotenv import Dotenv, Variables, parse_dotenv
from boltseal.project.references.interpolation import Dialect, InterpolationFailed, fill
from boltseal.project.references.yaml_nodes import Pairs, compose, items, line_of, pairs, text_of
from boltseal.project.references.yaml_tree import Node
from boltseal.project.source_files import ProjectPath, ProjectTree, Unreadable

MAX_EXTENDS: Final = 100
MAX_ENV_SETS: Final = 100
_NO_ENV: Final = Dotenv("", {})


class LoadedFiles:
    """The files of a project's Compose projects by their real path. `included`: those that are part of a project.

    `envs`: the env files by path. `files` has None for a file that can't be read.
    """

    def __init__(self, project: ProjectTree) -> None:
        self.project = project
        self.files: dict[str, ComposeFile | None] = {}
        self.other_files: dict[str, ComposeFile | None] = {}
        self.envs: dict[str, Dotenv] = {}
        self.included: set[str] = set()
        self.built: dict[tuple[str, str], tuple[bool, tuple[ComposeFile, str] | None]] = {}
        self.problems: list[ScanProblem] = []

    def load_all(self, paths: Iterable[ProjectPath]) -> None:
        """Load these files and all that they include and extend."""
        paths = list(paths)
        self.included.update(path.name for path in paths)
        waiting = deque(FileToRead(path.name, (_env_of(folder_of(path.link_path)),), path.link_path) for path in paths)
        while waiting:
            file = self.load(*waiting.popleft())
            if file is not None:
                waiting.extend(self.referenced_files(file))

    def projects(self, paths: Iterable[ProjectPath]) -> list[ProjectPath]:
        """Return the files that begin a project: those that no other file includes or extends."""
        waiting = [path for path in paths if path.name not in self.files]
        named: set[str] = set()
        for path in waiting:
            with suppress(Unreadable):
                source = self.project.read(path.name)
                for text in named_files(compose(source)):
                    with suppress(Unreadable):
                        named.add(self.project.name(Path(text), folder_of(path.link_path)))
        return [path for path in waiting if path.name not in named]

    def load(self, name: str, envs: tuple[str, ...], at: str) -> ComposeFile | None:
        if name not in self.files:
            file = self.files[name] = self.parse_file(name, envs, at)
            return file
        known = self.files[name]
        if known is not None and known.envs != envs and len(known.also) <= MAX_ENV_SETS:
            known.also.add(envs)
            if len(known.also) > MAX_ENV_SETS:
                message = f"more than {MAX_ENV_SETS} include paths lead to it, each with other variables: not followed"
                self.problems.append(ScanProblem(name, 0, message))
        return None

    def referenced_files(self, file: ComposeFile) -> list[FileToRead]:
        """Return the files that this one includes or extends, each with its env files."""
        found: list[FileToRead] = []
        included = self.included if file.source.path in self.included else set()
        for document in file.documents:
            for entry in items(pairs(document).get("include")):
                listed = pairs(entry).get("path", entry)
                names = [name for listing in items(listed) or [listed] for name in self.path(file, listing)]
                envs = self.included_envs(file, entry, names[0]) if names else ()
                found += [FileToRead(name, envs, name) for name in names]
                included.update(names)
        for _, keys in file.each_service():
            path = pairs(keys.get("extends")).get("file")
            found += [FileToRead(name, file.envs, name) for name in self.path(file, path)]
        return found

    def included_envs(self, file: ComposeFile, entry: Node, first: str) -> tuple[str, ...]:
        """Return the env files of an included file: the project's first, then its `env_file` or its folder's `.env`."""
        if len(file.envs) > MAX_ENV_SETS:
            message = f"nested includes use more than {MAX_ENV_SETS} env files: not followed further"
            self.problems.append(ScanProblem(file.source.path, line_of(entry), message))
            return file.envs
        keys = pairs(entry)
        listed = keys.get("env_file")
        if listed is not None:
            own = [name for node in items(listed) or [listed] for name in self.path(file, node)]
            return (*file.envs, *reversed(own))
        folder = text_of(keys.get("project_directory"))
        if folder is None:
            return (*file.envs, _env_of(folder_of(first)))
        try:
            return (*file.envs, _env_of(self.project.name(Path(folder), folder_of(file.at))))
        except Unreadable:
            return file.envs

    def path(self, file: ComposeFile, node: Node | None) -> list[str]:
        """Return the project file that a scalar names as a list of one, or [] and a problem if there is none."""
        written = text_of(node)
        if node is None or not written:
            return []
        try:
            text = fill(written, self.variables(file.envs).get, Dialect.COMPOSE, strict=False).text
            if "://" in text or text.startswith(("git@", "oci:")):
                raise Unreadable("", 0, f"{quote(text)} is remote: not followed")
            name = self.project.name(Path(text), folder_of(file.at))
            if not self.project.has(name):
                raise Unreadable("", 0, f"{quote(text)} does not exist")
        except (InterpolationFailed, Unreadable) as error:
            self.problems.append(ScanProblem(file.source.path, line_of(node), str(error)))
            return []
        return [name]

    def env(self, name: str) -> Dotenv:
        if name not in self.envs:
            self.envs[name] = _NO_ENV
            try:
                real = self.project.name(name)
                if self.project.has(real):
                    self.envs[name] = parse_dotenv(self.project.read(real))
            except Unreadable as error:
                self.problems.append(error.problem)
        return self.envs[name]

    def variables(self, envs: tuple[str, ...]) -> Variables:
        return Variables(tuple(self.env(name) for name in envs))

    def is_built(self, file: ComposeFile, name: str, keys: Pairs) -> bool:
        """Return whether a service with these keys has a `build`: itself, in one it extends, or in the override file."""
        if "build" in keys:
            return True
        seen: set[tuple[str, str]] = set()
        extends = "extends" in keys or len(file.documents) > 1
        waiting = [(other, name) for other in ([file] if extends else []) + self.partners(file)]
        while waiting and len(seen) < MAX_EXTENDS:
            other, base = waiting.pop()
            if (other.source.path, base) in seen:
                continue
            seen.add((other.source.path, base))
            built, further = self.build_and_base(other, base)
            if built:
                return True
            waiting += [further] if further is not None else []
        return False

    def build_and_base(self, file: ComposeFile, name: str) -> tuple[bool, tuple[ComposeFile, str] | None]:
        """Return whether a service itself has a `build`, and the service that it extends."""
        key = (file.source.path, name)
        if key not in self.built:
            keys: Pairs = {}
            for document in file.services(name):
                keys |= document
            extends = keys.get("extends")
            extended = pairs(extends)
            base_name = text_of(extends) or text_of(extended.get("service"))
            path = text_of(extended.get("file"))
            target = self.file_at(file, path) if path else file
            self.built[key] = ("build" in keys, (target, base_name) if base_name and target is not None else None)
        return self.built[key]

    def file_at(self, file: ComposeFile, path: str) -> ComposeFile | None:
        try:
            return self.files.get(self.project.name(Path(path), folder_of(file.at)))
        except Unreadable:
            return None

    def partners(self, file: ComposeFile) -> list[ComposeFile]:
        """Return the files that Compose loads together with this one by default."""
        if file.partners is None:
            file.partners = self.find_partners(file)
        return file.partners

    def find_partners(self, file: ComposeFile) -> list[ComposeFile]:
        folder, _, last = file.at.rpartition("/")
        if last not in COMPOSE_NAMES + COMPOSE_OVERRIDES:
            return []
        found: list[ComposeFile] = []
        for partner in COMPOSE_OVERRIDES if last in COMPOSE_NAMES else COMPOSE_NAMES:
            name = f"{folder}/{partner}" if folder else partner
            other = self.other_file(name, file.envs) if self.project.has(name) else None
            found += [other] if other is not None else []
        return found

    def other_file(self, name: str, envs: tuple[str, ...]) -> ComposeFile | None:
        """Read a file beside another one, following a link."""
        if name not in self.other_files:
            self.other_files[name] = None
            try:
                real = self.project.name(name)
                self.other_files[name] = self.files.get(real) or self.parse_file(real, envs, name)
            except Unreadable as error:
                self.problems.append(ScanProblem(name, 0, str(error)))
        return self.other_files[name]

    def parse_file(self, name: str, envs: tuple[str, ...], at: str) -> ComposeFile | None:
        """Parse a file, without collecting its references."""
        try:
            source = self.project.read(name)
            return ComposeFile(source, compose(source), envs, at)
        except Unreadable as error:
            self.problems.append(error.problem)
            return None


def _env_of(folder: str) -> str:
    return f"{folder}/.env" if folder and folder != "." else ".env"


def folder_of(name: str) -> str:
    """Return the folder of a path, "" for the project's own."""
    return name.rpartition("/")[0]
