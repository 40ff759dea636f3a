"""Recognise the error of a command whose libraries were not installed, and name the extra that installs them."""

from __future__ import annotations

from typing import Final

from boltseal.errors import Invalid

SERVER_MODULES: Final = frozenset(
    {
        "alembic",
        "bcrypt",
        "granian",
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


class ExtraMissing(Invalid):
    """The command needs an extra that is not installed."""


def missing_extra(error: BaseException | None, command: str) -> ExtraMissing | None:
    """Return the error to show if `error` is the failed import of a library of the server extra, else None.

    `command`: as the user wrote it, such as `boltseal serve`.
    """
    if not isinstance(error, ModuleNotFoundError) or (error.name or "").partition(".")[0] not in SERVER_MODULES:
        return None
    return ExtraMissing(f'{command} needs the server extra: pip install "boltseal[server]"')
