"""`boltseal ledger rotate`: sign the ledger with a new key."""

from __future__ import annotations

from boltseal.cli.options import ConfigOption, DataOption, JsonOption, ObservationsOption, ReasonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.server_options import store_settings
from boltseal.server.commands.ledger import rotate_key


def ledger_rotate(
    reason: ReasonOption,
    observations: ObservationsOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign with a new key from now on.

    The last checkpoint of the old key names the new one, so clients that pinned the old key can follow.
    """
    with CommandOutput("ledger-rotate", as_json=as_json) as output:
        new = rotate_key(store_settings(config, data), reason, observations=observations)
        output.add(ref=new.origin, status="rotated", key=str(new.key))
        output.print(str(new.key))
        output.say("this key signs from now on; clients that pinned the previous one learn it from the ledger")
