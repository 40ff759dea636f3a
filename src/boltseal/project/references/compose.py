"""Compose files: `services.*.image`, image volumes, hooks, `docker-image://` contexts, models, inline Dockerfiles.

Only these places contain references, and `project.references.build_arguments` adds those that build arguments select.
`image:` inside `environment`, `command: |` or `configs.content` is ordinary text. Aliases, merge keys and `extends`
lead to the scalar that contains the image, possibly in another file of the project. Variables come from the `.env`
beside the first file; for an included file, then from its `env_file` or from the `.env` of its folder. Shell variables
are not known.

A digest is appended to the scalar; or to a default (`${TAG:-1.2@sha256:...}`), where setting the variable replaces the
pin together with the tag; or to the value in `.env`, if every use of that variable ends this same image. Otherwise only
an override file can pin the image.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Final

from boltseal.project.image_references import (
    Accounted,
    EditRange,
    Format,
    ImageReference,
    ScanProblem,
    ScanResult,
    Span,
    TagEnd,
)
from boltseal.project.references.build_arguments import BuildArguments
from boltseal.project.references.compose_files import ComposeFile, ImageScalar
from boltseal.project.references.compose_loading import LoadedFiles, folder_of
from boltseal.project.references.compose_places import (
    KeyPlace,
    is_compose,
    is_compose_name,
    model_places,
    service_places,
)
from boltseal.project.references.dockerfile import read_inline
from boltseal.project.references.dotenv import Variables
from boltseal.project.references.interpolation import (
    Dialect,
    Interpolated,
    InterpolationFailed,
    TextPiece,
    fill,
    steering_reason,
    variables_in,
)
from boltseal.project.references.reader import FormatReader
from boltseal.project.references.scalars import parse_reference
from boltseal.project.references.yaml_nodes import (
    Pairs,
    is_template,
    items,
    line_of,
    pairs,
    plain_start,
    span_of,
    text_of,
)
from boltseal.project.references.yaml_tree import ScalarNode
from boltseal.project.source_files import ProjectPath, ProjectTree, Unreadable

EXTENDED: Final = "extended "
"""Begins the positions in a file that others only extend: its services are none of the project."""


def read_compose(project: ProjectTree, paths: Sequence[ProjectPath]) -> ScanResult:
    """Return the image references of these files and of all files that they include and extend."""
    return _Reader(project).read(paths)


class _Reader:
    def __init__(self, project: ProjectTree) -> None:
        self.project = project
        self.loaded = LoadedFiles(project)
        self.uses: Counter[tuple[str, str]] = Counter()
        self.same: dict[tuple[str, str], int] = {}
        self.shown_env: set[str] = set()
        self.arguments = BuildArguments(project)
        self.problems = self.loaded.problems
        self.image_refs: list[ImageReference] = []
        self.accounted: list[Accounted] = []

    def read(self, paths: Sequence[ProjectPath]) -> ScanResult:
        self.loaded.load_all(path for path in paths if not path.by_content)
        self.loaded.load_all(self.loaded.projects(path for path in paths if path.by_content))
        self.loaded.load_all(path for path in paths if path.by_content and path.name not in self.loaded.files)
        files = [file for file in self.loaded.files.values() if file is not None]
        for file in files:
            self.count_uses(file)
        self.count_beside()
        with_variables = [file for file in files if "$" in file.source.text]
        self.same.update(self.count_same(chain.from_iterable(map(self.all_scalars, with_variables))))
        for file in files:
            self.image_refs.extend(map(self.image_ref, self.all_scalars(file)))
            for name, keys in file.each_service():
                self.read_build(file, name, keys)
        return ScanResult(tuple(self.image_refs), tuple(self.problems), accounted=tuple(self.accounted))

    def all_scalars(self, file: ComposeFile) -> Iterator[ImageScalar]:
        """Yield the image references of a file's services and models."""
        for name, keys in file.each_service():
            yield from self.in_service(file, name, keys)
            yield from self.inherited(file, name, keys)
        yield from self.scalars(file, "", model_places(file.documents))

    def count_uses(self, file: ComposeFile) -> None:
        """Count every use of a variable in the file: one that is used twice can't carry a digest."""
        used = Counter(variables_in(file.source.text, Dialect.COMPOSE))
        envs = {self.loaded.env(name).path for names in (file.envs, *file.also) for name in names}
        for env in envs:
            self.uses.update({(env, name): count for name, count in used.items()})
        for _, keys in file.each_service():
            node = keys.get("env_file")
            for entry in items(node) or ([node] if node is not None else []):
                written = text_of(pairs(entry).get("path", entry))
                if written:
                    self.shown_env.update(env for env in envs if Path(written).name == Path(env).name)

    def count_beside(self) -> None:
        """Count also the uses in other YAML files beside an .env: they may be Compose files outside this scan."""
        others: dict[str, Counter[str]] = {}
        for env in self.loaded.envs.values():
            folder = folder_of(env.path)
            if env.values and folder not in others:
                others[folder] = self.used_in(folder)
            for variable in env.values:
                self.uses[env.path, variable] += others[folder][variable]

    def count_same(self, scalars: Iterable[ImageScalar]) -> dict[tuple[str, str], int]:
        """Return for each variable that ends only one image reference how many texts are that reference."""
        ends: defaultdict[tuple[str, str], dict[tuple[str, Span], str]] = defaultdict(dict)
        for scalar in scalars:
            env = self.loaded.variables(scalar.file.envs)
            with suppress(InterpolationFailed):
                filled = fill(scalar.node.value.rstrip("\n"), env.get, Dialect.COMPOSE, strict=False)
                name = None if filled.last is None else filled.last.variable
                found = None if name is None or scalar.locked_only else env.find(name)
                if name is not None and found is not None:
                    at = (scalar.file.source.path, span_of(scalar.file.source, scalar.node))
                    ends[found[0].path, name][at] = filled.text.removeprefix(scalar.prefix).strip()
        return {key: len(texts) for key, texts in ends.items() if len(set(texts.values())) == 1}

    def used_in(self, folder: str) -> Counter[str]:
        """Count each variable's uses in a folder's YAML files, except those already read as Compose files."""
        used: Counter[str] = Counter()
        for path in sorted((self.project.root / folder).glob("*.y*ml")):
            name = f"{folder}/{path.name}" if folder else path.name
            if self.loaded.files.get(name) is None:
                with suppress(Unreadable):
                    used.update(variables_in(self.project.read(name).text, Dialect.COMPOSE))
        return used

    def in_service(self, file: ComposeFile, name: str, keys: Pairs) -> Iterator[ImageScalar]:
        asked = text_of(keys.get("platform"))
        platforms = (asked,) if asked and "$" not in asked else ()
        at = self.begin(file, name)
        build = self.loaded.is_built(file, name, keys)
        yield from self.scalars(file, at, (KeyPlace(keys.get("image"), "image"),), platforms, build=build)
        yield from self.scalars(file, at, service_places(keys), platforms)

    def begin(self, file: ComposeFile, name: str) -> str:
        """Return what the places in a service begin with."""
        return f"{'' if file.source.path in self.loaded.included else EXTENDED}services.{name}."

    def read_build(self, file: ComposeFile, name: str, keys: Pairs) -> None:
        """Read what a service's `build` says about images."""
        build, at = pairs(keys.get("build")), self.begin(file, name)
        values = self.loaded.variables(file.envs).get
        self.add(self.arguments.read(file.source, folder_of(file.at), f"{at}build", build, values))
        inline = build.get("dockerfile_inline")
        if isinstance(inline, ScalarNode):
            self.add(read_inline(file.source, inline, f"{at}build.dockerfile_inline"))

    def inherited(self, file: ComposeFile, name: str, keys: Pairs) -> Iterator[ImageScalar]:
        """Yield the image that a service has by `extends`, for an override: Compose extends before it merges files."""
        if "image" in keys or file.source.path not in self.loaded.included or self.loaded.is_built(file, name, keys):
            return
        seen: set[tuple[str, str]] = set()
        further = self.loaded.build_and_base(file, name)[1]
        while further is not None and (key := (further[0].source.path, further[1])) not in seen:
            seen.add(key)
            other, base = further
            image = next((each["image"] for each in other.services(base) if "image" in each), None)
            if image is not None:
                yield from self.scalars(other, f"services.{name}.", (KeyPlace(image, "image"),))
                return
            further = self.loaded.build_and_base(other, base)[1]

    def scalars(
        self,
        file: ComposeFile,
        begin: str,
        places: Iterable[KeyPlace],
        platforms: tuple[str, ...] = (),
        *,
        build: bool = False,
    ) -> Iterator[ImageScalar]:
        """Yield the scalars at these places; a template there is a problem."""
        for node, where, prefix, locked_only in places:
            if node is not None and is_template(file.source, node):
                self.problems.append(ScanProblem(file.source.path, line_of(node), "is a template: not evaluated"))
            elif isinstance(node, ScalarNode) and text_of(node):
                yield ImageScalar(file, node, f"{begin}{where}", platforms, build, prefix, locked_only)

    def add(self, found: ScanResult) -> None:
        self.image_refs.extend(found.image_refs)
        self.problems.extend(found.problems)
        self.accounted.extend(found.accounted)

    def image_ref(self, scalar: ImageScalar) -> ImageReference:
        source, node = scalar.file.source, scalar.node
        span = span_of(source, node)
        written = node.value.strip()
        env = self.loaded.variables(scalar.file.envs)
        filled: Interpolated | None = None
        resolved, why = None, None
        try:
            filled = fill(node.value.rstrip("\n"), env.get, Dialect.COMPOSE, strict=False)
            resolved, why = parse_reference(filled.text.removeprefix(scalar.prefix).strip())
            if resolved is None:
                missing = [name for name in variables_in(written, Dialect.COMPOSE) if env.get(name) is None]
                names = ", ".join(dict.fromkeys(missing))
                why = f"{names} {'is' if len(set(missing)) == 1 else 'are'} not set in .env" if missing else why
            elif self.differs_elsewhere(scalar, filled.text):
                resolved, why = (
                    None,
                    "this file is included twice, with different variables; scan one of the including files alone",
                )
        except InterpolationFailed as error:
            why = str(error)
        edit_range, reason = None, why
        if resolved is not None and scalar.locked_only is not None:
            reason = scalar.locked_only
        elif resolved is not None and filled is not None:
            edit_range, reason = self.edit_range(scalar, span, filled, env)
        return ImageReference(
            path=source.path,
            format=Format.COMPOSE,
            where=scalar.where,
            line=source.line(span.start),
            span=span,
            written=written.removeprefix(scalar.prefix),
            resolved=resolved,
            why=why,
            platforms=scalar.platforms,
            build=scalar.build,
            edit_range=edit_range,
            override_only=reason,
            tag_end=None if resolved is None or filled is None else self.tag_end(scalar, span, filled, env),
        )

    def differs_elsewhere(self, scalar: ImageScalar, text: str) -> bool:
        """Return whether a scalar has another value with the env files of another include path."""
        value = scalar.node.value.rstrip("\n")
        others = (self.loaded.variables(envs) for envs in scalar.file.also)
        return any(fill(value, env.get, Dialect.COMPOSE, strict=False).text != text for env in others)

    def edit_range(
        self, scalar: ImageScalar, span: Span, filled: Interpolated, env: Variables
    ) -> tuple[EditRange | None, str | None]:
        """Return where the digest is written, or why it can't be written."""
        source, node = scalar.file.source, scalar.node
        last = filled.last
        if last is None:
            return None, "its end depends on a variable that is not set"
        steering_variable = filled.steering_variable()
        if steering_variable is not None:
            return None, steering_reason(steering_variable)
        pinned = len(filled.text) - filled.text.find("@") if "@" in filled.text else 0
        if pinned > len(last.text):
            return None, "its digest is assembled from several variables"
        if last.variable is None:
            end = span.end
            if last.at + len(last.text) != len(node.value.rstrip("\n")):
                start = plain_start(source, node)
                if start is None:
                    return None, "its text is escaped or folded, so that no edit position can be determined"
                end = start + last.at + len(last.text)
            return EditRange(source.path, end - pinned if pinned else end, end), None
        return self.env_range(last, pinned, env)

    def tag_end(self, scalar: ImageScalar, span: Span, filled: Interpolated, env: Variables) -> TagEnd | None:
        """Return where the tag ends in the source of its last piece; None if that is not one place.

        A new tag may reach all places that use the variable, unlike a digest: `VERSION: ${WEB_TAG}` should follow.
        """
        last = filled.last
        if last is None or "@" in filled.text or filled.steering_variable() is not None:
            return None
        if last.variable is not None:
            found = env.find(last.variable)
            return TagEnd(found[0].path, found[1].end) if found is not None and found[1].literal else None
        start = plain_start(scalar.file.source, scalar.node)
        if start is None:
            return None
        end = start + last.at + len(last.text)
        return TagEnd(scalar.file.source.path, span.end if end == span.end else end)  # one number in memory

    def env_range(self, last: TextPiece, pinned: int, variables: Variables) -> tuple[EditRange | None, str | None]:
        name = last.variable or ""
        found = variables.find(name)
        if found is None or not found[1].literal:
            return None, f"its end comes from {name}, which .env assembles from other variables"
        env, value = found
        if self.uses[env.path, name] + env.uses[name] != self.same.get((env.path, name), 1):
            return None, f"{name} of {env.path} is used in more than one place"
        if env.path in self.shown_env:
            return None, f"{env.path} is also an env_file: a container would get the digest in {name}"
        return EditRange(env.path, value.end - pinned, value.end), None


READER: Final = FormatReader(Format.COMPOSE, by_name=is_compose_name, by_content=is_compose, read_together=read_compose)
