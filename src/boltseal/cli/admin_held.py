"""`boltseal admin held`: list the upstreams' tags whose new digest is held back."""

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
def admin_held(server: OperatorServerOption, *, access: RegistryOptions, as_json: JsonOption = False) -> None:
    """List the upstreams' tags that a mirror holds back: the new digest, and what clients get instead.

    `boltseal tag accept` serves the new digest.
    """
    with CommandOutput("admin-held", as_json=as_json) as output:
        found = RegistryState(access, server).held()
        for each in found:
            output.add(
                ref=f"{each.repository}:{each.tag}",
                status="held",
                reason="",
                digest=each.digest,
                served=each.served,
                since=each.since,
            )
        if found and not as_json:
            rows = [
                (clean(f"{each.repository}:{each.tag}"), each.since, each.digest, each.served or "-") for each in found
            ]
            print_table(("TAG", "HELD SINCE", "NEW DIGEST", "SERVED"), rows)
        elif not found:
            output.say("no tag is held back")
