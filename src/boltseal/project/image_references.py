"""What is found in a project's files: `ImageReference`s, where their digests go (`EditRange`), and what could not be read. Pure.

Offsets count characters of the file's text without a byte order mark, line ends as they are. A path is relative to the
project's root, with `/` between its parts, as messages and the lock show it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

COMPOSE_NAMES: Final = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
COMPOSE_OVERRIDES: Final = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)
"""What Compose takes in a folder where it is told no file: the first that is there, of either."""


class Format(StrEnum):
    """What kind of file a reference was found in."""

    COMPOSE = "compose"
    KUBERNETES = "kubernetes"
    KUSTOMIZE = "kustomize"
    HELM = "helm"
    DOCKERFILE = "dockerfile"
    GITHUB_ACTIONS = "github-actions"
    GITLAB_CI = "gitlab-ci"


@dataclass(frozen=True, slots=True, order=True)
class EditRange:
    """Where a digest is written: `text[start:end]` is `lead` and the digest that stands there now, or nothing yet.

    To pin puts `lead` and the digest there, to unpin nothing; so the one undoes the other exactly. `path` may be
    another file than the site's: an `.env`, or the file that an anchor or an `extends` comes from.
    """

    path: str
    start: int
    end: int
    lead: str = "@"


@dataclass(frozen=True, slots=True)
class ImageReference:
    """One image reference in a file.

    `written` is the text as it stands there, `resolved` what it names once variables are filled in (None: `why` says
    what is missing). `span` is where `written` stands in `path`, `line` counts from 1, `where` says it in words, such as
    `services.web.image`. `build`: the service is built here, so its name is its own and is not pinned. `edit_range` is None
    where a digest can't be written soundly; `override_only` then says why, and a generated override still can hold it.
    """

    path: str
    format: Format
    where: str
    line: int
    span: tuple[int, int]
    written: str
    resolved: Reference | None
    why: str | None = None
    platforms: tuple[str, ...] = ()
    build: bool = False
    edit_range: EditRange | None = None
    override_only: str | None = None

    @property
    def pinned(self) -> Digest | None:
        """The digest that the file names now."""
        return None if self.resolved is None else self.resolved.digest

    @property
    def unpinned(self) -> Reference | None:
        """What is to be looked up: the reference without its digest."""
        return None if self.resolved is None else replace(self.resolved, digest=None)


@dataclass(frozen=True, slots=True, order=True)
class ScanProblem:
    """Something that could not be read, and was left out; the rest went on. `line` is 0 where the whole file is meant."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}" if self.line else f"{self.path}: {self.message}"


@dataclass(frozen=True, slots=True)
class ScanResult:
    """All that was found, by path and position, all that was not readable, and what is known not to be evaluated (`notes`)."""

    image_refs: tuple[ImageReference, ...] = ()
    problems: tuple[ScanProblem, ...] = ()
    notes: tuple[ScanProblem, ...] = ()
