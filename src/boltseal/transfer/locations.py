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
from boltseal.transfer.protocols import PlaceInvalid


class PlaceKind(StrEnum):
    """Which sort of place."""

    REGISTRY = "registry"
    LAYOUT = "oci"
    ARCHIVE = "docker-archive"
    DAEMON = "docker-daemon"


@dataclass(frozen=True, slots=True)
class Place:
    """One place, and the name of one image in it (None: not said). `reference` of a registry or daemon, else `path`."""

    text: str
    kind: PlaceKind
    reference: Reference | None
    path: Path | None
    name: str | None

    @classmethod
    def parse(cls, text: str) -> Place:
        """What a person typed. PlaceInvalid, NameInvalid, TagInvalid, DigestInvalid."""
        word, colon, rest = text.partition(":")
        if not colon or word not in (PlaceKind.LAYOUT, PlaceKind.ARCHIVE, PlaceKind.DAEMON):
            return cls._at(text, PlaceKind.REGISTRY, text)
        if not rest:
            raise PlaceInvalid(f"{quote(text)} names no place; expected {_example(PlaceKind(word))}")
        match PlaceKind(word):
            case PlaceKind.LAYOUT:
                return cls._layout(text, rest)
            case PlaceKind.ARCHIVE:
                file, _, name = rest.partition(":")
                named = str(Reference.parse(name).complete) if name else None
                return cls(text, PlaceKind.ARCHIVE, None, Path(file), named)
            case kind:
                return cls._at(text, kind, rest)

    @classmethod
    def _at(cls, text: str, kind: PlaceKind, reference: str) -> Place:
        parsed = Reference.parse(reference)
        name = parsed.digest or parsed.tag
        return cls(text, kind, parsed, None, None if name is None else str(name))

    @classmethod
    def _layout(cls, text: str, rest: str) -> Place:
        folder, colon, name = rest.rpartition(":")
        if not colon or "/" in name:
            return cls(text, PlaceKind.LAYOUT, None, Path(rest), None)
        try:
            return cls(text, PlaceKind.LAYOUT, None, Path(folder), Tag(name))
        except TagInvalid as error:
            raise PlaceInvalid(f"{quote(text)}: {error.message}; expected {_example(PlaceKind.LAYOUT)}") from error


def _example(kind: PlaceKind) -> str:
    return {
        PlaceKind.LAYOUT: "oci:DIR:TAG",
        PlaceKind.ARCHIVE: "docker-archive:FILE",
        PlaceKind.DAEMON: "docker-daemon:shop/app:1.4.2",
        PlaceKind.REGISTRY: "localhost:5000/shop/app:1.4.2",
    }[kind]
