"""`boltseal copy`: copy images from one location to another."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput, refusal_json
from boltseal.cli.progress import Progress, size_text
from boltseal.cli.remote import (
    LOCATION_HELP,
    takes_registry_options,
)
from boltseal.commands.copy import CopyRequest, CopyRow, copy_images
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.text import counted
from boltseal.transfer.locations import Location


@takes_registry_options
def copy(
    src: Annotated[str, typer.Argument(metavar="SOURCE", show_default=False, help=LOCATION_HELP)],
    dst: Annotated[str, typer.Argument(metavar="TARGET", show_default=False, help=LOCATION_HELP)],
    all_tags: Annotated[bool, typer.Option("--all-tags", help="Copy every tag of SOURCE under the same name.")] = False,
    referrers: Annotated[bool, typer.Option("--referrers", help="Copy its signatures and SBOMs too.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite a tag that has another image, if the registry of TARGET allows.")
    ] = False,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Copy images between registries, layouts, archives and Docker.

    Within one registry blobs are mounted, not transferred. Every byte is verified. A copy that was interrupted continues
    where it stopped when it is run again. A tag that has another image is not overwritten.
    """
    with CommandOutput("copy", as_json=as_json) as output, Progress() as progress:
        request = CopyRequest(
            Location.parse(src), Location.parse(dst), all_tags=all_tags, referrers=referrers, force=force
        )

        def print_row(row: CopyRow) -> None:
            if row.image is None:
                message = "" if row.error is None else row.error.message
                detail = {} if row.error is None else refusal_json(row.error)
                output.add(ref=row.ref, status=row.status, reason=message, **detail)
                output.print(f"{row.ref}: {message}")
                return
            digest, copied = row.image.digest, row.image.referrers
            output.add(ref=row.ref, status=row.status, digest=str(digest), referrers=copied)
            output.print(row.ref if "@" in row.ref else f"{row.ref}@{digest}")

        done = copy_images(request, access, progress, print_row)
        output.outcome, counts = done.outcome, done.counts
        output.say(
            f"sent {counted(counts.sent, 'blob')} ({size_text(counts.bytes_sent)}) and "
            f"{counted(counts.manifests, 'manifest')}; {counted(counts.mounted, 'blob')} mounted, "
            f"{counts.present} already there"
        )
