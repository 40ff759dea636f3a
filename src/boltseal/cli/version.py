"""`boltseal version`: show the version of boltseal and of its runtime."""

from __future__ import annotations

import platform
import sqlite3
from contextlib import suppress
from importlib import metadata

from boltseal import __version__
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput


def version(as_json: JsonOption = False) -> None:
    """Show the version of boltseal and of its runtime."""
    runtime = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    with suppress(metadata.PackageNotFoundError):  # only the server needs it
        runtime["granian"] = metadata.version("granian")
    runtime["platform"] = platform.platform()
    with CommandOutput("version", as_json=as_json) as output:
        output.add(version=__version__, **runtime)
        output.print(f"boltseal {__version__}")
        output.print(", ".join(f"{name} {value}" for name, value in runtime.items()))
