"""The interface between a scan and the readers of file formats.

Each format is one module with a `READER`, and one row in `project.references.formats`. A reader says which paths have
its format, by name; which documents have it, by content; and which image references they contain. It returns problems
for what it can't read, and in `ScanResult.accounted` the positions of texts that look like images and are none, or are
parts of a reference that is reported elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from boltseal.project.image_references import ScanResult
from boltseal.project.references.yaml_tree import Node
from boltseal.project.source_files import ProjectPath, ProjectTree, SourceFile


class Syntax(Enum):
    """How a file is parsed, which decides how an edit of it is checked."""

    YAML = auto()  # and JSON
    DOCKERFILE = auto()
    TEXT = auto()  # read by its own reader, line by line or by tokens


@dataclass(frozen=True, slots=True)
class ProjectFile:
    """A file to read. `documents`: () if the format is neither YAML nor JSON.

    `paths`: the user's paths inside resources by kind (`[pin.crds]`).
    """

    source: SourceFile
    project: ProjectTree
    documents: tuple[Node, ...] = ()
    paths: Mapping[str, Sequence[str]] = field(default_factory=dict)


class FileToFollow(NamedTuple):
    """A file of the project that another one names, from `line`; it is read by the reader called `format`.

    `path` is relative to `folder`. With `pattern` it may contain `*` and `**`, and is inside the project. `optional`: it
    need not exist.
    """

    path: str
    folder: str
    line: int
    format: str
    pattern: bool = False
    optional: bool = False


def no_content(_documents: tuple[Node, ...]) -> bool:
    """Return False: the content does not identify this format."""
    return False


def follows_nothing(_file: ProjectFile) -> Iterator[FileToFollow]:
    """Yield nothing: files of this format name no other files."""
    return iter(())


def reads_nothing(_file: ProjectFile) -> ScanResult:
    """Return no references: all files of this format are read together."""
    return ScanResult()


@dataclass(frozen=True, slots=True)
class FormatReader:
    """One format.

    Attributes:
        name: as in `ImageReference.format`.
        by_name: whether a path of the project implies this format.
        by_content: whether the documents of a YAML or JSON file have this format.
        read: returns the image references of one file.
        read_together: returns those of all files of this format, which refer to each other; then `read` is not called.
        follows: yields the files that one names.
        common_suffix: other programs use such names as well, so a file that is no text is not of this format.
        may_be_kubernetes: a file of this name may be a Kubernetes resource instead.
    """

    name: str
    by_name: Callable[[str], bool]
    by_content: Callable[[tuple[Node, ...]], bool] = no_content
    read: Callable[[ProjectFile], ScanResult] = reads_nothing
    read_together: Callable[[ProjectTree, Sequence[ProjectPath]], ScanResult] | None = None
    follows: Callable[[ProjectFile], Iterator[FileToFollow]] = follows_nothing
    syntax: Syntax = Syntax.YAML
    may_be_kubernetes: bool = False
    common_suffix: bool = False
