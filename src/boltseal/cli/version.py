"""`boltseal version`: which boltseal this is, and what it runs on."""

from __future__ import annotations

from boltseal import __version__
from boltseal.cli.answer import CommandOutput, print_line
from boltseal.cli.options import JsonOption


def version(as_json: JsonOption = False) -> None:
    """Show the version, and what it runs on."""
    import platform
    import sqlite3
    from importlib import metadata

    runs_on = {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "granian": metadata.version("granian"),
        "platform": platform.platform(),
    }
    with CommandOutput("version", as_json=as_json) as answer:
        answer.add(version=__version__, **runs_on)
        if not as_json:
            print_line(f"boltseal {__version__}")
            print_line(", ".join(f"{name} {value}" for name, value in runs_on.items()))
