"""`boltseal admin token`: create, list and revoke API tokens; rotate the key that signs bearer tokens."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from boltseal.cli.clock import clock_us
from boltseal.cli.command_group import HelpCommand, HelpGroup
from boltseal.cli.confirmation import DryRunOption
from boltseal.cli.durations import duration_option
from boltseal.cli.loading import load_module
from boltseal.cli.options import ConfigOption, DataOption, JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.table import print_table
from boltseal.cli.tag_target import TagTarget, takes_tag_target
from boltseal.commands.api_tokens import TokenInfo, WantedToken
from boltseal.commands.text import clean, counted
from boltseal.errors import Invalid
from boltseal.policy.durations import Duration

_PREFIX: Final = "boltseal_"
"""The beginning of every token."""

admin_token = typer.Typer(
    cls=HelpGroup,
    help="Create, list and revoke API tokens; rotate the key that signs bearer tokens.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@admin_token.command(
    cls=HelpCommand,
    epilog="Example: boltseal admin token create --owner ci --repositories 'shop/**' --action pull --action push",
)
@takes_tag_target
def create(
    owner: Annotated[
        str,
        typer.Option(
            "--owner",
            metavar="NAME",
            show_default=False,
            help="The user or service account. With --server the default is the one who is logged in.",
        ),
    ] = "",
    repositories: Annotated[
        list[str] | None,
        typer.Option("--repositories", metavar="GLOB", show_default=False, help="Where it may be used; repeatable."),
    ] = None,
    actions: Annotated[
        list[str] | None,
        typer.Option(
            "--action",
            metavar="ACTION",
            show_default=False,
            help="pull (default), push, delete, ledger, admin, report, or tokens: to create and revoke tokens; repeatable.",
        ),
    ] = None,
    life: Annotated[
        Duration | None, duration_option("--life", "How long it is valid. Default: `token_life`.", at_least="1m")
    ] = None,
    description: Annotated[
        str, typer.Option("--description", metavar="TEXT", show_default=False, help="What it is for.")
    ] = "",
    *,
    target: TagTarget,
    as_json: JsonOption = False,
) -> None:
    """Create an API token, and print it once. A program logs in with it as password, and its owner as user name.

    It allows what its scope and the grants of its owner allow at the time of a request.
    """
    with CommandOutput("admin-token-create", as_json=as_json) as output:
        if not repositories:
            raise Invalid("the scope has no repository; give globs, such as --repositories 'shop/**', or '**' for all")
        wanted = WantedToken(owner, tuple(repositories), tuple(actions or ["pull"]), life, description)
        made = target.tokens("admin token create").create(wanted)
        output.add(**_fields(made.token, "created"), token=made.text)
        output.print(clean(made.text))
        shown = f"token {made.token.id} of {made.token.owner}, valid until {made.token.expires}; it is not shown again"
        output.say(clean(shown))
        if made.token.warning:
            output.say(clean(made.token.warning))


@admin_token.command("ls", cls=HelpCommand, epilog="Example: boltseal admin token ls --json")
@takes_tag_target
def list_tokens(
    user: Annotated[
        str,
        typer.Option(
            "--user",
            metavar="NAME",
            show_default=False,
            help="Only tokens of this user. Default: all; with --server, of the one who is logged in.",
        ),
    ] = "",
    every: Annotated[bool, typer.Option("--all", help="With --server: the tokens of all users.")] = False,
    *,
    target: TagTarget,
    as_json: JsonOption = False,
) -> None:
    """List API tokens: whose they are, what they allow, until when they work, and when they were used last."""
    with CommandOutput("admin-token-ls", as_json=as_json) as output:
        if user and every:
            raise Invalid("--user and --all exclude each other; give one of them")
        tokens = target.tokens("admin token ls").tokens(user, every=every)
        for each in tokens:
            output.add(**_fields(each, "works" if each.ends else "ended"))
            if each.warning:
                output.say(clean(each.warning))
        if tokens and not as_json:
            print_table(("TOKEN", "OWNER", "SCOPE", "ENDS", "USED", "DESCRIPTION"), [_row(each) for each in tokens])
        elif not tokens:
            output.say("no API tokens")


@admin_token.command(cls=HelpCommand, epilog="Example: boltseal admin token revoke k3x7abc2de")
@takes_tag_target
def revoke(
    token: Annotated[
        str | None, typer.Argument(metavar="ID", show_default=False, help="The ID of a token, as `ls` shows it.")
    ] = None,
    user: Annotated[
        str, typer.Option("--user", metavar="NAME", show_default=False, help="All tokens of this user instead.")
    ] = "",
    dry_run: DryRunOption = False,
    *,
    target: TagTarget,
    as_json: JsonOption = False,
) -> None:
    """Revoke an API token, or all of a user. When the command ends no server of the registry accepts them any more."""
    with CommandOutput("admin-token-revoke", as_json=as_json) as output:
        if bool(token) == bool(user):
            raise Invalid("give the ID of a token, or --user NAME for all tokens of a user")
        if token is not None and token.startswith(_PREFIX):  # in a URL or a message it would be in logs
            raise Invalid("that is a token; give its ID, the first 10 characters after `boltseal_`")
        revoked = target.tokens("admin token revoke").revoke(token or "", user, dry_run=dry_run)
        for each in revoked:
            output.add(**_fields(each, "planned" if dry_run else "revoked"))
            output.print(clean(each.id))
        output.say(f"{counted(len(revoked), 'API token')} {'would be revoked' if dry_run else 'revoked'}")


@admin_token.command(cls=HelpCommand, epilog="Example: boltseal admin token rotate --data ./data")
def rotate(config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Sign bearer tokens with a new key from now on. Issued ones stay valid for at most five minutes, API tokens as before."""
    with CommandOutput("admin-token-rotate", as_json=as_json) as output:
        # The other commands need nothing of the server with --server.
        options = load_module("boltseal.cli.server_options", command="admin token rotate", extra="server")
        key_file = load_module("boltseal.server.storage.key_file", command="admin token rotate", extra="server")
        keys = key_file.KeyFile(options.settings_of(config, data=data).keys / "token.json").rotate(clock_us())
        output.add(ref=keys[0].id, status="rotated")
        output.say(f"key {keys[0].id} signs from now on")


def _fields(token: TokenInfo, status: str) -> dict[str, object]:
    return {
        "ref": token.id,
        "status": status,
        "reason": token.warning,
        "owner": token.owner,
        "kind": token.kind,
        "repositories": token.repositories,
        "actions": token.actions,
        "description": token.description,
        "created": token.created,
        "created_by": token.created_by,
        "expires": token.expires,
        "ends": token.ends,
        "used": token.used,
    }


def _row(token: TokenInfo) -> tuple[str, ...]:
    scope = f"{','.join(token.actions)} in {','.join(token.repositories)}"
    return (token.id, token.owner, scope, token.ends or "does not work", token.used or "never", token.description)
