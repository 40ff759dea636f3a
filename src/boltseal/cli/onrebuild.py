"""What `boltseal outdated` does beside looking: asks for rebuilds, and shows which were asked for."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, NamedTuple

from boltseal.cli.answer import CommandOutput, print_wrapped, say
from boltseal.cli.clock import clock_us
from boltseal.commands.text import clean, counted
from boltseal.errors import Invalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from boltseal.cli.onbases import Aim
    from boltseal.client.transport import Transport
    from boltseal.commands.registry_access import RegistryOptions
    from boltseal.policy.rebuild_actions import RebuildAction
    from boltseal.project.bases.base_scan import BaseReport, BaseScanner, ImageToCheck
    from boltseal.project.bases.rebuild_journal import RebuildJournal, RebuildOutcome
    from boltseal.project.bases.rebuild_requests import RebuildDue, RebuildResult

MAX_ROUNDS = 10
MAX_TOLD = 20
"""How many rebuilds that were asked for before are named."""


class NothingToRun(Invalid):
    """Rebuilds are asked for, and nobody said how."""


class Builders(NamedTuple):
    """What the user's own file says is done."""

    actions: Sequence[RebuildAction]
    tokens: Mapping[str, str]
    journal: RebuildJournal


def rebuilders(wanted: bool) -> Builders | None:
    """What is done for an image that is outdated; None where it is not asked for. NothingToRun, ConfigInvalid."""
    if not wanted:
        return None
    from boltseal.config import client_paths, secret
    from boltseal.policy.rebuild_actions import token_of
    from boltseal.project.settings import client_settings

    path = client_paths().settings
    actions = client_settings(path).on_outdated
    if not actions:
        raise NothingToRun(f"--rebuild: {path} has no [[on_outdated]] that says what to run")
    tokens = {name: token_of(name, secret(name)) for action in actions if (name := action.token_env) is not None}
    return Builders(actions, tokens, _journal())


def end_on_sigterm() -> None:
    """Whoever ends us, such as a timer, has the task that runs now cancelled: what it runs is ended too, and written down."""
    import asyncio

    task = asyncio.current_task()
    if task is not None and threading.current_thread() is threading.main_thread():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


async def ask_for(
    builders: Builders, looker: BaseScanner, wanted: Sequence[ImageToCheck], told: list[BaseReport]
) -> list[RebuildResult]:
    """Ask for all that is due. What was built is looked at again: others stand on it, and may be outdated by it."""
    from boltseal.project.bases.rebuild_journal import RebuildOutcome
    from boltseal.project.bases.rebuild_requests import AskedElsewhere, Rebuilder

    rebuilder = Rebuilder(
        builders.actions,
        builders.journal,
        clock_us,
        record=lambda due, outcome, words: _record(looker, due, outcome, words),
        tokens=builders.tokens,
        tell=lambda event: say(f"boltseal: {event.text}; asking for a rebuild"),
    )
    found = rebuilder.sort(told)
    for words in found.words(MAX_TOLD):
        say(clean(f"boltseal: {words}"))
    if done := sum(line.outcome is RebuildOutcome.DONE for _, line in found.before):
        say(f"boltseal: {counted(done, 'rebuild')} asked for before, and done; `boltseal outdated --log` has them")
    all_asked: list[RebuildResult] = []
    for _ in range(MAX_ROUNDS):
        try:
            asked = await rebuilder.rebuild(told)
        except AskedElsewhere as error:
            say(f"boltseal: {error.message}")
            break
        all_asked += asked
        if not any(one.outcome is RebuildOutcome.DONE and one.due.action.command for one in asked):
            break
        told[:] = await looker.look(wanted, afresh=True)
    return all_asked


async def _record(looker: BaseScanner, due: RebuildDue, outcome: RebuildOutcome, words: str) -> None:
    """Into the ledger of the image's registry, if it keeps one."""
    from boltseal.client.ledger_records import NoRecords, record
    from boltseal.ledger.entry import EntryKind
    from boltseal.project.bases.ledger_entries import requested_extra

    extra = requested_extra(due.base, due.built_on, due.now, str(outcome), words)
    try:
        await record(looker.transport, EntryKind.REBUILD_REQUESTED, due.image, due.digest, extra)
    except NoRecords:
        return


def tell_asked(answer: CommandOutput, asked: Sequence[RebuildResult]) -> None:
    """What came of each."""
    for one in asked:
        due = one.due
        answer.add(
            ref=str(due.image),
            status=f"rebuild {one.outcome}",
            reason=one.told,
            base=str(due.base),
            means=str(due.now),
            tries=one.tries,
        )
        if not answer.as_json:
            print_wrapped(f"rebuild {one.outcome:<6}  ", clean(f"{due.image}: {one.told}"))
        if one.recorded:
            say(clean(f"boltseal: {due.image}: the ledger does not say so: {one.recorded}"))


def tell_log(answer: CommandOutput, aim: Aim, reach: RegistryOptions) -> None:
    """Which rebuilds were asked for: by us, or with --registry by anybody, as its ledger has it."""
    rows = _of_registry(aim.registry, reach) if aim.registry is not None else _of_journal()
    for when, image, base, digest, outcome, words in rows:
        answer.add(ref=image, status=outcome, reason=words, time=when, base=base, means=digest)
        if answer.as_json:
            continue
        print_wrapped(f"{when[:19].replace('T', ' ')}  ", clean(f"{outcome:<7} {image}"))
        print_wrapped("for ", clean(f"{base} at {digest[:19]}" + (f": {words}" if words else "")), indent=21)
    say(f"{len(rows)} {'line' if len(rows) == 1 else 'lines'}")


_Row = tuple[str, str, str, str, str, str]


def _of_journal() -> list[_Row]:
    from boltseal.ledger.entry import format_time

    return [
        (format_time(one.time_us), one.image, one.base, one.digest, str(one.outcome), one.told)
        for one in _journal().lines()
    ]


def _of_registry(registry: str, reach: RegistryOptions) -> list[_Row]:
    from boltseal.commands.registry_access import ask_followed

    async def read(transport: Transport) -> list[_Row]:
        from boltseal.client.catalog import repositories
        from boltseal.client.ledger_records import records
        from boltseal.ledger.entry import EntryKind, format_time

        found: list[tuple[int, _Row]] = []
        async for repository in repositories(transport, registry):
            for index, entry in await records(transport, registry, repository):
                if entry.kind is EntryKind.REBUILD_REQUESTED:
                    image = f"{registry}/{repository}" + (f":{entry.tag}" if entry.tag else f"@{entry.digest}")
                    said = entry.extra
                    row = (
                        format_time(entry.time_us),
                        image,
                        said.get("base.name", ""),
                        said.get("base.digest", ""),
                        said.get("outcome", ""),
                        said.get("told", ""),
                    )
                    found.append((index, row))
        return [row for _, row in sorted(found)]

    return ask_followed(reach, [registry], read)


def _journal() -> RebuildJournal:
    from boltseal.client.state import ClientState
    from boltseal.config import state_folder
    from boltseal.project.bases.rebuild_journal import RebuildJournal

    return RebuildJournal(ClientState(state_folder()))
