"""`boltseal backup`: a copy of everything, beside a running server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boltseal.cli.answer import CommandOutput, print_line, say
from boltseal.cli.clock import clock_us
from boltseal.cli.options import ConfigOption, DataOption, JsonOption, settings_of
from boltseal.cli.progress import Progress, in_words

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", show_default=False, help="The backup's folder.")]


def backup(
    folder: FolderArgument, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """Copy everything to a folder, beside a running server.

    What was acknowledged before it began is in it. Into the same folder again it copies only what is new. Keys and users
    are not copied: keep those of DATA.keys elsewhere.
    """
    with CommandOutput("backup", as_json=as_json) as answer:
        settings = settings_of(config, data=data)

        from boltseal.server.storage.backup import back_up

        with Progress() as progress:
            copied = back_up(settings.server.data, folder, clock_us(), progress)
        answer.add(
            ref=str(folder), status="complete", blobs=copied.blobs, taken=copied.taken, taken_bytes=copied.taken_bytes
        )
        if not as_json:
            print_line(f"{folder}: complete")
            say(f"{copied.blobs} blobs, {copied.taken} of them new ({in_words(copied.taken_bytes)})")
            say(f"not in it: {settings.keys}, with keys and users")
