"""`boltseal keep ls`: list the images that are kept on an engine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from boltseal.cli.clock import clock_us
from boltseal.cli.engine_options import HostOption
from boltseal.cli.kept_text import kept_fields, seconds_text
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput, print_line, say
from boltseal.cli.remote import registry_options
from boltseal.cli.table import print_table
from boltseal.commands.engine_connection import tag_name
from boltseal.commands.keep_ls import kept_images
from boltseal.commands.text import clean
from boltseal.host.keeper import KeptState, ListedImage


def keep_ls(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[IMAGE]", show_default=False, help="Of one name: localhost:5000/shop/app:latest"),
    ] = None,
    forget_gone: Annotated[
        bool, typer.Option("--forget-gone", help="Delete the records of images that are gone. Removes no image.")
    ] = False,
    host: HostOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the images that are kept on an engine, the newest of each name first.

    Exit code 1: one of them is gone, or is not protected from the next prune.
    """
    with CommandOutput("keep-ls", as_json=as_json) as output:
        wanted = None if name is None else tag_name(name)
        found = kept_images(wanted, host, registry_options(), forget_gone=forget_gone)
        output.outcome = found.outcome
        for each in found.forgotten:
            say(clean(f"forgotten: {each.name.familiar()} of {each.digest or each.image}"))
        for image in found.images:
            output.add(**_fields(image))
        if not found.images:
            say("nothing is kept on this engine" if name is None else f"nothing is kept of {name} on this engine")
        elif not as_json:
            for familiar, rows in _by_name(found.images, clock_us()).items():
                print_line(familiar)
                print_table(("  NO", "DIGEST", "KEPT", "RAN", "STATE"), rows, whole=("  NO", "DIGEST", "KEPT", "RAN"))


def _fields(each: ListedImage) -> dict[str, object]:
    return {
        "ref": str(each.kept.name),
        "status": str(each.standing),
        "reason": _state(each),
        "number": each.number,
        "current": each.current,
        "recorded": each.recorded,
        "ran": None if each.ran_us is None else seconds_text(each.ran_us),
        "held": list(each.held),
        **(kept_fields(each.kept) or {}),
    }


def _by_name(listed: Iterable[ListedImage], now_us: int) -> dict[str, list[tuple[str, ...]]]:
    """Return the rows of a table for each name."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for each in listed:
        digest = str(each.kept.digest or each.kept.image)
        row = (
            f"  {each.number}",
            digest if each.kept.digest is not None else f"{digest} (ID)",
            seconds_text(each.kept.kept_us) if each.recorded else "?",
            "-" if each.ran_us is None else seconds_text(each.ran_us),
            clean(_state(each)),
        )
        found.setdefault(clean(each.kept.name.familiar()), []).append(row)
    return found


def _state(each: ListedImage) -> str:
    state = {
        KeptState.KEPT: "kept",
        KeptState.LOOSE: "its keep tag was removed: the next prune may delete it",
        KeptState.ARCHIVED: "removed from the engine, archived with its releases: `boltseal rollback` restores it",
        KeptState.GONE: "gone: it was removed",
        KeptState.OTHER: "its keep tag is on another image",
    }[each.standing]
    copy = [] if each.kept.copy is None else [f"copy: {each.kept.copy.name}"]
    if each.standing in (KeptState.GONE, KeptState.OTHER):
        return "; ".join([state, *copy])
    notes = ["has the name now"] if each.current else []
    notes += [] if each.recorded else ["which tag it had is not recorded here"]
    notes += [] if each.kept.until_us is None else [f"until {seconds_text(each.kept.until_us)}"]
    return "; ".join([state, *notes, *_reasons(each.held), *copy])


def _reasons(held: Iterable[str]) -> list[str]:
    """Return why an image is held, with the releases of each project in one text."""
    releases: dict[str, list[int]] = {}
    others = []
    for reason in held:
        project, slash, number = reason.removeprefix("release ").partition("/")
        if slash and number.isdecimal():
            releases.setdefault(project, []).append(int(number))
        else:
            others.append(f"for {reason}")
    found = []
    for project, numbers in sorted(releases.items()):
        listed = sorted(numbers)
        found.append(f"for release {project}/{listed[-1]}" + (f" and {len(listed) - 1} earlier" if listed[1:] else ""))
    return found + others
