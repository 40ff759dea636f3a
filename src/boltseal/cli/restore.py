"""`boltseal restore`: put a floating tag back to what it meant before."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.answer import CommandOutput, print_line, say
from boltseal.cli.moment import parse_moment
from boltseal.cli.onstore import NotOurs, RefArgument, admin, given_reason, local_reference, on_store
from boltseal.cli.options import ConfigOption, DataOption, JsonOption, ReasonOption, settings_of
from boltseal.errors import Invalid, quote

if TYPE_CHECKING:
    from boltseal.server.registry.restores import RestoreTarget


class AimInvalid(Invalid):
    """What to go back to can't be read."""


def restore(
    ref: RefArgument,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="DIGEST|INDEX|TIME",
            show_default=False,
            help="What it meant: a digest, the index of an entry, or a time such as 2026-11-24T08:29 (UTC).",
        ),
    ],
    reason: ReasonOption,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a floating tag back to what it meant before, as its history says.

    Recorded like every move; a sealed tag is refused. What the tag means until now stays pullable by digest. Works beside
    a running server.
    """
    with CommandOutput("restore", as_json=as_json) as answer:
        settings = settings_of(config, data=data)
        why = given_reason(reason)
        reference, _ = local_reference(ref, settings)
        tag = reference.tag
        if tag is None:
            raise NotOurs(f"only a tag can be restored, such as {reference.name}:latest")
        aim = _aim(to)
        done = on_store(
            settings,
            lambda store: store.registry.restores.restore(reference.repository, tag, aim, admin(), why),
        )
        status = "restored" if done.changed else "unchanged"
        answer.add(
            ref=str(reference),
            status=status,
            digest=str(done.digest),
            was=str(done.was) if done.was is not None else None,
            entry=done.entry_index,
        )
        if not as_json:
            print_line(f"{reference}@{done.digest}")
            before = "it was not there" if done.was is None else f"it meant {done.was.short}, which stays pullable"
            said = f"means this again; until now {before}" if done.changed else "means this already"
            say(f"{reference} {said} (ledger entry {done.entry_index})")


def _aim(text: str) -> RestoreTarget:
    from boltseal.oci.digest import Digest
    from boltseal.server.registry.restores import ByIndex, ByTime

    if text.isascii() and text.isdigit() and len(text) <= 18:
        return ByIndex(int(text))
    if ":" in text and re.match(r"[a-z0-9]+:[0-9a-f]{32}", text):
        return Digest.parse(text)
    time_us = parse_moment(text)
    if time_us is None:
        expected = "a digest, the index of an entry, or a time such as 2026-11-24T08:29"
        raise AimInvalid(f"--to is {quote(text)}; expected {expected}")
    return ByTime(time_us)
