"""Runs the Docker Compose program: to resolve a project's files, and to build, start, stop and remove services.

boltseal reimplements nothing of Compose: files, networks, volumes and start order are Compose's. Rules kept:

- Resolving a project uses the user's own environment, since its files refer to it. Starting uses a minimal one: the
  recorded text has no variables left, and Compose must not find other values than the recorded ones.
- A run has a time limit and ends with this process, unless that is killed (`_process`). Its last lines explain a failure; they
  may contain text of the project, so they are quoted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from boltseal.errors import Full, Invalid, Unavailable, quote

READ_S: Final = 60.0
REMOVE_S: Final = 300.0
STOP_S: Final = 20.0
_PAIR: Final = 2
MAX_OUTPUT_BYTES: Final = 64 * 1024 * 1024
LAST_LINES: Final = 5
_ROOT: Final = Path("/")  # a recorded project has absolute paths only, and its folder may be gone
_MAX_LINE: Final = 64 * 1024
_LOOK_EVERY_S: Final = 0.05
_PROGRESS: Final = ("Container ", "Network ", "Volume ", "Image ")
_MINIMAL_ENVIRONMENT: Final = ("PATH", "HOME", "TMPDIR", "LANG", "SSH_AUTH_SOCK", "XDG_RUNTIME_DIR", "DOCKER_CONFIG")


class ComposeMissing(Unavailable):
    """There is no Docker Compose on this machine."""


class ComposeRefused(Invalid):
    """Compose can't resolve the project. Nothing was started."""


class ComposeFailed(Unavailable):
    """A Compose command failed or timed out."""


class ComposeFull(Full):
    """A Compose command failed because a disk is full."""


@dataclass(frozen=True, slots=True)
class ProjectFiles:
    """The user's options that select a project: `-f`, `--project-name`, `--project-directory`, `--profile`, `--env-file`."""

    directory: Path
    files: tuple[Path, ...] = ()
    name: str | None = None
    project_directory: Path | None = None
    profiles: tuple[str, ...] = ()
    env_files: tuple[Path, ...] = ()

    @property
    def flags(self) -> tuple[str, ...]:
        """The options as arguments of Compose."""
        pairs = [("--file", str(file)) for file in self.files]
        pairs += [("--project-name", self.name)] if self.name else []
        pairs += [("--project-directory", str(self.project_directory))] if self.project_directory else []
        pairs += [("--profile", each) for each in self.profiles]
        pairs += [("--env-file", str(each)) for each in self.env_files]
        return tuple(part for pair in pairs for part in pair)


@dataclass(frozen=True, slots=True)
class RecordedProject:
    """A recorded project that Compose starts from. `file`: its text; `variables`: values for its secrets and configs."""

    file: Path
    name: str
    directory: Path
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def flags(self) -> tuple[str, ...]:
        """The options of Compose that select it, with all profiles and without `.env`."""
        named = ("--project-name", self.name, "--project-directory", str(self.directory), "--profile", "*")
        return (*named, "--env-file", os.devnull, "--file", str(self.file))


class Recreate(StrEnum):
    """Which existing containers Compose replaces: those whose configuration changed, none, or all of the named services."""

    CHANGED = "changed"
    NEVER = "never"
    ALL = "all"

    @property
    def flags(self) -> tuple[str, ...]:
        """The options of `docker compose up`."""
        return {"changed": (), "never": ("--no-recreate",), "all": ("--force-recreate",)}[self.value]


Progress = Callable[[str], None]
"""Receives each line of output for people."""


@dataclass(frozen=True, slots=True)
class Compose:
    """Docker Compose for one engine.

    `command`: its command line; `user`: the user's environment; `engine`: variables that select the engine, such as
    DOCKER_HOST.
    """

    command: tuple[str, ...]
    user: Mapping[str, str] = field(repr=False)
    engine: Mapping[str, str]

    async def read(self, project: ProjectFiles, services: Sequence[str] = (), extra: Sequence[Path] = ()) -> bytes:
        """Return the resolved project as JSON: the given services and their dependencies, or all enabled ones.

        `extra`: further Compose files.

        Raises: ComposeRefused, ComposeFailed, ComposeMissing.
        """
        if extra and not project.files:
            raise AssertionError("extra files need named project files: with -f Compose reads no default file")
        options = [part for path in extra for part in ("--file", str(path))]
        argv = [*self.command, *project.flags, *options, "config", "--format", "json", "--", *services]
        async with _process(argv, {**self.user, **self.engine}, project.directory) as process:
            out, err = await _outputs(process, READ_S)
        if process.returncode:
            raise ComposeRefused(f"Compose can't read the project: {_last_lines(err)}")
        return out

    async def build(self, project: ProjectFiles, services: Sequence[str], progress: Progress) -> None:
        """Build services from the user's own files.

        Raises: ComposeFailed, ComposeFull, ComposeMissing.
        """
        argv = [*self.command, *project.flags, "build", "--", *services]
        await self._run_command(argv, {**self.user, **self.engine}, project.directory, None, progress, "build")

    async def hashes(self, recorded: RecordedProject) -> dict[str, str]:
        """Return Compose's hash of each service's configuration, which it also writes on the service's containers.

        Raises: ComposeRefused, ComposeFailed, ComposeMissing.
        """
        argv = [*self.command, *recorded.flags, "config", "--hash", "*"]
        async with _process(argv, self._minimal(recorded), _ROOT) as process:
            out, err = await _outputs(process, READ_S)
        if process.returncode:
            raise ComposeRefused(f"Compose can't read the recorded project: {_last_lines(err)}")
        pairs = [line.split() for line in out.decode("utf-8", "replace").splitlines()]
        return {pair[0]: pair[1] for pair in pairs if len(pair) == _PAIR}

    async def create(
        self,
        recorded: RecordedProject,
        services: Sequence[str],
        progress: Progress,
        *,
        how: Recreate = Recreate.CHANGED,
        scale: Mapping[str, int] | None = None,
    ) -> None:
        """Create the containers of services and of what they depend on, without starting any; no build, no pull.

        Compose stops and removes a container that it replaces. `scale`: how many containers a service shall have.

        Raises: ComposeFailed, ComposeFull, ComposeMissing.
        """
        scales = [part for name, number in (scale or {}).items() for part in ("--scale", f"{name}={number}")]
        up = ("up", "--no-start", "--no-build", "--pull", "never", *how.flags, *scales, "--", *services)
        await self._run_recorded(recorded, up, REMOVE_S, progress, "create the containers")

    async def up(
        self, recorded: RecordedProject, services: Sequence[str], *, timeout_s: float, progress: Progress
    ) -> None:
        """Create and start services and what they depend on in one run, which also starts stopped jobs.

        Raises: ComposeFailed, ComposeFull, ComposeMissing.
        """
        up = ("up", "--detach", "--no-build", "--pull", "never", "--", *services)
        await self._run_recorded(recorded, up, timeout_s, progress, "start the project")

    async def start(
        self, recorded: RecordedProject, services: Sequence[str], *, timeout_s: float, progress: Progress
    ) -> None:
        """Start all stopped containers of services and of what they depend on, in order, waiting for conditions.

        Raises: ComposeFailed, ComposeMissing.
        """
        await self._run_recorded(recorded, ("start", "--", *services), timeout_s, progress, "start the project")

    async def _run_recorded(
        self, recorded: RecordedProject, command: Sequence[str], timeout_s: float, progress: Progress, what: str
    ) -> None:
        argv = [*self.command, *recorded.flags, *command]
        await self._run_command(argv, self._minimal(recorded), _ROOT, timeout_s, progress, what)

    def _minimal(self, recorded: RecordedProject) -> dict[str, str]:
        minimal = {name: self.user[name] for name in _MINIMAL_ENVIRONMENT if name in self.user}
        return minimal | dict(self.engine) | dict(recorded.variables)

    async def _run_command(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        timeout_s: float | None,
        progress: Progress,
        what: str,
    ) -> None:
        last: deque[str] = deque(maxlen=LAST_LINES)
        async with _process(argv, environment, directory, together=True) as process:
            try:
                async with asyncio.timeout(timeout_s):
                    async for line in _lines(process):
                        last.append(line)
                        progress(line)
                    await process.wait()
            except TimeoutError as error:
                raise ComposeFailed(
                    f"Compose did not {what} within {timeout_s:g} s: {_last_lines(_joined(last))}"
                ) from error
        if process.returncode:
            reason = _last_lines(_joined(last))
            full = "no space left on device" in reason.lower()
            raise (ComposeFull if full else ComposeFailed)(f"Compose could not {what}: {reason}")


async def find_compose(user: Mapping[str, str], engine: Mapping[str, str]) -> Compose:
    """Find Docker Compose v2, as Docker's plugin or as its own program.

    Raises: ComposeMissing.
    """
    for command in (("docker", "compose"), ("docker-compose",)):
        try:
            async with _process([*command, "version", "--short"], dict(user), Path("/")) as process:
                out, _ = await _outputs(process, READ_S)
        except ComposeMissing:
            continue
        if process.returncode == 0 and out.lstrip(b"v").split(b".")[0].isdigit():
            if int(out.lstrip(b"v").split(b".")[0]) < 2:
                continue
            return Compose(command, dict(user), dict(engine))
    raise ComposeMissing(
        "Docker Compose 2 not found: neither `docker compose` nor `docker-compose` can be run; install it"
    )


@contextlib.asynccontextmanager
async def _process(
    argv: Sequence[str], environment: Mapping[str, str], directory: Path, *, together: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a process in its own process group, which is stopped on exit. `together`: merge stderr into stdout.

    After a SIGKILL of boltseal Compose completes its present step, and ends at its next line of output: the pipe has no reader
    any more (SIGPIPE). The kernel could kill it at once (PR_SET_PDEATHSIG). But that reaches only `docker`, not the plugin that does
    the work, needs code between fork and exec beside running threads, and cuts a request to the engine in the middle, where a
    container may be created and not yet named. So a process that is killed leaves what the next deploy puts right: whole steps.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT if together else asyncio.subprocess.PIPE,
            env=dict(environment),
            cwd=directory,
            start_new_session=True,
            limit=_MAX_LINE,
        )
    except (OSError, ValueError) as error:  # also for an environment value that is too long or contains NUL
        if not directory.is_dir():  # noqa: ASYNC240 - once, and it has failed already
            raise ComposeRefused(f"{directory} is not a folder: Compose can't read a project in it") from error
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ComposeMissing(f"{argv[0]} can't be run: {why}") from error
    try:
        yield process
    finally:
        if process.returncode is None or not _closed(process):
            await _stop_group(process)


def _closed(process: asyncio.subprocess.Process) -> bool:
    """Return whether all output is closed. A process that has exited may have left children in its group."""
    return all(stream is None or stream.at_eof() for stream in (process.stdout, process.stderr))


async def _stop_group(process: asyncio.subprocess.Process) -> None:
    """End the whole process group: SIGINT first, SIGKILL after STOP_S seconds."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    until = asyncio.get_running_loop().time() + STOP_S
    # not `wait`: that also waits for other processes of the group that have the output open
    while process.returncode is None and asyncio.get_running_loop().time() < until:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(_LOOK_EVERY_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(_drain(process), STOP_S)


async def _drain(process: asyncio.subprocess.Process) -> None:
    """Wait for a process to end; asyncio reports that only after all output was read."""
    for stream in (process.stdout, process.stderr):
        while stream is not None and await stream.read(_MAX_LINE):
            pass
    await process.wait()


async def _outputs(process: asyncio.subprocess.Process, timeout_s: float) -> tuple[bytes, bytes]:
    async def read_stream(stream: asyncio.StreamReader | None) -> bytes:
        if stream is None:
            raise AssertionError("the process has no pipes")
        found = bytearray()
        while chunk := await stream.read(_MAX_LINE):
            found += chunk
            if len(found) > MAX_OUTPUT_BYTES:
                raise ComposeRefused(f"Compose prints more than {MAX_OUTPUT_BYTES // 2**20} MiB of this project")
        return bytes(found)

    reading = [asyncio.ensure_future(read_stream(stream)) for stream in (process.stdout, process.stderr)]
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await asyncio.gather(*reading)
            await process.wait()
    except TimeoutError as error:
        raise ComposeFailed(f"Compose did not respond within {timeout_s:g} s") from error
    finally:
        for each in reading:
            each.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
    return out, err


async def _lines(process: asyncio.subprocess.Process) -> AsyncIterator[str]:
    stream = process.stdout
    if stream is None:
        raise AssertionError("the process has no pipe")
    rest = b""
    while chunk := await stream.read(_MAX_LINE):
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[-_MAX_LINE:]
        for line in lines:
            if line.strip():
                yield quote(line.decode("utf-8", "replace").strip(), 500)[1:-1]
    if rest.strip():
        yield quote(rest.decode("utf-8", "replace").strip(), 500)[1:-1]


def _joined(lines: deque[str]) -> bytes:
    return "\n".join(lines).encode()


def _last_lines(output: bytes) -> str:
    """Return the last lines that are neither warnings nor progress, joined into one."""
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    useful = [line for line in lines if "level=warning" not in line and not line.startswith(_PROGRESS)] or lines
    return quote(" / ".join(useful[-3:]) or "it printed no reason", 600)[1:-1]
