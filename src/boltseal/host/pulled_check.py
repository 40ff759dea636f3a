"""Scrubs one image that an engine has just pulled, before it is tagged.

This needs read access to the engine's folder: on this host, as root. Otherwise the image could not be checked, which is
reported.
"""

from __future__ import annotations

import asyncio
from typing import Final

from boltseal.engines.inventory import EngineImage
from boltseal.errors import BoltsealError, Mismatch, Unavailable
from boltseal.host.engine_images import EngineHost
from boltseal.host.scrub.differences import Difference
from boltseal.host.scrub.find_stores import FoundStore, store_at, usual_stores
from boltseal.host.scrub.report import ReportStatus, ScrubReport, outcome
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from boltseal.host.scrub.trust import Expectation, Level

TAG_UNCHANGED: Final = "the tag was not changed"
"""Begins what messages say about the pull, after the reason."""


class ScrubDiffers(Mismatch):
    """The bytes on disk are not those of the image."""


class NotScrubbed(Unavailable):
    """The image could not be scrubbed."""


async def scrub_pulled_image(host: EngineHost, image: EngineImage) -> None:
    """Verify every byte of an image on the engine's disk.

    Raises: ScrubDiffers, NotScrubbed.
    """
    stores = await _stores(host)
    expected = Expectation(image.id, Level.L1, "the engine's image ID")
    wanted = ScrubRequest(images=(str(image.id),), expected={str(image.id): expected})
    reports = await asyncio.to_thread(scrub, stores, wanted, lambda read, done, total: None)
    mine = [each for each in reports if each.what == "image"]
    match outcome(mine) if mine else ReportStatus.UNKNOWN:
        case ReportStatus.DIFFERS:
            first = next(found for each in mine for found in each.differences)
            raise ScrubDiffers(
                f"image {image.id.short} differs on disk: {_describe(first)}; list all differences with "
                f"`boltseal scrub {image.id}`; {TAG_UNCHANGED}"
            )
        case ReportStatus.UNKNOWN | ReportStatus.GONE | ReportStatus.UNCHECKED:
            raise _not_scrubbed(_why(reports))
        case ReportStatus.HOLDS:
            return


async def _stores(host: EngineHost) -> list[FoundStore]:
    """Return the engine's image stores, if they are on this host."""
    if host.engine.address.scheme != "unix":
        raise _not_scrubbed(f"the engine at {host.engine.address} is on another host; run `boltseal scrub` there")
    root = await host.engine.data_root()
    try:
        found = [] if root is None else store_at(root)
    except BoltsealError as error:
        raise _not_scrubbed(error.message) from error
    return list({each.root: each for each in [*found, *usual_stores()]}.values())


def _not_scrubbed(why: str) -> NotScrubbed:
    return NotScrubbed(f"not scrubbed: {why}; {TAG_UNCHANGED}; run it as root on the engine's host")


def _why(reports: list[ScrubReport]) -> str:
    """Return the first reason; that of a whole store explains more than that the image was not found in it."""
    ordered = sorted(reports, key=lambda each: each.what != "store")
    return next((reason for each in ordered for reason in each.unknown), "no image store has it")


def _describe(found: Difference) -> str:
    return f"{found.kind} {found.path or '.'}: expected {found.expected}; got {found.got}"
