"""`boltseal admin token`: rotate the key that signs bearer tokens."""

from __future__ import annotations

import typer

from boltseal.cli.clock import clock_us
from boltseal.cli.command_group import HelpCommand, HelpGroup
from boltseal.cli.options import ConfigOption, DataOption, JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.server_options import settings_of
from boltseal.server.storage.key_file import KeyFile

admin_token = typer.Typer(
    cls=HelpGroup, help="Rotate the key that signs bearer tokens.", no_args_is_help=True, rich_markup_mode=None
)


@admin_token.callback()
def _group() -> None:
    """Make typer build a group, also of one command."""


@admin_token.command(cls=HelpCommand, epilog="Example: boltseal admin token rotate --data ./data")
def rotate(config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Sign bearer tokens with a new key from now on. Issued tokens stay valid for at most five minutes."""
    with CommandOutput("admin-token-rotate", as_json=as_json) as output:
        keys = KeyFile(settings_of(config, data=data).keys / "token.json").rotate(clock_us())
        output.add(ref=keys[0].id, status="rotated")
        output.say(f"key {keys[0].id} signs from now on")
