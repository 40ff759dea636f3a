"""`boltseal admin restore`: create a data folder from a backup."""

from __future__ import annotations

from shlex import quote as quoted

from boltseal.cli.findings import add_findings
from boltseal.cli.options import BackupArgument, ConfigOption, DataOption, JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.progress import Progress, size_text
from boltseal.cli.server_options import settings_of
from boltseal.commands.outcome import Outcome
from boltseal.server.commands.backups import restore_backup


def admin_restore(
    folder: BackupArgument, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """Create a data folder from a backup, or fill PostgreSQL and S3, and check it as `admin fsck` does.

    Stop the registry that was backed up for good: two registries that continue from one backup could give one tag two
    digests.
    """
    with CommandOutput("admin-restore", as_json=as_json) as output:
        settings = settings_of(config, data=data)
        target = settings.server.data
        with Progress() as progress:
            restored = restore_backup(settings, folder, progress)
        copied, examined = restored.copied, restored.examined
        add_findings(output, examined.findings)
        output.outcome = Outcome(examined.outcome)
        output.add(ref=str(target), status="restored", blobs=copied.blobs, taken_bytes=copied.taken_bytes)
        output.print(f"{target}: restored, {copied.blobs} blobs ({size_text(copied.taken_bytes)})")
        output.say("tags that were published after the backup are not in it")
        output.say(
            f"before it accepts writes: copy the former registry's keys and users to {settings.keys}, and recover"
        )
        where = f"--data {quoted(str(target))}" if config is None else f"--config {quoted(str(config))}"
        output.say(f"later ledger entries: boltseal ledger recover --from URL|FOLDER {where}")
        output.say("if they are lost: --accept-loss --reason TEXT instead of --from, under a new key")
        if restored.behind:
            output.say(
                f"{restored.behind} entries that were signed are not in the backup: the server starts read-only until then"
            )
