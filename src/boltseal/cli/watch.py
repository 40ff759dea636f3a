"""`boltseal watch`: remember what tags of other people's registries mean, and say when one moves that should not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from boltseal.cli.answer import CommandOutput, print_line, say
from boltseal.cli.clock import clock_us
from boltseal.cli.onproject import AllowOption, whom_to_ask
from boltseal.cli.onwatch import TagsToWatch, wanted_tags
from boltseal.cli.options import AllowEmptyOption, JsonOption
from boltseal.cli.remote import AnonymousOption, CaFileOption, PlainHttpOption, registry_options
from boltseal.cli.telling import Telling
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import ReferenceUnsuitable, RegistryOptions, ask
from boltseal.commands.text import clean, counted
from boltseal.errors import quote

if TYPE_CHECKING:
    from collections import Counter

    from boltseal.client.tag_observations import TagObservations
    from boltseal.client.transport import Transport
    from boltseal.commands.tag_watch import TagLook

SPREAD: Final = 0.05
"""How much earlier or later a look may be: not everybody's in the same second."""


def watch(
    refs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[REF]...", show_default=False, help="Tags of any registry: node:16.13"),
    ] = None,
    lock: Annotated[
        Path | None,
        typer.Option("--lock", metavar="FILE", show_default=False, help="Every tag of a lock: boltseal.lock"),
    ] = None,
    compose: Annotated[
        Path | None,
        typer.Option("--compose", metavar="FILE", show_default=False, help="Every tag that a Compose file names."),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option("--every", metavar="TIME", show_default=False, help='Look again and again, such as every "6h".'),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end. This is the default.")] = False,
    extends: Annotated[
        str | None,
        typer.Option(
            "--extends", metavar="HEAD", show_default=False, help="A head of the log, kept elsewhere: does it go on?"
        ),
    ] = None,
    allow_empty: AllowEmptyOption = False,
    allow: AllowOption = None,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    as_json: JsonOption = False,
) -> None:
    """Look at tags of other registries, remember what they mean, and say when one moves.

    By one HEAD for each tag, which no registry counts as a pull. A tag that looks like a release (1.4.2, a date, a hash)
    and means something else than before, or is gone, is an alarm; of others a move is a line of their history, which
    `boltseal history` tells. Made for cron: what has not changed is not mentioned.

    Exit code 1: an alarm, or no such tag; 3: one could not be checked, or there was none.
    """
    every_us = _every(every, once=once)
    reach = registry_options(plain_http, ca_file, anonymous)
    while True:
        try:
            with CommandOutput("watch", as_json=as_json) as answer:
                wanted = wanted_tags(refs or (), lock, compose, whom_to_ask(reach, allow or []))
                _look(answer, reach, wanted, extends)
                if not wanted.references and not wanted.left_out and not allow_empty:
                    files = " and ".join(quote(str(file)) for file in (lock, compose) if file is not None)
                    answer.nothing_to_check(f"found 0 tags in {files}", "check --lock and --compose")
        except typer.Exit:
            if every_us is None:
                raise
        if every_us is None:
            return
        _sleep(every_us)


def _every(text: str | None, *, once: bool) -> int | None:
    from boltseal.policy.durations import DurationInvalid, parse_duration

    if text is None:
        return None
    if once:
        raise ReferenceUnsuitable("--once and --every exclude each other")
    span_us = parse_duration(text)
    if span_us < 60_000_000:
        raise DurationInvalid(f'--every {text}: registries are looked at no more often than every "1m"')
    return span_us


def _sleep(span_us: int) -> None:
    import random
    import sys
    import time

    sys.stdout.flush()
    time.sleep(span_us / 1e6 * random.uniform(1 - SPREAD, 1 + SPREAD))  # noqa: S311 - no secret: to not come all at once


def _look(answer: CommandOutput, reach: RegistryOptions, wanted: TagsToWatch, extends: str | None) -> None:
    from boltseal.cli.progress import Progress
    from boltseal.client.state import ClientState
    from boltseal.client.tag_observations import ChainHead, TagObservations
    from boltseal.commands.tag_watch import look_at
    from boltseal.config import state_folder

    kept = None if extends is None else ChainHead.parse(extends)
    telling = Telling.of_user()
    with TagObservations(ClientState(state_folder())) as watched, Progress() as progress:
        if kept is not None and not watched.goes_on_from(kept):
            answer.outcome = Outcome.DIFFERS
            answer.add(ref=str(watched.path), status="rewritten", reason=f"it does not go on from {kept}")
            say(
                f"boltseal: {watched.path} does not go on from {kept}: lines were changed, or cut off; nothing was looked at"
            )
            return

        async def run(transport: Transport) -> Counter[str]:
            from collections import Counter
            from contextlib import aclosing

            found: Counter[str] = Counter()
            async with aclosing(look_at(transport, watched, wanted.references, clock_us, telling.put)) as looks:
                async for look in looks:
                    found[look.status] += 1
                    progress("looking", found.total(), len(wanted.references))
                    _tell(answer, look)
            return found

        found = ask(reach, wanted.registries, run) if wanted.references else None
        for name, reason in wanted.left_out.items():
            _unknown(answer, name, reason)
        _sum_up(answer, watched, found)
    telling.deliver()


def _tell(answer: CommandOutput, look: TagLook) -> None:
    from boltseal.commands.tag_watch import WatchStatus
    from boltseal.ledger.entry import format_time

    if look.error is not None:
        _unknown(answer, str(look.reference), look.error.message)
        return
    if look.alarm or look.status is WatchStatus.ABSENT:
        answer.outcome = Outcome.DIFFERS
    if look.status in (WatchStatus.SAME, WatchStatus.FIRST) and not answer.as_json:
        return  # of ten thousand tags nothing is kept that nobody reads
    saw = look.saw
    reason = _in_words(look)
    answer.add(
        ref=str(look.reference),
        status=look.status,
        reason=reason,
        alarm=look.alarm,
        release=look.release,
        digest=None if saw is None or saw.now.digest is None else str(saw.now.digest),
        was=None if saw is None or saw.last is None else str(saw.last),
        first_seen=None if saw is None else format_time(saw.now.first_seen_us),
        line=None if saw is None else saw.now.line,
    )
    if not answer.as_json and reason:
        print_line(clean(reason))


def _in_words(look: TagLook) -> str:
    from boltseal.commands.tag_watch import WatchStatus

    match look.status:
        case WatchStatus.ABSENT:
            return f"{look.reference}: there is no such tag, and none was seen before"
        case WatchStatus.BACK:
            return f"{look.reference} is back, and means what it meant"
        case _ if look.changed:
            return look.event().text
        case WatchStatus.GONE:
            return f"{look.reference} is still gone"
        case _:
            return ""


def _unknown(answer: CommandOutput, name: str, reason: str) -> None:
    if answer.outcome is not Outcome.DIFFERS:
        answer.outcome = Outcome.UNKNOWN
    answer.add(ref=name, status="unknown", reason=reason)
    say(clean(f"boltseal: {name}: could not check: {reason}"))


def _sum_up(answer: CommandOutput, watched: TagObservations, found: Counter[str] | None) -> None:
    head = watched.head()
    answer.add(ref=str(watched.path), status="log", reason="", head=str(head))
    counts = ", ".join(f"{number} {status}" for status, number in sorted((found or {}).items()))
    say(f"{counted(0 if found is None else found.total(), 'tag')}{f': {counts}' if counts else ''}; log {head}")
