"""Docker Compose as a program: asked how it reads a project, and told to start one.

Nothing of it is taken over: what Compose makes of files, networks, volumes and order is Compose's. Rules kept:

- A project is read with the user's own environment, since its files ask for it. It is started with little of that: the
  recorded text has no variables left, and Compose shall not find others than were recorded.
- A run is bounded in time, and ends with this process. What it printed last tells why it failed; it may hold text of the
  project and is made harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from boltseal.errors import Full, Invalid, Unavailable, quote

READ_S: Final = 60.0
REMOVE_S: Final = 300.0
STOP_S: Final = 20.0
MAX_OUTPUT_BYTES: Final = 64 * 1024 * 1024
LAST_LINES: Final = 5
_ROOT: Final = Path("/")  # a recorded project names all its paths whole, and its folder may be gone
_MAX_LINE: Final = 64 * 1024
_LOOK_EVERY_S: Final = 0.05
_PROGRESS: Final = ("Container ", "Network ", "Volume ", "Image ")
_PASSED_ON: Final = ("PATH", "HOME", "TMPDIR", "LANG", "SSH_AUTH_SOCK", "XDG_RUNTIME_DIR", "DOCKER_CONFIG")


class ComposeMissing(Unavailable):
    """There is no Docker Compose on this machine."""


class ComposeRefused(Invalid):
    """Compose can't read the project. Nothing was started."""


class ComposeFailed(Unavailable):
    """Compose could not do what it was told."""


class ComposeFull(Full):
    """Compose, or the engine behind it, found no room."""


@dataclass(frozen=True, slots=True)
class ProjectFiles:
    """A project as the user names it to Compose: `-f`, `--project-name`, `--project-directory`, `--profile`, `--env-file`."""

    directory: Path
    files: tuple[Path, ...] = ()
    name: str | None = None
    project_directory: Path | None = None
    profiles: tuple[str, ...] = ()
    env_files: tuple[Path, ...] = ()

    @property
    def flags(self) -> tuple[str, ...]:
        """As Compose's flags."""
        pairs = [("--file", str(file)) for file in self.files]
        pairs += [("--project-name", self.name)] if self.name else []
        pairs += [("--project-directory", str(self.project_directory))] if self.project_directory else []
        pairs += [("--profile", each) for each in self.profiles]
        pairs += [("--env-file", str(each)) for each in self.env_files]
        return tuple(part for pair in pairs for part in pair)


Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Compose:
    """Docker Compose, for one engine. `command`: how it is called; `user`: the user's environment; `engine`: what names
    the engine to it, such as DOCKER_HOST."""

    command: tuple[str, ...]
    user: Mapping[str, str] = field(repr=False)
    engine: Mapping[str, str]

    async def read(self, project: ProjectFiles, services: Sequence[str] = (), extra: Sequence[Path] = ()) -> bytes:
        """The project as Compose reads it, as JSON; of some services, those and what they depend on. ComposeRefused."""
        if extra and not project.files:
            raise AssertionError("a file more is a file beside others: name them all")
        more = [part for path in extra for part in ("--file", str(path))]
        argv = [*self.command, *project.flags, *more, "config", "--format", "json", "--", *services]
        async with _running(argv, {**self.user, **self.engine}, project.directory) as process:
            out, err = await _outputs(process, READ_S)
        if process.returncode:
            raise ComposeRefused(f"Compose can't read the project: {_shown(err)}")
        return out

    async def build(self, project: ProjectFiles, services: Sequence[str], tell: Progress) -> None:
        """Build services from the user's own files. ComposeFailed, ComposeFull, ComposeMissing."""
        argv = [*self.command, *project.flags, "build", "--", *services]
        await self._do(argv, {**self.user, **self.engine}, project.directory, None, tell, "build")

    async def up(
        self,
        file: Path,
        project: str,
        directory: Path,
        services: Sequence[str],
        variables: Mapping[str, str],
        *,
        dependencies: bool = True,
        timeout_s: float,
        tell: Progress,
    ) -> None:
        """Start services of a recorded project, without a build or a pull. ComposeFailed, ComposeFull, ComposeMissing.

        `dependencies`: with those that they depend on. Without, Compose keeps the order among those that are named.
        """
        more = () if dependencies else ("--no-deps",)
        up = ("up", "--detach", "--no-build", "--pull", "never", *more, "--", *services)
        argv = [*self._recorded(file, project, directory), *up]
        await self._do(argv, self._little() | dict(variables), _ROOT, timeout_s, tell, "start the project")

    async def stop(
        self,
        file: Path,
        project: str,
        directory: Path,
        services: Sequence[str],
        variables: Mapping[str, str],
        tell: Progress,
    ) -> None:
        """Stop services of a recorded project; their containers stay. ComposeFailed, ComposeMissing."""
        argv = [*self._recorded(file, project, directory), "stop", "--", *services]
        await self._do(argv, self._little() | dict(variables), _ROOT, REMOVE_S, tell, "stop what is still at work")

    async def remove(
        self,
        file: Path,
        project: str,
        directory: Path,
        services: Sequence[str],
        variables: Mapping[str, str],
        tell: Progress,
    ) -> None:
        """Stop services of a recorded project and remove their containers; volumes stay. ComposeFailed, ComposeMissing."""
        argv = [*self._recorded(file, project, directory), "rm", "--stop", "--force", "--", *services]
        await self._do(argv, self._little() | dict(variables), _ROOT, REMOVE_S, tell, "remove what is no more")

    def _recorded(self, file: Path, project: str, directory: Path) -> list[str]:
        flags = ("--project-name", project, "--project-directory", str(directory), "--profile", "*")
        return [*self.command, *flags, "--env-file", os.devnull, "--file", str(file)]

    def _little(self) -> dict[str, str]:
        return {name: self.user[name] for name in _PASSED_ON if name in self.user} | dict(self.engine)

    async def _do(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        timeout_s: float | None,
        tell: Progress,
        what: str,
    ) -> None:
        last: deque[str] = deque(maxlen=LAST_LINES)
        async with _running(argv, environment, directory, together=True) as process:
            try:
                async with asyncio.timeout(timeout_s):
                    async for line in _lines(process):
                        last.append(line)
                        tell(line)
                    await process.wait()
            except TimeoutError as error:
                raise ComposeFailed(
                    f"Compose did not {what} within {timeout_s:g} s: {_shown(_joined(last))}"
                ) from error
        if process.returncode:
            said = _shown(_joined(last))
            full = "no space left on device" in said.lower()
            raise (ComposeFull if full else ComposeFailed)(f"Compose could not {what}: {said}")


async def find_compose(user: Mapping[str, str], engine: Mapping[str, str]) -> Compose:
    """Docker Compose v2, as Docker's plugin or by itself. ComposeMissing."""
    for command in (("docker", "compose"), ("docker-compose",)):
        try:
            async with _running([*command, "version", "--short"], dict(user), Path("/")) as process:
                out, _ = await _outputs(process, READ_S)
        except ComposeMissing:
            continue
        if process.returncode == 0 and out.lstrip(b"v").split(b".")[0].isdigit():
            if int(out.lstrip(b"v").split(b".")[0]) < 2:
                continue
            return Compose(command, dict(user), dict(engine))
    raise ComposeMissing("there is no Docker Compose 2 here: neither `docker compose` nor `docker-compose` can be run")


@contextlib.asynccontextmanager
async def _running(
    argv: Sequence[str], environment: Mapping[str, str], directory: Path, *, together: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process in a group of its own, which is over when this is. `together`: its errors among its output."""
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
    except (OSError, ValueError) as error:  # also a value of the environment that is too long, or that holds a NUL
        if not directory.is_dir():  # noqa: ASYNC240 - once, and it has failed already
            raise ComposeRefused(f"{directory} is no folder: Compose can't read a project in it") from error
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ComposeMissing(f"{argv[0]} can't be run: {why}") from error
    try:
        yield process
    finally:
        if process.returncode is None or not _closed(process):
            await _stopped(process)


def _closed(process: asyncio.subprocess.Process) -> bool:
    """Whether nobody can print anything more: a process that has ended may have left others of its group behind."""
    return all(stream is None or stream.at_eof() for stream in (process.stdout, process.stderr))


async def _stopped(process: asyncio.subprocess.Process) -> None:
    """End the whole group: asked first, and what is left of it after that by force."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    until = asyncio.get_running_loop().time() + STOP_S
    # not `wait`: that also waits for whoever of its group still has its output
    while process.returncode is None and asyncio.get_running_loop().time() < until:  # noqa: ASYNC110 - no event tells it
        await asyncio.sleep(_LOOK_EVERY_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(_drained(process), STOP_S)


async def _drained(process: asyncio.subprocess.Process) -> None:
    """The end of a process, which is only seen once all that it printed was read."""
    for stream in (process.stdout, process.stderr):
        while stream is not None and await stream.read(_MAX_LINE):
            pass
    await process.wait()


async def _outputs(process: asyncio.subprocess.Process, timeout_s: float) -> tuple[bytes, bytes]:
    async def whole(stream: asyncio.StreamReader | None) -> bytes:
        if stream is None:
            raise AssertionError("the process was started with pipes")
        found = bytearray()
        while piece := await stream.read(_MAX_LINE):
            found += piece
            if len(found) > MAX_OUTPUT_BYTES:
                raise ComposeRefused(f"Compose prints more than {MAX_OUTPUT_BYTES // 2**20} MiB of this project")
        return bytes(found)

    reading = [asyncio.ensure_future(whole(stream)) for stream in (process.stdout, process.stderr)]
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await asyncio.gather(*reading)
            await process.wait()
    except TimeoutError as error:
        raise ComposeFailed(f"Compose does not answer within {timeout_s:g} s") from error
    finally:
        for each in reading:
            each.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
    return out, err


async def _lines(process: asyncio.subprocess.Process) -> AsyncIterator[str]:
    stream = process.stdout
    if stream is None:
        raise AssertionError("the process was started with a pipe")
    rest = b""
    while piece := await stream.read(_MAX_LINE):
        *lines, rest = (rest + piece).split(b"\n")
        rest = rest[-_MAX_LINE:]
        for line in lines:
            if line.strip():
                yield quote(line.decode("utf-8", "replace").strip(), 500)[1:-1]
    if rest.strip():
        yield quote(rest.decode("utf-8", "replace").strip(), 500)[1:-1]


def _joined(lines: deque[str]) -> bytes:
    return "\n".join(lines).encode()


def _shown(output: bytes) -> str:
    """The last lines that say something, on one line."""
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    told = [line for line in lines if "level=warning" not in line and not line.startswith(_PROGRESS)] or lines
    return quote(" / ".join(told[-3:]) or "it does not say why", 600)[1:-1]
