"""Parses the path of a request: one function, from the right.

    /v2/                                       BaseTarget
    /v2/_catalog                               CatalogTarget
    /v2/<name>/tags/list                       TagListTarget
    /v2/<name>/manifests/<tag or digest>       ManifestTarget
    /v2/<name>/referrers/<digest>              ReferrersTarget
    /v2/<name>/blobs/<digest>                  BlobTarget
    /v2/<name>/blobs/uploads[/]                UploadsTarget
    /v2/<name>/blobs/uploads/<id>              UploadTarget
    /v2/[<name>/]_oci/ext/discover             DiscoverTarget
    /v2/<name>/_oci/tag-history/<tag>          TagHistoryTarget
    /v2/<name>/_boltseal/history[/<tag>]       HistoryTarget
    /v2/<name>/_boltseal/records               RecordsTarget
    /v2/<name>/_boltseal/observations[/<tag>]  ObservationsTarget
    /v2/<name>/_boltseal/chains                ChainsTarget

From the right, because a repository may itself be called `a/manifests/b`, `x/tags/list` or `a/blobs/uploads`.
Only `%3A` in a digest is decoded, so that two different paths never become one name. Any other escape and every name
outside the grammar is refused before anything is looked up. `distribution` has the methods of each path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from boltseal.errors import quote
from boltseal.oci.digest import Digest
from boltseal.oci.reference import NameInvalid, Repository, Tag, TagInvalid
from boltseal.server.storage.blobs.protocol import UploadId

MAX_PATH_BYTES: Final = 1024
"""Longer than any valid path: 255 bytes of name, a sha512 digest, and the words between."""

_PREFIX: Final = b"/v2/"


@dataclass(frozen=True, slots=True)
class BaseTarget:
    """The API itself (end-1)."""


@dataclass(frozen=True, slots=True)
class CatalogTarget:
    """The list of all repositories."""


@dataclass(frozen=True, slots=True)
class TagListTarget:
    """The tags of a repository (end-8)."""

    repository: Repository


@dataclass(frozen=True, slots=True)
class ManifestTarget:
    """A manifest by tag or digest (end-3, 7, 9)."""

    repository: Repository
    reference: Tag | Digest


@dataclass(frozen=True, slots=True)
class ReferrersTarget:
    """The manifests whose subject is this digest (end-12)."""

    repository: Repository
    digest: Digest


@dataclass(frozen=True, slots=True)
class BlobTarget:
    """A blob (end-2, 10)."""

    repository: Repository
    digest: Digest


@dataclass(frozen=True, slots=True)
class UploadsTarget:
    """The upload sessions of a repository (end-4, 11)."""

    repository: Repository


@dataclass(frozen=True, slots=True)
class UploadTarget:
    """An upload session (end-5, 6, 13, 14)."""

    repository: Repository
    id: UploadId


@dataclass(frozen=True, slots=True)
class DiscoverTarget:
    """The extensions of the registry (None) or of a repository."""

    repository: Repository | None


@dataclass(frozen=True, slots=True)
class TagHistoryTarget:
    """The history of a tag (distribution-spec PR #606)."""

    repository: Repository
    tag: Tag


@dataclass(frozen=True, slots=True)
class HistoryTarget:
    """The ledger entries of a repository or of one of its tags."""

    repository: Repository
    tag: Tag | None


@dataclass(frozen=True, slots=True)
class ObservationsTarget:
    """The entries of the log of observations for a mirrored repository or one of its tags."""

    repository: Repository
    tag: Tag | None


@dataclass(frozen=True, slots=True)
class ChainsTarget:
    """The layer chains of images that a repository has or had."""

    repository: Repository


@dataclass(frozen=True, slots=True)
class RecordsTarget:
    """The records of a repository's images: built, rebuild.requested, released."""

    repository: Repository


Target: TypeAlias = (
    BaseTarget
    | CatalogTarget
    | TagListTarget
    | ManifestTarget
    | ReferrersTarget
    | BlobTarget
    | UploadsTarget
    | UploadTarget
    | DiscoverTarget
    | TagHistoryTarget
    | HistoryTarget
    | RecordsTarget
    | ObservationsTarget
    | ChainsTarget
)

ROUTES: Final[Mapping[type, str]] = {
    BaseTarget: "/v2/",
    CatalogTarget: "/v2/_catalog",
    TagListTarget: "/v2/{name}/tags/list",
    ManifestTarget: "/v2/{name}/manifests/{reference}",
    ReferrersTarget: "/v2/{name}/referrers/{digest}",
    BlobTarget: "/v2/{name}/blobs/{digest}",
    UploadsTarget: "/v2/{name}/blobs/uploads/",
    UploadTarget: "/v2/{name}/blobs/uploads/{reference}",
    DiscoverTarget: "/v2/{name}/_oci/ext/discover",
    TagHistoryTarget: "/v2/{name}/_oci/tag-history/{tag}",
    HistoryTarget: "/v2/{name}/_boltseal/history/{tag}",
    ObservationsTarget: "/v2/{name}/_boltseal/observations/{tag}",
    RecordsTarget: "/v2/{name}/_boltseal/records",
    ChainsTarget: "/v2/{name}/_boltseal/chains",
}
"""The path template of each kind of target, with all of its parts. `route_of` is the label `route` of metrics."""


def route_of(target: Target) -> str:
    """Return the path template of a target, without the parts that it does not have."""
    route = ROUTES[type(target)]
    if isinstance(target, DiscoverTarget) and target.repository is None:
        return route.replace("{name}/", "")
    if isinstance(target, HistoryTarget | ObservationsTarget) and target.tag is None:
        return route.removesuffix("/{tag}")
    return route


def parse_path(raw_path: bytes) -> Target | None:
    """Return the target of a path, or None if it is no route of this API.

    `raw_path`: as sent, with escapes, without the query.

    Raises: NameInvalid, TagInvalid, DigestInvalid, UploadUnknown: the path is that of a route, but has an invalid name.
    """
    if len(raw_path) > MAX_PATH_BYTES:
        msg = f"the path has {len(raw_path)} bytes; at most {MAX_PATH_BYTES} are allowed"
        raise NameInvalid(msg)
    if raw_path == b"/v2":
        return BaseTarget()
    if not raw_path.startswith(_PREFIX):
        return None
    path = _as_text(raw_path[len(_PREFIX) :])
    if not path:
        return BaseTarget()
    if path == "_catalog":
        return CatalogTarget()
    return _parse_parts(_split(path))


def _parse_parts(parts: list[str]) -> Target | None:
    match parts:
        case [*name, "manifests", reference]:
            return ManifestTarget(_repository(name), Digest.parse(reference) if ":" in reference else Tag(reference))
        case [*name, "blobs", "uploads"]:
            return UploadsTarget(_repository(name))
        case [*name, "blobs", digest]:
            return BlobTarget(_repository(name), Digest.parse(digest))
        case [*name, "blobs", "uploads", session]:
            return UploadTarget(_repository(name), UploadId(session))
        case [*name, "tags", "list"]:
            return TagListTarget(_repository(name))
        case [*name, "referrers", digest]:
            return ReferrersTarget(_repository(name), Digest.parse(digest))
        case _:
            return _parse_extension(parts)


def _parse_extension(parts: list[str]) -> Target | None:
    match parts:
        case [*name, "_oci", "ext", "discover"]:
            return DiscoverTarget(_repository(name) if name else None)
        case [*name, "_oci", "tag-history", tag]:
            return TagHistoryTarget(_repository(name), _tag_of_history(tag))
        case [*name, "_boltseal", "history"]:
            return HistoryTarget(_repository(name), None)
        case [*name, "_boltseal", "history", tag]:
            return HistoryTarget(_repository(name), _tag_of_history(tag))
        case [*name, "_boltseal", "records"]:
            return RecordsTarget(_repository(name))
        case [*name, "_boltseal", "chains"]:
            return ChainsTarget(_repository(name))
        case [*name, "_boltseal", "observations"]:
            return ObservationsTarget(_repository(name), None)
        case [*name, "_boltseal", "observations", tag]:
            return ObservationsTarget(_repository(name), _tag_of_history(tag))
        case _:
            return None


def _repository(parts: list[str]) -> Repository:
    return Repository("/".join(parts))


def _tag_of_history(text: str) -> Tag:
    """Return a tag. Raises NameInvalid, because a 404 would report that the extension does not exist."""
    try:
        return Tag(text)
    except TagInvalid as error:
        raise NameInvalid(error.message) from error


def _as_text(path: bytes) -> str:
    try:
        return path.decode("ascii")
    except UnicodeDecodeError as error:
        msg = f"byte {path[error.start]:#04x} is not allowed in a path; names have ASCII letters, digits and . _ - /"
        raise NameInvalid(msg) from error


def _split(path: str) -> list[str]:
    """Return the parts of a path, checked for invalid characters, without the trailing slash of `blobs/uploads/`."""
    parts = path.split("/")
    if parts[-3:] == ["blobs", "uploads", ""]:
        parts.pop()
    if "%" in parts[-1]:
        parts[-1] = parts[-1].replace("%3A", ":").replace("%3a", ":")
    for part in parts:
        if part == "":
            msg = "the path has an empty part (a doubled or a trailing slash); names have none"
        elif "%" in part:
            msg = f"the path has an escape in {quote(part)}; only the colon of a digest may be escaped"
        elif part in {".", ".."} or not part.isprintable():
            msg = f"the path has {quote(part)}, which is not valid in a name"
        else:
            continue
        raise NameInvalid(msg)
    return parts
