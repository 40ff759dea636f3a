"""`boltseal backup` and `boltseal restore-backup`: a copy of everything, beside a running server, and back."""

from __future__ import annotations

from pathlib import Path
from shlex import quote as quoted
from typing import Annotated

import typer

from boltseal.cli.answer import Answer, Outcome, print_line, say
from boltseal.cli.clock import clock_us
from boltseal.cli.options import ConfigOption, DataOption, JsonOption, settings_of
from boltseal.cli.progress import Progress, in_words

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", show_default=False, help="The backup's folder.")]


def backup(
    folder: FolderArgument, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """Copy everything to a folder, beside a running server.

    What was acknowledged before it began is in it. Into the same folder again it copies only what is new. Keys and users
    are not copied: keep those of DATA.keys elsewhere.
    """
    with Answer("backup", as_json=as_json) as answer:
        settings = settings_of(config, data=data)

        from boltseal.storage.backup import back_up

        with Progress() as progress:
            copied = back_up(settings.server.data, folder, clock_us(), progress)
        answer.add(
            ref=str(folder), status="complete", blobs=copied.blobs, taken=copied.taken, taken_bytes=copied.taken_bytes
        )
        if not as_json:
            print_line(f"{folder}: complete")
            say(f"{copied.blobs} blobs, {copied.taken} of them new ({in_words(copied.taken_bytes)})")
            say(f"not in it: {settings.keys}, with keys and users")


def restore_backup(folder: FolderArgument, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Make a new data folder of a backup, and check it as fsck does.

    The registry it came from must not run any more: two that go on from one backup give one name two meanings.
    """
    with Answer("restore-backup", as_json=as_json) as answer:
        settings = settings_of(None, data=data)

        from boltseal.opening import examine_store
        from boltseal.storage.backup import restore

        with Progress() as progress:
            copied = restore(folder, settings.server.data, progress)
            examined = examine_store(settings, progress, with_keys=False)
        for finding in examined.findings:
            answer.add(ref=finding.what, status=finding.status, reason=finding.problem)
            if not as_json:
                print_line(f"{finding.what}: {finding.problem}")
        answer.outcome = Outcome(examined.outcome)
        answer.add(ref=str(settings.server.data), status="restored", blobs=copied.blobs, taken_bytes=copied.taken_bytes)
        if not as_json:
            print_line(f"{settings.server.data}: restored, {copied.blobs} blobs ({in_words(copied.taken_bytes)})")
            data_folder = quoted(str(settings.server.data))
            say("tags that were published after the backup are not in it")
            say(f"it takes nothing in until keys and users of the registry it came from are in {settings.keys}, and")
            say(f"what its ledger has since then is back: boltseal ledger recover --from URL|DIR --data {data_folder}")
            say("without them: --accept-loss --reason TEXT in place of --from, under a new key")
