"""Settings of the commands that work on a registry's data folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

from boltseal.server import logs
from boltseal.server.configuration import load
from boltseal.server.settings import Settings

_REPORTED: Final = (
    "boltseal.server.storage.object_client",
    "boltseal.server.storage.metadata.postgres",
    "psycopg",
)
"""The loggers of failed requests to the bucket and the database: a command prints them as its error, in words."""


def settings_of(config: Path | None, **server: Any) -> Settings:
    """Load the settings; flags of `[server]` that are not None override them. Raises: ConfigInvalid."""
    return load(config, flags_of(**server))


def store_settings(config: Path | None, data: Path | None) -> Settings:
    """Load the settings for work on the data folder, and configure logging by them, on stderr. Raises: ConfigInvalid."""
    settings = settings_of(config, data=data)
    logs.configure(settings.server.log_level, as_json=logs.wants_json(settings.server.log_format))
    if settings.server.log_level != "debug":
        for name in _REPORTED:
            logging.getLogger(name).setLevel(logging.ERROR)
    return settings


def flags_of(**server: Any) -> dict[str, Any]:
    """Return the flags of `[server]` that were given, as a layer of settings."""
    return {"server": {name: value for name, value in server.items() if value is not None}}
