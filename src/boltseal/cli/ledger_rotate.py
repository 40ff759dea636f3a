"""`boltseal ledger rotate`: sign the ledger, or statements about it, with a new key."""

from __future__ import annotations

from boltseal.cli.options import (
    AttestationOption,
    ConfigOption,
    DataOption,
    JsonOption,
    ObservationsOption,
    ReasonOption,
)
from boltseal.cli.output import CommandOutput
from boltseal.cli.server_options import store_settings
from boltseal.errors import Invalid
from boltseal.server.commands.attestation_keys import rotate_attestation
from boltseal.server.commands.ledger import rotate_key


def ledger_rotate(
    reason: ReasonOption,
    observations: ObservationsOption = False,
    attestation: AttestationOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign with a new key from now on.

    The last checkpoint of the old key names the new one, so clients that pinned the old key can follow.

    With --attestation the ledger announces the new key in an entry. The first use makes the first such key.
    """
    with CommandOutput("ledger-rotate", as_json=as_json) as output:
        if attestation and observations:
            raise Invalid("--observations and --attestation name two keys; give one of them")
        if attestation:
            made = rotate_attestation(store_settings(config, data), reason)
            output.add(ref=made.origin, status="rotated", key=made.pem)
            output.print(made.pem.rstrip())
            output.say("this key signs statements from now on, also in a running server with this folder of keys")
            return
        new = rotate_key(store_settings(config, data), reason, observations=observations)
        output.add(ref=new.origin, status="rotated", key=str(new.key))
        output.print(str(new.key))
        output.say("this key signs from now on; clients that pinned the previous one learn it from the ledger")
