"""`boltseal outdated`: find images whose base image has moved, since when, and what changed."""

from __future__ import annotations

import asyncio
from typing import Final

from boltseal.cli.event_loop import cancel_on_sigterm
from boltseal.cli.explain_option import ExplainOption
from boltseal.cli.explanation_text import ExplainFormat
from boltseal.cli.options import AllowEmptyOption, JsonOption, PlatformsOption
from boltseal.cli.outdated_options import (
    BaseOption,
    ComposeOption,
    DetailsOption,
    DockerfileOption,
    ImagesArgument,
    LockOption,
    LogOption,
    RebuildOption,
    RegistryOption,
    RunningOption,
    WindowOption,
)
from boltseal.cli.outdated_output import print_log, print_rebuilds, print_report
from boltseal.cli.output import CommandOutput, say
from boltseal.cli.progress import Progress
from boltseal.cli.project_options import AllowOption
from boltseal.cli.remote import pull_limit_text, takes_registry_options
from boltseal.cli.running_options import HostsOption
from boltseal.commands.base_scan_request import BaseScanRequest
from boltseal.commands.outdated import OutdatedRequest, find_outdated, rebuild_settings
from boltseal.commands.rebuild_log import requested_at, requested_here
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.text import counted
from boltseal.config import secret_variable
from boltseal.policy.durations import Duration

DEFAULT_WINDOW: Final = Duration.parse("15m")


@takes_registry_options
def outdated(
    images: ImagesArgument = None,
    registry: RegistryOption = None,
    compose: ComposeOption = None,
    lock: LockOption = None,
    running: RunningOption = False,
    host: HostsOption = None,
    dockerfile: DockerfileOption = None,
    base: BaseOption = None,
    platform: PlatformsOption = None,
    window: WindowOption = DEFAULT_WINDOW,
    rebuild: RebuildOption = False,
    log: LogOption = False,
    details: DetailsOption = False,
    explain: ExplainOption = None,
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

    --explain reads the outdated images and both images of the base that moved, with all layers: which packages, files and
    settings changed, and whether an image still has them as before.

    Exit code 1: one is outdated; 3: one could not be checked, or there was no image.
    """
    with CommandOutput("outdated", as_json=as_json or explain is ExplainFormat.JSON) as output:
        scan = BaseScanRequest(images or (), registry, compose, lock, running, host or (), platform or ())
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
            explain=explain is not None,
        )
        try:
            with Progress() as progress:
                report = find_outdated(request, access, progress, cancel_on_sigterm)
        except asyncio.CancelledError:  # by SIGTERM: it ends as by Ctrl-C
            raise KeyboardInterrupt from None
        markdown = explain is ExplainFormat.MARKDOWN and not output.as_json
        print_report(output, report, verbose=details, markdown=markdown)
        if report.remembered:
            tags = counted(report.remembered, "base tag")
            say(f"{tags} not resolved again within {window} of the last time; now: --window 0s")
        if not output.results and not allow_empty:
            output.nothing_to_check(f"found 0 images in {scan.source}", "check the arguments")
        print_rebuilds(output, report.rebuilds)
        for name, limit in report.limits:
            say(pull_limit_text(name, limit))
