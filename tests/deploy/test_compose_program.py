"""Running Docker Compose: limits, process groups, and no secrets in messages."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from boltseal.deploy.compose_program import (
    Compose,
    ComposeFailed,
    ComposeFull,
    ComposeMissing,
    ComposeRefused,
    ProjectFiles,
    RecordedProject,
    Recreate,
    find_compose,
)
from tests.polling import until

Made = Callable[[str], Compose]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Return a `docker` program that runs a given script."""

    def make(script: str) -> Compose:
        program = tmp_path / "bin" / "docker"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        user = {"PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": "/home/ann", "TOKEN": "sesame"}
        return Compose((str(program), "compose"), user, {"DOCKER_HOST": "unix:///run/d.sock"})

    return make


def project(folder: Path) -> ProjectFiles:
    """A project of one file."""
    return ProjectFiles(folder, (folder / "compose.yaml",), "shop", profiles=("p",), env_files=(folder / "e",))


async def up(compose: Compose, progress: Callable[[str], None] = lambda _line: None, timeout_s: float = 20.0) -> None:
    """Start a recorded project."""
    recorded = RecordedProject(Path("/r/compose.json"), "shop", Path("/srv/shop"), {"SECRET": "swordfish"})
    await compose.start(recorded, ["web"], timeout_s=timeout_s, progress=progress)


async def test_a_project_is_resolved_with_the_users_options(made: Made, tmp_path: Path) -> None:
    """Compose gets the user's environment and folder; a service name is never parsed as an option."""
    script = 'printf \'{"argv": "%s", "in": "%s", "token": "%s"}\' "$*" "$PWD" "$TOKEN"'
    output = json.loads(await made(script).read(project(tmp_path), ["-v"], [tmp_path / "more"]))

    assert output["argv"] == (
        f"compose --file {tmp_path}/compose.yaml --project-name shop --profile p --env-file {tmp_path}/e "
        f"--file {tmp_path}/more config --format json -- -v"
    )
    assert (output["in"], output["token"]) == (str(tmp_path), "sesame")


async def test_a_recorded_project_is_started_with_a_minimal_environment(made: Made, tmp_path: Path) -> None:
    """A recorded project starts with its recorded variables and those that Docker needs, not with the user's current
    ones."""
    await up(made(f'env > {tmp_path}/env; echo "$*" > {tmp_path}/argv; echo "$PWD" > {tmp_path}/in'))
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}

    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"PATH", "HOME", "DOCKER_HOST", "SECRET"}
    assert (tmp_path / "in").read_text() == "/\n"
    assert (tmp_path / "argv").read_text() == (
        "compose --project-name shop --project-directory /srv/shop --profile * --env-file /dev/null "
        "--file /r/compose.json start -- web\n"
    )


@pytest.mark.parametrize(
    ("how", "options"),
    [(Recreate.CHANGED, ""), (Recreate.NEVER, "--no-recreate "), (Recreate.ALL, "--force-recreate ")],
)
async def test_containers_are_created_without_being_started(
    made: Made, tmp_path: Path, how: Recreate, options: str
) -> None:
    """Compose creates containers without a start, a build or a pull, and keeps or replaces existing ones as asked."""
    recorded = RecordedProject(Path("/r/compose.json"), "shop", Path("/srv/shop"))
    compose = made(f'echo "$*" > {tmp_path}/argv')
    await compose.create(recorded, ["web"], lambda _line: None, how=how, scale={"web": 2})

    assert (
        (tmp_path / "argv")
        .read_text()
        .endswith(f"up --no-start --no-build --pull never {options}--scale web=2 -- web\n")
    )


async def test_services_are_created_and_started_in_one_run(made: Made, tmp_path: Path) -> None:
    """Compose creates and starts services in one run, without a build or a pull."""
    recorded = RecordedProject(Path("/r/compose.json"), "shop", Path("/srv/shop"))
    await made(f'echo "$*" > {tmp_path}/argv').up(recorded, ["web"], timeout_s=20, progress=lambda _line: None)

    assert (tmp_path / "argv").read_text().endswith("up --detach --no-build --pull never -- web\n")


async def test_hashes_are_those_that_compose_prints(made: Made) -> None:
    """Each service has the hash that Compose prints for it; an error of Compose is reported."""
    recorded = RecordedProject(Path("/r/compose.json"), "shop", Path("/srv/shop"))

    assert await made("echo db 12; echo web 34; echo warning").hashes(recorded) == {"db": "12", "web": "34"}
    with pytest.raises(ComposeRefused, match="can't read the recorded project: no"):
        await made("echo no >&2; exit 1").hashes(recorded)


async def test_an_unreadable_project_is_reported_in_one_line_without_its_content(made: Made, tmp_path: Path) -> None:
    """An unreadable project is one line: Compose's output may contain secrets and is not shown, nor are its warnings."""
    compose = made(
        "echo 'PASSWORD=sesame'; echo level=warning x >&2; printf 'line 3:\\nodd \\033[31mkey\\n' >&2; exit 15"
    )
    with pytest.raises(ComposeRefused) as refused:
        await compose.read(project(tmp_path))

    assert refused.value.message == r"Compose can't read the project: line 3: / odd \x1b[31mkey"
    assert "sesame" not in repr(compose)


async def test_a_failure_is_reported_with_its_last_lines(made: Made) -> None:
    """All lines are passed to `progress`, sanitized; the last three are in the message."""
    lines: list[str] = []
    with pytest.raises(ComposeFailed, match=r"could not start the project: line 8 / line 9 / no \\x07 way$"):
        await up(
            made("for n in 1 2 3 4 5 6 7 8 9; do echo line $n; done; printf 'no \\007 way' >&2; exit 1"), lines.append
        )

    assert len(lines) == 10
    assert lines[-1] == r"no \x07 way"


async def test_progress_lines_are_not_a_reason(made: Made) -> None:
    """Compose's progress lines are in an error message only if there is no other output."""
    with pytest.raises(ComposeFailed, match=r"start the project: Error response from daemon: no$"):
        await up(made("echo Container web-1 Starting; echo Error response from daemon: no; exit 1"))
    with pytest.raises(ComposeFailed, match=r"start the project: Container web-1 Starting$"):
        await up(made("echo Container web-1 Starting; exit 1"))


async def test_a_failure_without_output_says_so(made: Made) -> None:
    """A failure without output has a message that says so."""
    with pytest.raises(ComposeFailed, match="it printed no reason"):
        await up(made("exit 1"))


async def test_a_full_disk_is_its_own_error_kind(made: Made) -> None:
    """A full disk has its own error kind, from which the exit code follows."""
    with pytest.raises(ComposeFull):
        await up(made("echo write /x: No space left on device; exit 1"))


async def test_an_endless_line_is_bounded(made: Made) -> None:
    """Of an endless line only the end is kept, and little of it is shown."""
    lines: list[str] = []
    await up(made("head -c 3000000 /dev/zero | tr '\\0' x"), lines.append)

    assert [len(line) < 600 for line in lines] == [True]


async def test_endless_output_is_refused(made: Made, tmp_path: Path) -> None:
    """Endless output ends the process with an error."""
    compose = made(f"echo $$ > {tmp_path}/pid; exec yes")
    with pytest.raises(ComposeRefused, match="prints more than"):
        await compose.read(project(tmp_path))

    pid = int((tmp_path / "pid").read_text())
    await until(lambda: _has_ended(pid), "the process has ended", 10.0)


@pytest.mark.parametrize(
    "script",
    [
        "echo $$ > PID; echo started; exec sleep 600",
        "(trap '' INT; exec sleep 600) & echo $! > PID; echo started; wait",
        "(trap '' INT; exec sleep 600) & echo $! > PID; echo started; exit 0",
    ],
)
async def test_a_time_out_ends_the_whole_group(made: Made, tmp_path: Path, script: str) -> None:
    """A time-out ends all child processes, also those that ignore SIGINT or whose parent has exited."""
    with pytest.raises(ComposeFailed, match=r"did not start the project within 1 s: started"):
        await up(made(script.replace("PID", f"{tmp_path}/pid")), timeout_s=1.0)

    pid = int((tmp_path / "pid").read_text())
    await until(lambda: _has_ended(pid), "the process has ended", 10.0)


async def test_cancelling_ends_the_process(made: Made, tmp_path: Path) -> None:
    """Cancelling, as by Ctrl-C, leaves no process running."""
    lines: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(up(made(f"echo $$ > {tmp_path}/pid; echo x; exec sleep 600"), lines.set_result))
    await lines
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    pid = int((tmp_path / "pid").read_text())
    await until(lambda: _has_ended(pid), "the process has ended", 10.0)


async def test_a_missing_folder_is_not_reported_as_missing_compose(made: Made, tmp_path: Path) -> None:
    """For a missing project folder, the message names the folder and not a missing Compose."""
    with pytest.raises(ComposeRefused, match="gone is not a folder"):
        await made("exit 0").read(ProjectFiles(tmp_path / "gone"))


@pytest.mark.parametrize("script", ["echo 1.29.2", "echo nonsense", "exit 1", "echo", "echo v"])
async def test_a_program_other_than_compose_2_counts_as_missing(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    """Compose 1, or another program of that name, is treated as missing."""
    made(script)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ComposeMissing, match="Docker Compose 2 not found"):
        await find_compose({"PATH": f"{tmp_path}/bin"}, {})


@pytest.mark.parametrize(("value", "message"), [("x" * 2**20, "Argument list too long"), ("a\0b", "null byte")])
async def test_an_environment_that_no_program_accepts_is_reported(
    made: Made, tmp_path: Path, value: str, message: str
) -> None:
    """Variables that no program accepts are a boltseal error, so that the former release is restored."""
    compose = made("exit 0")
    recorded = RecordedProject(tmp_path / "f", "shop", tmp_path, {"CERT": value})

    with pytest.raises(ComposeMissing, match=f"docker can't be run: .*{message}"):
        await compose.start(recorded, ["web"], timeout_s=20, progress=lambda _line: None)


async def test_compose_is_found_as_dockers_plugin(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose is found as Docker's plugin, whose version may start with v."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for version in ("2.26.1", "v2.40.0", "5.0.0-rc1"):
        made(f"echo {version}")

        assert (await find_compose({"PATH": f"{tmp_path}/bin:/bin"}, {})).command == ("docker", "compose")


def _has_ended(pid: int) -> bool:
    """Return whether a process has ended; a zombie has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return True
    return state.rpartition(")")[2].split()[0] == "Z"
