"""`boltseal ledger key`: print the public key that signs the ledger, or that cosigns other ledgers."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.options import ConfigOption, DataOption, JsonOption, ObservationsOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.server_options import store_settings
from boltseal.errors import Invalid
from boltseal.server.commands.ledger import ledger_key as public_key
from boltseal.server.commands.ledger import witness_key


def ledger_key(
    observations: ObservationsOption = False,
    cosigner: Annotated[
        bool,
        typer.Option(
            "--cosigner", help="The key with which this registry cosigns other ledgers ([witness_service]) instead."
        ),
    ] = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the public key that signs the ledger, for `boltseal ledger trust` and for tools that read C2SP notes."""
    with CommandOutput("ledger-key", as_json=as_json) as output:
        if cosigner and observations:
            raise Invalid("--observations and --cosigner name two keys; give one of them")
        settings = store_settings(config, data)
        found = witness_key(settings) if cosigner else public_key(settings, observations=observations)
        output.add(ref=found.origin, status="key", key=str(found.key))
        output.print(str(found.key))
