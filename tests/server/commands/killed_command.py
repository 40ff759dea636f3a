"""Runs one call in a process that kills itself by SIGKILL at a stated step: before it, or after it was done."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext
from types import FrameType
from typing import Any, Literal

Moment = Literal["call", "return"]


def context() -> ForkServerContext:
    """Return a way to start processes that have the modules already, which saves seconds for each."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["boltseal.server.commands.move_data", "boltseal.server.storage.postgres_backup"])
    return found


def run_killed(
    call: Callable[..., object],
    arguments: tuple[object, ...],
    step: str,
    moment: Moment,
    environment: Mapping[str, str],
) -> bool:
    """Run a call and return whether it was killed at a function of this name; False: it ended in order before."""
    process = context().Process(target=_run, args=(call, arguments, step, moment, dict(environment)))
    process.start()
    process.join()
    code = process.exitcode
    assert code in (0, -signal.SIGKILL), f"the process failed with {code}"
    return code == -signal.SIGKILL


def _run(
    call: Callable[..., object], arguments: tuple[object, ...], step: str, moment: Moment, environment: dict[str, str]
) -> None:
    os.environ.update(environment)

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event == moment and frame.f_code.co_name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    threading.setprofile(watch)
    sys.setprofile(watch)
    call(*arguments)
