"""`boltseal ledger trust`: pin a registry's ledger key, or list the known ledgers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from boltseal.cli.context import client_context
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput, say
from boltseal.cli.table import print_table
from boltseal.client.state import KnownLedger
from boltseal.commands.ledger_trust import forget_ledger, known_ledgers, ledger_name, pin_key
from boltseal.commands.outcome import Outcome
from boltseal.commands.text import counted
from boltseal.errors import Invalid
from boltseal.ledger.tag_intervals import moment


def ledger_trust(
    host: Annotated[
        str | None, typer.Argument(metavar="[HOST]", show_default=False, help="A registry: localhost:5000")
    ] = None,
    key: Annotated[
        str | None,
        typer.Argument(metavar="[KEY]", show_default=False, help="The output of `boltseal ledger key` there."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the key that is pinned now.")] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Delete what is known of this registry's ledger.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Pin a registry's ledger key; without arguments, list the known ledgers.

    Get the key from the registry's operator, over another channel: a key that is fetched from the registry itself proves
    nothing. From then on every command that asks this registry what a tag resolves to checks the registry's ledger
    against the key, and against the state seen before.

    Exit code 1: another key is pinned already, or the state seen before is not signed by this key.
    """
    with CommandOutput("ledger-trust", as_json=as_json) as output:
        client = client_context()
        registry = None if host is None else ledger_name(host)
        if registry is not None and forget:
            if key is not None:
                raise Invalid("--forget takes no KEY")
            known = forget_ledger(registry, client)
            output.add(ref=registry, status="forgotten" if known else "unknown")
            output.print(f"{registry}: {'forgotten; its next use is a first use' if known else 'nothing was known'}")
        elif registry is not None and key is not None:
            pinned = pin_key(registry, key, client, replace=replace)
            output.add(**_fields(pinned))
            output.print(f"{registry}: its ledger is checked with the key {pinned.trusted.key_id.hex()}")
        else:
            ledgers = known_ledgers(registry, client)
            if registry is not None and not ledgers:
                output.outcome = Outcome.DIFFERS
                say(f"nothing is known of a ledger of {registry}")
            _list(output, ledgers)


def _list(output: CommandOutput, ledgers: Sequence[KnownLedger]) -> None:
    for known in ledgers:
        output.add(**_fields(known))
    if ledgers and not output.as_json:
        rows = [(known.registry, known.how, _since(known), _seen(known), _key(known)) for known in ledgers]
        print_table(("REGISTRY", "TRUSTED", "SINCE", "SEEN", "KEY"), rows)


def _fields(known: KnownLedger) -> dict[str, object]:
    head = known.head
    return {
        "ref": known.registry,
        "status": known.how,
        "origin": known.trusted.origin,
        "key": None if known.trusted.key is None else str(known.trusted.key),
        "key_id": known.trusted.key_id.hex(),
        "since": _since(known),
        "size": None if head is None else head.checkpoint.size,
        "root": None if head is None else head.checkpoint.root.hex(),
    }


def _since(known: KnownLedger) -> str:
    return moment(known.since_s * 1_000_000)


def _seen(known: KnownLedger) -> str:
    return "nothing yet" if known.head is None else counted(known.head.checkpoint.size, "entry", "entries")


def _key(known: KnownLedger) -> str:
    return f"ID {known.trusted.key_id.hex()}, unproven" if known.trusted.key is None else str(known.trusted.key)
