"""`boltseal trust`: by which key a registry's ledger is believed, and what was seen of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.answer import CommandOutput, Outcome, print_line, print_table, say
from boltseal.cli.options import JsonOption
from boltseal.errors import Invalid, quote

if TYPE_CHECKING:
    from boltseal.client.state import ClientState, KnownLedger


class TrustUnclear(Invalid):
    """Arguments that do not say together what is to be trusted."""


def trust(
    host: Annotated[
        str | None, typer.Argument(metavar="[HOST]", show_default=False, help="A registry: localhost:5000")
    ] = None,
    key: Annotated[
        str | None,
        typer.Argument(metavar="[KEY]", show_default=False, help="What `boltseal ledger key` prints at its keeper's."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="In place of the key that is trusted now.")] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Know nothing of this registry's ledger any more.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say by which key a registry's ledger is believed; without arguments, list it.

    The key has to come from the registry's keeper, by another way: one that is fetched from the registry that it judges
    proves nothing. From then on every verb that asks that registry what a tag means holds its ledger against the key and
    against what was seen before.

    Exit code 1: another key is trusted already, or what was seen is not signed by this one.
    """
    with CommandOutput("trust", as_json=as_json) as answer:
        import time

        from boltseal.client.ledger_trust import give_key
        from boltseal.client.state import ClientState
        from boltseal.config import state_folder
        from boltseal.ledger.note import VerifierKey

        state = ClientState(state_folder())
        if host is None:
            _list(answer, state.all())
            return
        registry = _registry(host)
        if forget:
            _forget(answer, state, registry, key)
        elif key is None:
            found = state.known(registry)
            if found is None:
                answer.outcome = Outcome.DIFFERS
                say(f"nothing is known of a ledger of {registry}")
            _list(answer, [] if found is None else [found])
        else:
            known = give_key(state, registry, VerifierKey.parse(key), int(time.time()), replace=replace)
            answer.add(**_fields(known))
            if not as_json:
                print_line(f"{registry}: its ledger is believed by the key {known.trusted.key_id.hex()}")


def _registry(text: str) -> str:
    from boltseal.client.history import OBSERVATIONS
    from boltseal.client.ledger_client import registry_of
    from boltseal.oci.reference import Reference

    registry = registry_of(text)
    if Reference.parse(f"{registry}/name").registry != registry:
        raise TrustUnclear(
            f"{quote(text)} is no registry; expected a host, perhaps with a port, such as localhost:5000"
        )
    return f"{registry}/{OBSERVATIONS}" if text.rstrip("/").endswith(f"/{OBSERVATIONS}") else registry


def _forget(answer: CommandOutput, state: ClientState, registry: str, key: str | None) -> None:
    if key is not None:
        raise TrustUnclear("--forget takes no key")
    there = state.forget(registry)
    status = "forgotten" if there else "unknown"
    answer.add(ref=registry, status=status)
    if not answer.as_json:
        print_line(f"{registry}: {'forgotten; its next use is a first use' if there else 'nothing was known of it'}")


def _list(answer: CommandOutput, found: list[KnownLedger]) -> None:
    for known in found:
        answer.add(**_fields(known))
    if found and not answer.as_json:
        rows = [(known.registry, known.how, _since(known), _seen(known), _key(known)) for known in found]
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
    from boltseal.ledger.entry import format_time

    return format_time(known.since_s * 1_000_000)[:10]


def _seen(known: KnownLedger) -> str:
    return "nothing yet" if known.head is None else f"{known.head.checkpoint.size} entries"


def _key(known: KnownLedger) -> str:
    return f"ID {known.trusted.key_id.hex()}, unproven" if known.trusted.key is None else str(known.trusted.key)
