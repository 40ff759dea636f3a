"""Runs one call in a process that kills itself by SIGKILL at a stated step: before it, or after it was done."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext
from types import CodeType, FrameType
from typing import Any, Literal

Moment = Literal["call", "return"]
PRELOADED = (
    "boltseal.server.commands.backups",
    "boltseal.server.commands.move_data",
    "boltseal.server.storage.postgres_backup",
    "tests.server.commands.moving",
    "tests.server.registry.rebuilder",
)
"""What calls and their arguments are of."""


def context() -> ForkServerContext:
    """Return a way to start processes that have the modules already, which saves a second for each."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([*PRELOADED, __name__])
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

    _kill_at(step, moment)
    call(*arguments)


def _kill_at(step: str, moment: Moment) -> None:
    """Kill this process when any thread calls a function of this name, or returns from it; the second also at a `yield`."""
    if sys.version_info >= (3, 12):

        def watch(code: CodeType, *_: Any) -> Any:
            if code.co_name == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return monitoring.DISABLE  # for this function: the others cost time at their first call only

        monitoring = sys.monitoring
        monitoring.use_tool_id(monitoring.PROFILER_ID, "killed_command")
        kinds = monitoring.events
        watched = (kinds.PY_START,) if moment == "call" else (kinds.PY_RETURN, kinds.PY_YIELD)
        for each in watched:
            monitoring.register_callback(monitoring.PROFILER_ID, each, watch)
        monitoring.set_events(monitoring.PROFILER_ID, sum(watched))
    else:

        def watch_frame(frame: FrameType, event: str, _: Any) -> None:
            if event == moment and frame.f_code.co_name == step:
                os.kill(os.getpid(), signal.SIGKILL)

        threading.setprofile(watch_frame)
        sys.setprofile(watch_frame)
