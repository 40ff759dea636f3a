"""`boltseal admin ledger`: show the state of a registry's logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.remote import takes_registry_options
from boltseal.cli.state_list import OperatorServerOption, print_state
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.registry_state import LogInfo, RegistryState
from boltseal.commands.text import clean

_COLUMNS: Final[Mapping[str, Callable[[LogInfo], str]]] = {
    "LOG": lambda each: each.name,
    "ENTRIES": lambda each: str(each.size),
    "SIGNED": lambda each: str(each.signed),
    "WITNESSED": lambda each: str(each.witnessed),
    "LAST ENTRY": lambda each: each.last or "-",
    "ORIGIN": lambda each: each.origin,
}


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
                output.say(clean(f"{each.name} takes no entries: {each.doubt}"))
        print_state(output, found, _fields, _COLUMNS, "no log has begun")


def _fields(each: LogInfo) -> dict[str, Any]:
    return {
        "ref": each.name,
        "status": "in-doubt" if each.doubt is not None else "writable",
        "reason": each.doubt or "",
        "origin": each.origin,
        "size": each.size,
        "signed": each.signed,
        "witnessed": each.witnessed,
        "last": each.last,
    }
