"""`boltseal admin ledger`: show the state of a registry's logs."""

from __future__ import annotations

from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.remote import takes_registry_options
from boltseal.cli.state_options import OperatorServerOption
from boltseal.cli.table import print_table
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.registry_state import RegistryState
from boltseal.commands.text import clean


@takes_registry_options
def admin_ledger(server: OperatorServerOption, *, access: RegistryOptions, as_json: JsonOption = False) -> None:
    """Show how many entries the ledger and the log of upstreams have, and how many are signed and witnessed.

    Exit code 1: a log takes no entries because it is in doubt; the reason is shown.
    """
    with CommandOutput("admin-ledger", as_json=as_json) as output:
        found = RegistryState(access, server).logs()
        for each in found:
            if each.doubt is not None:
                output.outcome = Outcome.DIFFERS
            output.add(
                ref=each.name,
                status="in-doubt" if each.doubt is not None else "writable",
                reason=each.doubt or "",
                origin=each.origin,
                size=each.size,
                signed=each.signed,
                witnessed=each.witnessed,
                last=each.last,
            )
            if each.doubt is not None:
                output.say(clean(f"{each.name} takes no entries: {each.doubt}"))
        if found and not as_json:
            rows = [
                (each.name, str(each.size), str(each.signed), str(each.witnessed), each.last or "-", clean(each.origin))
                for each in found
            ]
            print_table(("LOG", "ENTRIES", "SIGNED", "WITNESSED", "LAST ENTRY", "ORIGIN"), rows)
        elif not found:
            output.say("no log has begun")
