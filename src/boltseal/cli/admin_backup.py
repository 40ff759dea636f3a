"""`boltseal admin backup`: back up the data folder while the server runs."""

from __future__ import annotations

from boltseal.cli.clock import clock_us
from boltseal.cli.options import BackupArgument, ConfigOption, DataOption, JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.progress import Progress, size_text
from boltseal.cli.server_options import settings_of
from boltseal.errors import Invalid
from boltseal.server.storage.backup import back_up


def admin_backup(
    backup_to: BackupArgument, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """Back up the data folder while the server runs.

    Everything that was acknowledged before the start is in the backup. A second backup into the same folder copies only
    what is new. The keys of DATA.keys are not copied: keep that folder elsewhere.
    """
    with CommandOutput("admin-backup", as_json=as_json) as output:
        settings = settings_of(config, data=data)
        if settings.storage.database is not None:
            raise Invalid(
                "[storage] database is set: the metadata is in PostgreSQL, which this command can't copy; use pg_dump or "
                "the database's own backups, and then copy the bytes of the blobs"
            )
        if settings.storage.blobs is not None:
            raise Invalid(
                "[storage] blobs is set: the bytes of blobs are in an object store, which this command can't copy; "
                "use the object store's versions or replication, and a copy of the database"
            )
        with Progress() as progress:
            copied = back_up(settings.server.data, backup_to, clock_us(), progress)
        output.add(
            ref=str(backup_to),
            status="complete",
            blobs=copied.blobs,
            taken=copied.taken,
            taken_bytes=copied.taken_bytes,
        )
        output.print(f"{backup_to}: complete")
        output.say(f"{copied.blobs} blobs, {copied.taken} of them new ({size_text(copied.taken_bytes)})")
        output.say(f"not in the backup: {settings.keys}, with keys and users")
