"""The entry point of the command line: exit codes, one line on stderr, no control characters."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import typer

from boltseal import __version__
from boltseal.cli.command_table import commands
from boltseal.cli.output import CommandOutput
from boltseal.cli.root import CommandContext, build, run
from boltseal.commands.outcome import Outcome
from boltseal.errors import Denied, ExitCode, Invalid, SealedPut, Unavailable
from tests.cli import program

SUBCOMMANDS = (
    "admin rules test",
    "admin token rotate",
    "admin user add",
    "admin user ls",
    "admin user remove",
    "ledger receipt verify",
)
VERBS = (*(command.name for command in commands()), *SUBCOMMANDS)


def verb_that(does: Callable[[], None]) -> typer.Typer:
    """Return a command line with one more command, which runs this function."""
    cli = build()
    cli.command("misbehave")(does)
    return cli


def ended(does: Callable[[], None], *before: str) -> int:
    """Return the exit code of a command that runs this function."""
    with pytest.raises(SystemExit) as stopped:
        run([*before, "misbehave"], verb_that(does))
    code = stopped.value.code
    assert isinstance(code, int)
    return code


def raising(error: BaseException) -> Callable[[], NoReturn]:
    """Return a command that fails with this error."""

    def fail() -> NoReturn:
        raise error

    return fail


# --- help ---


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_help_with_an_example(verb: str) -> None:
    """Each command's help has an example, and no line is wider than a terminal."""
    shown = program.call(*verb.split(), "--help")

    assert shown.code == 0
    assert "Example: boltseal " + verb in " ".join(shown.out.split())
    assert shown.err == ""
    assert max(map(len, shown.out.splitlines())) <= 80


def test_the_list_of_commands_has_whole_sentences() -> None:
    """Each command in the list has a complete sentence, none cut off."""
    listed = program.call("--help").out.partition("Commands:")[2]

    assert "..." not in listed


def test_help_loads_nothing_heavy(capsys: pytest.CaptureFixture[str]) -> None:
    """Help is fast, because commands import their libraries when they run."""
    code = "import sys; from boltseal.cli.root import build; build(); print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    started = time.perf_counter()
    program.run("--help")
    with capsys.disabled():
        sys.stderr.write(f"[boltseal --help: {(time.perf_counter() - started) * 1000:.0f} ms] ")

    heavy = {"pydantic", "sqlalchemy", "starlette", "granian", "structlog", "alembic", "msgspec", "rich", "asyncio"}

    assert heavy & set(loaded) == set()


def test_the_list_of_commands_imports_no_command() -> None:
    """The list of commands comes from a table and imports no command."""
    code = (
        "import sys, atexit\n"
        "from boltseal.cli.root import run\n"
        "atexit.register(lambda: print('\\n'.join(sys.modules), file=sys.stderr))\n"
        "run(['--help'])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert {name for name in ran.stderr.split() if name.startswith("boltseal.cli.")} == {
        f"boltseal.cli.{name}"
        for name in (
            *("command_group", "command_rows", "command_search", "command_table", "common_options"),
            *("ledger_command_table", "loading", "output", "parameters", "root"),
        )
    }


def test_a_command_imports_no_other_command() -> None:
    """A command imports no other command's modules."""
    code = "import sys; from boltseal.cli.root import load; load('digest'); print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert {name for name in loaded if name.startswith("boltseal.cli.")} == {
        f"boltseal.cli.{name}"
        for name in (
            "clock",
            "command_group",
            "command_rows",
            "command_search",
            "command_table",
            "common_options",
            "context",
            "digest",
            "ledger_command_table",
            "loading",
            "options",
            "output",
            "parameters",
            "registry_arguments",
            "remote",
            "root",
        )
    }


def test_a_copy_between_registries_imports_no_docker_client() -> None:
    """A copy between registries does not import the Docker client, which would double its start time."""
    code = "import sys, boltseal.transfer.connect; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert "boltseal.client.transport" in loaded
    assert "boltseal.engines.api" not in loaded


def test_a_command_line_is_parsed_without_heavy_imports() -> None:
    """Parsing a command line imports no heavy module, because each step of a pipeline starts a command (docs/adr/0027)."""
    code = (
        "import sys, atexit\n"
        "from boltseal.cli.root import run\n"
        "atexit.register(lambda: print('\\n'.join(sys.modules)))\n"
        "run(['explain', 'node:16.13', '--json'])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert "boltseal.cli.explain" in loaded
    assert {"pydantic", "rich"} & set(loaded) == set()


def test_no_arguments_print_the_help() -> None:
    """`boltseal` without arguments prints the commands, and is not a success."""
    shown = program.call()

    assert shown.code == 2
    assert "Registry server:" in shown.out + shown.err


def test_the_console_script_is_the_same_program() -> None:
    """The console script that pip installs runs this program."""
    script = Path(sys.executable).with_name("boltseal")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=False)

    assert done.stdout == f"boltseal {__version__}\n"


# --- exit codes ---


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Invalid("no"), 2),
        (SealedPut("no"), 1),
        (Denied("no"), 3),
        (Unavailable("no"), 3),
        (KeyboardInterrupt(), 130),
        (RuntimeError("no"), 3),
        (OSError("no"), 3),
    ],
)
def test_every_way_to_fail_has_its_exit_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit codes: 0 success, 1 differs, 2 usage, 3 could not check, 130 interrupted."""
    assert ended(raising(error)) == code
    assert capsys.readouterr().out == ""


def test_an_error_for_people_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters from a registry in an error message can't reach the terminal."""
    ended(raising(Invalid("first\nsecond \x1b[31mred\x1b[0m \u202e")))

    assert capsys.readouterr().err == "boltseal: first second \\x1b[31mred\\x1b[0m \\u202e\n"


def test_a_defect_is_one_line_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect prints one line that names the option for a traceback."""
    monkeypatch.delenv("BOLTSEAL_DEBUG", raising=False)
    ended(raising(RuntimeError("surprise")))

    talk = capsys.readouterr().err

    assert talk.count("\n") == 1
    assert talk.startswith("boltseal: internal error: RuntimeError: surprise; ")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, "Permission denied; run boltseal as a user with access to it"),
        (errno.ENAMETOOLONG, "File name too long; use a shorter name"),
        (errno.ENOSPC, "No space left on device; free space there"),
    ],
)
def test_a_file_that_the_host_refuses_is_no_defect(
    number: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file without permission is an error line with the remedy and exit code 3, not a defect."""
    code = ended(raising(OSError(number, os.strerror(number), "data/x\x1b[31m")))

    assert code == ExitCode.UNKNOWN
    assert capsys.readouterr().err == f"boltseal: data/x\\x1b[31m: {message}\n"


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied"), FileNotFoundError(2, "gone", "x")])
def test_an_error_that_the_user_can_not_correct_is_a_defect(error: OSError, capsys: pytest.CaptureFixture[str]) -> None:
    """A file error without a name, or about a file of boltseal's own, is a defect."""
    ended(raising(error))

    assert "this is a defect of boltseal" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_a_defect_shows_its_traceback_when_asked(
    how: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--debug and BOLTSEAL_DEBUG print the traceback of a defect, for developers."""
    monkeypatch.setenv("BOLTSEAL_DEBUG", "1" if how == "environment" else "")
    ended(raising(RuntimeError("surprise")), *(["--debug"] if how == "flag" else []))

    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["admin", "rules", "test", "shop/app"], ["serve", "--workers", "x"], ["--nope"]]
)
def test_a_contradicting_call_is_a_usage_error(arguments: list[str]) -> None:
    """A contradicting command line is exit code 2 with the reason on stderr."""
    shown = program.call(*arguments)

    assert shown.code == 2
    assert shown.out == ""
    assert "Traceback" not in shown.err


def test_debug_affects_one_call_only() -> None:
    """--debug of one call does not affect another in the same process."""
    assert not CommandContext().debug


# --- --json ---


def test_json_is_an_envelope(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON output always has schema, outcome, results and errors."""

    def does() -> None:
        with CommandOutput("misbehave", as_json=True) as answer:
            answer.add(ref="a", status="differs", reason="b")
            answer.outcome = Outcome.DIFFERS

    code = ended(does)

    assert code == 1
    assert json.loads(capsys.readouterr().out) == {
        "schema": "boltseal.misbehave/1",
        "outcome": "differs",
        "results": [{"ref": "a", "status": "differs", "reason": "b"}],
        "errors": [],
    }


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [
        (SealedPut("held"), "differs", "REFUSED"),
        (Unavailable("busy"), "unknown", "UNAVAILABLE"),
        (Invalid("odd"), "unknown", "INVALID"),
        (RuntimeError("surprise"), "unknown", "INTERNAL"),
        (PermissionError(errno.EACCES, "no", "x"), "unknown", "UNAVAILABLE"),
        (OSError(errno.ENOSPC, "no", "x"), "unknown", "NO_SPACE"),
    ],
)
def test_json_reports_a_failure_too(
    error: Exception, outcome: str, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failure is in the JSON on stdout as well as in the line on stderr."""

    def does() -> None:
        with CommandOutput("misbehave", as_json=True):
            raise error

    ended(does)
    output = json.loads(capsys.readouterr().out)

    assert (output["outcome"], [e["code"] for e in output["errors"]]) == (outcome, [code])


def test_without_json_leaving_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json only the command's own text is printed."""

    def does() -> None:
        with CommandOutput("misbehave", as_json=False) as answer:
            answer.add(ref="a")

    assert ended(does) == 0
    assert capsys.readouterr().out == ""


PRINTS = """
from boltseal.cli.output import CommandOutput, print_line, say
from boltseal.cli.root import run
import typer
cli = typer.Typer()
cli.callback()(lambda: None)
@cli.command()
def misbehave(json: bool = False) -> None:
    with CommandOutput("misbehave", as_json=json):
        say("talk")
        if not json:
            print_line("one\\n" * 100_000)
            print_line("two")
run(None, cli)
"""


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_full_disk_under_stderr_does_not_change_the_exit_code(arguments: list[str]) -> None:
    """If stderr can't be written because a disk is full, the exit code is unchanged, and not 1."""
    with Path("/dev/full").open("w") as full:
        argv = [sys.executable, "-c", PRINTS, "misbehave", *arguments]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=full, text=True, check=False)

    assert done.returncode == ExitCode.HOLDS
    assert done.stdout.endswith("}\n" if arguments else "two\n")


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_output_that_cannot_be_written_is_no_finding(arguments: list[str]) -> None:
    """If stdout can't be written, the exit code is neither success nor "differs", because the result is incomplete."""
    with Path("/dev/full").open("w") as full:
        argv = [sys.executable, "-c", PRINTS, "misbehave", *arguments]
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert done.returncode == ExitCode.UNKNOWN
    assert done.stderr == "talk\nboltseal: the output is incomplete: writing it failed: No space left on device\n"


def test_a_closed_pipe_ends_the_command_quietly() -> None:
    """With `boltseal ... | head -1`, no message is printed, and the exit code is that of SIGPIPE."""
    with subprocess.Popen(
        [sys.executable, "-c", PRINTS, "misbehave"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline() == "one\n"
        child.stdout.close()
        talk = child.stderr.read()

    assert child.returncode == ExitCode.OUTPUT_CLOSED == 128 + signal.SIGPIPE
    assert talk == "talk\n"
