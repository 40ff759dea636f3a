"""Quadlet units of Podman: `Image=` of `.container`, `.image` and `.volume`, and the Dockerfile (`File=`) of a `.build`.

Drop-in files (`web.container.d/10-image.conf`) are read as well. `Image=web.image` and `Image=web.build` name other
units, and an `ImageTag=` of a `.build` in the same folder is built here. With `AutoUpdate=registry` Podman follows the
tag, so no digest is written. Specifiers of systemd (`%i`) and variables are not evaluated. Other transports than a
registry (`oci:`, `docker-archive:`) are no references.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final, NamedTuple

from boltseal.project.image_references import Format, ImageReference, ScanResult, Span
from boltseal.project.references.reader import FileToFollow, FormatReader, ProjectFile, Syntax
from boltseal.project.references.scalars import text_reference
from boltseal.project.source_files import SourceFile, Unreadable

NAME: Final = "quadlet"
AUTO_UPDATE: Final = "AutoUpdate=registry follows the tag, which a digest would prevent"
BUILT: Final = "built here"
_FILE: Final = re.compile(r".+\.(?:container|image|volume|build)(?:\.d/[^/]+\.conf)?", re.DOTALL)
_SECTION: Final = re.compile(r"[ \t]*\[(?P<name>[^\]\r\n]*)\]")
_LINE: Final = re.compile(r"[ \t]*(?P<key>[A-Za-z]+)[ \t]*=[ \t]*(?P<value>[^\r\n]*)")
_UNIT: Final = re.compile(r".+\.(?:image|build)")
_TRANSPORT: Final = re.compile(r"(?:containers-storage|dir|docker-archive|docker-daemon|oci|oci-archive|ostree):")
_SECTIONS: Final = frozenset({"Container", "Image", "Volume", "Build"})
_DOCKER: Final = "docker://"


class _Setting(NamedTuple):
    """A line of a unit: the section, the key, and the range of the value without white space at its end."""

    section: str
    key: str
    value: Span


def _settings(source: SourceFile) -> Iterator[_Setting]:
    """Yield the settings of a unit. A line that ends in a backslash continues, and its value is not evaluated."""
    section, at, continued = "", 0, False
    for line in source.text.splitlines(keepends=True):
        match = _LINE.match(line)
        begins = _SECTION.match(line)
        if continued or line.lstrip().startswith(("#", ";")):
            match = None
        elif begins is not None:
            section = begins["name"]
        if match is not None:
            start = at + match.start("value")
            yield _Setting(section, match["key"], Span(start, start + len(match["value"].rstrip())))
        continued = line.rstrip("\r\n").endswith("\\")
        at += len(line)


def _text(source: SourceFile, setting: _Setting) -> str:
    return source.text[setting.value.start : setting.value.end]


def read_quadlet(file: ProjectFile) -> ScanResult:
    """Return the image references of a unit."""
    source = file.source
    settings = [each for each in _settings(source) if each.section in _SECTIONS]
    followed = any(each.key == "AutoUpdate" and _text(source, each) == "registry" for each in settings)
    built = _built(file)
    image_refs: list[ImageReference] = []
    for each in settings:
        text = _text(source, each)
        if each.key != "Image" or not text or _UNIT.fullmatch(text) or _TRANSPORT.match(text):
            continue
        image_ref = text_reference(
            source, each.value, NAME, f"{each.section}.Image", why=_not_evaluated(text), prefix=_DOCKER
        )
        if text in built:
            image_ref = replace(image_ref, build=True, edit_range=None, override_only=BUILT)
        elif followed and image_ref.resolved is not None:
            image_ref = replace(image_ref, edit_range=None, override_only=AUTO_UPDATE)
        image_refs.append(image_ref)
    return ScanResult(tuple(image_refs))


def _not_evaluated(text: str) -> str | None:
    for sign, what in (("%", "specifiers of systemd"), ("$", "variables"), ("\\", "continued lines")):
        if sign in text:
            return f"{what} are not evaluated"
    return None


def _built(file: ProjectFile) -> set[str]:
    """Return the names of the images that units in the same folder build."""
    folder = file.source.path.rpartition("/")[0]
    found: set[str] = set()
    for path in sorted((file.project.root / folder).glob("*.build")):
        try:
            source = file.project.read(file.project.name(path))
        except Unreadable:
            continue  # reported when it is scanned itself
        found |= {_text(source, each) for each in _settings(source) if each.key == "ImageTag"}
    return found


def _dockerfiles(file: ProjectFile) -> Iterator[FileToFollow]:
    source = file.source
    for each in _settings(source):
        text = _text(source, each)
        if each.section == "Build" and each.key == "File" and text and "://" not in text and "%" not in text:
            folder = source.path.rpartition("/")[0]
            yield FileToFollow(text, folder, source.line(each.value.start), Format.DOCKERFILE, optional=True)


READER: Final = FormatReader(
    NAME,
    by_name=lambda path: _FILE.fullmatch(path) is not None,
    read=read_quadlet,
    follows=_dockerfiles,
    syntax=Syntax.TEXT,
    common_suffix=True,
)
