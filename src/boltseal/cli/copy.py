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
from boltseal.transfer.attached import Attached, NotCarried
from boltseal.transfer.locations import Location


@takes_registry_options
def copy(
    src: Annotated[str, typer.Argument(metavar="SOURCE", show_default=False, help=LOCATION_HELP)],
    dst: Annotated[str, typer.Argument(metavar="TARGET", show_default=False, help=LOCATION_HELP)],
    all_tags: Annotated[bool, typer.Option("--all-tags", help="Copy every tag of SOURCE under the same name.")] = False,
    referrers: Annotated[
        bool | None,
        typer.Option(
            "--referrers/--no-referrers",
            show_default=False,
            help="Copy its signatures, attestations and SBOMs too. Default: between registries.",
        ),
    ] = None,
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

    Between registries, signatures, attestations, SBOMs and other referrers go along, before the tag is given. What can't go along is
    printed with the reason, and the exit code is 1 if a registry refused it, 3 if it could not be read or sent; the image is copied.
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
            digest, attached = row.image.digest, row.image.attached
            output.add(
                ref=row.ref,
                status=row.status,
                digest=str(digest),
                referrers=len(attached),
                attached=[_attached_json(each) for each in attached],
                not_carried=[not_carried_json(each) for each in row.image.not_carried],
            )
            output.print(row.ref if "@" in row.ref else f"{row.ref}@{digest}")
            for each in row.image.not_carried:
                output.print(f"{row.ref}: not carried along: {each.name}: {each.error.message}")

        done = copy_images(request, access, progress, print_row)
        output.outcome, counts = done.outcome, done.counts
        output.say(
            f"sent {counted(counts.sent, 'blob')} ({size_text(counts.bytes_sent)}) and "
            f"{counted(counts.manifests, 'manifest')}; {counted(counts.mounted, 'blob')} mounted, "
            f"{counts.present} already there"
        )
        attached = sum(len(row.image.attached) for row in done.rows if row.image is not None)
        if attached:
            output.say(
                f"{counted(attached, 'signature or other referrer', 'signatures and other referrers')} went along"
            )


def _attached_json(attached: Attached) -> dict[str, str | None]:
    return {
        "digest": str(attached.digest),
        "subject": str(attached.subject),
        "tag": attached.tag,
        "artifact_type": attached.kind if attached.tag is None else None,
    }


def not_carried_json(missing: NotCarried) -> dict[str, str | None]:
    """Return what a copy did not carry along, for `--json`."""
    known = missing.attached
    return {
        "digest": None if known is None else str(known.digest),
        "subject": str(missing.subject),
        "tag": None if known is None else known.tag,
        "reason": missing.error.message,
    }
