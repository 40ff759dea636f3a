"""`boltseal admin user`: add, remove and list users and service accounts. Changes take effect at once, also in a running server."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

import typer

from boltseal.cli.command_group import HelpCommand, HelpGroup
from boltseal.cli.options import ConfigOption, DataOption, JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.server_options import settings_of
from boltseal.errors import Invalid
from boltseal.server.auth.logins import hash_password
from boltseal.server.commands import users
from boltseal.server.storage.users import check_user_name

admin_user = typer.Typer(
    cls=HelpGroup, help="Add, remove and list the users who may log in.", no_args_is_help=True, rich_markup_mode=None
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="Letters, digits and . _ @ -")]


@admin_user.command(cls=HelpCommand, epilog="Example: boltseal admin user add ci < password.txt")
def add(
    name: NameArgument,
    service: Annotated[
        bool, typer.Option("--service", help="A service account: it has no password, and only API tokens.")
    ] = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a user, or change a password. It is read from the terminal or from standard input, never from the arguments."""
    with CommandOutput("admin-user-add", as_json=as_json) as output:
        check_user_name(name)
        settings = settings_of(config, data=data)
        if service:
            added = users.add_service(settings, name)
            output.add(ref=name, status="added" if added else "unchanged")
            output.say(
                f"service account {name} {'added' if added else 'is there'}; `boltseal admin token create` makes its tokens"
            )
            return
        known = name in users.list_users(settings)
        try:
            hashed = hash_password(_password(name))
        except ValueError as error:
            raise Invalid(f"no password was set: {error}; type it, or write it to standard input") from error
        users.put_user(settings, name, hashed)
        output.add(ref=name, status="changed" if known else "added")
        output.say(f"user {name} {'has a new password' if known else 'added'}; valid from the next request on")


@admin_user.command(cls=HelpCommand, epilog="Example: boltseal admin user remove ci")
def remove(
    name: NameArgument, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """Remove a user or a service account; their logins and tokens end at once."""
    with CommandOutput("admin-user-remove", as_json=as_json) as output:
        users.remove_user(settings_of(config, data=data), name)
        output.add(ref=name, status="removed")
        output.say(f"user {name} removed")


@admin_user.command("ls", cls=HelpCommand, epilog="Example: boltseal admin user ls --json")
def list_users(config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False) -> None:
    """List the users."""
    with CommandOutput("admin-user-ls", as_json=as_json) as output:
        settings = settings_of(config, data=data)
        found = users.list_users(settings)
        for name, kind in found.items():
            output.add(ref=name, status=kind)
            output.print(name if kind == "user" else f"{name} (service account)")
        if not found:
            output.say(f"no users in {settings.htpasswd} or the database of {settings.server.data}")


def _password(name: str) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    first = getpass.getpass(f"password for {name}: ")
    if getpass.getpass("repeat the password: ") != first:
        raise Invalid("the two passwords differ; nothing was changed")
    return first
