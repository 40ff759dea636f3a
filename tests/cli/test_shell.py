"""The outermost layer: exit codes, one line on stderr, no control characters."""

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
    """A command line with one verb more, which does this."""
    cli = build()
    cli.command("misbehave")(does)
    return cli


def ended(does: Callable[[], None], *before: str) -> int:
    """The exit code of a verb that does this."""
    with pytest.raises(SystemExit) as stopped:
        run([*before, "misbehave"], verb_that(does))
    code = stopped.value.code
    assert isinstance(code, int)
    return code


def raising(error: BaseException) -> Callable[[], NoReturn]:
    """A verb that fails so."""

    def fail() -> NoReturn:
        raise error

    return fail


# --- help ---


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    """Nobody has to guess how to call it, and no line is wider than a terminal."""
    shown = program.call(*verb.split(), "--help")

    assert shown.code == 0
    assert "Example: boltseal " + verb in " ".join(shown.out.split())
    assert shown.err == ""
    assert max(map(len, shown.out.splitlines())) <= 80


def test_the_list_of_verbs_says_each_in_a_whole_sentence() -> None:
    """Nothing in it is cut off."""
    listed = program.call("--help").out.partition("Commands:")[2]

    assert "..." not in listed


def test_help_loads_nothing_heavy(capsys: pytest.CaptureFixture[str]) -> None:
    """Help is instant because the verbs import what they need when they run."""
    code = "import sys; from boltseal.cli.root import build; build(); print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    started = time.perf_counter()
    program.run("--help")
    with capsys.disabled():
        sys.stderr.write(f"[boltseal --help: {(time.perf_counter() - started) * 1000:.0f} ms] ")

    heavy = {"pydantic", "sqlalchemy", "starlette", "granian", "structlog", "alembic", "msgspec", "rich", "asyncio"}

    assert heavy & set(loaded) == set()


def test_the_list_of_commands_imports_no_command() -> None:
    """Its lines are in the table."""
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
            *("command_group", "command_search", "command_table", "common_options", "loading", "output"),
            *("parameters", "root"),
        )
    }


def test_a_verb_loads_no_other_verb() -> None:
    """What forty others need at their first line is not paid by each start of one."""
    code = "import sys; from boltseal.cli.root import load; load('digest'); print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert {name for name in loaded if name.startswith("boltseal.cli.")} == {
        f"boltseal.cli.{name}"
        for name in (
            "clock",
            "command_group",
            "command_search",
            "command_table",
            "common_options",
            "context",
            "digest",
            "loading",
            "options",
            "output",
            "parameters",
            "remote",
            "root",
        )
    }


def test_a_copy_that_asks_no_daemon_loads_nothing_that_talks_to_one() -> None:
    """It would double the time that each copy between registries takes to get started."""
    code = "import sys, boltseal.transfer.connect; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert "boltseal.client.transport" in loaded
    assert "boltseal.engines.api" not in loaded


def test_a_verb_is_parsed_without_anything_heavy() -> None:
    """docs/adr/0027: a verb is started by each step of a pipeline."""
    code = (
        "import sys, atexit\n"
        "from boltseal.cli.root import run\n"
        "atexit.register(lambda: print('\\n'.join(sys.modules)))\n"
        "run(['explain', 'node:16.13', '--json'])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert "boltseal.cli.explain" in loaded
    assert {"pydantic", "rich"} & set(loaded) == set()


def test_no_arguments_is_a_question_for_help() -> None:
    """A bare `boltseal` shows the verbs; it is no success."""
    shown = program.call()

    assert shown.code == 2
    assert "Registry server:" in shown.out + shown.err


def test_the_console_script_is_the_same_program() -> None:
    """What pip installs runs."""
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
    """0 holds, 1 does not hold, 2 usage, 3 could not check, 130 interrupted."""
    assert ended(raising(error)) == code
    assert capsys.readouterr().out == ""


def test_an_error_for_people_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """What a stranger put into a message can't draw on the terminal."""
    ended(raising(Invalid("first\nsecond \x1b[31mred\x1b[0m \u202e")))

    assert capsys.readouterr().err == "boltseal: first second \\x1b[31mred\\x1b[0m \\u202e\n"


def test_a_defect_is_one_line_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person can't do anything with a traceback, and is told how to get one."""
    monkeypatch.delenv("BOLTSEAL_DEBUG", raising=False)
    ended(raising(RuntimeError("surprise")))

    talk = capsys.readouterr().err

    assert talk.count("\n") == 1
    assert talk.startswith("boltseal: internal error: RuntimeError: surprise; ")


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EACCES, "Permission denied; run boltseal as a user with access to it"),
        (errno.ENAMETOOLONG, "File name too long; use a shorter name"),
        (errno.ENOSPC, "No space left on device; free space there"),
    ],
)
def test_a_file_that_the_host_refuses_is_no_defect(number: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The line names the file and what to do; nothing could be checked, so the code is 3."""
    code = ended(raising(OSError(number, os.strerror(number), "data/x\x1b[31m")))

    assert code == ExitCode.UNKNOWN
    assert capsys.readouterr().err == f"boltseal: data/x\\x1b[31m: {told}\n"


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied"), FileNotFoundError(2, "gone", "x")])
def test_what_the_user_can_not_mend_is_a_defect(error: OSError, capsys: pytest.CaptureFixture[str]) -> None:
    """No file is named, or one that we took for granted is not there."""
    ended(raising(error))

    assert "this is a defect of boltseal" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_a_defect_shows_its_traceback_when_asked(
    how: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--debug and BOLTSEAL_DEBUG are for whoever mends it."""
    monkeypatch.setenv("BOLTSEAL_DEBUG", "1" if how == "environment" else "")
    ended(raising(RuntimeError("surprise")), *(["--debug"] if how == "flag" else []))

    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["admin", "rules", "test", "shop/app"], ["serve", "--workers", "x"], ["--nope"]]
)
def test_a_call_that_makes_no_sense_is_usage(arguments: list[str]) -> None:
    """Exit code 2, and the reason on stderr."""
    shown = program.call(*arguments)

    assert shown.code == 2
    assert shown.out == ""
    assert "Traceback" not in shown.err


def test_the_shell_starts_without_debug() -> None:
    """Two shells in one process know nothing of each other."""
    assert not CommandContext().debug


# --- --json ---


def test_json_is_an_envelope(capsys: pytest.CaptureFixture[str]) -> None:
    """Schema, outcome, results and errors, always all four."""

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
    """A program that reads stdout learns what a person learns from stderr."""

    def does() -> None:
        with CommandOutput("misbehave", as_json=True):
            raise error

    ended(does)
    told = json.loads(capsys.readouterr().out)

    assert (told["outcome"], [e["code"] for e in told["errors"]]) == (outcome, [code])


def test_without_json_leaving_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Text is the verb's own."""

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
def test_a_full_disk_under_the_talk_changes_no_answer(arguments: list[str]) -> None:
    """A cron job whose log is full would hear of a finding, code 1, that nobody made."""
    with Path("/dev/full").open("w") as full:
        argv = [sys.executable, "-c", PRINTS, "misbehave", *arguments]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=full, text=True, check=False)

    assert done.returncode == ExitCode.HOLDS
    assert done.stdout.endswith("}\n" if arguments else "two\n")


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_output_that_cannot_be_written_is_no_finding(arguments: list[str]) -> None:
    """Neither done nor otherwise: it is not whole."""
    with Path("/dev/full").open("w") as full:
        argv = [sys.executable, "-c", PRINTS, "misbehave", *arguments]
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert done.returncode == ExitCode.UNKNOWN
    assert done.stderr == "talk\nboltseal: the output is incomplete: writing it failed: No space left on device\n"


def test_a_pipe_that_is_closed_ends_it_quietly() -> None:
    """`boltseal ... | head -1`: no message; the exit code is that of a program that SIGPIPE ends, neither 0 nor a finding."""
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
