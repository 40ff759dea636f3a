"""`boltseal admin fsck`: check everything in the data folder, read-only; with --rebuild restore a lost database first."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from boltseal.cli.findings import add_findings
from boltseal.cli.options import ConfigOption, DataOption, JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.progress import Progress, size_text
from boltseal.cli.server_options import store_settings
from boltseal.commands.outcome import Outcome
from boltseal.commands.text import counted
from boltseal.errors import Invalid
from boltseal.server.commands.rebuild import RebuiltStore, rebuild_store
from boltseal.server.storage.findings import Examined
from boltseal.server.storage.fsck import BUCKET
from boltseal.server.storage.fsck_position import FsckPosition
from boltseal.server.store_factory import examine_store

PositionOption = Annotated[
    Path | None,
    typer.Option(
        "--position",
        metavar="FILE",
        show_default=False,
        help="Keep the position in FILE; a run that was killed continues there. Removed at the end.",
    ),
]

RebuildOption = Annotated[
    bool, typer.Option("--rebuild", help="Restore a lost database from the bucket of [storage] blobs first.")
]


def admin_fsck(
    position: PositionOption = None,
    rebuild: RebuildOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check everything that is stored, and change nothing. Works while the server runs.

    Checks that every recorded blob and manifest is stored, that the bytes match their digests, that the store has no
    foreign file or object, and that the ledger has no gap and matches the tags. Exit code 0: no problem was found;
    1: a problem was found; 3: something could not be read.

    With --rebuild, and no server running, it first restores repositories, tags, manifests, blobs and the ledger from
    the bucket into an empty database. A run that was interrupted is continued by the next one.
    """
    with CommandOutput("admin-fsck", as_json=as_json) as output:
        if rebuild and position is not None:
            raise Invalid(
                "--rebuild and --position exclude each other: the check after a rebuild begins at its start; run `boltseal admin "
                "fsck --rebuild` first"
            )
        settings = store_settings(config, data)
        with Progress() as progress:
            reached = FsckPosition(position)
            restored = rebuild_store(settings, progress) if rebuild else None
            examined = examine_store(settings, progress, position=reached) if restored is None else restored.examined
        if restored is not None:
            _show(output, restored)
        add_findings(output, examined.findings)
        counts, verdict = examined.counts, _verdict(examined)
        output.outcome = Outcome.DIFFERS if restored is not None and restored.findings else Outcome(examined.outcome)
        output.add(ref=str(settings.server.data), status=output.outcome, reason=verdict, **asdict(counts))
        output.print(f"{settings.server.data}: {verdict}")
        output.say(
            f"read {counted(counts.entries, 'ledger entry', 'ledger entries')}, "
            f"{counted(counts.observations, 'observation')}, {counted(counts.tags, 'tag')}, "
            f"{counted(counts.manifests, 'manifest')}, {counted(counts.blobs, 'blob')} ({size_text(counts.blob_bytes)})"
        )
        foreign = any(
            finding.what == BUCKET for finding in examined.findings
        )  # then its objects are another registry's
        if counts.unnamed_blobs:
            size = size_text(counts.unnamed_bytes)
            unreferenced = counted(counts.unnamed_blobs, "unreferenced blob")
            output.say(f"{unreferenced} ({size}); boltseal admin gc deletes old ones")
        if counts.unnamed_objects:
            unnamed = counted(counts.unnamed_objects, "object")
            output.say(f"{unnamed} that no row names{'' if foreign else '; boltseal admin gc --full deletes old ones'}")


def _show(output: CommandOutput, restored: RebuiltStore) -> None:
    add_findings(output, restored.findings)
    rebuilt = restored.rebuilt
    output.say(
        f"restored a ledger of {counted(rebuilt.entries, 'entry', 'entries')}, {counted(rebuilt.tags, 'tag')}, "
        f"{counted(rebuilt.manifests, 'manifest')}, {counted(rebuilt.blobs, 'blob')}"
    )
    output.say(
        "not restored: users, failed logins and waiting events, which only a backup of the database has; entries after the "
        "last signature; unfinished uploads; blobs that no manifest refers to; who created a repository; receipts of rotated "
        "ledger keys; statements of witnesses"
    )


def _verdict(examined: Examined) -> str:
    wrong = sum(Outcome(finding.status) is Outcome.DIFFERS for finding in examined.findings)
    unread = len(examined.findings) - wrong
    parts = []
    if wrong:
        parts.append(counted(wrong, "problem"))
    if unread:
        parts.append(f"{unread} could not be checked")
    return ", ".join(parts) or "no problem found"
