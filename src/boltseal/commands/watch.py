"""`boltseal watch`: resolve tags of other registries, store the observations, and send alarms for release tags that moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from boltseal.client.tag_observations import ChainHead, TagObservations
from boltseal.client.transport import Transport
from boltseal.commands.notifications import Notifications
from boltseal.commands.outcome import Outcome
from boltseal.commands.progress import Progress, no_progress
from boltseal.commands.project_images import registry_filter
from boltseal.commands.registry_access import RegistryOptions, ask
from boltseal.commands.tag_watch import TagLook, WatchStatus, look_at
from boltseal.commands.watched_tags import WatchedTags, watched_tags
from boltseal.policy.tag_expectations import TagExpectations


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """Which tags to look at. `extends`: an earlier end of the log that was stored elsewhere; None to skip that check."""

    refs: tuple[str, ...] = ()
    lock: Path | None = None
    compose: Path | None = None
    extends: str | None = None
    allow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WatchReport:
    """The result of one round over watched tags.

    `log`: the file of observations; `rewritten`: it does not extend the given end of the log, so no tag was resolved.
    `counts`: tags by status. `empty`: the files name no tag.
    """

    outcome: Outcome
    log: Path
    head: str = ""
    rewritten: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    empty: bool = False


def watch_once(
    request: WatchRequest,
    options: RegistryOptions,
    report: Callable[[TagLook], None],
    progress: Progress = no_progress,
) -> WatchReport:
    """Resolve each tag once, and deliver alarms. `report`: receives each result at once, so that none need be kept.

    Raises: Invalid, LockInvalid, ObservationsCorrupt, StateUnusable, OutboxUnusable.
    """
    client = options.client
    wanted = watched_tags(request.refs, request.lock, request.compose, registry_filter(options, request.allow))
    kept = None if request.extends is None else ChainHead.parse(request.extends)
    notifications = Notifications.of_user(client)
    with TagObservations(client.state) as observations:
        if kept is not None and not observations.extends_head(kept):
            return WatchReport(Outcome.DIFFERS, observations.path, rewritten=str(kept))
        outcome, counts = _look(wanted, options, observations, notifications, report, progress)
        if wanted.left_out:
            outcome = outcome.worse(Outcome.UNKNOWN)
        result = WatchReport(
            outcome=outcome,
            log=observations.path,
            head=str(observations.head()),
            counts=counts,
            left_out=wanted.left_out,
            empty=not wanted.references and not wanted.left_out,
        )
    notifications.deliver()
    return result


def _look(
    wanted: WatchedTags,
    options: RegistryOptions,
    observations: TagObservations,
    notifications: Notifications,
    report: Callable[[TagLook], None],
    progress: Progress,
) -> tuple[Outcome, Counter[str]]:
    counts: Counter[str] = Counter()
    if not wanted.references:
        return Outcome.HOLDS, counts

    async def run(transport: Transport) -> Outcome:
        outcome = Outcome.HOLDS
        expectations = TagExpectations(options.client.settings.tags)
        looks = look_at(
            transport, observations, wanted.references, options.client.now_us, notifications.put, expectations
        )
        async with aclosing(looks):
            async for look in looks:
                counts[look.status] += 1
                progress("looking", counts.total(), len(wanted.references))
                outcome = outcome.worse(_outcome(look))
                report(look)
        return outcome

    return ask(options, wanted.registries, run), counts


def _outcome(look: TagLook) -> Outcome:
    if look.error is not None:
        return Outcome.UNKNOWN
    return Outcome.DIFFERS if look.alarm or look.status is WatchStatus.ABSENT else Outcome.HOLDS
