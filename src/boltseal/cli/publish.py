"""`boltseal publish`: push an image, have it signed, then give it its tag."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from boltseal.cli.copy import not_carried_json
from boltseal.cli.durations import duration_option
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.progress import Progress
from boltseal.cli.remote import LOCATION_HELP, SIGNED_BY_HELP, takes_registry_options
from boltseal.commands.publish import NO_WAIT, PublishReport, PublishRequest, publish_image, publish_target
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.text import clean
from boltseal.policy.durations import Duration
from boltseal.transfer.locations import Location


@takes_registry_options
def publish(
    source: Annotated[str, typer.Argument(metavar="SOURCE", show_default=False, help=LOCATION_HELP)],
    tag: Annotated[
        str,
        typer.Argument(
            metavar="TAG", show_default=False, help="localhost:5000/shop/app:1.4.2, or a tag alone: where SOURCE is."
        ),
    ],
    sign: Annotated[
        list[str] | None,
        typer.Option(
            "--sign",
            metavar="TEXT",
            show_default=False,
            help="A command that signs {image}. Repeat for several, such as attestations.",
        ),
    ] = None,
    signed_by: Annotated[
        list[str] | None,
        typer.Option("--signed-by", metavar="SIGNER", show_default=False, help=SIGNED_BY_HELP),
    ] = None,
    wait: Annotated[
        Duration,
        duration_option("--wait", "Wait so long for a signature that is missing.", at_most="1d"),
    ] = NO_WAIT,  # an immutable value
    no_referrers: Annotated[
        bool, typer.Option("--no-referrers", help="Leave behind what is attached to SOURCE at another registry.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Move a mutable tag that has another image, if the registry allows.")
    ] = False,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Push an image by its digest, have it signed, and then give it its tag.

    --sign runs the command, without a shell, after the push; {image} in it becomes the image by its digest. What it prints goes
    to stderr. With --signed-by the signatures are verified here, whatever the registry requires, and a signed image is not
    signed again. --wait waits until another person or pipeline has signed. A tag that has the image already is left as it is.

    Exit code 1: the image lacks a signature, which is printed with the command that adds it, or the tag has another image. Exit code 3:
    a command of --sign failed. Run publish again then: it continues.
    """
    with CommandOutput("publish", as_json=as_json) as output, Progress() as progress:
        location = Location.parse(source)
        request = PublishRequest(
            location,
            publish_target(location, tag),
            sign=tuple(sign or ()),
            signed_by=tuple(signed_by or ()),
            wait=wait,
            referrers=not no_referrers,
            force=force,
        )
        report = publish_image(request, access, progress, sys.stderr)
        output.outcome = report.outcome
        output.add(
            ref=report.ref,
            status=report.status,
            reason=report.reason,
            digest=str(report.digest),
            missing=list(report.missing),
            commands=list(report.commands),
            not_carried=[not_carried_json(each) for each in report.not_carried],
            **({} if report.refused is None else {"detail": report.refused.as_json()}),
        )
        _print(output, report)


def _print(output: CommandOutput, report: PublishReport) -> None:
    if report.status == "unsigned":
        output.print(f"{report.ref}: not published: {clean(report.reason)}")
        for command in report.commands:
            output.print(f"  run: {clean(command)}")
    else:
        output.print(f"{report.ref}@{report.digest}")
        output.say("the tag had this image already" if report.status == "unchanged" else "published")
    for each in report.not_carried:
        output.print(f"{report.ref}: not carried along: {each.name}: {each.error.message}")
