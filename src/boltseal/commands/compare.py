"""Compare two images at any locations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from boltseal.client.transport import Transport
from boltseal.commands.contents_diff import ContentsDiff, contents_diff
from boltseal.commands.image_contents import read_contents
from boltseal.commands.image_locations import name_within, opened_sources
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import RegistryOptions, ask_followed
from boltseal.transfer.compare import Side, compare, read_side
from boltseal.transfer.inspect import inspect
from boltseal.transfer.locations import Location

_VERDICTS: Final = {
    "same-manifest": "the same image, byte for byte",
    "same-config": "the same image (same ID and files); its manifest or compression differs",
    "same-files": "not the same image: the files are the same, the config differs",
    "different": "not the same image",
}


@dataclass(frozen=True, slots=True)
class CompareResult:
    """How two images compare. `sameness`: same-manifest, same-config, same-files or different.

    `contents`: the differences of packages and files, None if they were not asked for.
    """

    sameness: str
    reasons: tuple[str, ...]
    digests: tuple[str, str]
    contents: ContentsDiff | None = None

    @property
    def verdict(self) -> str:
        """The sameness as a sentence."""
        return _VERDICTS[self.sameness]

    @property
    def outcome(self) -> Outcome:
        """HOLDS for the same manifest or the same config, and so the same image ID."""
        return Outcome.HOLDS if self.sameness in ("same-manifest", "same-config") else Outcome.DIFFERS


def compare_images(
    a: Location, b: Location, options: RegistryOptions, *, contents: bool = False, platform: str | None = None
) -> CompareResult:
    """Compare two images. `contents`: read their layers too, for packages and files; `platform`: of which image of an index.

    Raises: RemoteNotFound, LocationInvalid, LedgerBroken and other errors of the locations.
    """

    async def read(transport: Transport) -> tuple[list[Side], ContentsDiff | None]:
        async with opened_sources(options.client, transport, a, b) as sources:
            sides = [
                await read_side(source, await source.resolve(name_within(location)))
                for source, location in zip(sources, (a, b), strict=True)
            ]
            if not contents:
                return sides, None
            images = [await inspect(source, side.digest, platform) for source, side in zip(sources, sides, strict=True)]
            old, new = [await read_contents(source, image) for source, image in zip(sources, images, strict=True)]
            return sides, contents_diff(old, new)

    registries = [location.reference.registry for location in (a, b) if location.reference is not None]
    (side_a, side_b), differences = ask_followed(options, registries, read)
    found = compare(side_a, side_b)
    return CompareResult(found.sameness, tuple(found.reasons), (str(side_a.digest), str(side_b.digest)), differences)
