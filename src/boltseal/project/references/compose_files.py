"""A Compose file while it is read, and the scalars in it that contain image references."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from boltseal.project.references.yaml_nodes import Pairs, entries, pairs
from boltseal.project.references.yaml_tree import Node, ScalarNode
from boltseal.project.source_files import SourceFile


class FileToRead(NamedTuple):
    """A file, the env files for its variables (the first has priority), and the path by which Compose reaches it."""

    name: str
    envs: tuple[str, ...]
    at: str


@dataclass(slots=True)
class ComposeFile:
    """A parsed file and the env files for its variables. `also`: the env files on other include paths to this file.

    `at`: the path by which Compose reaches it, perhaps a symbolic link; `.env` and relative paths are beside that path.
    """

    source: SourceFile
    documents: tuple[Node, ...]
    envs: tuple[str, ...]
    at: str
    also: set[tuple[str, ...]] = field(default_factory=set)
    partners: list[ComposeFile] | None = None
    _named: dict[str, list[Node]] | None = None

    def each_service(self) -> Iterator[tuple[str, Pairs]]:
        """Yield each service's name and keys, once per document."""
        for document in self.documents:
            for name, node in entries(pairs(document).get("services")):
                yield name, pairs(node)

    def services(self, name: str) -> Iterator[Pairs]:
        """Yield the keys of one service, once for each document that contains it; Compose merges them."""
        if self._named is None:
            self._named = {}
            for document in self.documents:
                for each, node in entries(pairs(document).get("services")):
                    self._named.setdefault(each, []).append(node)
        return map(pairs, self._named.get(name, ()))


@dataclass(frozen=True, slots=True)
class ImageScalar:
    """A scalar that contains an image reference, with `prefix` before it. `where`: its key path.

    `locked_only`: why no digest is written there.
    """

    file: ComposeFile
    node: ScalarNode
    where: str
    platforms: tuple[str, ...] = ()
    build: bool = False
    prefix: str = ""
    locked_only: str | None = None
