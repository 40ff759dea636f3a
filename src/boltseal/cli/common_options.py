"""What every command has: the options -q and -v, and a check that the files which the user names exist."""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any, Final

import typer

from boltseal.cli.output import talk
from boltseal.cli.parameters import CommandFunction, expanded
from boltseal.files.named_files import require_file

PATHS: Final = frozenset({"FILE", "FOLDER", "PATH"})
"""The metavars of paths."""
MAY_BE_MISSING: Final = frozenset(
    {
        "backup_to",
        "data",
        "metrics_file",
        "paths",
        "position",
        "root",
        "signing_key",
        "state",
        "target",
        "write_baseline",
    }
)
"""Parameters with a path that is created, is on another host, or may be something else (`lock --update` also takes references)."""
STANDARD_INPUT: Final = "-"

QuietOption = Annotated[
    bool, typer.Option("-q", "--quiet", help="Print no notices on stderr, only errors; no progress.")
]
VerboseOption = Annotated[
    bool,
    typer.Option("-v", "--verbose", help="Print each request to a registry on stderr, without secrets."),
]


def set_verbosity(quiet: bool, verbose: bool) -> Mapping[str, Any]:
    """Apply the options to this run; they add up when they are given twice."""
    talk().quiet |= quiet
    talk().verbose |= verbose
    return {}


def with_common_options(function: CommandFunction) -> CommandFunction:
    """Return a command that takes -q and -v too, and raises FileMissing for a file that is not there."""
    inputs = [name for name, each in signature(function, eval_str=True).parameters.items() if _is_input(name, each)]

    @wraps(function)
    def checked(**values: Any) -> Any:
        for name in inputs:
            given = values.get(name)
            for path in given if isinstance(given, list) else [given]:
                if path is not None and str(path) != STANDARD_INPUT:
                    require_file(path)
        return function(**values)

    return expanded(checked, {"quiet": (QuietOption, False), "verbose": (VerboseOption, False)}, set_verbosity)


def _is_input(name: str, parameter: Parameter) -> bool:
    """Return whether a parameter names a file or folder that must exist."""
    metavars = [getattr(each, "metavar", None) or "" for each in getattr(parameter.annotation, "__metadata__", ())]
    return name not in MAY_BE_MISSING and any(each.strip("[].") in PATHS for each in metavars)
