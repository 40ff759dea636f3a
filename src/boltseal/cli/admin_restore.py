"""`boltseal admin restore`: create a data folder from a backup."""

from __future__ import annotations

from shlex import quote as quoted

from boltseal.cli.findings import add_findings
from boltseal.cli.options import BackupArgument, ConfigOption, DataOption, JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.progress import Progress, size_text
from boltseal.cli.server_options import store_settings
from boltseal.commands.outcome import Outcome
from boltseal.commands.text import counted
from boltseal.server.commands.backups import restore_backup


def admin_restore(
    folder: BackupArgument, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """Create a data folder from a backup, or fill PostgreSQL and S3, and check it as `admin fsck` does.

    Stop the registry that was backed up for good: two registries that continue from one backup could give one tag two
    digests.
    """
    with CommandOutput("admin-restore", as_json=as_json) as output:
        settings = store_settings(config, data)
        target = settings.server.data
        with Progress() as progress:
            restored = restore_backup(settings, folder, progress)
        copied, examined = restored.copied, restored.examined
        add_findings(output, examined.findings)
        output.outcome = Outcome(examined.outcome)
        place = settings.storage.database or target
        status = "was-restored-before" if copied.was_there else "restored"
        output.add(ref=str(place), status=status, blobs=copied.blobs, taken_bytes=copied.taken_bytes)
        if copied.was_there:
            output.print(f"{place}: this backup was restored there before; nothing was changed")
        else:
            in_bucket = settings.storage.blobs is not None and not copied.taken
            size = f"in {settings.storage.blobs}" if in_bucket else f"({size_text(copied.taken_bytes)})"
            output.print(f"{place}: restored, {counted(copied.blobs, 'blob')} {size}")
        output.say("tags that were published after the backup are not in it")
        output.say(
            f"before it accepts writes: copy the former registry's keys and users to {settings.keys}, and recover"
        )
        where = f"--data {quoted(str(target))}" if config is None else f"--config {quoted(str(config))}"
        output.say(f"later ledger entries: boltseal ledger recover --from URL|FOLDER {where}")
        output.say("if they are lost: --accept-loss --reason TEXT instead of --from, under a new origin and key")
        if settings.storage.blobs is not None and not copied.taken:
            output.say(
                "objects that only the former database names: boltseal admin gc --full, a day after they were written"
            )
        if restored.behind:
            output.say(
                f"not in the backup: {counted(restored.behind, 'signed entry', 'signed entries')}; the server starts read-only until then"
            )
