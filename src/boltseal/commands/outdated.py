"""`boltseal outdated`: find images whose base image has moved, and request rebuilds of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from boltseal.client.document_cache import DocumentCache
from boltseal.client.ledger_records import NoRecords, add_record
from boltseal.client.pull_limit import PullLimit
from boltseal.client.tag_observations import TagObservations
from boltseal.client.transport import Transport
from boltseal.commands.base_change import ExplainedBase
from boltseal.commands.base_scan_request import BaseScanRequest, LeftOut, images_to_check, inferred_base
from boltseal.commands.explained_bases import BaseExplainer, ExplainedImage
from boltseal.commands.outcome import Outcome
from boltseal.commands.progress import Progress, no_progress
from boltseal.commands.project_images import registry_filter
from boltseal.commands.rebuild_loop import rebuild_outdated
from boltseal.commands.registry_access import RegistryOptions, ask, followed
from boltseal.commands.text import clean, counted
from boltseal.errors import Invalid
from boltseal.events import BaseOutdated
from boltseal.ledger.entry import EntryKind
from boltseal.policy.rebuild_actions import RebuildAction, separator_for, token_of
from boltseal.policy.tag_expectations import OFFICIAL_IMAGES, TagExpectations
from boltseal.project.bases.base_report import BaseReport, ImageToCheck
from boltseal.project.bases.base_scan import BaseScanner
from boltseal.project.bases.freshness import BaseStatus
from boltseal.project.bases.image_documents import ImageDocuments
from boltseal.project.bases.image_facts import NotAnImage
from boltseal.project.bases.ledger_entries import rebuild_entry_extra
from boltseal.project.bases.rebuild_journal import RebuildJournal, RebuildOutcome
from boltseal.project.bases.rebuild_requests import RebuildDue, Rebuilder, RebuildPlan, RebuildResult
from boltseal.project.bases.rebuild_tags import RebuildTags
from boltseal.project.bases.tag_history import TagHistories, memory_from_cache, memory_from_observations
from boltseal.project.settings import client_settings

MAX_NAMED: Final = 20
"""How many earlier requested rebuilds the notices list."""


class RebuildSettings(NamedTuple):
    """The `[[on_outdated]]` actions of the user's own file, and their webhooks' tokens by variable name."""

    actions: Sequence[RebuildAction]
    tokens: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class OutdatedRequest:
    """What to scan, and what to do about outdated images.

    `dockerfile`, `base`: the base of images that do not name theirs. `window_s`: a base tag resolved so recently is not
    resolved again. `rebuild`: request rebuilds by these settings; None for no rebuild. `allow`: further registries that
    project files may name. `explain`: read outdated images and their bases, to find out whether the change reaches them.
    """

    scan: BaseScanRequest
    dockerfile: Path | None = None
    base: str | None = None
    window_s: int = 900
    rebuild: RebuildSettings | None = None
    allow: tuple[str, ...] = ()
    explain: bool = False


@dataclass(frozen=True, slots=True)
class OutdatedReport:
    """The result of a scan for outdated images.

    `artifacts`: number of tags that are not images. `limits`: remaining pulls, by registry. `now_us`: the time of it.
    `remembered`: number of base tags that were not resolved again within the window. `explained`: what changed in the bases
    of outdated images, if that was asked for.
    """

    outcome: Outcome
    reports: tuple[BaseReport, ...]
    left_out: tuple[LeftOut, ...]
    artifacts: int
    rebuilds: tuple[RebuildResult, ...]
    limits: tuple[tuple[str, PullLimit], ...]
    now_us: int
    remembered: int = 0
    explained: Mapping[ExplainedImage, ExplainedBase] = field(default_factory=dict)


def rebuild_settings(settings: Path, secret: Callable[[str], str]) -> RebuildSettings:
    """Read the actions for outdated images. `secret`: returns the value of an environment variable.

    Raises: Invalid: there are none; ProjectInvalid, ConfigInvalid.
    """
    actions = client_settings(settings).on_outdated
    if not actions:
        raise Invalid(f"--rebuild: {settings} has no [[on_outdated]] that says what to run")
    tokens = {name: token_of(name, secret(name)) for action in actions if (name := action.token_env) is not None}
    return RebuildSettings(actions, tokens)


def find_outdated(
    request: OutdatedRequest,
    options: RegistryOptions,
    progress: Progress = no_progress,
    before_rebuild: Callable[[], None] = lambda: None,
) -> OutdatedReport:
    """Scan images for outdated bases, and request rebuilds if the request says so.

    `before_rebuild`: is called inside the event loop before the first rebuild. Raises: Invalid, LedgerBroken,
    StateUnusable, TooManyImages, EngineUnavailable.
    """
    request.scan.check()
    claim = inferred_base(request.dockerfile, request.base)
    allowed = registry_filter(options, request.allow)

    async def run(transport: Transport) -> OutdatedReport:
        wanted, left = await images_to_check(request.scan, transport, options.client, claim, allowed)
        allow = [*request.allow, *{one.reference.registry for one in wanted}]
        rebuilds: Sequence[RebuildResult] = ()
        explained: Mapping[ExplainedImage, ExplainedBase] = {}
        async with opened_scanner(options, transport, allow, request.window_s, progress) as scanner:
            if request.rebuild is None:
                reports = await scanner.scan(wanted, listed=request.scan.registry)
            else:
                before_rebuild()
                reports, rebuilds = await _rebuild(request.rebuild, options, scanner, wanted)
            if request.explain:
                explainer = BaseExplainer(options.client, transport, scanner.documents)
                explained = await explainer.explain(reports, progress)
        limits = tuple(sorted(transport.quotas.items()))
        reports, artifacts = _without_artifacts(request.scan, reports)
        return OutdatedReport(
            outcome=_outcome(reports, left),
            reports=tuple(reports),
            left_out=tuple(left),
            artifacts=artifacts,
            rebuilds=tuple(rebuilds),
            limits=limits,
            remembered=len(scanner.remembered),
            now_us=options.client.now_us(),
            explained=explained,
        )

    return ask(options, request.scan.registries, run)


@asynccontextmanager
async def opened_scanner(
    options: RegistryOptions, transport: Transport, allow: Sequence[str], window_s: int, progress: Progress
) -> AsyncIterator[BaseScanner]:
    """Open a scanner on the state folder. What it learned is saved at the end."""
    client = options.client
    now_us = client.now_us()
    mirrors = client.settings.mirrors
    with DocumentCache(client.state, now_us=now_us) as learned, TagObservations(client.state) as observations:
        histories = TagHistories(transport, [memory_from_cache(learned), memory_from_observations(observations)])
        scanner = BaseScanner(
            transport,
            ImageDocuments(transport, learned, mirrors),
            learned,
            histories,
            allowed=registry_filter(options, allow),
            watch=lambda registry: followed(options, transport, registry),
            ignored=client.settings.ignores_outdated,
            expectations=TagExpectations((*client.settings.tags, *OFFICIAL_IMAGES)),
            separator=lambda image: separator_for(client.settings.on_outdated, image.repository, image.tag),
            now_us=now_us,
            window_s=window_s,
            progress=lambda done, total: progress("images", done, total),
        )
        histories.followed = scanner.followed
        yield scanner


async def _rebuild(
    settings: RebuildSettings, options: RegistryOptions, scanner: BaseScanner, wanted: Sequence[ImageToCheck]
) -> tuple[list[BaseReport], list[RebuildResult]]:
    notice = options.client.notice

    def requesting(event: BaseOutdated) -> None:
        notice(f"boltseal: {event.text}; asking for a rebuild")

    def first(_: list[BaseReport], due: RebuildPlan) -> None:
        for line in due.messages(MAX_NAMED):
            notice(clean(f"boltseal: {line}"))
        done = sum(line.outcome is RebuildOutcome.DONE for _, line in due.before)
        if done:
            notice(
                f"boltseal: {counted(done, 'rebuild')} asked for before, and done; `boltseal outdated --log` has them"
            )

    async def recorded(due: RebuildDue, outcome: RebuildOutcome, reason: str) -> None:
        extra = rebuild_entry_extra(due.base, due.built_on, due.now, str(outcome), reason)
        try:
            await add_record(scanner.transport, EntryKind.REBUILD_REQUESTED, due.image, due.digest, extra)
        except NoRecords:
            return

    rebuilder = Rebuilder(
        settings.actions,
        RebuildJournal(options.client.state),
        options.client.now_us,
        record=recorded,
        name_new=RebuildTags(scanner.transport).new_image,
        tokens=settings.tokens,
        on_outdated=requesting,
    )
    rounds = await rebuild_outdated(rebuilder, lambda again: scanner.scan(wanted, refresh=again), first)
    if rounds.elsewhere is not None:
        notice(f"boltseal: {rounds.elsewhere.message}")
    return rounds.reports, rounds.results


def _without_artifacts(scan: BaseScanRequest, reports: Sequence[BaseReport]) -> tuple[list[BaseReport], int]:
    """Return the reports of images, and the number of other artifacts. Images that the user named are never left out."""
    images = [one for one in reports if scan.registry is None or not isinstance(one.error, NotAnImage)]
    return images, len(reports) - len(images)


def _outcome(reports: Sequence[BaseReport], left: Sequence[LeftOut]) -> Outcome:
    found = {one.verdict.status for one in reports}
    if BaseStatus.OUTDATED in found:
        return Outcome.DIFFERS
    return Outcome.UNKNOWN if BaseStatus.UNKNOWN in found or left else Outcome.HOLDS
