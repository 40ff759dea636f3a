"""`boltseal admin restore`: create a data folder from a backup."""

from __future__ import annotations

from shlex import quote as quoted

from boltseal.cli.findings import add_findings
from boltseal.cli.options import BackupArgument, DataOption, JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.progress import Progress, size_text
from boltseal.cli.server_options import settings_of
from boltseal.commands.outcome import Outcome
from boltseal.server.storage.backup import refuse_other_storage, restore
from boltseal.server.store_factory import examine_store


def admin_restore(folder: BackupArgument, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Create a data folder from a backup, and check it as `admin fsck` does.

    Stop the registry that was backed up for good: two registries that continue from one backup could give one tag two
    digests.
    """
    with CommandOutput("admin-restore", as_json=as_json) as output:
        settings = settings_of(None, data=data)
        refuse_other_storage(settings.storage)
        target = settings.server.data
        with Progress() as progress:
            copied = restore(folder, target, progress)
            examined = examine_store(settings, progress, with_keys=False, hashed=True)
        add_findings(output, examined.findings)
        output.outcome = Outcome(examined.outcome)
        output.add(ref=str(target), status="restored", blobs=copied.blobs, taken_bytes=copied.taken_bytes)
        output.print(f"{target}: restored, {copied.blobs} blobs ({size_text(copied.taken_bytes)})")
        output.say("tags that were published after the backup are not in it")
        output.say(
            f"before it accepts writes: copy the former registry's keys and users to {settings.keys}, and recover"
        )
        output.say(f"later ledger entries: boltseal ledger recover --from URL|FOLDER --data {quoted(str(target))}")
        output.say("if they are lost: --accept-loss --reason TEXT instead of --from, under a new key")
