"""Verify the images in the stores of this host, or on a mounted disk; read-only, without an engine.

Manifests that a store does not keep are fetched by their digests, unless the request is offline.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.scrub_baseline import BaselineOptions, opened_baseline, record_baseline
from boltseal.commands.scrub_expectations import (
    ExpectationOptions,
    digests_in_arguments,
    documents_of,
    lock_expectations,
    receipts_of,
)
from boltseal.commands.scrub_manifests import ManifestFetcher
from boltseal.config import home_folders
from boltseal.engines.priority import idle_disk
from boltseal.errors import Invalid, quote
from boltseal.host.scrub.find_stores import store_at, usual_stores
from boltseal.host.scrub.layer_check import CheckMode
from boltseal.host.scrub.missing_manifests import fetch_nothing
from boltseal.host.scrub.report import ScrubReport, outcome
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from boltseal.host.scrub.workers import Progress, WorkRate


@dataclass(frozen=True, slots=True)
class ScrubImagesRequest:
    """What to verify, and how.

    Attributes:
        images: names or IDs; none for all.
        roots: stores, mounted disks, layouts or archives; none for this host's stores.
        baseline: a baseline to check against or to write.
        mode: how much of a layer is read.
        rate: how fast.
        low_priority: give way to other processes.
        offline: contact no registry, also for manifests that a store does not keep.
    """

    images: tuple[str, ...] = ()
    roots: tuple[Path, ...] = ()
    expectations: ExpectationOptions = field(default_factory=ExpectationOptions)
    baseline: BaselineOptions = field(default_factory=BaselineOptions)
    mode: CheckMode = field(default_factory=CheckMode)
    rate: WorkRate = field(default_factory=WorkRate)
    low_priority: bool = False
    offline: bool = False

    def __post_init__(self) -> None:
        if self.mode.quick and self.baseline.write is not None:
            raise Invalid("--quick reads no content, so it can't record a baseline")


@dataclass(frozen=True, slots=True)
class ScrubResult:
    """The reports of a scrub. `searched`: where, in words."""

    reports: tuple[ScrubReport, ...]
    searched: str

    @property
    def outcome(self) -> Outcome:
        """The outcome of all reports together; HOLDS where there is none."""
        return Outcome(outcome(list(self.reports)))


def scrub_images(
    request: ScrubImagesRequest,
    options: RegistryOptions,
    allowed: Callable[[str], bool],
    progress: Progress,
) -> ScrubResult:
    """Verify images on the disk. `low_priority` changes this process for good.

    `allowed`: which registries the names in a store or a lock may make this client contact.

    Raises: Invalid: contradicting options; Unavailable: unreadable files; NoStoreFound, ReceiptInvalid, LockInvalid,
    BaselineUnusable, KeyInvalid.
    """
    client = options.client
    wanted = ScrubRequest(
        images=request.images,
        expected=digests_in_arguments(request.images, request.expectations.expect),
        receipts=receipts_of(request.expectations),
        locks=lock_expectations(request.expectations, client),
        documents=documents_of(request.expectations),
        fetch=fetch_nothing if request.offline else ManifestFetcher(options, request.images, allowed),
        baseline=opened_baseline(request.baseline),
        check_mode=request.mode,
        pace=request.rate,
    )
    if request.low_priority:
        os.nice(19)
        idle_disk()
    roots = request.roots
    stores = [store for path in roots for store in store_at(path)] if roots else usual_stores(home_folders())
    if request.baseline.write is not None:
        reports = record_baseline(stores, wanted, request.baseline, client, progress)
    else:
        reports = scrub(stores, wanted, progress)
    searched = ", ".join(quote(str(root)) for root in roots) or "the usual stores of this host's engines"
    return ScrubResult(tuple(reports), searched)


def parse_rate(text: str) -> WorkRate:
    """Parse bytes per second, as 50M; "" for no limit. Raises: Invalid."""
    units = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
    number, unit = text.rstrip("KMG"), text[len(text.rstrip("KMG")) :]
    if not text:
        return WorkRate()
    if not number.isascii() or not number.isdigit() or unit not in units or int(number) == 0:
        raise Invalid(f"--bytes-per-second is {quote(text)}; expected a number such as 50M, 500K or 1000000")
    return WorkRate(bytes_per_second=int(number) * units[unit])
