"""`boltseal admin session`: list and revoke the sessions of pipelines that logged in with an ID token."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.command_group import HelpCommand, HelpGroup
from boltseal.cli.confirmation import DryRunOption
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.table import print_table
from boltseal.cli.tag_target import TagTarget, takes_tag_target
from boltseal.commands.api_tokens import SessionInfo
from boltseal.commands.text import clean

admin_session = typer.Typer(
    cls=HelpGroup,
    help="List and revoke the sessions of pipelines that logged in with an ID token of their CI.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@admin_session.command("ls", cls=HelpCommand, epilog="Example: boltseal admin session ls --data ./data")
@takes_tag_target
def list_sessions(*, target: TagTarget, as_json: JsonOption = False) -> None:
    """List the sessions of pipelines that have not ended: of which pipeline and run, and until when."""
    with CommandOutput("admin-session-ls", as_json=as_json) as output:
        sessions = target.tokens("admin session ls").sessions()
        for each in sessions:
            output.add(**_fields(each, "revoked" if each.revoked else "open"))
        if sessions and not as_json:
            columns = ("SESSION", "PIPELINE", "RUN", "OPENED", "ENDS", "REVOKED")
            print_table(columns, [_row(each) for each in sessions], columns)
        elif not sessions:
            output.say("no sessions of pipelines")


@admin_session.command(cls=HelpCommand, epilog="Example: boltseal admin session revoke SESSION --data ./data")
@takes_tag_target
def revoke(
    session: Annotated[
        str, typer.Argument(metavar="SESSION", show_default=False, help="The ID of a session, as `ls` shows it.")
    ],
    dry_run: DryRunOption = False,
    *,
    target: TagTarget,
    as_json: JsonOption = False,
) -> None:
    """Revoke a session. When the command ends no server of the registry accepts it any more.

    The ID token that opened it, its refresh tokens and its bearer tokens are refused. Another ID token of the same pipeline opens
    another session; to refuse a pipeline, change its [[auth.issuer.rule]].
    """
    with CommandOutput("admin-session-revoke", as_json=as_json) as output:
        revoked = target.tokens("admin session revoke").revoke_session(session, dry_run=dry_run)
        output.add(**_fields(revoked, "planned" if dry_run else "revoked"))
        output.print(clean(revoked.id))
        output.say(f"the session of {clean(revoked.by)} {'would be' if dry_run else 'is'} revoked")


def _fields(session: SessionInfo, status: str) -> dict[str, object]:
    return {
        "ref": session.id,
        "status": status,
        "reason": "",
        "by": session.by,
        "pipeline": session.pipeline,
        "opened": session.opened,
        "ends": session.ends,
        "revoked": session.revoked,
    }


def _row(session: SessionInfo) -> tuple[str, ...]:
    run = session.pipeline.get("run", "")
    return (session.id, clean(session.by), clean(run), session.opened, session.ends, session.revoked or "")
