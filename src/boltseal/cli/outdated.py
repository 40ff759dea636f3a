"""`boltseal outdated`: find images whose base image has moved, since when, and what changed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Final

import typer

from boltseal.cli.durations import duration_option
from boltseal.cli.event_loop import cancel_on_sigterm
from boltseal.cli.options import AllowEmptyOption, JsonOption, PlatformsOption
from boltseal.cli.outdated_output import print_log, print_rebuilds, print_report
from boltseal.cli.output import CommandOutput, say
from boltseal.cli.progress import Progress
from boltseal.cli.project_options import AllowOption
from boltseal.cli.remote import pull_limit_text, takes_registry_options
from boltseal.commands.base_scan_request import BaseScanRequest
from boltseal.commands.outdated import OutdatedRequest, find_outdated, rebuild_settings
from boltseal.commands.rebuild_log import requested_at, requested_here
from boltseal.commands.registry_access import RegistryOptions
from boltseal.config import secret_variable
from boltseal.policy.durations import Duration

DEFAULT_WINDOW: Final = Duration.parse("15m")

DockerfileOption = Annotated[
    Path | None,
    typer.Option(
        "--dockerfile", metavar="FILE", show_default=False, help="The Dockerfile of images that do not name their base."
    ),
]


@takes_registry_options
def outdated(
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMAGE]...", show_default=False, help="Images of any registry, by tag or digest."),
    ] = None,
    registry: Annotated[
        str | None, typer.Option("--registry", metavar="HOST", show_default=False, help="Every tag of a registry.")
    ] = None,
    compose: Annotated[
        Path | None, typer.Option("--compose", metavar="FILE", show_default=False, help="The images of a Compose file.")
    ] = None,
    lock: Annotated[
        Path | None, typer.Option("--lock", metavar="FILE", show_default=False, help="The images of a boltseal.lock.")
    ] = None,
    running: Annotated[
        bool, typer.Option("--running", help="The containers of this host's engine, or of --host.")
    ] = False,
    host: Annotated[
        str | None,
        typer.Option(
            "--host", metavar="ADDRESS", show_default=False, help="With --running: unix://, tcp:// or ssh://."
        ),
    ] = None,
    dockerfile: DockerfileOption = None,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="IMAGE", show_default=False, help="The base of images that do not name theirs."),
    ] = None,
    platform: PlatformsOption = None,
    window: Annotated[
        Duration,
        duration_option(
            "--window",
            "Do not resolve a base again that was resolved so recently, such as 15m.",
            show_default=True,
        ),
    ] = DEFAULT_WINDOW,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Request rebuilds by [[on_outdated]] of your own configuration.")
    ] = False,
    log: Annotated[
        bool, typer.Option("--log", help="Show the rebuilds that were requested, and their results.")
    ] = False,
    details: Annotated[bool, typer.Option("--details", help="Also show why an image is current.")] = False,
    allow_empty: AllowEmptyOption = False,
    allow: AllowOption = None,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Find images whose base image has moved.

    For each image: its base, and how that is known (recorded at build, proven by layers, inferred); since when and by
    how many moves it is behind; what changed. Each base costs one HEAD request, however many images are built on it, and
    no pull unless it moved. A change for other platforms than the image's does not make it outdated.

    Exit code 1: one is outdated; 3: one could not be checked, or there was no image.
    """
    with CommandOutput("outdated", as_json=as_json) as output:
        scan = BaseScanRequest(images or (), registry, compose, lock, running, host, platform or ())
        if log:
            print_log(output, requested_here(access.client) if registry is None else requested_at(access, registry))
            return
        request = OutdatedRequest(
            scan=scan,
            dockerfile=dockerfile,
            base=base,
            window_s=int(window.seconds),
            rebuild=rebuild_settings(access.client.paths.settings, secret_variable) if rebuild else None,
            allow=tuple(allow or ()),
        )
        try:
            with Progress() as progress:
                report = find_outdated(request, access, progress, cancel_on_sigterm)
        except asyncio.CancelledError:  # by SIGTERM: it ends as by Ctrl-C
            raise KeyboardInterrupt from None
        print_report(output, report, verbose=details)
        if not output.results and not allow_empty:
            output.nothing_to_check(f"found 0 images in {scan.source}", "check the arguments")
        print_rebuilds(output, report.rebuilds)
        for name, limit in report.limits:
            say(pull_limit_text(name, limit))
