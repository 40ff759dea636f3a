"""Parse the location of an image: a reference, `oci:FOLDER:TAG`, `docker-archive:FILE[:IMAGE]`, `docker-daemon:IMAGE`. Pure.

The syntax is skopeo's: the tag of a layout follows the last colon, and the file of an archive ends at the first one. A text
that begins with such a word and a colon is never an image of Docker Hub, since a tag has no slash and Docker Hub has no
repository `oci`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from boltseal.errors import quote
from boltseal.oci.reference import HUB, Reference, Tag, TagInvalid
from boltseal.transfer.protocols import LocationInvalid

_PATHS: Final = ("/", "./", "../", "~/")
_is_archive_name: Final = re.compile(r".*\.(?:tar(?:\.(?:gz|zst|bz2|xz))?|tgz)").fullmatch


class LocationKind(StrEnum):
    """The kind of a location."""

    REGISTRY = "registry"
    LAYOUT = "oci"
    ARCHIVE = "docker-archive"
    DAEMON = "docker-daemon"


@dataclass(frozen=True, slots=True)
class Location:
    """A location, and the tag or digest of one image there (`name`; None without one).

    `reference`: of a registry or daemon. `path`: of a layout or archive.
    """

    text: str
    kind: LocationKind
    reference: Reference | None
    path: Path | None
    name: str | None

    @classmethod
    def parse(cls, text: str) -> Location:
        """Parse the text of a location. Raises: LocationInvalid, NameInvalid, TagInvalid, DigestInvalid."""
        if text.startswith(_PATHS):
            raise LocationInvalid(
                f"{quote(text)} is a path; expected {_example(LocationKind.LAYOUT)} or {_example(LocationKind.ARCHIVE)}"
            )
        word, colon, rest = text.partition(":")
        if not colon or word not in (LocationKind.LAYOUT, LocationKind.ARCHIVE, LocationKind.DAEMON):
            return cls._at(text, LocationKind.REGISTRY, text)
        if not rest:
            raise LocationInvalid(f"{quote(text)} is not a complete location; expected {_example(LocationKind(word))}")
        match LocationKind(word):
            case LocationKind.LAYOUT:
                return cls._layout(text, rest)
            case LocationKind.ARCHIVE:
                file, _, name = rest.partition(":")
                named = str(Reference.parse(name).complete) if name else None
                return cls(text, LocationKind.ARCHIVE, None, Path(file), named)
            case kind:
                return cls._at(text, kind, rest)

    @classmethod
    def _at(cls, text: str, kind: LocationKind, reference: str) -> Location:
        parsed = Reference.parse(reference)
        if parsed.registry == HUB and _is_archive_name(reference) and not reference.startswith(f"{HUB}/"):
            raise LocationInvalid(
                f"{quote(reference)} is the name of a file; expected docker-archive:{reference}, or {parsed} if an image of "
                "Docker Hub has this name"
            )
        name = parsed.digest or parsed.tag
        return cls(text, kind, parsed, None, None if name is None else str(name))

    @classmethod
    def _layout(cls, text: str, rest: str) -> Location:
        folder, colon, name = rest.rpartition(":")
        if not colon or "/" in name:
            return cls(text, LocationKind.LAYOUT, None, Path(rest), None)
        try:
            return cls(text, LocationKind.LAYOUT, None, Path(folder), Tag(name))
        except TagInvalid as error:
            raise LocationInvalid(
                f"{quote(text)}: {error.message}; expected {_example(LocationKind.LAYOUT)}"
            ) from error


def _example(kind: LocationKind) -> str:
    return {
        LocationKind.LAYOUT: "oci:FOLDER:TAG",
        LocationKind.ARCHIVE: "docker-archive:FILE",
        LocationKind.DAEMON: "docker-daemon:shop/app:1.4.2",
        LocationKind.REGISTRY: "localhost:5000/shop/app:1.4.2",
    }[kind]
