"""`boltseal ledger monitor`: follow a ledger from outside, entry by entry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.answer import CommandOutput, Outcome, clean, print_line, say
from boltseal.cli.options import JsonOption
from boltseal.cli.remote import (
    AnonymousOption,
    CaFileOption,
    PlainHttpOption,
    RegistryOptions,
    StrictOption,
    aloud,
    ask,
)

if TYPE_CHECKING:
    from boltseal.client.ledger_monitor.monitor import MonitorReport
    from boltseal.client.transport import Transport


def monitor(
    url: Annotated[
        str, typer.Argument(metavar="URL", show_default=False, help="A registry: https://registry.example.com")
    ],
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", show_default=False, help="The ledger's key, from its keeper.")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state", metavar="DIR", show_default=False, help="What it remembers. Default: the user's state."
        ),
    ] = None,
    tags: Annotated[
        bool, typer.Option("--tags", help="Compare every tag with the ledger, not only those that changed.")
    ] = False,
    every: Annotated[
        int | None,
        typer.Option(
            "--every", metavar="SECONDS", min=1, show_default=False, help="Look again and again; default: once."
        ),
    ] = None,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Follow a ledger from outside: every entry, the tree over them, and what the registry answers.

    Goes on where it stopped the last time. Needs the right `ledger` there. Made for cron: says one line.

    Exit code 1: a rule is broken, or the ledger is not the one that was seen before; 3: could not be checked.
    """
    with CommandOutput("ledger-monitor", as_json=as_json) as answer:
        import time

        reach = RegistryOptions(plain_http, ca_file, anonymous, strict)
        while True:
            report = _look(reach, url, key, state, every_tag=tags)
            _tell(answer, url, report)
            if every is None or answer.outcome is Outcome.DIFFERS:
                return
            answer.outcome = Outcome.HOLDS
            answer.results.clear()
            time.sleep(every)


def _look(reach: RegistryOptions, url: str, key: str | None, state: Path | None, *, every_tag: bool) -> MonitorReport:
    import time

    from boltseal.client.ledger_client import registry_of
    from boltseal.client.ledger_monitor.monitor import Monitor
    from boltseal.client.ledger_monitor.progress_file import MonitorMemory
    from boltseal.client.ledger_trust import LedgerWatch, give_key
    from boltseal.client.state import ClientState
    from boltseal.config import state_folder
    from boltseal.ledger.note import VerifierKey

    folder, registry = state or state_folder(), registry_of(url)
    held = ClientState(folder)
    if key is not None:
        give_key(held, registry, VerifierKey.parse(key), int(time.time()))

    async def run(transport: Transport) -> MonitorReport:
        watch = LedgerWatch(held, transport, lambda: int(time.time()), strict=reach.strict)
        return await Monitor(MonitorMemory(folder, registry), watch, transport, registry, every_tag=every_tag).look()

    return ask(reach, [registry], run)


def _tell(answer: CommandOutput, url: str, report: MonitorReport) -> None:
    for line in aloud(report.followed):
        say(line)
    for problem in report.problems:
        answer.add(ref=url, status="broken", reason=problem)
        say(f"boltseal: {clean(problem)}")
    for reason in report.unchecked:
        answer.add(ref=url, status="unknown", reason=reason)
        say(f"boltseal: could not check: {clean(reason)}")
    status = "broken" if report.problems else "unknown" if report.unchecked else "holds"
    answer.outcome = {"broken": Outcome.DIFFERS, "unknown": Outcome.UNKNOWN, "holds": Outcome.HOLDS}[status]
    answer.add(
        ref=url,
        status=status,
        reason="",
        size=report.size,
        read=report.read,
        names=report.names,
        compared=report.compared,
        given=report.followed.given,
    )
    if not answer.as_json:
        print_line(
            f"{url}: {report.size} entries, {report.read} of them new, {report.names} names, {report.compared} tags "
            f"compared: {status}"
        )
