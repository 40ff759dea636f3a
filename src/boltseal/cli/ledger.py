"""`boltseal ledger`: the key that signs the ledger, and what to do when ledger and data do not fit any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.answer import Answer, print_line, say
from boltseal.cli.onstore import admin, given_reason
from boltseal.cli.options import ConfigOption, DataOption, JsonOption, ReasonOption, settings_of
from boltseal.errors import Invalid, NotFound

if TYPE_CHECKING:
    from boltseal.settings import Settings

ledger = typer.Typer(
    help="Show or rotate the ledger's key, and recover a ledger that is behind.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class NothingToDo(Invalid):
    """`recover` without a word of what to recover from."""


class NoKey(NotFound):
    """There is no key of a ledger beside this data folder."""


@ledger.command(epilog="Example: boltseal ledger key --data ./data")
def key(config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Print the public key that the ledger is signed by, for `boltseal trust` and for any tool that reads C2SP notes."""
    with Answer("ledger-key", as_json=as_json) as answer:
        from boltseal.storage.ledger_key import LedgerKeys

        found = LedgerKeys(settings_of(config, data=data).keys).key()
        if found is None:
            raise NoKey("no ledger was signed here yet: `boltseal serve` makes the key at its first start")
        answer.add(ref=found.name, status="key", key=str(found.verifier))
        if not as_json:
            print_line(str(found.verifier))


@ledger.command(epilog='Example: boltseal ledger rotate --data ./data --reason "once a year"')
def rotate(
    reason: ReasonOption, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """Sign with a new key from now on; the old one's last word names it, so whoever trusts the old one can follow."""
    with Answer("ledger-rotate", as_json=as_json) as answer:
        why = given_reason(reason)
        settings = settings_of(config, data=data)
        _quiet(settings)
        from boltseal.app import open_store

        with open_store(settings) as store:
            new = store.integrator.rotate(admin().name, why).verifier
        answer.add(ref=new.name, status="rotated", key=str(new))
        if not as_json:
            print_line(str(new))
            say("this key signs from now on; clients that trust the one before learn it from the ledger")


@ledger.command(epilog='Example: boltseal ledger recover --accept-loss --reason "the disk is gone" --data ./data')
def recover(
    reason: ReasonOption,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Go on without what is missing, under a new origin and key.")
    ] = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a ledger back that is behind what it signed, or record that entries are lost.

    With --accept-loss names that were sealed in lost entries are free again, and whoever trusts the ledger's key has to
    be given the new one. A running server takes things in again by itself.
    """
    with Answer("ledger-recover", as_json=as_json) as answer:
        why = given_reason(reason)
        if not accept_loss:
            raise NothingToDo("say --accept-loss to go on without what is missing")
        settings = settings_of(config, data=data)
        _quiet(settings)
        from boltseal.app import open_store
        from boltseal.registry.recovery import accept_loss as accept

        with open_store(settings) as store:
            done = accept(store.database, store.keys, admin().name, why)
        answer.add(ref=done.origin, status="loss accepted", key=done.key)
        if not as_json:
            print_line(done.key)
            say(f"the ledger goes on as {done.origin}; give its new key to whoever trusts the old one")


def _quiet(settings: Settings) -> None:
    """The log as the settings want it."""
    from boltseal.cli import logs

    logs.configure(settings.server.log_level, as_json=logs.wants_json(settings.server.log_format))
