"""The journal of requested rebuilds: a file of lines that prevents requesting a rebuild twice.

    FOLDER/rebuilds.jsonl    {"time":...,"image":...,"base":...,"digest":...,"outcome":...,"tries":...,"told":...}

`digest` is what the base's tag resolves to now. Image, base and digest together identify one rebuild, which is
requested once until the base moves again; a tag that moves back and forth causes a new one each time. `outcome`: asked
(started), done, failed, stopped (interrupted). A line is on disk before anything runs, and one after it. So after a kill
the last line is "asked", and the next run asks again: the end was not recorded.

A large file is replaced by the last line of each image and base, the newest first, as far as the size limit allows. The
former file is kept until the next replacement.

    FOLDER/rebuilds.old.jsonl
    FOLDER/rebuilding.group  the process group of the running command (`left_over_group`)
    FOLDER/rebuilding        empty; locked during a run, so that two runs never request the same rebuild
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import msgspec

from boltseal.client.state import ClientState, StateUnusable
from boltseal.errors import quote
from boltseal.project.bases.left_over_group import NAME as GROUP_FILE

MAX_BYTES: Final = 64 * 1024 * 1024
LARGE_BYTES: Final = 16 * 1024 * 1024
MAX_SUMMARY: Final = 500
MAX_LINE_BYTES: Final = 64 * 1024


class RebuildOutcome(StrEnum):
    """The outcome of a rebuild."""

    ASKED = "asked"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


class JournalLine(msgspec.Struct, frozen=True):
    """One line. `time_us`: microseconds since the epoch. `summary`: the last line of output, or the webhook's answer."""

    time_us: int
    image: str
    base: str
    digest: str
    outcome: RebuildOutcome
    tries: int = 0
    summary: str = msgspec.field(name="told", default="")


class RequestedRebuilds(Protocol):
    """What is known of earlier requests: a file for a client, rows for the servers of a registry. Every method blocks.

    Raises: StateUnusable, or Unavailable of the database.
    """

    @property
    def group_file(self) -> Path:
        """The file with the process group of the command that runs, on this machine."""
        ...

    def alone(self) -> AbstractContextManager[bool]:
        """Yield whether no other run requests rebuilds on this machine."""
        ...

    def last(self) -> Mapping[tuple[str, str], JournalLine]:
        """Return the last line of each image and base."""
        ...

    def append(self, line: JournalLine) -> None:
        """Write a line; it is durable when this returns."""
        ...


@dataclass(frozen=True, slots=True)
class RebuildJournal:
    """The file in a state folder, with one writer at a time. `large_bytes`: the size above which it is replaced."""

    state: ClientState
    large_bytes: int = LARGE_BYTES

    @property
    def path(self) -> Path:
        """The file's path."""
        return self.state.folder / "rebuilds.jsonl"

    @property
    def group_file(self) -> Path:
        """The file with the process group of the command that runs."""
        return self.state.folder / GROUP_FILE

    def alone(self) -> AbstractContextManager[bool]:
        """Yield whether no other run requests rebuilds with this journal."""
        return self.state.alone("rebuilding")

    def lines(self) -> list[JournalLine]:
        """Return all lines, the oldest first, without an incomplete last one. Raises: StateUnusable."""
        return list(self._read())

    def last(self) -> Mapping[tuple[str, str], JournalLine]:
        """Return the last line of each image and base. Raises: StateUnusable."""
        return {(one.image, one.base): one for one in self._read()}

    def append(self, line: JournalLine) -> None:
        """Write a line; it is on disk when this returns. Raises: StateUnusable."""
        raw = _raw(shortened(line))
        with self.state.writing():
            if self.path.exists() and self.path.stat().st_size > self.large_bytes:
                self._replace_file()
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "r+b") as file:
                file.truncate(_complete_bytes(file))
                file.seek(0, os.SEEK_END)
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())

    def _replace_file(self) -> None:
        """Replace a large file atomically: without the file, every rebuild would be requested again. Raises: OSError."""
        kept, remaining_bytes = [], self.large_bytes // 2
        for _, line in sorted(
            enumerate(self.last().values()), key=lambda item: (item[1].time_us, item[0]), reverse=True
        ):
            remaining_bytes -= len(_raw(line))
            if remaining_bytes < 0:
                break
            kept.append(_raw(line))
        new, old = self.path.with_name(".rebuilds.new"), self.path.with_name("rebuilds.old.jsonl")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.writelines(reversed(kept))
            file.flush()
            os.fsync(fd)
        old.unlink(missing_ok=True)
        old.hardlink_to(self.path)
        new.replace(self.path)

    def _read(self) -> Iterator[JournalLine]:
        try:
            with self.path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StateUnusable(f"{self.path} can't be read: {error.strerror}") from error
        if len(raw) > MAX_BYTES:
            raise StateUnusable(f"{self.path} has more than {MAX_BYTES} bytes; move it away to start a new one")
        for number, line in enumerate(raw.split(b"\n"), start=1):
            if not line:
                continue
            try:
                yield msgspec.json.decode(line, type=JournalLine)
            except ValueError as error:
                if raw.endswith(line):
                    return  # an incomplete last line
                raise StateUnusable(f"{self.path}:{number} can't be read; move the file away, or repair it") from error


def shortened(line: JournalLine) -> JournalLine:
    """Return a line as it is kept: a summary is the output of a program, on one line."""
    return msgspec.structs.replace(line, summary=quote(line.summary, MAX_SUMMARY)[1:-1])


def _raw(line: JournalLine) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _complete_bytes(file: BinaryIO) -> int:
    """Return the length up to the last complete line: an incomplete one was never acknowledged."""
    end = file.seek(0, os.SEEK_END)
    start = max(0, end - MAX_LINE_BYTES)
    file.seek(start)
    tail = file.read()
    return end if not tail or tail.endswith(b"\n") else start + tail.rfind(b"\n") + 1
