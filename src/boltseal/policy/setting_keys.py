"""The type in which tables of the configuration describe their keys. Pure.

A table of keys is used twice: the parser refuses a key that is not in it, and the configuration reference is generated
from it (`scripts/reference.py`).
"""

from __future__ import annotations

from typing import NamedTuple


class SettingKey(NamedTuple):
    """A key of a table in the configuration. `default`: as the reference shows it; empty for none."""

    default: str
    description: str
