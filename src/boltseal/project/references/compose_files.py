"""A Compose file while it is read, and the scalars in it that contain image references."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from boltseal.project.references.yaml_nodes import Pairs
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
    `services`: the keys by name, once for each document that contains the service; Compose merges them.
    """

    source: SourceFile
    documents: tuple[Node, ...]
    envs: tuple[str, ...]
    at: str
    services: dict[str, list[Pairs]] = field(default_factory=dict)
    also: set[tuple[str, ...]] = field(default_factory=set)
    partners: list[ComposeFile] | None = None

    def each_service(self) -> Iterator[tuple[str, Pairs]]:
        """Yield each service's name and keys, once per document."""
        return ((name, keys) for name, documents in self.services.items() for keys in documents)


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
