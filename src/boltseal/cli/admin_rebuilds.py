"""`boltseal admin rebuilds`: list the requested rebuilds of images whose base is outdated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.remote import takes_registry_options
from boltseal.cli.state_list import OperatorServerOption, print_state
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.registry_state import RebuildInfo, RegistryState

_COLUMNS: Final[Mapping[str, Callable[[RebuildInfo], str]]] = {
    "IMAGE": lambda each: each.image,
    "BASE": lambda each: each.base,
    "REQUESTED": lambda each: each.time,
    "OUTCOME": lambda each: each.outcome,
    "SUMMARY": lambda each: each.summary,
}


@takes_registry_options
def admin_rebuilds(server: OperatorServerOption, *, access: RegistryOptions, as_json: JsonOption = False) -> None:
    """List, for each image and base, the last rebuild that [[on_outdated]] requested, and how it ended."""
    with CommandOutput("admin-rebuilds", as_json=as_json) as output:
        print_state(output, RegistryState(access, server).rebuilds(), _fields, _COLUMNS, "no rebuild was requested")


def _fields(each: RebuildInfo) -> dict[str, Any]:
    return {
        "ref": each.image,
        "status": each.outcome,
        "reason": each.summary,
        "base": each.base,
        "digest": each.digest,
        "time": each.time,
        "tries": each.tries,
    }
