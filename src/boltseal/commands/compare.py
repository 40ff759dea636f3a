"""Compare two images at any locations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from boltseal.client.transport import Transport
from boltseal.commands.image_locations import name_within, opened_sources
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import RegistryOptions, ask_followed
from boltseal.transfer.compare import Side, compare, read_side
from boltseal.transfer.locations import Location

_VERDICTS: Final = {
    "same-manifest": "the same image, byte for byte",
    "same-config": "the same image (same ID and files); its manifest or compression differs",
    "same-files": "not the same image: the files are the same, the config differs",
    "different": "not the same image",
}


@dataclass(frozen=True, slots=True)
class CompareResult:
    """How two images compare. `sameness`: same-manifest, same-config, same-files or different."""

    sameness: str
    reasons: tuple[str, ...]
    digests: tuple[str, str]

    @property
    def verdict(self) -> str:
        """The sameness as a sentence."""
        return _VERDICTS[self.sameness]

    @property
    def outcome(self) -> Outcome:
        """HOLDS for the same manifest or the same config, and so the same image ID."""
        return Outcome.HOLDS if self.sameness in ("same-manifest", "same-config") else Outcome.DIFFERS


def compare_images(a: Location, b: Location, options: RegistryOptions) -> CompareResult:
    """Compare two images. Raises: RemoteNotFound, LocationInvalid, LedgerBroken and other errors of the locations."""

    async def read(transport: Transport) -> list[Side]:
        async with opened_sources(options.client, transport, a, b) as sources:
            return [
                await read_side(source, await source.resolve(name_within(location)))
                for source, location in zip(sources, (a, b), strict=True)
            ]

    registries = [location.reference.registry for location in (a, b) if location.reference is not None]
    side_a, side_b = ask_followed(options, registries, read)
    found = compare(side_a, side_b)
    return CompareResult(found.sameness, tuple(found.reasons), (str(side_a.digest), str(side_b.digest)))
