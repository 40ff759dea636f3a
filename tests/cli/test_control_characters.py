"""No control character of a registry, a host or a file reaches the terminal, whichever function prints it."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from boltseal.cli import output, table
from boltseal.commands.outcome import Outcome
from tests.cli.program import call

CLI = Path(__file__).parents[2] / "src" / "boltseal" / "cli"
CONTROLS = [*map(chr, range(9)), *map(chr, range(11, 32)), *map(chr, range(127, 160)), "\u202e", "\u2028", "\udc9b"]
"""Control characters of ASCII (but tab and line break) and Latin-1, one that reverses the text, a line separator, a byte that is no text."""
HOSTILE = f"shop/{''.join(CONTROLS)}app"
WRITES = {"echo", "secho", "print", "write", "writelines"}
WRITERS = {"output.py"}
"""The modules that write on a terminal. rich writes the progress line: `test_progress` tests it."""

PRINTERS: dict[str, Callable[[str], None]] = {
    "a line": output.print_line,
    "a notice": output.say,
    "an error": lambda text: output.say(f"{output.ERROR}{text}"),
    "text of several lines": lambda text: output.say_text(f"first\n{text}\nlast\n"),
    "a line of -v": output.trace,
    "a finding": output.print_finding,
    "a finding on stderr": output.say_finding,
    "wrapped text": lambda text: output.print_wrapped("why  ", f"because {text} is long"),
    "a cell": lambda text: table.print_table(("name", "why"), [(text, text)]),
    "the line of a command": lambda text: output.CommandOutput("digest", as_json=False).print(text),
    "the notice of a command": lambda text: output.CommandOutput("digest", as_json=False).say(text),
}


@pytest.mark.parametrize("printer", PRINTERS.values(), ids=PRINTERS)
def test_every_printer_escapes_control_characters(
    capsys: pytest.CaptureFixture[str], printer: Callable[[str], None]
) -> None:
    """Whatever a caller passes, the terminal gets the escaped form, and the rest of the text."""
    printer(HOSTILE)
    printed = "".join(capsys.readouterr())

    assert not {*CONTROLS} & {*printed}
    assert r"\x1b" in printed.replace("\n", "").replace(" ", "")


def test_json_has_control_characters_as_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    """The object of --json has none either, and a program reads the exact text from it."""
    output.print_envelope("digest", Outcome.HOLDS, [{"ref": HOSTILE}], [])
    printed = capsys.readouterr().out

    assert not {*CONTROLS} & {*printed}
    assert json.loads(printed)["results"] == [{"ref": HOSTILE}]


@pytest.mark.parametrize("words", [("digest", HOSTILE), ("digest", f"--{HOSTILE}"), (HOSTILE,)])
def test_an_argument_is_quoted_without_its_control_characters(words: tuple[str, ...]) -> None:
    """Errors about arguments, also those of the command line itself, quote them escaped."""
    result = call(*words)

    assert result.code != 0
    assert not {*CONTROLS} & {*result.out, *result.err}


def test_commands_print_only_through_the_module_that_escapes() -> None:
    """No other module of the command line calls a function that writes on the terminal."""
    found = [
        f"{path.name}:{call_.lineno}"
        for path in sorted(CLI.rglob("*.py"))
        if path.name not in WRITERS
        for call_ in ast.walk(ast.parse(path.read_text()))
        if isinstance(call_, ast.Call) and _writes(call_.func)
    ]

    assert found == []


def _writes(called: ast.expr) -> bool:
    """Return whether this is a call of `print`, `typer.echo`, or a method of `sys.stdout` or `sys.stderr`."""
    match called:
        case ast.Name(id="print"):
            return True
        case ast.Attribute(value=ast.Name(id="typer"), attr=name):
            return name in WRITES
        case ast.Attribute(value=ast.Attribute(value=ast.Name(id="sys"), attr="stdout" | "stderr"), attr=name):
            return name in WRITES
        case _:
            return False
