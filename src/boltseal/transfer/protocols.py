"""What a place that gives images promises, and one that takes them.

A name is a tag, or in a layout or archive whatever stands there as one; None means "the one image that is there".
Digests are the manifest's, as pushed. Errors are kinds of `errors.py`: NotFound is the only miss, what has another digest
than it must is Unavailable and nothing of it is used.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from enum import StrEnum
from pathlib import Path
from stat import S_ISREG
from typing import Protocol

from boltseal.errors import Invalid, NotFound, SealedPut, Unavailable
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest

Body = Callable[[], AsyncIterator[bytes]]
"""The bytes of a blob, from the start, each time it is called; the last piece comes only if the whole is right."""


class LocationInvalid(Invalid):
    """A place that can't be meant, or holds something else than images."""


class LocationNotFound(NotFound):
    """The place has no such image, or is not there."""


class ContentDamaged(Unavailable):
    """Bytes that are not what their digest or size says. Nothing of them was used."""


class LocationUnavailable(Unavailable):
    """A place that can't be read or written now."""


class TagTaken(SealedPut):
    """The name means another image there, and was not to be overwritten."""


def check_replaceable(path: Path) -> None:
    """Whether a new file may take this place: a plain file's, or nothing's. A device or a link would be lost. LocationInvalid."""
    try:
        found = path.lstat()
    except OSError:  # what writes there will say why it can't
        return
    if not S_ISREG(found.st_mode):
        raise LocationInvalid(f"{path} is no plain file, and a new one would take its place; name another file")


class BlobTransfer(StrEnum):
    """How a blob came to be where it was to go."""

    PRESENT = "present"
    MOUNTED = "mounted"
    SENT = "sent"


class ImageSource(Protocol):
    """A place that gives images."""

    @property
    def title(self) -> str:
        """The place in messages."""

    async def resolve(self, name: str | None) -> Digest:
        """The digest that a name means now."""

    async def manifest(self, digest: Digest) -> Manifest:
        """A manifest, verified."""

    def blob(self, descriptor: Descriptor) -> AsyncIterator[bytes]:
        """A blob's bytes, in pieces; the last one comes only if all of them have the digest and the size."""

    async def names(self) -> list[str]:
        """Every name there is."""

    async def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """What names this manifest as its subject."""


class ImageTarget(Protocol):
    """A place that takes images. Blobs first, then children, then what names them; `close` ends it, whole or not."""

    @property
    def title(self) -> str:
        """The place in messages."""

    async def meaning(self, name: str) -> Digest | None:
        """The digest that a name means now, None where it is free."""

    async def put_blob(self, descriptor: Descriptor, body: Body) -> BlobTransfer:
        """Take a blob, unless it is there."""

    async def put_manifest(self, manifest: Manifest, digest: Digest, name: str | None, *, only_new: bool) -> None:
        """Take a manifest under its digest, or under a name. `only_new`: the name must be free, where that can be asked."""

    async def close(self, *, complete: bool) -> None:
        """Keep what was taken; if it is not complete, what can be taken up the next time, and nothing half."""
