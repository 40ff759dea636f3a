"""Loads the module of a command when the command is called, by `boltseal.loading`.

Importing all commands takes longer than most of them run, and the server's dependencies are an extra.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Final

from boltseal.errors import Invalid
from boltseal.files.installation import install_command
from boltseal.loading import load

SERVER_MODULES: Final = frozenset(
    {
        "alembic",
        "bcrypt",
        "granian",
        "jinja2",
        "joserfc",
        "prometheus_client",
        "pydantic",
        "pydantic_core",
        "pydantic_settings",
        "sqlalchemy",
        "starlette",
    }
)
"""Import names of the libraries of the extra `server`; tests/cli/test_client_install.py compares them with the imports."""

_EXTRAS: Final = {"psycopg": "server,postgresql"}
"""Libraries of further extras that a command may need, and what to install for them."""


def load_module(name: str, *, command: str, extra: str | None = None) -> ModuleType:
    """Import a module of boltseal for a command. `extra`: the extra of the distribution that has its dependencies.

    Raises: Invalid: a module of another distribution is not installed, and the command needs an extra.
    """
    if name in sys.modules:
        return sys.modules[name]
    try:
        with _without_collection():
            return load(name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        extra = _EXTRAS.get(missing, extra)
        if extra is None or missing not in SERVER_MODULES | _EXTRAS.keys():
            raise
        raise Invalid(f"{command} needs the {extra} extra: {install_command(extra, Path(sys.prefix))}") from error


@contextmanager
def _without_collection() -> Iterator[None]:
    """Import without garbage collection: what imports create stays, and the collector would walk all of it again and again.

    It saves a tenth of the processor time of a short command. Later collections leave these objects out.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
