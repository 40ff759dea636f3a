"""Runs boltseal with a terminal as standard input and standard error, and types an answer."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

from tests.cli.program import TIMEOUT_S, Run, clean_environment


def run_on_terminal(*arguments: str | Path, typed: str) -> Run:
    """Run one command. `typed` is what the user types at once. Return stdout, and what the terminal showed."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "boltseal", *map(str, arguments)],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=clean_environment(),
        )
        os.close(theirs)
        os.write(ours, typed.encode())
        shown = read_to_end(ours)
        out, _ = process.communicate(timeout=TIMEOUT_S)
    finally:
        os.close(ours)
    return Run(process.returncode, out.decode(), shown.replace("\r\n", "\n"))


def output_on_terminal(*arguments: str | Path) -> str:
    """Run one command with a terminal as standard output; return what the terminal got."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "boltseal", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.DEVNULL,
            env=clean_environment(),
        )
        os.close(theirs)
        shown = read_to_end(ours)
        process.wait(timeout=TIMEOUT_S)
    finally:
        os.close(ours)
    return shown.replace("\r\n", "\n")


def read_to_end(terminal: int) -> str:
    """Read until the program has closed its side, which a terminal reports as an error."""
    shown = b""
    ends = time.monotonic() + TIMEOUT_S
    with contextlib.suppress(OSError):
        while time.monotonic() < ends:
            if select.select([terminal], [], [], 1.0)[0]:
                piece = os.read(terminal, 65_536)
                if not piece:
                    break
                shown += piece
    return shown.decode()


def screen(text: str) -> list[str]:
    """Return the lines that stay on a terminal: those that are not erased after they were drawn."""
    lines, at = [""], 0
    rest = text.replace("\x1b[?25l", "").replace("\x1b[?25h", "")
    while rest:
        if rest.startswith("\x1b[2K"):
            lines[at], rest = "", rest[4:]
        elif rest.startswith("\x1b[1A"):
            at, rest = at - 1, rest[4:]
        elif rest.startswith("\x1b["):
            rest = rest[rest.index("m") + 1 :]
        elif rest[0] == "\n":
            at, rest = at + 1, rest[1:]
            lines += [""] * (at + 1 - len(lines))
        elif rest[0] == "\r":
            rest = rest[1:]
        else:
            lines[at], rest = lines[at] + rest[0], rest[1:]
    return [line for line in lines if line]
