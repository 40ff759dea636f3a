"""What differs between two images of a repository, and the packages of one, for pages: by the code of `boltseal compare`.

The documents of both images are compared at once. Packages and files need their layers, which are read only where a person
asks for it: one image pair at a time in a process, within limits that are lower than those of the command line. What was found is
kept for the next pages of the same list. Callers check the right to pull.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from boltseal.commands.compare import CompareResult
from boltseal.commands.contents_diff import InstalledPackages, contents_diff, installed, package_rows
from boltseal.commands.image_contents import ReadLimits, attached_packages, read_contents
from boltseal.errors import BoltsealError, Invalid, Unavailable
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest
from boltseal.oci.mediatype import INDEX_TYPES
from boltseal.oci.reference import Repository
from boltseal.server.registry.pulls import Pulls
from boltseal.server.registry.stored_images import StoredImages
from boltseal.transfer.compare import compare, read_side
from boltseal.transfer.inspect import inspect, platforms_of

LIMITS: Final = ReadLimits(layer_bytes=256 * 1024 * 1024, unpacked_bytes=1024 * 1024 * 1024)
MAX_PLATFORMS: Final = 30
WAIT_S: Final = 20.0
MAX_KEPT: Final = 4
MAX_KEPT_ROWS: Final = 100_000
"""Results that are kept, and rows of one of them; a larger one is made again for each page."""


class ContentChange(NamedTuple):
    """A package or file that differs. `what`: package or file. `change`: added, removed or changed. `was`, `now`: versions."""

    what: str
    change: str
    name: str
    was: str = ""
    now: str = ""


@dataclass(frozen=True, slots=True)
class ContentChanges:
    """The packages and files that differ. `packages_reason`, `files_reason`: why these could not be compared, or ""."""

    rows: tuple[ContentChange, ...]
    origin: str
    packages_reason: str
    files_reason: str


class ImageComparisons:
    """Reads layers, one comparison at a time. One per process."""

    def __init__(self, pulls: Pulls, limits: ReadLimits = LIMITS) -> None:
        self._pulls = pulls
        self._limits = limits
        self._alone = asyncio.Lock()
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    async def documents(self, repository: Repository, old: Digest, new: Digest) -> CompareResult:
        """Compare the manifests and configs of two images.

        Raises: ManifestUnknown, BlobUnknown: a part is not stored here; Invalid: an index has too many images, or nested ones.
        """
        source = StoredImages(self._pulls, repository)
        for digest in (old, new):
            _check_comparable(await source.manifest(digest))
        sides = [await read_side(source, digest) for digest in (old, new)]
        found = compare(*sides)
        return CompareResult(found.sameness, tuple(found.reasons), (str(old), str(new)))

    async def contents(self, repository: Repository, old: Digest, new: Digest, platform: str | None) -> ContentChanges:
        """Compare the packages and files of two images. Raises: Unavailable: others are compared now; LocationNotFound."""
        source = StoredImages(self._pulls, repository)
        key = (str.__str__(repository), old, new, platform)
        images = [await inspect(source, digest, platform) for digest in (old, new)]
        async with self._reading(key) as known:
            if known is not None:
                found: ContentChanges = known
                return found
            contents = [await read_contents(source, image, limits=self._limits) for image in images]
            diff = await asyncio.to_thread(contents_diff, *contents)
            rows = [
                ContentChange(
                    "package", each.kind, _package(each.change.kind, each.change.name), each.change.was, each.change.now
                )
                for each in ([] if diff.packages is None else package_rows(diff.packages))
            ]
            if diff.files is not None:
                for change, names in (
                    ("changed", diff.files.changed),
                    ("added", diff.files.added),
                    ("removed", diff.files.removed),
                ):
                    rows += [ContentChange("file", change, f"/{name}") for name in names]
            made = ContentChanges(tuple(rows), diff.origin, diff.packages_reason, diff.files_reason)
            self._keep(key, made, len(rows))
        return made

    async def packages(
        self, repository: Repository, digest: Digest, platform: str | None, *, by_layers: bool
    ) -> InstalledPackages:
        """Return the packages of an image by an attached SBOM. `by_layers`: without one by the databases in its layers."""
        source = StoredImages(self._pulls, repository)
        key = (str.__str__(repository), digest, platform, by_layers)
        image = await inspect(source, digest, platform)
        async with self._reading(key) as known:
            if known is not None:
                found: InstalledPackages = known
                return found
            if by_layers:
                made = installed(await read_contents(source, image, limits=self._limits))
            else:
                made = InstalledPackages(await attached_packages(source, image), "an SBOM attached to the image")
            self._keep(key, made, len(made.found.packages or ()))
        return made

    @asynccontextmanager
    async def _reading(self, key: Hashable) -> AsyncIterator[Any]:
        """Wait for other reads, and yield what is known already. Raises: Unavailable."""
        try:
            async with asyncio.timeout(WAIT_S):
                await self._alone.acquire()
        except TimeoutError as error:
            raise Unavailable(
                "other images are compared now, one at a time; load the page again in a minute"
            ) from error
        try:
            yield self._kept.get(key)
        except OSError as error:
            raise Unavailable(f"cannot write temporary files for the layers: {error.strerror or error}") from error
        finally:
            self._alone.release()

    def _keep(self, key: Hashable, found: object, rows: int) -> None:
        if rows > MAX_KEPT_ROWS:
            return
        self._kept[key] = found
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)


async def compared_or_reason(
    comparisons: ImageComparisons, repository: Repository, old: Digest, new: Digest
) -> tuple[CompareResult | None, str]:
    """Return how the documents of two images compare, or None and why that is not known."""
    try:
        return await comparisons.documents(repository, old, new), ""
    except BoltsealError as error:
        return None, error.message


def _check_comparable(manifest: Manifest) -> None:
    """Raise Invalid for an index that would make one page read too much."""
    if len(platforms_of(manifest)) > MAX_PLATFORMS:
        raise Invalid(f"an index has more than {MAX_PLATFORMS} images; compare two images of one platform")
    if any(child.media_type in INDEX_TYPES for child in manifest.manifests):
        raise Invalid("an index has other indexes in it; compare two images of one platform")


def _package(kind: str, name: str) -> str:
    return f"{name} ({kind})" if kind else name
