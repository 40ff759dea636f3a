"""The interfaces of a source and of a target of images.

A name is a tag, or the name of an entry in a layout or archive; None selects the only image. Digests are those of the
manifests as pushed. Errors are kinds of `errors.py`: only NotFound reports a missing image. Content with a wrong digest is
Unavailable, and none of it is used.
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
"""Returns the bytes of a blob from the start at each call. The last piece comes only if all bytes are verified."""


class LocationInvalid(Invalid):
    """An invalid location, or one that has other content than images."""


class LocationNotFound(NotFound):
    """The location does not exist, or has no such image."""


class ContentDamaged(Unavailable):
    """Bytes that do not match their digest or size. None of them was used."""


class LocationUnavailable(Unavailable):
    """A location that can't be read or written now."""


class TagTaken(SealedPut):
    """The target's tag resolves to another image, and `force` is not set."""


def check_replaceable(path: Path) -> None:
    """Check that a new file may replace `path`: it does not exist or is a plain file, so that no device or link is lost.

    Raises: LocationInvalid.
    """
    try:
        found = path.lstat()
    except OSError:  # the later write reports the error
        return
    if not S_ISREG(found.st_mode):
        raise LocationInvalid(f"{path} is not a regular file, and a new one would take its place; name another file")


class BlobTransfer(StrEnum):
    """How a blob reached the target."""

    PRESENT = "present"
    MOUNTED = "mounted"
    SENT = "sent"


class ImageSource(Protocol):
    """A source of images."""

    @property
    def title(self) -> str:
        """The name of the location in messages."""

    async def resolve(self, name: str | None) -> Digest:
        """Return the digest that a name resolves to. Raises: NotFound."""

    async def manifest(self, digest: Digest) -> Manifest:
        """Return a manifest, verified by its digest. Raises: NotFound."""

    def blob(self, descriptor: Descriptor) -> AsyncIterator[bytes]:
        """Yield a blob's bytes in pieces. The last piece comes only if the digest and the size match."""

    async def names(self) -> list[str]:
        """Return all names."""

    async def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """Return the manifests whose subject is this manifest."""


class ImageTarget(Protocol):
    """A target for images. Callers put blobs first, then children, then the manifests above them, and call `close` at the end."""

    @property
    def title(self) -> str:
        """The name of the location in messages."""

    async def current_digest(self, name: str) -> Digest | None:
        """Return the digest that a name resolves to; None when it does not exist."""

    async def put_blob(self, descriptor: Descriptor, body: Body) -> BlobTransfer:
        """Store a blob unless the target has it. `body`: called for the bytes, again after a failed attempt."""

    async def put_manifest(self, manifest: Manifest, digest: Digest, name: str | None, *, only_new: bool) -> None:
        """Store a manifest by digest, or under a name.

        `only_new`: require that the name is free or resolves to this manifest, if the target can check it.
        """

    async def close(self, *, complete: bool) -> None:
        """Finish. If not `complete`, keep only content with which the next copy can resume."""
