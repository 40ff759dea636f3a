"""`boltseal seal`: bind a floating tag to what it means now, for ever."""

from __future__ import annotations

from boltseal.cli.answer import CommandOutput
from boltseal.cli.onstore import RefArgument, given_reason
from boltseal.cli.options import ConfigOption, DataOption, JsonOption, ReasonOption, settings_of
from boltseal.cli.sealing import change_seal


def seal(
    ref: RefArgument,
    reason: ReasonOption,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Seal a tag that floats, at what it means now. It can never move again. Works beside a running server."""
    with CommandOutput("seal", as_json=as_json) as answer:
        change_seal(
            answer,
            settings_of(config, data=data),
            ref,
            given_reason(reason),
            lambda seals, *asked: seals.seal(*asked),
            done="sealed",
            new="sealed now, kept for ever",
            same="was sealed already, kept for ever",
        )
