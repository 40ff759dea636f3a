"""Rebuilds a registry in a process that kills itself (SIGKILL) after a step, or inside its last transaction."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping

from boltseal.server.commands.rebuild import rebuild_store
from boltseal.server.settings import Settings


def rebuild(settings: str, step: str, environment: Mapping[str, str]) -> None:
    """Rebuild, and end this process at the first progress of a step. `settings`: as JSON. `environment`: more variables."""

    def progress(name: str, _done: int, _total: int) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    os.environ.update(environment)
    rebuild_store(Settings.model_validate(json.loads(settings)), progress)
