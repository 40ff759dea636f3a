"""`boltseal admin migrate`: move a registry into PostgreSQL and an object store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boltseal.cli.confirmation import YesOption, confirmed, on_terminal
from boltseal.cli.options import ConfigOption, DataOption, JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.progress import Progress, size_text
from boltseal.cli.server_options import store_settings
from boltseal.commands.outcome import Outcome
from boltseal.commands.text import counted
from boltseal.server.commands.move_data import BlobsUnusable, MoveResult, move_data, plan_move, undo_move
from boltseal.server.settings import Settings


def admin_migrate(
    source: Annotated[
        Path,
        typer.Option("--from", metavar="FOLDER", show_default=False, help="The data folder to move: SQLite and files."),
    ],
    undo: Annotated[
        bool, typer.Option("--undo", help="Go back to the data folder, before the first write to the new storage.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check and count; change nothing.")] = False,
    yes: YesOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move a registry from a data folder into the PostgreSQL and S3 of `--config`.

    Blobs are copied while the old server runs. Then its pushes get 503 until clients use the new server; pulls go on.
    After an interruption repeat the command: what was copied is not sent again.
    """
    with CommandOutput("admin-migrate", as_json=as_json) as output:
        settings = store_settings(config, data)
        try:
            if undo:
                _undo(output, source, settings)
            elif dry_run:
                _show(output, source, plan_move(source, settings))
            elif _agreed(output, source, settings, yes=yes):
                with Progress() as progress:
                    moved = move_data(source, settings, progress)
                _show(output, source, moved)
                _what_is_next(output, source, settings)
        except BlobsUnusable as error:
            for finding in error.findings:
                digest, _, reason = finding.partition(": ")
                output.add(ref=digest, status="differs", reason=reason)
                output.print(finding)
            raise


def _agreed(output: CommandOutput, source: Path, settings: Settings, *, yes: bool) -> bool:
    """Ask on a terminal, after showing what would be moved."""
    if yes or not on_terminal():
        return True
    plan = plan_move(source, settings)
    line = f"{counted(plan.blobs.blobs, 'blob')} ({size_text(plan.blobs.size)}), {counted(plan.rows['tag'], 'tag')}"
    question = f"Move {source} to {settings.storage.database} and {settings.storage.blobs}?"
    if confirmed(question, [line, *plan.notes], yes=yes):
        return True
    output.outcome = Outcome.DIFFERS
    output.say("nothing was moved")
    return False


def _show(output: CommandOutput, source: Path, result: MoveResult) -> None:
    blobs = result.blobs
    output.add(
        ref=str(source),
        status=result.status.replace(" ", "-"),
        move=result.move,
        repositories=result.rows["repository"],
        tags=result.rows["tag"],
        manifests=result.rows["manifest"],
        entries=result.rows["entry"],
        users=result.rows["account"],
        blobs=blobs.blobs,
        blob_bytes=blobs.size,
        copied=blobs.copied,
        copied_bytes=blobs.copied_size,
        notes=result.notes,
    )
    output.print(f"{source}: {result.status}")
    rows = result.rows
    output.print(
        f"{counted(rows['repository'], 'repository', 'repositories')}, {counted(rows['tag'], 'tag')}, "
        f"{counted(rows['manifest'], 'manifest')}, {counted(rows['entry'], 'ledger entry', 'ledger entries')}, "
        f"{counted(rows['account'], 'user')}"
    )
    copied = "to copy" if result.status == "would be moved" else "copied by this run"
    output.print(
        f"{counted(blobs.blobs, 'blob')} ({size_text(blobs.size)}), {blobs.copied} {copied} ({size_text(blobs.copied_size)})"
    )
    for note in result.notes:
        output.say(note)


def _what_is_next(output: CommandOutput, source: Path, settings: Settings) -> None:
    output.say(
        "start the new server with the same settings, check a pull, then send the clients to it and end the old server"
    )
    output.say(
        f"not moved: uploads that were under way, which clients begin again; keep {settings.keys} as you kept {source}.keys"
    )
    output.say(
        "to go back before the first write (a read_only server makes none): end the new server, and repeat the command with --undo"
    )


def _undo(output: CommandOutput, source: Path, settings: Settings) -> None:
    move = undo_move(source, settings)
    output.add(ref=str(source), status="undone", move=move)
    output.print(f"{source}: takes pushes again")
    output.say("the new storage has no rows any more; what was copied to the bucket is used again by the next move")
