"""How boltseal was installed: the command that adds an extra to this installation."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_INSTALLERS: Final = {"uv-receipt.toml": "uv tool install", "pipx_metadata.json": "pipx install --force"}
"""The file that marks an environment as managed by a tool, and the install command of that tool, which may undo what pip does."""


def install_command(extra: str, environment: Path) -> str:
    """Return the command that adds an extra to the installation in this environment, by the tool that created it."""
    for receipt, install in _INSTALLERS.items():
        if (environment / receipt).exists():
            return f'{install} "boltseal[{extra}]"'
    return f'pip install "boltseal[{extra}]"'
