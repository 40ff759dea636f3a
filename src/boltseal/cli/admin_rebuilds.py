"""`boltseal admin rebuilds`: list the requested rebuilds of images whose base is outdated."""

from __future__ import annotations

from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.remote import takes_registry_options
from boltseal.cli.state_options import OperatorServerOption
from boltseal.cli.table import print_table
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.registry_state import RegistryState
from boltseal.commands.text import clean


@takes_registry_options
def admin_rebuilds(server: OperatorServerOption, *, access: RegistryOptions, as_json: JsonOption = False) -> None:
    """List, for each image and base, the last rebuild that [[on_outdated]] requested, and how it ended."""
    with CommandOutput("admin-rebuilds", as_json=as_json) as output:
        found = RegistryState(access, server).rebuilds()
        for each in found:
            output.add(
                ref=each.image,
                status=each.outcome,
                reason=each.summary,
                base=each.base,
                digest=each.digest,
                time=each.time,
                tries=each.tries,
            )
        if found and not as_json:
            rows = [
                (clean(each.image), clean(each.base), each.time, each.outcome, clean(each.summary)) for each in found
            ]
            print_table(("IMAGE", "BASE", "REQUESTED", "OUTCOME", "SUMMARY"), rows)
        elif not found:
            output.say("no rebuild was requested")
