"""`boltseal kept`: which images are kept on an engine, and what would bring them back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.answer import CommandOutput, Outcome, clean, print_line, print_table, say
from boltseal.cli.clock import clock_us
from boltseal.cli.keeping import kept_fields, on_host, tagged
from boltseal.cli.onhost import HostOption
from boltseal.cli.options import JsonOption
from boltseal.cli.remote import RegistryOptions

if TYPE_CHECKING:
    from boltseal.client.transport import Transport
    from boltseal.host.engine_images import EngineHost
    from boltseal.host.keeper import ListedImage


def kept(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", show_default=False, help="Of one name: localhost:5000/shop/app:latest"),
    ] = None,
    forget_gone: Annotated[
        bool, typer.Option("--forget-gone", help="Forget those that are there no more. Removes no image.")
    ] = False,
    host: HostOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the images that are kept on an engine, the newest of each name first.

    Exit code 1: one of them is there no more, or nothing holds it against the next prune.
    """
    with CommandOutput("kept", as_json=as_json) as answer:
        wanted = None if name is None else tagged(name)

        async def run(opened: EngineHost, _: Transport) -> list[ListedImage]:
            from boltseal.host.keeper import Keeper

            keeper = Keeper(opened)
            await opened.images_in_use()  # what runs is seen to run
            found = await keeper.list_kept(wanted)
            gone = await keeper.forget_gone(found) if forget_gone else []
            for each in gone:
                say(clean(f"forgotten: {each.name.familiar()} of {(each.digest or each.image).short}"))
            return [each for each in found if each.kept not in gone]

        listed = on_host(RegistryOptions(), (), host, run)
        for each in listed:
            _add(answer, each)
        if not listed:
            say("nothing is kept on this engine" if name is None else f"nothing is kept of {name} on this engine")
        elif not as_json:
            for name_, rows in _by_name(listed).items():
                print_line(name_)
                print_table(("  NO", "DIGEST", "KEPT", "RAN", "STATE"), rows, whole=("  NO", "DIGEST", "KEPT", "RAN"))


def _add(answer: CommandOutput, each: ListedImage) -> None:
    from boltseal.host.keeper import KeptState
    from boltseal.lockfile.format import time_text

    if each.standing is not KeptState.KEPT:
        answer.outcome = Outcome.DIFFERS
    answer.add(
        ref=str(each.kept.name),
        status=str(each.standing),
        reason=_state(each),
        number=each.number,
        current=each.current,
        recorded=each.recorded,
        ran=None if each.ran_us is None else time_text(each.ran_us - each.ran_us % 1_000_000),
        held=list(each.held),
        **(kept_fields(each.kept) or {}),
    )


def _by_name(listed: list[ListedImage]) -> dict[str, list[tuple[str, ...]]]:
    """The lines of a table for each name."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for each in listed:
        digest = (each.kept.digest or each.kept.image).short.removeprefix("sha256:")
        row = (
            f"  {each.number}",
            digest if each.kept.digest is not None else f"{digest} (ID)",
            _ago(each.kept.kept_us) if each.recorded else "?",
            "-" if each.ran_us is None else _ago(each.ran_us),
            clean(_state(each)),
        )
        found.setdefault(clean(each.kept.name.familiar()), []).append(row)
    return found


def _state(each: ListedImage) -> str:
    from boltseal.host.keeper import KeptState

    words = {
        KeptState.KEPT: "kept",
        KeptState.LOOSE: "its keep tag was taken away: the next prune may remove it",
        KeptState.GONE: "gone: somebody has removed it",
        KeptState.OTHER: "its keep tag stands on another image",
    }[each.standing]
    copy = [] if each.kept.copy is None else [f"copy: {each.kept.copy.name}"]
    if each.standing in (KeptState.GONE, KeptState.OTHER):
        return "; ".join([words, *copy])
    now = ["what the name means"] if each.current else []
    now += [] if each.recorded else ["which tag it had is not recorded here"]
    until = [] if each.kept.until_us is None else [f"until {_day(each.kept.until_us)}"]
    return "; ".join([words, *now, *until, *(f"for {reason}" for reason in each.held), *copy])


def _day(time_us: int) -> str:
    from boltseal.lockfile.format import time_text

    return time_text(time_us - time_us % 1_000_000)[:10]


def _ago(time_us: int) -> str:
    from boltseal.lockfile.compare import age

    return f"{age(time_us, clock_us())} ago"
