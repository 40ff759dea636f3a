"""`boltseal token`: the keys that sign the registry's bearer tokens."""

from __future__ import annotations

import typer

from boltseal.cli.answer import CommandOutput, say
from boltseal.cli.clock import clock_us
from boltseal.cli.options import ConfigOption, DataOption, JsonOption, settings_of

token = typer.Typer(help="Rotate the key that signs bearer tokens.", no_args_is_help=True, rich_markup_mode=None)


@token.callback()
def _group() -> None:
    """Keeps `rotate` a verb of its own while it is the only one."""


@token.command(epilog="Example: boltseal token rotate --data ./data")
def rotate(config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Sign with a new key from now on. Tokens given so far hold until they end, five minutes at most."""
    with CommandOutput("token-rotate", as_json=as_json) as answer:
        from boltseal.server.storage.key_file import KeyFile

        keys = KeyFile(settings_of(config, data=data).keys / "token.json").rotate(clock_us())
        answer.add(ref=keys[0].id, status="rotated")
        if not as_json:
            say(f"key {keys[0].id} signs from now on")
