"""`boltseal admin audit`: list who changed users, API tokens and sessions, and who collected garbage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import typer

from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.remote import takes_registry_options
from boltseal.cli.state_list import OperatorServerOption, print_state
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.registry_state import AuditInfo, RegistryState

_COLUMNS: Final[Mapping[str, Callable[[AuditInfo], str]]] = {
    "TIME": lambda each: each.time,
    "BY": lambda each: each.actor,
    "ACTION": lambda each: each.action,
    "SUBJECT": lambda each: each.subject,
    "DETAIL": lambda each: each.detail,
}


@takes_registry_options
def admin_audit(
    server: OperatorServerOption,
    newest: Annotated[int, typer.Option("--newest", metavar="NUMBER", min=1, help="How many records to show.")] = 100,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """List the audit log, the newest record first. What happens to tags is in the ledger: `boltseal history`."""
    with CommandOutput("admin-audit", as_json=as_json) as output:
        found = RegistryState(access, server).audit(newest)
        print_state(output, found, _fields, _COLUMNS, "the audit log has no record")


def _fields(each: AuditInfo) -> dict[str, Any]:
    return {
        "ref": each.subject,
        "status": each.action,
        "reason": each.detail,
        "number": each.number,
        "time": each.time,
        "actor": each.actor,
    }
