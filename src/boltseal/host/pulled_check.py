"""Is what an engine has just pulled also what lies on its disk? `scrub` on one image, before a name means it.

Only where the engine's folder is ours to read: on this host, by root. Anything else could not be checked, and says so.
"""

from __future__ import annotations

import asyncio

from boltseal.engines.inventory import EngineImage
from boltseal.errors import BoltsealError, Precondition, Unavailable
from boltseal.host.engine_images import EngineHost
from boltseal.host.scrub.differences import Difference
from boltseal.host.scrub.find_stores import FoundStore, store_at, usual_stores
from boltseal.host.scrub.report import ReportStatus, ScrubReport, outcome
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from boltseal.host.scrub.trust import Expectation, Level


class ScrubDiffers(Precondition):
    """What lies on the disk is not the image."""


class NotScrubbed(Unavailable):
    """It could not be read what lies on the disk."""


async def scrub_pulled_image(host: EngineHost, image: EngineImage) -> None:
    """Read every byte of an image on the engine's disk. ScrubDiffers, NotScrubbed."""
    stores = await _stores(host)
    expected = Expectation(image.id, Level.L1, "the ID that the engine gives it")
    wanted = ScrubRequest(images=(str(image.id),), expected={str(image.id): expected})
    reports = await asyncio.to_thread(scrub, stores, wanted, lambda read, done, total: None)
    mine = [each for each in reports if each.what == "image"]
    match outcome(mine) if mine else ReportStatus.UNKNOWN:
        case ReportStatus.DIFFERS:
            first = next(found for each in mine for found in each.differences)
            raise ScrubDiffers(
                f"image {image.id.short} differs on the disk: {_in_words(first)}; the name means what it meant; "
                f"all of it: `boltseal scrub {image.id}`"
            )
        case ReportStatus.UNKNOWN:
            raise _not_scrubbed(_why(reports))
        case ReportStatus.HOLDS:
            return


async def _stores(host: EngineHost) -> list[FoundStore]:
    """Where the engine keeps images, if that is on this host."""
    if host.engine.address.scheme != "unix":
        raise _not_scrubbed(f"the engine at {host.engine.address} is on another host; run `boltseal scrub` there")
    root = await host.engine.data_root()
    try:
        found = [] if root is None else store_at(root)
    except BoltsealError as error:
        raise _not_scrubbed(error.message) from error
    return list({each.root: each for each in [*found, *usual_stores()]}.values())


def _not_scrubbed(why: str) -> NotScrubbed:
    return NotScrubbed(f"not scrubbed: {why}; the name means what it meant, and without --scrub the engine is believed")


def _why(reports: list[ScrubReport]) -> str:
    """The first reason; one that a whole store gives says more than that the image was not found in it."""
    ordered = sorted(reports, key=lambda each: each.what != "store")
    return next((reason for each in ordered for reason in each.unknown), "no store has it")


def _in_words(found: Difference) -> str:
    return f"{found.kind} {found.path or '.'}: expected {found.expected}; got {found.got}"
