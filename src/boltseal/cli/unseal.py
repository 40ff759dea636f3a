"""`boltseal unseal`: let a sealed tag be deleted. Its name stays bound to its digest all the same."""

from __future__ import annotations

from boltseal.cli.answer import CommandOutput
from boltseal.cli.onstore import RefArgument, given_reason
from boltseal.cli.options import ConfigOption, DataOption, JsonOption, ReasonOption, settings_of
from boltseal.cli.sealing import change_seal


def unseal(
    ref: RefArgument,
    reason: ReasonOption,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lift a sealed tag's protection against deletion. It still can't move, and can only come back as it was."""
    with CommandOutput("unseal", as_json=as_json) as answer:
        change_seal(
            answer,
            settings_of(config, data=data),
            ref,
            given_reason(reason),
            lambda seals, *asked: seals.unseal(*asked),
            done="unsealed",
            new="may be deleted now; the name stays bound to this digest",
            same="could be deleted already; the name stays bound to this digest",
        )
