"""`boltseal tag purge`: delete an image and its blobs, sealed or not."""

from __future__ import annotations

from boltseal.cli.options import ConfigOption, DataOption, JsonOption, ReasonOption, RefArgument
from boltseal.cli.output import CommandOutput
from boltseal.cli.server_options import store_settings
from boltseal.commands.text import counted
from boltseal.server.commands.purge import purge_image


def tag_purge(
    ref: RefArgument,
    reason: ReasonOption,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete an image, its tags and every blob that nothing else references, sealed or not: for a leaked secret.

    The tags can come back only with the same digest. Works while the server runs.
    """
    with CommandOutput("tag-purge", as_json=as_json) as output:
        done = purge_image(store_settings(config, data), ref, reason)
        for row in done.rows:
            digest = {"digest": str(row.digest)} if row.status == "purged" else {}
            output.add(ref=row.ref, status=row.status, reason=row.reason, **digest)
            output.print(f"{row.status}  {row.ref}")
        kept = [row for row in done.rows if row.status == "kept"]
        for row in kept:
            output.say(f"{row.digest.short} stays: {row.reason}")
        removed = f"{counted(done.manifests, 'manifest')} and {counted(done.blobs, 'blob')} removed"
        output.say(
            f"{removed}; its tags can return only with the same digest{'; if a kept part has the secret, purge that too' if kept else ''}"
        )
