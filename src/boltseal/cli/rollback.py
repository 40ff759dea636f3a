"""`boltseal rollback`: make a project run again as an older release did."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.answer import CommandOutput
from boltseal.cli.ondeploy import (
    DeployOptions,
    NameOption,
    NoRecordOption,
    WaitOption,
    on_engine,
    project_name,
    wait_seconds,
)
from boltseal.cli.onhost import HostOption, engine_address
from boltseal.cli.onrelease import by_whom, release_folder, tell_back, tell_release
from boltseal.cli.options import JsonOption
from boltseal.cli.remote import AnonymousOption, CaFileOption, PlainHttpOption, RegistryOptions


def rollback(
    number: Annotated[
        int | None, typer.Argument(metavar="[N]", show_default=False, help="A release. Default: what ran before.")
    ] = None,
    project: NameOption = None,
    files: Annotated[
        bool, typer.Option("--restore-files", help="Put the project's own files back too, as they were then.")
    ] = False,
    wait: WaitOption = "120s",
    no_record: NoRecordOption = False,
    host: HostOption = None,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    as_json: JsonOption = False,
) -> None:
    """Go back to an older release: its settings, environment and images together, exactly.

    Everything comes from this host: no registry and no git is asked, unless somebody has removed an image. The rollback
    is a release itself, and can be gone back from. What is in volumes stays as it is.

    Exit code 0: it runs; 1: it failed, or there is nothing to go back to; 3: it could not be tried.
    """
    with CommandOutput("rollback", as_json=as_json) as answer:
        from pathlib import Path

        from boltseal.deploy.releases import ReleaseKind

        place = DeployOptions(host, RegistryOptions(plain_http, ca_file, anonymous), wait_seconds(wait), not no_record)
        folder = release_folder(project_name(project), engine_address(host).key)
        by = by_whom(Path.cwd(), ReleaseKind.ROLLBACK)
        done = on_engine(place, folder, [], lambda deployer: deployer.rollback(number, by))
        tell_release(answer, done, host)
        tell_back(answer, folder, done, restore=files)
