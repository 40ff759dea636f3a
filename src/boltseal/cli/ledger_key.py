"""`boltseal ledger key`: print the public key that signs the ledger."""

from __future__ import annotations

from boltseal.cli.options import ConfigOption, DataOption, JsonOption, ObservationsOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.server_options import store_settings
from boltseal.server.commands.ledger import ledger_key as public_key


def ledger_key(
    observations: ObservationsOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the public key that signs the ledger, for `boltseal ledger trust` and for tools that read C2SP notes."""
    with CommandOutput("ledger-key", as_json=as_json) as output:
        found = public_key(store_settings(config, data), observations=observations)
        output.add(ref=found.origin, status="key", key=str(found.key))
        output.print(str(found.key))
