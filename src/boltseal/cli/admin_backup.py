"""`boltseal admin backup`: back up the data folder while the server runs."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.clock import clock_us
from boltseal.cli.options import BackupArgument, ConfigOption, DataOption, JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.progress import Progress, size_text
from boltseal.cli.server_options import store_settings
from boltseal.commands.text import counted
from boltseal.server.commands.backups import make_backup


def admin_backup(
    backup_to: BackupArgument,
    with_objects: Annotated[
        bool,
        typer.Option("--with-objects", help="With PostgreSQL and S3: also copy the blobs out of the bucket."),
    ] = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Back up the data folder, or PostgreSQL and S3, while the server runs.

    Everything that was acknowledged before the start is in the backup. A second backup into the same folder copies only
    what is new. The keys of DATA.keys are not copied: keep that folder elsewhere.
    """
    with CommandOutput("admin-backup", as_json=as_json) as output:
        settings = store_settings(config, data)
        with Progress() as progress:
            copied = make_backup(settings, backup_to, clock_us(), progress, with_objects=with_objects)
        output.add(
            ref=str(backup_to),
            status="complete",
            blobs=copied.blobs,
            taken=copied.taken,
            taken_bytes=copied.taken_bytes,
        )
        output.print(f"{backup_to}: complete")
        if settings.storage.blobs is not None and not with_objects:
            output.say(f"{counted(copied.blobs, 'blob')} in {settings.storage.blobs}, which a restore needs")
        else:
            output.say(f"{counted(copied.blobs, 'blob')}, {copied.taken} of them new ({size_text(copied.taken_bytes)})")
        output.say(f"not in the backup: {settings.keys}, with keys and users")
