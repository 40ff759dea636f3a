"""`boltseal ledger`: the key that signs the ledger, and what to do when ledger and data do not fit any more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from boltseal.cli.answer import CommandOutput, print_line, say
from boltseal.cli.monitor import monitor
from boltseal.cli.onstore import admin, given_reason
from boltseal.cli.options import ConfigOption, DataOption, JsonOption, ReasonOption, settings_of
from boltseal.cli.remote import CaFileOption, RegistryOptions, ask
from boltseal.errors import Invalid, NotFound

if TYPE_CHECKING:
    from boltseal.client.transport import Transport
    from boltseal.server.registry.recovery import Recovered
    from boltseal.server.settings import Settings

ledger = typer.Typer(
    help="Show or rotate the ledger's key, recover a ledger that is behind, monitor one from outside.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


ObservationsOption = Annotated[
    bool,
    typer.Option("--observations", help="Of the other log: what the tags of mirrored registries were seen to mean."),
]


class NothingToDo(Invalid):
    """`recover` without a word of what to recover from."""


OBSERVATIONS_NAME: Final = "observations"
NO_KEY: Final = "no ledger was signed here yet: `boltseal serve` makes the key at its first start"


class NoKey(NotFound):
    """There is no key of a ledger beside this data folder."""


@ledger.command(epilog="Example: boltseal ledger key --data ./data")
def key(
    observations: ObservationsOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the public key that the ledger is signed by, for `boltseal trust` and for any tool that reads C2SP notes."""
    with CommandOutput("ledger-key", as_json=as_json) as answer:
        from boltseal.server.storage.ledger_key import LEDGER_NAME, LedgerKeys

        name = OBSERVATIONS_NAME if observations else LEDGER_NAME
        found = LedgerKeys(settings_of(config, data=data).keys, name=name).key()
        if found is None:
            raise NoKey(f"no {name} were signed here yet" if observations else NO_KEY)
        answer.add(ref=found.name, status="key", key=str(found.verifier))
        if not as_json:
            print_line(str(found.verifier))


@ledger.command(epilog='Example: boltseal ledger rotate --data ./data --reason "once a year"')
def rotate(
    reason: ReasonOption,
    observations: ObservationsOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign with a new key from now on; the old one's last word names it, so whoever trusts the old one can follow."""
    with CommandOutput("ledger-rotate", as_json=as_json) as answer:
        why = given_reason(reason)
        settings = settings_of(config, data=data)
        _quiet(settings)
        from boltseal.server.store_factory import open_store

        with open_store(settings) as store:
            integrator = store.observing if observations else store.integrator
            new = integrator.rotate(admin().name, why).verifier
        answer.add(ref=new.name, status="rotated", key=str(new))
        if not as_json:
            print_line(str(new))
            say("this key signs from now on; clients that trust the one before learn it from the ledger")


@ledger.command(epilog="Example: boltseal ledger recover --from /mnt/old-disk/data --data ./data")
def recover(
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="URL|DIR",
            show_default=False,
            help="A registry that has the entries, another data folder, or a tree of tiles.",
        ),
    ] = None,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Go on without what is missing, under a new origin and key.")
    ] = False,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; recorded for ever. Needed with --accept-loss.")
    ] = "",
    observations: ObservationsOption = False,
    ca_file: CaFileOption = None,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a ledger back that is behind what it signed, or record that entries are lost.

    With --from the missing entries are copied from there, if they are the ones that were signed. With --accept-loss names
    that were sealed in lost entries are free again, and whoever trusts the ledger's key has to be given the new one. A
    running server takes things in again by itself. With --observations it is the log of observations; tags whose last
    observation is lost for good are served as the one before says.
    """
    with CommandOutput("ledger-recover", as_json=as_json) as answer:
        if accept_loss == (source is not None):
            raise NothingToDo("say --from URL|DIR to copy the missing entries, or --accept-loss to go on without them")
        settings = settings_of(config, data=data)
        _quiet(settings)
        if source is None:
            done = _accept_loss(settings, given_reason(reason), observations=observations)
        else:
            done = _bring_back(settings, source, RegistryOptions(ca_file=ca_file), observations=observations)
        status = "brought back" if source is not None else "loss accepted"
        answer.add(ref=done.origin, status=status, key=done.key, entries=done.brought)
        if as_json:
            return
        print_line(done.key)
        if source is None:
            say(f"the ledger goes on as {done.origin}; give its new key to whoever trusts the old one")
        else:
            back = f"{done.brought} {'entry is' if done.brought == 1 else 'entries are'} back, and the tags are as they say"
            say(back if observations else f"{back}; push again what `boltseal fsck` misses")


def _bring_back(settings: Settings, source: str, reach: RegistryOptions, *, observations: bool) -> Recovered:
    from boltseal.server.registry.recovery import bring_back, entries_here
    from boltseal.server.registry.tag_writer import TagWriter
    from boltseal.server.storage.ledger_copy import FolderCopy
    from boltseal.server.storage.metadata.protocol import LEDGER, OBSERVATIONS
    from boltseal.server.store_factory import open_store

    log = OBSERVATIONS if observations else LEDGER
    with open_store(settings) as store:
        door, keys = TagWriter(settings.rules), store.keys.of(log.name)
        if "://" not in source:
            copy = FolderCopy(Path(source), log)
            return bring_back(store.database, keys, door, copy.lines, copy.head(), log)
        here = entries_here(store.database, log)
        head, found = _fetch(source, here, reach, "/observations" if observations else "")
        return bring_back(store.database, keys, door, lambda start, end: found[start - here : end - here], head, log)


def _fetch(url: str, start: int, reach: RegistryOptions, log: str) -> tuple[bytes, list[bytes]]:
    """The head of another registry's ledger, and its entries from `start` on; nothing of it is believed yet."""
    from boltseal.client.ledger_client import LedgerClient, registry_of
    from boltseal.ledger.checkpoint import parse_checkpoint_unverified
    from boltseal.ledger.note import parse_note_unverified

    async def fetch(transport: Transport) -> tuple[bytes, list[bytes]]:
        client = LedgerClient(transport, f"{registry_of(url)}{log}")
        head = await client.checkpoint()
        size = parse_checkpoint_unverified(parse_note_unverified(head).text).size
        return head, await client.entries(start, size) if size > start else []

    return ask(reach, [registry_of(url)], fetch)


def _accept_loss(settings: Settings, reason: str, *, observations: bool) -> Recovered:
    from boltseal.server.registry.recovery import accept_loss
    from boltseal.server.storage.metadata.protocol import OBSERVATIONS
    from boltseal.server.store_factory import open_store

    with open_store(settings) as store:
        if observations:
            keys = store.keys.of(OBSERVATIONS.name)
            return accept_loss(store.database, keys, admin().name, reason, OBSERVATIONS)
        return accept_loss(store.database, store.keys, admin().name, reason)


def _quiet(settings: Settings) -> None:
    """The log as the settings want it."""
    from boltseal.server import logs

    logs.configure(settings.server.log_level, as_json=logs.wants_json(settings.server.log_format))


ledger.command(epilog="Example: boltseal ledger monitor https://registry.example.com --tags")(monitor)
