"""Verify the images in the stores of this host, or on a mounted disk; read-only, without an engine.

Manifests that a store does not keep are fetched by their digests, unless the request is offline.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from boltseal.commands.client_context import ClientContext
from boltseal.commands.outcome import Outcome
from boltseal.commands.scrub_baseline_options import BaselineOptions
from boltseal.commands.scrub_expectations import (
    ExpectationOptions,
    digests_in_arguments,
    documents_of,
    lock_expectations,
    receipts_of,
)
from boltseal.config import home_folders
from boltseal.engines.priority import idle_disk
from boltseal.engines.running_stores import running_stores
from boltseal.errors import BoltsealError, Invalid, quote
from boltseal.host.scrub.baseline import Baseline
from boltseal.host.scrub.find_stores import store_at, usual_places, usual_stores
from boltseal.host.scrub.layer_check import CheckMode
from boltseal.host.scrub.missing_manifests import FetchManifests, fetch_nothing
from boltseal.host.scrub.report import ReportStatus, ScrubReport, outcome
from boltseal.host.scrub.rotation import ShareSummary
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from boltseal.host.scrub.workers import Progress, WorkRate
from boltseal.loading import deferred

if TYPE_CHECKING:
    from boltseal.commands import scrub_baseline, scrub_metrics, scrub_share
else:  # most scrubs need none of them
    scrub_baseline = deferred("boltseal.commands.scrub_baseline")
    scrub_metrics = deferred("boltseal.commands.scrub_metrics")
    scrub_share = deferred("boltseal.commands.scrub_share")

MIN_RATE: Final = 64_000
"""The lowest limit in bytes per second: with less a check does not end within days, and a forgotten unit is likelier."""


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
        complete: whether what is left out makes the outcome unknown (`report.outcome`).
        allow_empty: whether no image is a success.
        metrics: the file for the metrics of this run.
        shares: read one of so many shares of the bytes in this run; None for all.
    """

    images: tuple[str, ...] = ()
    roots: tuple[Path, ...] = ()
    expectations: ExpectationOptions = field(default_factory=ExpectationOptions)
    baseline: BaselineOptions = field(default_factory=BaselineOptions)
    mode: CheckMode = field(default_factory=CheckMode)
    rate: WorkRate = field(default_factory=WorkRate)
    low_priority: bool = False
    offline: bool = False
    complete: bool = False
    allow_empty: bool = False
    metrics: Path | None = None
    shares: int | None = None

    @property
    def kind(self) -> str:
        """The kind of run, as metrics have it: full, quick or share."""
        return "share" if self.shares is not None else "quick" if self.mode.quick else "full"

    def __post_init__(self) -> None:
        if self.mode.quick and self.shares is not None:
            raise Invalid("--share and --quick exclude each other: --share reads a share of the content, --quick none")
        if (self.mode.quick or self.shares is not None) and self.baseline.write is not None:
            raise Invalid("--quick and --share do not read all content, so they can't record a baseline")


@dataclass(frozen=True, slots=True)
class ScrubResult:
    """The reports of a scrub.

    `searched`: where, in words. `complete`: whether what is left out makes the outcome unknown. `share`: what a run with `--share`
    read. `problems`: what failed beside the check, such as writing the metrics.
    """

    reports: tuple[ScrubReport, ...]
    searched: str
    complete: bool = False
    share: ShareSummary | None = None
    problems: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """The outcome of all reports together; HOLDS where there is none."""
        found = Outcome(outcome(list(self.reports), complete=self.complete))
        return found.worse(Outcome.UNKNOWN) if self.problems else found

    @property
    def has_checked(self) -> bool:
        """Whether anything was checked, or should have been."""
        return any(report.status is not ReportStatus.UNCHECKED for report in self.reports)


def scrub_images(
    request: ScrubImagesRequest, client: ClientContext, fetcher: Callable[[], FetchManifests], progress: Progress
) -> ScrubResult:
    """Verify images on the disk, and write the metrics of the run. `low_priority` changes this process for good.

    `fetcher`: makes the function that fetches manifests; called if images have expected digests.

    Raises: Invalid: contradicting options; Unavailable: unreadable files; NoStoreFound, ReceiptInvalid, LockInvalid,
    BaselineUnusable, KeyInvalid.
    """
    file = request.metrics
    if file is None:
        return _scrub(request, client, fetcher, progress)
    began_s, read = time.monotonic(), [0]

    def count(read_bytes: int, done: int, total: int) -> None:
        read[0] = read_bytes
        progress(read_bytes, done, total)

    def write(found: ScrubResult | None) -> tuple[str, ...]:
        has_checked = found is not None and (found.has_checked or request.allow_empty)
        holds = has_checked and found is not None and found.outcome is Outcome.HOLDS
        took_s = time.monotonic() - began_s
        run = scrub_metrics.ScrubRun(request.kind, client.now_s(), took_s, holds, read_bytes=read[0])
        if found is not None:
            results = tuple((each.what, str(each.status)) for each in found.reports)
            run = replace(run, results=results, share=found.share)
        problem = scrub_metrics.write_metrics(file, [run])
        return (problem,) if problem else ()

    try:
        found = _scrub(request, client, fetcher, count)
    except BoltsealError:
        write(None)
        raise
    return replace(found, problems=(*found.problems, *write(found)))


def _scrub(
    request: ScrubImagesRequest, client: ClientContext, fetcher: Callable[[], FetchManifests], progress: Progress
) -> ScrubResult:
    expected = digests_in_arguments(request.images, request.expectations.expect)
    receipts, locks = receipts_of(request.expectations), lock_expectations(request.expectations, client)
    documents, baseline = documents_of(request.expectations), _opened_baseline(request.baseline)
    expecting = bool(expected or receipts or locks or baseline)  # otherwise no manifest has to be fetched
    wanted = ScrubRequest(
        images=request.images,
        expected=expected,
        receipts=receipts,
        locks=locks,
        documents=documents,
        fetch=fetcher() if expecting and not request.offline else fetch_nothing,
        baseline=baseline,
        check_mode=request.mode,
        pace=request.rate,
        roots=request.roots,
    )
    if request.low_priority:
        os.nice(19)
        idle_disk()
    roots = request.roots
    if roots:
        stores = [store for path in roots for store in store_at(path)]
    else:
        stores = usual_stores(home_folders(), running=running_stores())
    searched = ", ".join(quote(str(root)) for root in roots or [each.root for each in stores])
    searched = searched or f"this host, which has no store in {usual_places()}"
    if request.baseline.write is not None:
        recorded = tuple(scrub_baseline.record_baseline(stores, wanted, request.baseline, client, progress))
        return ScrubResult(recorded, searched, request.complete)
    if request.shares is None:
        return ScrubResult(tuple(scrub(stores, wanted, progress)), searched, request.complete)
    scope = (*map(os.path.abspath, roots), "", *request.images)
    with scrub_share.opened_share(client.state, request.shares, scope, client.now_s()) as opened:
        reports = tuple(scrub(stores, replace(wanted, rotation=opened.rotation), progress))
        problem = opened.save()
        problems = (problem,) if problem else ()
        return ScrubResult(reports, searched, request.complete, opened.rotation.summary(), problems)


def _opened_baseline(options: BaselineOptions) -> Baseline | None:
    return None if options.check is None else scrub_baseline.opened_baseline(options)


def parse_rate(text: str) -> WorkRate:
    """Parse bytes per second, as 50M; "" for no limit. Raises: Invalid: malformed, or less than MIN_RATE."""
    units = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
    number, unit = text.rstrip("KMG"), text[len(text.rstrip("KMG")) :]
    if not text:
        return WorkRate()
    if not number.isascii() or not number.isdigit() or unit not in units or int(number) == 0:
        raise Invalid(f"--bytes-per-second is {quote(text)}; expected a number such as 50M, 500K or 1000000")
    rate = int(number) * units[unit]
    if rate < MIN_RATE:
        raise Invalid(
            f"--bytes-per-second {text} is too slow (got {rate} bytes, expected at least 64K); with units: 50M"
        )
    return WorkRate(bytes_per_second=rate)
