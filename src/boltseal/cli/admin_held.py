"""`boltseal admin held`: list the upstreams' tags whose new digest is held back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.remote import takes_registry_options
from boltseal.cli.state_list import OperatorServerOption, print_state
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.registry_state import HeldInfo, RegistryState

_COLUMNS: Final[Mapping[str, Callable[[HeldInfo], str]]] = {
    "TAG": lambda each: f"{each.repository}:{each.tag}",
    "HELD SINCE": lambda each: each.since,
    "NEW DIGEST": lambda each: each.digest,
    "SERVED": lambda each: each.served or "-",
}


@takes_registry_options
def admin_held(server: OperatorServerOption, *, access: RegistryOptions, as_json: JsonOption = False) -> None:
    """List the upstreams' tags that a mirror holds back: the new digest, and what clients get instead.

    `boltseal tag accept` serves the new digest.
    """
    with CommandOutput("admin-held", as_json=as_json) as output:
        print_state(output, RegistryState(access, server).held(), _fields, _COLUMNS, "no tag is held back")


def _fields(each: HeldInfo) -> dict[str, Any]:
    return {
        "ref": f"{each.repository}:{each.tag}",
        "status": "held",
        "reason": "",
        "digest": each.digest,
        "served": each.served,
        "since": each.since,
    }
