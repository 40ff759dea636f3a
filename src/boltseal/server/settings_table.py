"""The base class of the tables of the server's settings file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class SettingsTable(BaseModel):
    """A table of settings: frozen, without unknown keys, and without input values in pydantic's errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)
