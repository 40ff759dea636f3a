"""Progress appears on a terminal only, with rate and remaining time, and never on the line of a result."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from tests.cli.terminal import screen

SCRIPT = """
import os, sys, time
import typer
from boltseal.cli.output import print_line, say
from boltseal.cli.progress import Progress
from boltseal.cli.root import run, build

def work() -> None:
    with Progress() as progress:
        for done in range(1, 8):
            progress(os.environ.get("STEP", "copying"), done * 1_000_000, 8_000_000)
            if done == 4:
                print_line("result")
                say("notice")
            time.sleep(0.12)
    print_line("end")
    assert ("rich" in sys.modules) == (sys.argv[1] == "shown")

cli = build()
cli.command("work")(work)
run(sys.argv[2:] + ["work"], cli)
"""


def on_a_terminal(*words: str, columns: int = 100, **variables: str) -> str:
    """Return what a terminal gets."""
    main, end = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(columns)} | variables
    with subprocess.Popen([sys.executable, "-c", SCRIPT, *words], stdout=end, stderr=end, env=environment) as child:
        os.close(end)
        text = bytearray()
        while piece := _read(main):
            text += piece
        assert child.wait() == 0, text.decode()
    os.close(main)
    return text.decode()


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # Linux: the other end is closed
        return b""


def test_progress_is_erased_before_results() -> None:
    """The progress line has step, share, rate and remaining time, and is erased before a result and at the end."""
    text = on_a_terminal("shown")

    assert screen(text) == ["result", "notice", "end"]
    assert "copying" in text
    assert "/s" in text
    assert "0:00:0" in text


def test_control_characters_of_a_step_do_not_reach_the_terminal() -> None:
    """A registry chooses the names in a step, so its control characters are escaped."""
    text = on_a_terminal("shown", STEP="a\x1b[31;7mb\x9bc")

    assert r"a\x1b[31;7mb\x9bc" in text
    assert "\x1b[31;7m" not in text
    assert "\x9b" not in text


def test_the_colours_can_be_read_on_a_dark_and_on_a_light_background() -> None:
    """Text has the terminal's own colour; the bar has magenta and grey of its palette; with NO_COLOR there is none."""
    codes = {code for found in re.findall(r"\x1b\[([0-9;]*)m", on_a_terminal("shown")) for code in found.split(";")}
    plain = on_a_terminal("shown", NO_COLOR="1")

    assert {"35", "90"} <= codes <= {"0", "39", "35", "90"}
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", plain)
    assert "copying" in plain


def test_on_a_narrow_terminal_progress_is_one_line() -> None:
    """At 40 columns it has no bar, and neither wraps nor ends in an ellipsis."""
    text = on_a_terminal("shown", columns=40)

    assert screen(text) == ["result", "notice", "end"]
    assert "…" not in text
    assert "\x1b[2K\x1b[1A" not in text
    assert "0:00:0" in text


def test_q_shows_no_progress() -> None:
    """-q shows no progress, and does not import the modules that draw it."""
    assert screen(on_a_terminal("hidden", "-q")) == ["result", "end"]


def test_without_a_terminal_there_is_no_progress(tmp_path: Path) -> None:
    """Without a terminal, output has only results and notices."""
    ran = subprocess.run([sys.executable, "-c", SCRIPT, "hidden"], capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "result\nend\n", "notice\n")
