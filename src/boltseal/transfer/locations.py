"""The words for a place: a reference, `oci:DIR:TAG`, `docker-archive:FILE[:REF]`, `docker-daemon:REF`. Pure.

As skopeo has them, so that nobody learns them twice: a layout's tag stands behind the last colon, an archive's file ends
at the first one. A reference that begins with such a word and a colon can't be meant as an image of Docker Hub, since a
tag has no slash and a repository is never called `oci` there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from boltseal.errors import quote
from boltseal.oci.reference import Reference, Tag, TagInvalid
from boltseal.transfer.protocols import LocationInvalid


class LocationKind(StrEnum):
    """Which sort of place."""

    REGISTRY = "registry"
    LAYOUT = "oci"
    ARCHIVE = "docker-archive"
    DAEMON = "docker-daemon"


@dataclass(frozen=True, slots=True)
class Location:
    """One place, and the name of one image in it (None: not said). `reference` of a registry or daemon, else `path`."""

    text: str
    kind: LocationKind
    reference: Reference | None
    path: Path | None
    name: str | None

    @classmethod
    def parse(cls, text: str) -> Location:
        """What a person typed. LocationInvalid, NameInvalid, TagInvalid, DigestInvalid."""
        word, colon, rest = text.partition(":")
        if not colon or word not in (LocationKind.LAYOUT, LocationKind.ARCHIVE, LocationKind.DAEMON):
            return cls._at(text, LocationKind.REGISTRY, text)
        if not rest:
            raise LocationInvalid(f"{quote(text)} names no place; expected {_example(LocationKind(word))}")
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
        LocationKind.LAYOUT: "oci:DIR:TAG",
        LocationKind.ARCHIVE: "docker-archive:FILE",
        LocationKind.DAEMON: "docker-daemon:shop/app:1.4.2",
        LocationKind.REGISTRY: "localhost:5000/shop/app:1.4.2",
    }[kind]
