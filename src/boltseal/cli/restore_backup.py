"""`boltseal restore-backup`: a new data folder, made of a backup."""

from __future__ import annotations

from shlex import quote as quoted

from boltseal.cli.answer import CommandOutput, Outcome, print_line, say
from boltseal.cli.backup import FolderArgument
from boltseal.cli.options import DataOption, JsonOption, settings_of
from boltseal.cli.progress import Progress, in_words


def restore_backup(folder: FolderArgument, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Make a new data folder of a backup, and check it as fsck does.

    The registry it came from must not run any more: two that go on from one backup give one name two meanings.
    """
    with CommandOutput("restore-backup", as_json=as_json) as answer:
        settings = settings_of(None, data=data)

        from boltseal.server.storage.backup import restore
        from boltseal.server.store_factory import examine_store

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
