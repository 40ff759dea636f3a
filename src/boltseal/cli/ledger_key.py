"""`boltseal ledger key`: print the public key that signs the ledger, that signs statements, or that cosigns other ledgers."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.options import AttestationOption, ConfigOption, DataOption, JsonOption, ObservationsOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.server_options import store_settings
from boltseal.errors import Invalid
from boltseal.server.commands.attestation_keys import public_attestation_key
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
    attestation: AttestationOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the public key that signs the ledger, for `boltseal ledger trust` and for tools that read C2SP notes.

    With --attestation in PEM, for cosign.
    """
    with CommandOutput("ledger-key", as_json=as_json) as output:
        if cosigner + observations + attestation > 1:
            raise Invalid("--observations, --attestation and --cosigner name different keys; give one of them")
        settings = store_settings(config, data)
        if attestation:
            announced = public_attestation_key(settings)
            output.add(ref=announced.origin, status="key", key=announced.pem)
            output.print(announced.pem.rstrip())
            return
        found = witness_key(settings) if cosigner else public_key(settings, observations=observations)
        output.add(ref=found.origin, status="key", key=str(found.key))
        output.print(str(found.key))
