"""Compose files: `services.*.image`, image volumes, hooks, `docker-image://` contexts, and Dockerfiles written inline.

Only these places are looked at, and what `project.references.build_arguments` makes of a Dockerfile; `image:` inside `environment`,
`command: |` or `configs.content` is text like any other.
Aliases, merge keys and `extends` lead to the scalar where the image really stands, which may be in another file of the
project. Variables come from the `.env` beside the first file; for what is included, then from its `env_file`, or from the
`.env` of its folder. What somebody's shell adds is not known.

A digest goes to the end of the scalar; into a default (`${TAG:-1.2@sha256:...}`), where a variable that is set takes
the pin away with the tag; or into `.env`, if that variable is used exactly once. Anything else needs an override file.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from yaml.nodes import Node, ScalarNode

from boltseal.errors import quote
from boltseal.project.image_references import (
    COMPOSE_NAMES,
    COMPOSE_OVERRIDES,
    EditRange,
    Format,
    ImageReference,
    ScanProblem,
    ScanResult,
)
from boltseal.project.references.build_arguments import BuildArguments
from boltseal.project.references.dockerfile import read_inline
from boltseal.project.references.dotenv import Dotenv, Variables, parse_dotenv
from boltseal.project.references.interpolation import (
    Dialect,
    Interpolated,
    InterpolationFailed,
    TextPiece,
    behind,
    fill,
    variables_in,
)
from boltseal.project.references.scalars import parsed
from boltseal.project.references.yaml_nodes import (
    Pairs,
    compose,
    content_end,
    is_template,
    items,
    line_of,
    pairs,
    plain_start,
    span_of,
    text_of,
)
from boltseal.project.source_files import ProjectTree, SourceFile, Unreadable

MAX_EXTENDS: Final = 100
MAX_WAYS: Final = 100
BUILT_HERE: Final = "built here: its name is its own"
_IMAGE_CONTEXT: Final = "docker-image://"
_NO_ENV: Final = Dotenv("", {})

_Way: TypeAlias = tuple[str, tuple[str, ...], str]  # a file, the env files that count there, and its path


@dataclass(slots=True)
class _File:
    """A file that was read, and the env files that fill its variables; `also`: those of another way that leads to it.

    `at`: the path by which Compose gets to it, which may be a link's: `.env`, and all that it names, lie beside that.
    `services`: by name, once for each document of the file that speaks of it; Compose merges them.
    """

    source: SourceFile
    documents: tuple[Node, ...]
    envs: tuple[str, ...]
    at: str
    services: dict[str, list[Node]] = field(default_factory=dict)
    also: set[tuple[str, ...]] = field(default_factory=set)
    partners: list[_File] | None = None

    def each_service(self) -> Iterator[tuple[str, Node]]:
        """Every service's name, and what a document says of it."""
        return ((name, node) for name, nodes in self.services.items() for node in nodes)


@dataclass(frozen=True, slots=True)
class _Place:
    """A scalar that holds an image: in which file, under which words; `prefix` stands before the reference."""

    file: _File
    node: ScalarNode
    where: str
    platforms: tuple[str, ...] = ()
    build: bool = False
    prefix: str = ""


def read_compose(project: ProjectTree, names: Sequence[tuple[str, str]]) -> ScanResult:
    """The sites of these files, each with the path that led to it, and of all that they include and extend."""
    return _Reader(project).read(names)


class _Reader:
    def __init__(self, project: ProjectTree) -> None:
        self.project = project
        self.files: dict[str, _File | None] = {}
        self.near: dict[str, _File | None] = {}
        self.envs: dict[str, Dotenv] = {}
        self.uses: Counter[tuple[str, str]] = Counter()
        self.built: dict[tuple[str, str], tuple[bool, tuple[_File, str] | None]] = {}
        self.shown_env: set[str] = set()
        self.arguments = BuildArguments(project)
        self.problems: list[ScanProblem] = []
        self.image_refs: list[ImageReference] = []

    def read(self, names: Sequence[tuple[str, str]]) -> ScanResult:
        waiting = deque[_Way]((name, (_env_of(_folder(at)),), at) for name, at in names)
        while waiting:
            file = self.load(*waiting.popleft())
            if file is not None:
                waiting.extend(self.led_to(file))
        files = [file for file in self.files.values() if file is not None]
        for file in files:
            self.count(file)
        self.count_beside()
        for file in files:
            for name, service in file.each_service():
                self.image_refs.extend(self.image_ref(place) for place in self.in_service(file, name, service))
        return ScanResult(tuple(self.image_refs), tuple(self.problems))

    def load(self, name: str, envs: tuple[str, ...], at: str) -> _File | None:
        if name not in self.files:
            file = self.files[name] = self.parsed(name, envs, at)
            return file
        known = self.files[name]
        if known is not None and known.envs != envs and len(known.also) <= MAX_WAYS:
            known.also.add(envs)
            if len(known.also) > MAX_WAYS:
                said = f"more than {MAX_WAYS} ways lead to it, each with other variables: not followed further"
                self.problems.append(ScanProblem(name, 0, said))
        return None

    def led_to(self, file: _File) -> list[_Way]:
        """The files that this one includes or extends, each with the env files that count there."""
        found: list[_Way] = []
        for document in file.documents:
            for entry in items(pairs(document).get("include")):
                listed = pairs(entry).get("path", entry)
                names = [name for listing in items(listed) or [listed] for name in self.path(file, listing)]
                found += [(name, self.included_envs(file, entry, names[0]), name) for name in names]
        for _, service in file.each_service():
            path = pairs(pairs(service).get("extends")).get("file")
            found += [(name, file.envs, name) for name in self.path(file, path)]
        return found

    def included_envs(self, file: _File, entry: Node, first: str) -> tuple[str, ...]:
        """The project's own variables win; then those of `env_file`, or of the `.env` of the included project's folder."""
        if len(file.envs) > MAX_WAYS:
            said = f"files that include each other use more than {MAX_WAYS} files of variables: not followed further"
            self.problems.append(ScanProblem(file.source.path, line_of(entry), said))
            return file.envs
        keys = pairs(entry)
        listed = keys.get("env_file")
        if listed is not None:
            own = [name for node in items(listed) or [listed] for name in self.path(file, node)]
            return (*file.envs, *reversed(own))
        folder = text_of(keys.get("project_directory"))
        if folder is None:
            return (*file.envs, _env_of(_folder(first)))
        try:
            return (*file.envs, _env_of(self.project.name(Path(folder), _folder(file.at))))
        except Unreadable:
            return file.envs

    def path(self, file: _File, node: Node | None) -> list[str]:
        """The name of the file that a scalar names, in a list; an empty one where there is none in the project."""
        written = text_of(node)
        if node is None or not written:
            return []
        try:
            text = fill(written, self.variables(file.envs).get, Dialect.COMPOSE, strict=False).text
            if "://" in text or text.startswith(("git@", "oci:")):
                raise Unreadable("", 0, f"{quote(text)} lies elsewhere: not followed")
            name = self.project.name(Path(text), _folder(file.at))
            if not self.project.has(name):
                raise Unreadable("", 0, f"{quote(text)} is not there")
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

    def count(self, file: _File) -> None:
        """Count every use of a variable, wherever it stands: one that is used twice can't carry a digest."""
        used = Counter(variables_in(file.source.text, Dialect.COMPOSE))
        envs = {self.env(name).path for names in (file.envs, *file.also) for name in names}
        for env in envs:
            self.uses.update({(env, name): count for name, count in used.items()})
        for _, service in file.each_service():
            node = pairs(service).get("env_file")
            for entry in items(node) or ([node] if node is not None else []):
                written = text_of(pairs(entry).get("path", entry))
                if written:
                    self.shown_env.update(env for env in envs if Path(written).name == Path(env).name)

    def count_beside(self) -> None:
        """Count the uses in the YAML files beside an .env too: they may be Compose files that nobody named here."""
        beside: dict[str, Counter[str]] = {}
        for env in self.envs.values():
            folder = _folder(env.path)
            if env.values and folder not in beside:
                beside[folder] = self.used_in(folder)
            for variable in env.values:
                self.uses[env.path, variable] += beside[folder][variable]

    def used_in(self, folder: str) -> Counter[str]:
        """How often the YAML files of a folder use each variable, those left out that are known to be Compose files."""
        used: Counter[str] = Counter()
        for path in sorted((self.project.root / folder).glob("*.y*ml")):
            name = f"{folder}/{path.name}" if folder else path.name
            if self.files.get(name) is None:
                with suppress(Unreadable):
                    used.update(variables_in(self.project.read(name).text, Dialect.COMPOSE))
        return used

    def in_service(self, file: _File, name: str, service: Node) -> list[_Place]:
        keys = pairs(service)
        asked = text_of(keys.get("platform"))
        platforms = (asked,) if asked and "$" not in asked else ()
        found: list[_Place] = []

        def add(node: Node | None, where: str, prefix: str = "") -> None:
            build = where == "image" and self.is_built(file, name)
            if node is not None and is_template(file.source, node):
                self.problems.append(ScanProblem(file.source.path, line_of(node), "is a template: not evaluated"))
            elif isinstance(node, ScalarNode) and text_of(node):
                found.append(_Place(file, node, f"services.{name}.{where}", platforms, build, prefix))

        add(keys.get("image"), "image")
        for index, volume in enumerate(items(keys.get("volumes"))):
            if text_of(pairs(volume).get("type")) == "image":
                add(pairs(volume).get("source"), f"volumes[{index}].source")
        for hooks in ("pre_start", "post_start", "pre_stop"):
            for index, hook in enumerate(items(keys.get(hooks))):
                add(pairs(hook).get("image"), f"{hooks}[{index}].image")
        build = pairs(keys.get("build"))
        for where, node, prefix in _contexts(build.get("additional_contexts")):
            add(node, f"build.additional_contexts{where}", prefix)
        values = self.variables(file.envs).get
        self.take(self.arguments.read(file.source, _folder(file.at), f"services.{name}.build", build, values))
        inline = build.get("dockerfile_inline")
        if isinstance(inline, ScalarNode):
            self.take(read_inline(file.source, inline, f"services.{name}.build.dockerfile_inline"))
        return found

    def take(self, found: ScanResult) -> None:
        self.image_refs.extend(found.image_refs)
        self.problems.extend(found.problems)

    def is_built(self, file: _File, name: str) -> bool:
        """Whether a service has a `build`: its own, or in what it extends, or in the override that is always loaded."""
        seen: set[tuple[str, str]] = set()
        waiting = [(file, name), *((near, name) for near in self.partners(file))]
        while waiting and len(seen) < MAX_EXTENDS:
            other, base = waiting.pop()
            if (other.source.path, base) in seen:
                continue
            seen.add((other.source.path, base))
            built, further = self.said_of(other, base)
            if built:
                return True
            waiting += [further] if further is not None else []
        return False

    def said_of(self, file: _File, name: str) -> tuple[bool, tuple[_File, str] | None]:
        """Whether a service has a `build` of its own, and which one it extends."""
        key = (file.source.path, name)
        if key not in self.built:
            keys: Pairs = {}
            for service in file.services.get(name, ()):
                keys |= pairs(service)
            extends = keys.get("extends")
            named = text_of(extends) or text_of(pairs(extends).get("service"))
            path = text_of(pairs(extends).get("file"))
            target = self.beside(file, path) if path else file
            self.built[key] = ("build" in keys, (target, named) if named and target is not None else None)
        return self.built[key]

    def beside(self, file: _File, path: str) -> _File | None:
        try:
            return self.files.get(self.project.name(Path(path), _folder(file.at)))
        except Unreadable:
            return None

    def partners(self, file: _File) -> list[_File]:
        """The files that Compose loads together with this one unasked."""
        if file.partners is None:
            file.partners = self.look_for_partners(file)
        return file.partners

    def look_for_partners(self, file: _File) -> list[_File]:
        folder, _, last = file.at.rpartition("/")
        if last not in COMPOSE_NAMES + COMPOSE_OVERRIDES:
            return []
        found: list[_File] = []
        for partner in COMPOSE_OVERRIDES if last in COMPOSE_NAMES else COMPOSE_NAMES:
            name = f"{folder}/{partner}" if folder else partner
            near = self.near_file(name, file.envs) if self.project.has(name) else None
            found += [near] if near is not None else []
        return found

    def near_file(self, name: str, envs: tuple[str, ...]) -> _File | None:
        """A file beside another one, or what a link there leads to."""
        if name not in self.near:
            self.near[name] = None
            try:
                real = self.project.name(name)
                self.near[name] = self.files.get(real) or self.parsed(real, envs, name)
            except Unreadable as error:
                self.problems.append(ScanProblem(name, 0, str(error)))
        return self.near[name]

    def parsed(self, name: str, envs: tuple[str, ...], at: str) -> _File | None:
        """A file that is looked into, and whose own sites nobody asked for."""
        try:
            source = self.project.read(name)
            file = _File(source, compose(source), envs, at)
        except Unreadable as error:
            self.problems.append(error.problem)
            return None
        for document in file.documents:
            for service, node in pairs(pairs(document).get("services")).items():
                file.services.setdefault(service, []).append(node)
        return file

    def image_ref(self, place: _Place) -> ImageReference:
        source, node = place.file.source, place.node
        written = node.value.strip()
        env = self.variables(place.file.envs)
        filled: Interpolated | None = None
        resolved, why = None, None
        try:
            filled = fill(node.value.rstrip("\n"), env.get, Dialect.COMPOSE, strict=False)
            resolved, why = parsed(filled.text.removeprefix(place.prefix).strip())
            if resolved is None:
                missing = [name for name in variables_in(written, Dialect.COMPOSE) if env.get(name) is None]
                names = ", ".join(dict.fromkeys(missing))
                why = f"{names} {'is' if len(set(missing)) == 1 else 'are'} not set in .env" if missing else why
            elif self.differs(place, filled.text):
                resolved, why = (
                    None,
                    "two ways lead to this file, and its variables differ on them: name the one you mean",
                )
        except InterpolationFailed as error:
            why = str(error)
        edit_range, reason = None, why
        if place.build:
            reason = BUILT_HERE
        elif resolved is not None and filled is not None:
            edit_range, reason = self.edit_range(place, filled, env)
        return ImageReference(
            path=source.path,
            format=Format.COMPOSE,
            where=place.where,
            line=source.line(span_of(source, node)[0]),
            span=span_of(source, node),
            written=written.removeprefix(place.prefix),
            resolved=resolved,
            why=why,
            platforms=place.platforms,
            build=place.build,
            edit_range=edit_range,
            override_only=reason,
        )

    def differs(self, place: _Place, text: str) -> bool:
        """Whether a scalar says something else by the variables of another way to its file."""
        value = place.node.value.rstrip("\n")
        others = (self.variables(envs) for envs in place.file.also)
        return any(fill(value, env.get, Dialect.COMPOSE, strict=False).text != text for env in others)

    def edit_range(self, place: _Place, filled: Interpolated, env: Variables) -> tuple[EditRange | None, str | None]:
        """Where the digest goes, or why it can't go anywhere."""
        source, node = place.file.source, place.node
        last = filled.last
        if last is None:
            return None, "what the reference ends with depends on a variable that is not set"
        steered_by = filled.steered_by()
        if steered_by is not None:
            return None, behind(steered_by)
        pinned = len(filled.text) - filled.text.find("@") if "@" in filled.text else 0
        if pinned > len(last.text):
            return None, "its digest is put together of several variables"
        if last.variable is None:
            end = content_end(source, node)
            if last.at + len(last.text) != len(node.value.rstrip("\n")):
                start = plain_start(source, node)
                if start is None:
                    return None, "its text is escaped or folded, so that a place inside it can't be named"
                end = start + last.at + len(last.text)
            return EditRange(source.path, end - pinned, end), None
        return self.env_spot(last, pinned, env)

    def env_spot(self, last: TextPiece, pinned: int, variables: Variables) -> tuple[EditRange | None, str | None]:
        name = last.variable or ""
        found = variables.find(name)
        if found is None or not found[1].literal:
            return None, f"its end comes from {name}, which .env puts together of other variables"
        env, value = found
        if self.uses[env.path, name] + env.uses[name] != 1:
            return None, f"{name} of {env.path} is used in more than one place"
        if env.path in self.shown_env:
            return None, f"{env.path} is an env_file too: a container would see the digest in {name}"
        return EditRange(env.path, value.end - pinned, value.end), None


def _env_of(folder: str) -> str:
    return f"{folder}/.env" if folder and folder != "." else ".env"


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _contexts(node: Node | None) -> Iterator[tuple[str, Node, str]]:
    """The named contexts of a build that are images: where, the scalar, and what stands before the reference in it."""
    for name, value in pairs(node).items():
        if (text_of(value) or "").startswith(_IMAGE_CONTEXT):
            yield f".{name}", value, _IMAGE_CONTEXT
    for index, entry in enumerate(items(node)):
        name, equals, text = (text_of(entry) or "").partition("=")
        if equals and text.startswith(_IMAGE_CONTEXT):
            yield f"[{index}]", entry, f"{name}={_IMAGE_CONTEXT}"
