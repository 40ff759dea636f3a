"""Runs boltseal in another process, or in this one where that is equivalent and faster."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from boltseal.cli import root
from boltseal.cli.json_schemas import ROWS
from boltseal.cli.json_types import envelope
from tests.boltseal_process import boltseal_process
from tests.storage_choice import storage_variables

TIMEOUT_S = 60.0
_STATE = ("BOLTSEAL_STATE", "BOLTSEAL_ENGINES")


@dataclass(frozen=True, slots=True)
class Run:
    """The result of a run: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Return the one object that `--json` printed, after checking it against its published schema."""
        parsed: dict[str, Any] = json.loads(self.out)
        checked(parsed)
        return parsed


def checked(printed: Mapping[str, Any]) -> None:
    """Compare what a command printed with the type from which the published schema is generated."""
    name = printed["schema"].removeprefix("boltseal.").removesuffix("/1")
    if name in ROWS:  # a command that a test defines has no schema
        msgspec.json.decode(json.dumps(printed), type=envelope(name))


def clean_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment with this test's own state, without boltseal's settings, on a terminal of 80 columns."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BOLTSEAL_") or name in _STATE}
    return kept | {"COLUMNS": "80"} | dict(more or {})


def run(
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    before: Sequence[str] = (),
    timeout_s: float = TIMEOUT_S,
) -> Run:
    """Run one command in a process. `before`: the program that starts it. `timeout_s`: after this time it is killed."""
    variables = clean_environment(storage_variables(arguments) | dict(environment or {}))
    with boltseal_process(
        arguments,
        before,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=variables,
        cwd=cwd,
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except BaseException:  # as `subprocess.run` does
            process.kill()
            raise
    return Run(process.returncode, out, err)


class _redirect_stdin(redirect_stdout[io.StringIO]):  # noqa: N801 - as its siblings are called
    _stream = "stdin"


def call(
    *arguments: str | Path, typed: str = "", environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Run:
    """Run one command in this process with this environment. `typed`: its standard input."""

    def called() -> Run:
        out, err = io.StringIO(), io.StringIO()
        code: object = None
        with redirect_stdout(out), redirect_stderr(err), _redirect_stdin(io.StringIO(typed)):
            try:
                root.run([str(argument) for argument in arguments])
            except SystemExit as ended:
                code = ended.code
        assert isinstance(code, int)
        return Run(code, out.getvalue(), err.getvalue())

    with pytest.MonkeyPatch.context() as patch, chdir(cwd) if cwd else nullcontext():
        for name, value in (storage_variables(arguments) | dict(environment or {})).items():
            patch.setenv(name, value)
        if not _loop_runs():
            return called()
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(called).result()


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
