"""Asks for rebuilds of what is outdated: once for each move of a base, bases of bases first, each request written down.

In this order, for each image that is outdated and that an `[[on_outdated]]` is for:

1. Its place: what stands on itself, over others or by its own tag, is left out, since no rebuild would end that.
2. The journal: what was asked for since the base moved is not asked for again, whatever came of it; but who was told to end
   in the middle goes on with the tries that are left.
3. "asked" is written down, then the command is run or the webhook called, up to `attempts` times with growing pauses.
4. What came of it is written down, and told to the registry's ledger where that takes it.

An image that fails keeps no other one from its turn. What stands on one that was just asked for waits until it was looked at
again, for its base is about to move; what stands on one that failed waits for the next look, when it may have been built. One
at a time: a machine that builds is busy with one; and one run at a time, of all that share a journal.
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
from boltseal.oci.reference import Reference
from boltseal.policy.rebuild_actions import RebuildAction, action_for
from boltseal.project.bases.base_scan import BaseReport
from boltseal.project.bases.freshness import BaseStatus
from boltseal.project.bases.rebuild_journal import JournalLine, RebuildJournal, RebuildOutcome
from boltseal.project.bases.rebuild_order import bases_first, circles
from boltseal.project.bases.rebuild_runner import RunResult, command_values, post_webhook, run_command

PAUSE_S: Final = 2.0
MAX_AT_A_LOOK: Final = 100
"""How many are asked for at a time; the rest at the next look."""
_STOPPED: Final = "boltseal has ended meanwhile; the tries that are left follow"
SOURCE: Final = "boltseal"


class AskedElsewhere(Unavailable):
    """Another run is asking for rebuilds, out of the same journal."""


@dataclass(frozen=True, slots=True)
class RebuildDue:
    """A rebuild that is asked for. `digest`: of the image; `built_on` and `now`: what its base meant, and means.

    `tries`: how many of the action's attempts were made before, by somebody who was told to end.
    """

    image: Reference
    digest: Digest
    base: Reference
    built_on: Digest
    now: Digest
    action: RebuildAction
    tries: int = 0

    @property
    def event(self) -> BaseOutdated:
        """What is told of it."""
        return BaseOutdated(self.image, self.base, self.built_on, self.now)


@dataclass(frozen=True, slots=True)
class RebuildResult:
    """What came of one. `recorded`: why the ledger does not say so, "" where it does or where nobody wants it to."""

    due: RebuildDue
    outcome: RebuildOutcome
    tries: int
    told: str
    recorded: str = ""


class RebuildPlan(NamedTuple):
    """What is outdated. `before`: what was asked for already, and what is known of that; `endless`: what stands on itself."""

    due: list[RebuildDue]
    before: list[tuple[RebuildDue, JournalLine]]
    endless: list[RebuildDue]

    def words(self, most: int) -> list[str]:
        """A line for each for which no rebuild is asked, as far as something went wrong with it; at most so many."""
        lines = [
            f"{due.image} stands on itself ({due.base}): a rebuild would only ask for the next" for due in self.endless
        ]
        for due, line in self.before:
            if line.outcome is not RebuildOutcome.DONE:
                how = "nobody has seen the end of it" if line.outcome is RebuildOutcome.ASKED else f"it {line.outcome}"
                at = f"{format_time(line.time_us)[:16].replace('T', ' ')} UTC"
                lines.append(f"{due.image}: a rebuild was asked for at {at}, {how}, and it is not asked for again")
        more = len(lines) - most
        return lines if more <= 0 else [*lines[:most], f"{more} more"]


Record = Callable[[RebuildDue, RebuildOutcome, str], Awaitable[None]]
"""Writes a request's outcome, and how it ended in our words, into the ledger of the image's registry, where others read it.

Whatever it raises is said, and stops nothing.
"""


async def record_nothing(_due: RebuildDue, _outcome: RebuildOutcome, _told: str) -> None:
    """There is no ledger to write to."""


class Rebuilder:
    """Asks. `tokens`: by the name of a variable, what a webhook wants to see. `now_us`: the clock."""

    def __init__(
        self,
        actions: Sequence[RebuildAction],
        journal: RebuildJournal,
        now_us: Callable[[], int],
        *,
        record: Record = record_nothing,
        tokens: Mapping[str, str] | None = None,
        pause_s: float = PAUSE_S,
        tell: Callable[[BaseOutdated], None] = lambda _event: None,
    ) -> None:
        self._actions = actions
        self._journal = journal
        self._now_us = now_us
        self._record = record
        self._tokens = tokens or {}
        self._pause_s = pause_s
        self._tell = tell
        self._failed: set[str] = set()

    def due(self, answers: Sequence[BaseReport]) -> list[RebuildDue]:
        """What is to be asked for, bases of bases first, and was not asked for before. StateUnusable."""
        return self.sort(answers).due

    def sort(self, answers: Sequence[BaseReport]) -> RebuildPlan:
        """All that is outdated, by whether a rebuild is asked for. StateUnusable."""
        last, sorted_ = self._journal.last(), RebuildPlan([], [], [])
        endless = circles(
            (_name(one.wanted.reference), _name(verdict.claim.base))
            for one in answers
            for verdict in one.verdicts
            if verdict.claim is not None and verdict.claim.base is not None
        )
        for one in answers:
            open_ = []
            for due in self._outdated(one):
                line = last.get((str(due.image), str(due.base)))
                if _name(due.image) in endless:
                    sorted_.endless.append(due)
                elif line is None or line.digest != str(due.now):
                    open_.append(due)
                elif line.outcome is RebuildOutcome.STOPPED and line.tries < due.action.attempts:
                    open_.append(replace(due, tries=line.tries))
                else:
                    sorted_.before.append((due, line))
            sorted_.due.extend(open_[:1])  # one rebuild is for all of its platforms
        found = bases_first(sorted_.due, lambda one: _name(one.image), lambda one: _name(one.base))
        return sorted_._replace(due=found)

    async def rebuild(self, answers: Sequence[BaseReport]) -> list[RebuildResult]:
        """Ask for all that is due, one after the other. AskedElsewhere, StateUnusable."""
        with self._journal.state.alone("rebuilding") as alone:
            if not alone:
                raise AskedElsewhere("another run is asking for rebuilds; this one leaves it to that")
            return await self._rebuild(answers)

    async def _rebuild(self, answers: Sequence[BaseReport]) -> list[RebuildResult]:
        found: list[RebuildResult] = []
        waits = set(self._failed)
        for due in self.due(answers):
            if _name(due.base) in waits:
                waits.add(_name(due.image))
                continue
            if len(found) == MAX_AT_A_LOOK:
                break
            self._tell(due.event)
            asked = await self._ask(due)
            waits.add(_name(due.image))
            if asked.outcome is RebuildOutcome.FAILED:
                self._failed.add(_name(due.image))
            found.append(asked)
        return found

    def _outdated(self, one: BaseReport) -> list[RebuildDue]:
        """The rebuilds that an answer asks for, each base once; several where its platforms stand on several."""
        image = one.wanted.reference
        found: dict[Reference, RebuildDue] = {}
        action = action_for(self._actions, image.repository, image.tag)
        if action is None or one.digest is None or one.error is not None:
            return []
        named = replace(image, digest=None) if image.tag else image
        for verdict in one.verdicts:
            claim = verdict.claim
            if verdict.status is BaseStatus.OUTDATED and claim is not None and claim.base is not None and verdict.now:
                built_on = verdict.built_on or one.digest
                found.setdefault(claim.base, RebuildDue(named, one.digest, claim.base, built_on, verdict.now, action))
        return list(found.values())

    async def _ask(self, due: RebuildDue) -> RebuildResult:
        ran, tries = RunResult(False, ""), due.tries
        self._note(due, RebuildOutcome.ASKED, tries, "")
        try:
            while tries < due.action.attempts and not ran.well:
                if tries > due.tries:
                    await asyncio.sleep(self._pause_s * 2 ** (tries - 1))
                tries += 1
                ran = await self._try(due)
        except BaseException:  # whoever asks is ended, or has a defect: the rebuild is not lost by it
            self._note(due, RebuildOutcome.STOPPED, tries, _STOPPED)
            raise
        outcome = RebuildOutcome.DONE if ran.well else RebuildOutcome.FAILED
        self._note(due, outcome, tries, ran.told)
        try:
            await self._record(due, outcome, ran.how)  # what it said itself is nobody else's to read
        except BoltsealError as error:
            return RebuildResult(due, outcome, tries, ran.told, error.message)
        return RebuildResult(due, outcome, tries, ran.told)

    async def _try(self, due: RebuildDue) -> RunResult:
        action, timeout_s = due.action, due.action.timeout_us / 1e6
        event = cloud_event(
            due.event, id_=f"{due.digest.hex[:32]}-{due.now.hex[:32]}", source=SOURCE, time_us=self._now_us()
        )
        if action.command:
            filled = command_values(str(due.image), str(due.digest), str(due.base), str(due.now))
            return await run_command(action.words(filled), event, timeout_s)
        token = None if action.token_env is None else self._tokens[action.token_env]
        return await post_webhook(action.url, event, timeout_s, token)

    def _note(self, due: RebuildDue, outcome: RebuildOutcome, tries: int, told: str) -> None:
        self._journal.note(
            JournalLine(self._now_us(), str(due.image), str(due.base), str(due.now), outcome, tries, told)
        )


def _name(reference: Reference) -> str:
    return f"{reference.name}:{reference.tag or ''}"
