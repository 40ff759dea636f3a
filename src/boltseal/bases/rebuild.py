"""Asks for rebuilds of what is outdated: once for each new digest of a base, bases of bases first, each request written down.

In this order, for each image that is outdated and that an `[[on_outdated]]` is for:

1. The journal: what was asked for with this very digest of the base is not asked for again, whatever came of it.
2. "asked" is written down, then the command is run or the webhook called, up to `attempts` times with growing pauses.
3. What came of it is written down, and told to the registry's ledger where that takes it.

An image that fails keeps no other one from its turn; but what stands on it is left for the next look, when it may have been
built. One at a time: a machine that builds is busy with one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from boltseal.bases.freshness import Status
from boltseal.bases.journal import Journal, Line, Outcome
from boltseal.bases.look import Answered
from boltseal.bases.order import bases_first
from boltseal.bases.running import Ran, post_webhook, run_command, values
from boltseal.errors import BoltsealError
from boltseal.events import BaseOutdated, cloud_event
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.policy.on_outdated import Action, action_for

PAUSE_S: Final = 2.0
MAX_AT_A_LOOK: Final = 100
"""How many are asked for at a time; the rest at the next look."""
SOURCE: Final = "boltseal"


@dataclass(frozen=True, slots=True)
class Due:
    """A rebuild that is asked for. `digest`: of the image; `built_on` and `now`: what its base meant, and means."""

    image: Reference
    digest: Digest
    base: Reference
    built_on: Digest
    now: Digest
    action: Action

    @property
    def event(self) -> BaseOutdated:
        """What is told of it."""
        return BaseOutdated(self.image, self.base, self.built_on, self.now)


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of one. `recorded`: why the ledger does not say so, "" where it does or where nobody wants it to."""

    due: Due
    outcome: Outcome
    tries: int
    told: str
    recorded: str = ""


Record = Callable[[Due, Outcome, str], Awaitable[None]]
"""Writes a request's outcome, and how it ended in our words, into the ledger of the image's registry, where others read it.

Whatever it raises is said, and stops nothing.
"""


async def nobody_records(_due: Due, _outcome: Outcome, _told: str) -> None:
    """There is no ledger to write to."""


class Rebuilder:
    """Asks. `tokens`: by the name of a variable, what a webhook wants to see. `now_us`: the clock."""

    def __init__(
        self,
        actions: Sequence[Action],
        journal: Journal,
        now_us: Callable[[], int],
        *,
        record: Record = nobody_records,
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

    def due(self, answers: Sequence[Answered]) -> list[Due]:
        """What is to be asked for, bases of bases first, and was not asked for before. StateUnusable."""
        asked = self._journal.asked()
        every = [due for one in answers if (due := self._due(one)) is not None]
        found = [due for due in every if (str(due.image), str(due.base), str(due.now)) not in asked]
        return bases_first(found, lambda one: _name(one.image), lambda one: _name(one.base))

    async def rebuild(self, answers: Sequence[Answered]) -> list[Asked]:
        """Ask for all that is due, one after the other. StateUnusable."""
        found: list[Asked] = []
        failed: set[str] = set()
        for due in self.due(answers)[:MAX_AT_A_LOOK]:
            if _name(due.base) in failed:  # next time, when it may have been built
                failed.add(_name(due.image))
                continue
            self._tell(due.event)
            asked = await self._ask(due)
            if asked.outcome is Outcome.FAILED:
                failed.add(_name(due.image))
            found.append(asked)
        return found

    def _due(self, one: Answered) -> Due | None:
        verdict = one.verdict
        claim, image = verdict.claim, one.wanted.reference
        if verdict.status is not Status.OUTDATED or claim is None or claim.base is None or verdict.now is None:
            return None
        action = action_for(self._actions, image.repository, image.tag)
        if action is None or one.digest is None:
            return None
        built_on = verdict.built_on or one.digest
        return Due(
            replace(image, digest=None) if image.tag else image, one.digest, claim.base, built_on, verdict.now, action
        )

    async def _ask(self, due: Due) -> Asked:
        self._note(due, Outcome.ASKED, 0, "")
        ran, tries = Ran(False, ""), 0
        while tries < due.action.attempts and not ran.well:
            if tries:
                await asyncio.sleep(self._pause_s * 2 ** (tries - 1))
            tries += 1
            ran = await self._try(due)
        outcome = Outcome.DONE if ran.well else Outcome.FAILED
        self._note(due, outcome, tries, ran.told)
        try:
            await self._record(due, outcome, ran.how)  # what it said itself is nobody else's to read
        except BoltsealError as error:
            return Asked(due, outcome, tries, ran.told, error.message)
        return Asked(due, outcome, tries, ran.told)

    async def _try(self, due: Due) -> Ran:
        action, timeout_s = due.action, due.action.timeout_us / 1e6
        event = cloud_event(
            due.event, id_=f"{due.digest.hex[:32]}-{due.now.hex[:32]}", source=SOURCE, time_us=self._now_us()
        )
        if action.command:
            filled = values(str(due.image), str(due.digest), str(due.base), str(due.now))
            return await run_command(action.words(filled), event, timeout_s)
        token = None if action.token_env is None else self._tokens[action.token_env]
        return await post_webhook(action.url, event, timeout_s, token)

    def _note(self, due: Due, outcome: Outcome, tries: int, told: str) -> None:
        self._journal.note(Line(self._now_us(), str(due.image), str(due.base), str(due.now), outcome, tries, told))


def _name(reference: Reference) -> str:
    return f"{reference.name}:{reference.tag or ''}"
