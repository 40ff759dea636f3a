"""`boltseal admin user`: add, remove and list users and service accounts, and show what they may do. Changes take effect at once."""

from __future__ import annotations

import getpass
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from boltseal.cli.command_group import HelpCommand, HelpGroup
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.table import print_table
from boltseal.cli.tag_target import TagTarget, takes_settings_target, takes_tag_target
from boltseal.commands.users import GrantInfo
from boltseal.errors import Invalid

admin_user = typer.Typer(
    cls=HelpGroup,
    help="Add, remove and list the users who may log in; show what they may do.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="Letters, digits and . _ @ -")]


@admin_user.command(cls=HelpCommand, epilog="Example: boltseal admin user add ci < password.txt")
@takes_tag_target
def add(
    name: NameArgument,
    service: Annotated[
        bool, typer.Option("--service", help="A service account: it has no password, and only API tokens.")
    ] = False,
    *,
    target: TagTarget,
    as_json: JsonOption = False,
) -> None:
    """Add a user, or change a password. It is read from the terminal or from standard input, never from the arguments."""
    with CommandOutput("admin-user-add", as_json=as_json) as output:
        users = target.users("admin user add")
        users.check_name(name)
        if service:
            status = users.add_service(name)
            output.add(ref=name, status=status)
            output.say(
                f"service account {name} {'added' if status == 'added' else 'is there'}; `boltseal admin token create` makes its tokens"
            )
            return
        status = users.put(name, _password(name))
        output.add(ref=name, status=status)
        output.say(
            f"user {name} {'has a new password' if status == 'changed' else 'added'}; valid from the next request on"
        )


@admin_user.command(cls=HelpCommand, epilog="Example: boltseal admin user remove ci")
@takes_tag_target
def remove(name: NameArgument, *, target: TagTarget, as_json: JsonOption = False) -> None:
    """Remove a user or a service account; their logins and tokens end at once."""
    with CommandOutput("admin-user-remove", as_json=as_json) as output:
        target.users("admin user remove").remove(name)
        output.add(ref=name, status="removed")
        output.say(f"user {name} removed")


@admin_user.command("ls", cls=HelpCommand, epilog="Example: boltseal admin user ls --json")
@takes_tag_target
def list_users(*, target: TagTarget, as_json: JsonOption = False) -> None:
    """List the users."""
    with CommandOutput("admin-user-ls", as_json=as_json) as output:
        users = target.users("admin user ls")
        found = users.users()
        for name, kind in found.items():
            output.add(ref=name, status=kind)
            output.print(name if kind == "user" else f"{name} ({'service account' if kind == 'service' else kind})")
        if not found:
            output.say(f"no users {users.where}")


@admin_user.command("grants", cls=HelpCommand, epilog="Example: boltseal admin user grants --json")
@takes_settings_target
def list_grants(*, target: TagTarget, as_json: JsonOption = False) -> None:
    """List the grants in force: what users, groups and anonymous clients may do in which repositories."""
    with CommandOutput("admin-user-grants", as_json=as_json) as output:
        grants = target.users("admin user grants").grants()
        for each in grants:
            output.add(
                ref=each.repository, status="grant", **{k: v for k, v in asdict(each).items() if k != "repository"}
            )
        if grants and not as_json:
            print_table(("REPOSITORY", "ACTIONS", "WHO"), [_row(each) for each in grants])
        elif not grants:
            output.say("no grants: no client may do anything")


def _row(grant: GrantInfo) -> tuple[str, ...]:
    who = ["clients without a login"] if grant.anonymous_clients else []
    who += ["every user" if user == "*" else user for user in grant.users]
    who += [f"group {group}" if group != "*" else "every person of the identity provider" for group in grant.groups]
    return (grant.repository, " ".join(grant.actions), ", ".join(who))


def _password(name: str) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    first = getpass.getpass(f"password for {name}: ")
    if getpass.getpass("repeat the password: ") != first:
        raise Invalid("the two passwords differ; nothing was changed")
    return first
