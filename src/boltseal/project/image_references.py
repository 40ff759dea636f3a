"""The results of a project scan: image references, where their digests are written, and problems. Pure.

Offsets count characters of the file's text without the byte order mark, with line ends as they are. A path is relative
to the project's root and uses `/`, as in messages and in the lock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, is_image_id

COMPOSE_NAMES: Final = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
COMPOSE_OVERRIDES: Final = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)
"""File names that Compose tries in a folder when none is given; the first that exists is used, one of each list."""


class Format(StrEnum):
    """The formats that other modules name. Each of the other formats is named by its reader alone."""

    COMPOSE = "compose"
    KUBERNETES = "kubernetes"
    KUSTOMIZE = "kustomize"
    HELM = "helm"
    DOCKERFILE = "dockerfile"
    GITHUB_ACTIONS = "github-actions"
    GITLAB_CI = "gitlab-ci"


@dataclass(frozen=True, slots=True, order=True)
class EditRange:
    """Where a digest is written: `text[start:end]` is `lead` plus the current digest, or empty if there is none.

    Pinning replaces the range with `lead` and the digest, unpinning with nothing, so each reverses the other exactly.
    `hexadecimal`: the digest is written without its algorithm (the `sha` of a Helm chart).
    `path` may differ from the reference's: an `.env`, or the file that contains the anchor or the `extends` target.
    """

    path: str
    start: int
    end: int
    lead: str = "@"
    hexadecimal: bool = False


class Span(NamedTuple):
    """A range of characters in a file, `end` exclusive."""

    start: int
    end: int


class TagEnd(NamedTuple):
    """Where the value of a variable, or its default, ends with a reference's tag."""

    path: str
    end: int


@dataclass(frozen=True, slots=True)
class ImageReference:
    """One image reference in a file.

    `written`: the text in the file. `resolved`: the reference after variables are filled in; None if that failed, and
    `why` gives the reason. `span`: where `written` is in `path`. `line`: counted from 1. `where`: the position as a key
    path, such as `services.web.image`. `build`: the service is built here, so it is pinned only if the lock has its digest. `edit_range`:
    None if a digest can't be written safely; `override_only` gives the reason, and a generated override file can pin
    it. `tag_end`: the source of the end of its tag where a variable supplies it. `format`: the name of its reader (`project.references.formats`).
    """

    path: str
    format: str
    where: str
    line: int
    span: Span
    written: str
    resolved: Reference | None
    why: str | None = None
    platforms: tuple[str, ...] = ()
    build: bool = False
    edit_range: EditRange | None = None
    override_only: str | None = None
    tag_end: TagEnd | None = None

    @property
    def pinned(self) -> Digest | None:
        """The digest in the file, or None."""
        return None if self.resolved is None else self.resolved.digest

    @property
    def image_id(self) -> bool:
        """Whether it is the ID of an image (`sha256:...`), which is on one machine and in no registry."""
        return self.resolved is None and is_image_id(self.written)

    @property
    def unpinned(self) -> Reference | None:
        """The resolved reference without its digest, or None."""
        return None if self.resolved is None else replace(self.resolved, digest=None)


@dataclass(frozen=True, slots=True, order=True)
class ScanProblem:
    """Something that could not be read and was skipped. `line` is 0 if the problem concerns the whole file.

    `value`: the text that looks like an image and is not understood; "" for other problems.
    """

    path: str
    line: int
    message: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}" if self.line else f"{self.path}: {self.message}"


class Accounted(NamedTuple):
    """A text that looks like an image and is accounted for.

    `reason` None: it is a part of a reference that has another position. Otherwise it is no image, for this reason.
    """

    path: str
    span: Span
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ScanResult:
    """A scan's result: references by path and position, problems, and constructs that are not evaluated (`notes`).

    `unknown`: values that look like image references, and that no reader understands. `accounted`: other texts that
    look like images.
    """

    image_refs: tuple[ImageReference, ...] = ()
    problems: tuple[ScanProblem, ...] = ()
    notes: tuple[ScanProblem, ...] = ()
    unknown: tuple[ScanProblem, ...] = ()
    accounted: tuple[Accounted, ...] = ()
