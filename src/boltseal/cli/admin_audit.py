"""`boltseal admin audit`: list who changed users, API tokens and sessions, and who collected garbage."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.remote import takes_registry_options
from boltseal.cli.state_options import OperatorServerOption
from boltseal.cli.table import print_table
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.registry_state import RegistryState
from boltseal.commands.text import clean


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
        for each in found:
            output.add(
                ref=each.subject,
                status=each.action,
                reason=each.detail,
                number=each.number,
                time=each.time,
                actor=each.actor,
            )
        if found and not as_json:
            rows = [
                (each.time, clean(each.actor), each.action, clean(each.subject), clean(each.detail)) for each in found
            ]
            print_table(("TIME", "BY", "ACTION", "SUBJECT", "DETAIL"), rows)
        elif not found:
            output.say("the audit log has no record")
