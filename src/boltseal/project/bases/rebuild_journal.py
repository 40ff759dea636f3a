"""Which rebuilds were asked for, and what came of each: a file of lines, so that none is asked for twice.

    FOLDER/rebuilds.jsonl    {"time":...,"image":...,"base":...,"digest":...,"outcome":...,"tries":...,"told":...}

`digest` is what the base's tag means now; image, base and digest together are one rebuild, asked for once, until the base
moves again: a tag that goes back and forth is a new move each time. `outcome`: asked (it has begun), done, failed, stopped
(whoever asked was told to end, and has ended what it ran: the tries that are left may follow). A line is on the disk before
anything is run: who is killed in between has asked, and the next look says so and does not ask again.

A file that has grown large is begun anew with what decides, the last line of each image and base, as far as there is room
for them, the newest first; all of it stays beside it until that happens again.

    FOLDER/rebuilds.old.jsonl
    FOLDER/rebuilding        empty; locked by whoever asks, so that two runs at once never ask for the same
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from boltseal.client.state import ClientState, StateUnusable
from boltseal.errors import quote

MAX_BYTES: Final = 64 * 1024 * 1024
LARGE_BYTES: Final = 16 * 1024 * 1024
MAX_TOLD: Final = 500
MAX_LINE_BYTES: Final = 64 * 1024


class RebuildOutcome(StrEnum):
    """What became of a rebuild."""

    ASKED = "asked"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


class JournalLine(msgspec.Struct, frozen=True):
    """One line. `time_us`: microseconds since the epoch. `told`: what the command or webhook said last, on one line."""

    time_us: int
    image: str
    base: str
    digest: str
    outcome: RebuildOutcome
    tries: int = 0
    told: str = ""


@dataclass(frozen=True, slots=True)
class RebuildJournal:
    """The file in a state folder. One writer at a time. `large_bytes`: how long it gets before it is begun anew."""

    state: ClientState
    large_bytes: int = LARGE_BYTES

    @property
    def path(self) -> Path:
        """The file."""
        return self.state.folder / "rebuilds.jsonl"

    def lines(self) -> list[JournalLine]:
        """All of it, the oldest first; a last line that was broken off is left out. StateUnusable."""
        return list(self._read())

    def last(self) -> Mapping[tuple[str, str], JournalLine]:
        """What was written of each image and base last. StateUnusable."""
        return {(one.image, one.base): one for one in self._read()}

    def note(self, line: JournalLine) -> None:
        """Write a line; when it returns, it is on the disk. StateUnusable."""
        raw = _raw(msgspec.structs.replace(line, told=quote(line.told, MAX_TOLD)[1:-1]))
        with self.state.writing():
            if self.path.exists() and self.path.stat().st_size > self.large_bytes:
                self._begin_anew()
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "r+b") as file:
                file.truncate(_whole_bytes(file))
                file.seek(0, os.SEEK_END)
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())

    def _begin_anew(self) -> None:
        """The file is never gone meanwhile: without it everything would be asked for again. OSError."""
        kept, room_bytes = [], self.large_bytes // 2
        for _, line in sorted(enumerate(self.last().values()), key=lambda one: (one[1].time_us, one[0]), reverse=True):
            room_bytes -= len(_raw(line))
            if room_bytes < 0:
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
            raise StateUnusable(f"{self.path} has more than {MAX_BYTES} bytes; move it away: a new one is begun")
        for number, line in enumerate(raw.split(b"\n"), start=1):
            if not line:
                continue
            try:
                yield msgspec.json.decode(line, type=JournalLine)
            except ValueError as error:
                if raw.endswith(line):
                    return  # broken off in the middle of the last one
                raise StateUnusable(f"{self.path}:{number} can't be read; move the file away, or mend it") from error


def _raw(line: JournalLine) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _whole_bytes(file: BinaryIO) -> int:
    """How long the file is up to the end of its last whole line: what was broken off was never acknowledged."""
    end = file.seek(0, os.SEEK_END)
    start = max(0, end - MAX_LINE_BYTES)
    file.seek(start)
    tail = file.read()
    return end if not tail or tail.endswith(b"\n") else start + tail.rfind(b"\n") + 1
