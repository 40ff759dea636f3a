"""Request rebuilds of outdated images: once for each move of a base, bases first, and record each request.

The steps, for each outdated image with an `[[on_outdated]]` action:

1. Order: an image that is based on itself, directly or through others, is skipped, because rebuilds would never end.
2. Journal: what was requested since the base moved is requested again exactly if its end was not recorded, because
   boltseal was stopped or killed. An interrupted attempt does not count. What a killed run left behind is ended first.
3. Record "asked", then run the command or call the webhook, up to `attempts` times with growing pauses. Both learn
   what to push: the next revision of a sealed tag (`rebuild_tags`). Only the newest revision of a sealed version is rebuilt.
   If a newer revision of a sealed base exists, that one is their base; a rebuild that did not take it is not repeated.
4. Record the outcome, in the registry's ledger too, if that accepts it.

A failure does not prevent other rebuilds. Images based on a requested one wait until the next scan, because their base
is about to move; those based on a failed one also wait, as it may have been rebuilt by then. Rebuilds run one at a
time, because one build occupies a machine, and only one run at a time uses a journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from boltseal.errors import BoltsealError, Unavailable
from boltseal.events import BaseOutdated, cloud_event
from boltseal.ledger.entry import format_time
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from boltseal.policy.rebuild_actions import RebuildAction, action_for
from boltseal.policy.tag_revisions import newest_revision, revised
from boltseal.project.bases.base_report import BaseReport
from boltseal.project.bases.freshness import BaseStatus
from boltseal.project.bases.left_over_group import terminate_left_over
from boltseal.project.bases.rebuild_journal import JournalLine, RebuildOutcome, RequestedRebuilds
from boltseal.project.bases.rebuild_order import based_on_themselves, bases_first
from boltseal.project.bases.rebuild_runner import RunResult, command_variables, post_webhook, run_command

PAUSE_S: Final = 2.0
MAX_AT_A_LOOK: Final = 100
"""Maximum number of requests per run; the rest follow in the next run."""
_STOPPED: Final = "boltseal was stopped; it is requested again"
SOURCE: Final = "boltseal"
MAY_MOVE: Final = 'a `[[tags]]` table with expect = "rebuilt" says that such tags may move'
"""What to do if a move is no alarm."""


class AskedElsewhere(Unavailable):
    """Another run is requesting rebuilds with the same journal."""


@dataclass(frozen=True, slots=True)
class RebuildDue:
    """A rebuild to request. `digest`: of the image. `built_on`, `now`: the base's digest then and now.

    `tries`: how many of the action's attempts an interrupted run has already made. `alarm`: whether the base's tag should
    never have moved. `newer`: the base is a newer revision of the sealed tag that the image was built on.
    """

    image: Reference
    digest: Digest
    base: Reference
    built_on: Digest
    now: Digest
    action: RebuildAction
    tries: int = 0
    alarm: bool = False
    newer: bool = False

    @property
    def event(self) -> BaseOutdated:
        """The event that describes it."""
        return BaseOutdated(self.image, self.base, self.built_on, self.now)


@dataclass(frozen=True, slots=True)
class RebuildResult:
    """The outcome of a request. `recorded`: why the ledger does not record it; "" if it does, or if there is none."""

    due: RebuildDue
    outcome: RebuildOutcome
    tries: int
    summary: str
    recorded: str = ""


class AskedBefore(NamedTuple):
    """A rebuild that was requested earlier, and its last line in the journal."""

    due: RebuildDue
    line: JournalLine


class RebuildPlan(NamedTuple):
    """The outdated images. `before`: already requested, with the last record. `endless`: based on themselves.

    `alarms`: on a tag that should never move: a rebuild would take over an image that the user has to review first.
    `unchanged`: rebuilt for a newer revision of their base, and still based on the former one.
    """

    due: list[RebuildDue]
    before: list[AskedBefore]
    endless: list[RebuildDue]
    alarms: list[RebuildDue]
    unchanged: list[RebuildDue]

    def messages(self, most: int) -> list[str]:
        """Return a line for each image whose rebuild is not requested because of a problem; at most `most` of them."""
        lines = [
            f"{due.image} is based on itself ({due.base}): each rebuild would cause the next" for due in self.endless
        ]
        lines += [
            f"{due.image}: no rebuild is requested: its base {due.base} should never move, and resolves to {due.now}; "
            f"review that image; {MAY_MOVE}"
            for due in self.alarms
        ]
        lines += [
            f"{due.image}: a rebuild for {due.base} was requested, and the image is still based on the former revision; it is "
            "not requested again: build it FROM {base} of [[on_outdated]]"
            for due in self.unchanged
        ]
        for due, line in self.before:
            if line.outcome is not RebuildOutcome.DONE:
                at = f"{format_time(line.time_us)[:16].replace('T', ' ')} UTC"
                lines.append(
                    f"{due.image}: a rebuild was requested at {at}, it {line.outcome}; it is not requested again"
                )
        more = len(lines) - most
        return lines if more <= 0 else [*lines[:most], f"{more} more"]


Record = Callable[[RebuildDue, RebuildOutcome, str], Awaitable[None]]
"""Records a request's outcome in the ledger of the image's registry, where others can read it.

An exception is reported and does not stop other requests.
"""


async def record_nothing(_due: RebuildDue, _outcome: RebuildOutcome, _summary: str) -> None:
    """Record nothing, because there is no ledger."""


NameNew = Callable[[Reference, RebuildAction], Awaitable[Reference]]
"""Returns the reference that a rebuild of an image should push. Raises BoltsealError: it can't be determined."""


async def always_allowed() -> None:
    """Allow each request, because no other process requests rebuilds of these images."""


async def same_name(image: Reference, _action: RebuildAction) -> Reference:
    """Return the image's own name, as for a tag that may move."""
    return image


class Rebuilder:
    """Requests rebuilds. `tokens`: webhook tokens by variable name. `now_us`: the clock. `name_new`: names the new image.

    `allowed`: awaited before each request; raises BoltsealError where another process requests them now.
    """

    def __init__(
        self,
        actions: Sequence[RebuildAction],
        journal: RequestedRebuilds,
        now_us: Callable[[], int],
        *,
        record: Record = record_nothing,
        name_new: NameNew = same_name,
        allowed: Callable[[], Awaitable[None]] = always_allowed,
        tokens: Mapping[str, str] | None = None,
        pause_s: float = PAUSE_S,
        on_outdated: Callable[[BaseOutdated], None] = lambda _event: None,
    ) -> None:
        self._actions = actions
        self._journal = journal
        self._now_us = now_us
        self._record = record
        self._name_new = name_new
        self._allowed = allowed
        self._tokens = tokens or {}
        self._pause_s = pause_s
        self._on_outdated = on_outdated
        self._failed: set[str] = set()
        self._group_file = journal.group_file

    def due(self, reports: Sequence[BaseReport]) -> list[RebuildDue]:
        """Return the rebuilds to request, bases first. Raises: StateUnusable."""
        return self.plan(reports).due

    def plan(self, reports: Sequence[BaseReport]) -> RebuildPlan:
        """Sort the outdated images by whether a rebuild is requested. Raises: StateUnusable."""
        last, plan = self._journal.last(), RebuildPlan([], [], [], [], [])
        tags = _tags_by_repository(reports)
        endless = based_on_themselves(
            (_name(report.wanted.reference), _name(verdict.claim.base))
            for report in reports
            for verdict in report.verdicts
            if verdict.claim is not None and verdict.claim.base is not None
        )
        for report in reports:
            pending = []
            for due in self._outdated(report):
                line = last.get((str(due.image), str(due.base)))
                if not report.may_move and _is_superseded(due, tags):
                    continue
                if _name(due.image) in endless:
                    plan.endless.append(due)
                elif due.alarm:
                    plan.alarms.append(due)
                elif due.newer and _was_rebuilt(due, tags, last):
                    plan.unchanged.append(due)
                elif line is None or line.digest != str(due.now):
                    pending.append(due)
                elif (
                    line.outcome in (RebuildOutcome.ASKED, RebuildOutcome.STOPPED) and line.tries < due.action.attempts
                ):
                    pending.append(replace(due, tries=line.tries))
                else:
                    plan.before.append(AskedBefore(due, line))
            plan.due.extend(pending[:1])  # one rebuild covers all platforms
        found = bases_first(plan.due, lambda due: _name(due.image), lambda due: _name(due.base))
        return plan._replace(due=found)

    async def rebuild(self, reports: Sequence[BaseReport]) -> list[RebuildResult]:
        """Request all due rebuilds, one after the other. Raises: AskedElsewhere, StateUnusable, Unavailable."""
        with self._journal.alone() as alone:
            if not alone:
                raise AskedElsewhere("another run is requesting rebuilds; this run requests none")
            await asyncio.to_thread(terminate_left_over, self._group_file)
            return await self._rebuild(reports)

    async def _rebuild(self, reports: Sequence[BaseReport]) -> list[RebuildResult]:
        results: list[RebuildResult] = []
        waiting = set(self._failed)
        for due in await asyncio.to_thread(self.due, reports):
            if _name(due.base) in waiting:
                waiting.add(_name(due.image))
                continue
            if len(results) == MAX_AT_A_LOOK:
                break
            self._on_outdated(due.event)
            result = await self._ask(due)
            waiting.add(_name(due.image))
            if result.outcome is RebuildOutcome.FAILED:
                self._failed.add(_name(due.image))
            results.append(result)
        return results

    def _outdated(self, report: BaseReport) -> list[RebuildDue]:
        """Return the rebuilds for a report, one per base; its platforms may have several bases."""
        image = report.wanted.reference
        rebuilds: dict[Reference, RebuildDue] = {}
        action = action_for(self._actions, image.repository, image.tag)
        if action is None or report.digest is None or report.error is not None:
            return []
        target = replace(image, digest=None) if image.tag else image
        for verdict in report.verdicts:
            claim = verdict.claim
            if verdict.rebuild_first:  # a rebuild would change nothing yet: its base must be rebuilt first
                continue
            if verdict.status is BaseStatus.OUTDATED and claim is not None and claim.base is not None and verdict.now:
                newer = verdict.newer
                rebuilds.setdefault(
                    claim.base,
                    RebuildDue(
                        image=target,
                        digest=report.digest,
                        base=claim.base if newer is None else newer.by_tag,
                        built_on=verdict.built_on or report.digest,
                        now=verdict.now if newer is None or newer.digest is None else newer.digest,
                        action=action,
                        alarm=verdict.is_alarm,
                        newer=newer is not None,
                    ),
                )
        return list(rebuilds.values())

    async def _ask(self, due: RebuildDue) -> RebuildResult:
        run, tries = RunResult(False, ""), due.tries
        await self._allowed()
        await self._append(due, RebuildOutcome.ASKED, tries, "")
        try:
            while tries < due.action.attempts and not run.succeeded:
                if tries > due.tries:
                    await asyncio.sleep(self._pause_s * 2 ** (tries - 1))
                    await self._allowed()
                tries += 1
                run = await self._try(due)
        except BaseException as error:  # the request must not be lost
            counted = tries if isinstance(error, Exception) else tries - 1  # a cancelled attempt has not ended
            await self._append(due, RebuildOutcome.STOPPED, counted, _STOPPED)
            raise
        outcome = RebuildOutcome.DONE if run.succeeded else RebuildOutcome.FAILED
        await self._append(due, outcome, tries, run.summary)
        try:
            await self._record(due, outcome, run.outcome)  # without the command's output, which may be confidential
        except BoltsealError as error:
            return RebuildResult(due=due, outcome=outcome, tries=tries, summary=run.summary, recorded=error.message)
        return RebuildResult(due=due, outcome=outcome, tries=tries, summary=run.summary)

    async def _try(self, due: RebuildDue) -> RunResult:
        action, timeout_s = due.action, due.action.timeout_us / 1e6
        try:
            new = await self._name_new(due.image, action)
        except BoltsealError as error:
            return RunResult(False, f"the tag of the rebuild can't be determined: {error.message}")
        event = cloud_event(
            replace(due.event, new_image=new),
            id_=f"{due.digest.hex[:32]}-{due.now.hex[:32]}",
            source=SOURCE,
            time_us=self._now_us(),
        )
        if action.command:
            filled = {
                "image": str(due.image),
                "digest": str(due.digest),
                "base": str(due.base),
                "base_digest": str(due.now),
                "new_image": str(new),
                "new_tag": new.tag or "",
            }
            variables = command_variables(filled)
            return await run_command(action.words(filled), event, timeout_s, self._group_file, variables)
        token = None if action.token_env is None else self._tokens[action.token_env]
        return await post_webhook(action.url, event, timeout_s, token)

    async def _append(self, due: RebuildDue, outcome: RebuildOutcome, tries: int, summary: str) -> None:
        line = JournalLine(
            time_us=self._now_us(),
            image=str(due.image),
            base=str(due.base),
            digest=str(due.now),
            outcome=outcome,
            tries=tries,
            summary=summary,
        )
        await asyncio.to_thread(self._journal.append, line)


def _tags_by_repository(reports: Sequence[BaseReport]) -> dict[str, set[Tag]]:
    found: dict[str, set[Tag]] = {}
    for report in reports:
        image = report.wanted.reference
        if image.tag is not None and report.error is None:
            found.setdefault(image.name, set()).add(image.tag)
    return found


def _is_superseded(due: RebuildDue, tags: Mapping[str, set[Tag]]) -> bool:
    """Return whether a later revision of an image's version is among the reports: then only that one is rebuilt."""
    tag = due.image.tag
    return tag is not None and newest_revision(tag, tags.get(due.image.name, ()), due.action.revision) != tag


def _was_rebuilt(due: RebuildDue, tags: Mapping[str, set[Tag]], last: Mapping[tuple[str, str], JournalLine]) -> bool:
    """Return whether another revision of the image was rebuilt for the same image of its base, which should have made this one."""
    tag, known = due.image.tag, frozenset(tags.get(due.image.name, ()))
    if tag is None:
        return False
    root = revised(tag, known, due.action.revision).root
    family = [each for each in known if revised(each, known, due.action.revision).root == root]
    lines = [last.get((str(replace(due.image, tag=each)), str(due.base))) for each in family if each != tag]
    return any(
        line is not None and line.outcome is RebuildOutcome.DONE and line.digest == str(due.now) for line in lines
    )


def _name(reference: Reference) -> str:
    return f"{reference.name}:{reference.tag or ''}"
