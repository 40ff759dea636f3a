"""The ledger's signing key and its high-water mark, in `<data>.keys/` (mode 0700): beside the data and not in it.

    ledger.key    one line, PRIVATE+KEY+<origin>+<id>+<key>; whoever reads it can sign for this ledger
    ledger.mark   the checkpoint that was signed last, as a note
    ledger.lock   held by whoever signs, of all processes of a store
    observations.key, .mark, .lock   the same of the log of observations
    witness.lock  held by whoever talks to witnesses

The mark is durable before a checkpoint is shown to anybody, and so it knows more than any copy of the data: a data
folder that was put back from an old backup is behind it. The first mark is written before the first key, so a key
without a mark means that somebody took the mark away.

Trusted: whoever may write the folder. What a liar would gain: a ledger signed at will, with any history.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from boltseal.errors import BoltsealError, Unavailable
from boltseal.files.atomic_files import Disk, locked, write_file
from boltseal.ledger.note import MAX_NOTE_BYTES, KeyInvalid, SigningKey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LEDGER_NAME: Final = "ledger"
_PRIVATE: Final = 0o600


class LedgerKeyUnreadable(Unavailable):
    """The key or the mark can't be read or written, so nothing can be signed or compared.

    Told to clients and by /readyz, and therefore without the path of this machine.
    """


class LedgerKeys:
    """The folder. `disk`: the system calls of every write. `name`: of the log whose key and mark they are."""

    def __init__(self, folder: Path, disk: Disk | None = None, *, name: str = LEDGER_NAME) -> None:
        self.folder = folder
        self._key, self._mark, self._lock = (f"{name}.{kind}" for kind in ("key", "mark", "lock"))
        self._disk = disk or Disk()

    def of(self, name: str) -> LedgerKeys:
        """The same folder, for another log."""
        return LedgerKeys(self.folder, self._disk, name=name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the lock of whoever signs; made, like the folder, where it is missing. LedgerKeyUnreadable."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = locked(str(self.folder / self._lock), _PRIVATE)
            lock.__enter__()
        except OSError as error:
            raise LedgerKeyUnreadable(
                f"the folder of keys, {self.folder.name}, can't be used: {error.strerror}"
            ) from error
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    @contextmanager
    def witnessing(self) -> Iterator[bool]:
        """Whether this process may talk to witnesses: one of a store at a time. LedgerKeyUnreadable."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(self.folder / "witness.lock", flags, _PRIVATE)
        except OSError as error:
            raise LedgerKeyUnreadable(
                f"the folder of keys, {self.folder.name}, can't be used: {error.strerror}"
            ) from error
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(fd)

    def key(self) -> SigningKey | None:
        """The key that signs, None where there is none. LedgerKeyUnreadable."""
        text = self._read(self._key)
        if text is None:
            return None
        try:
            return SigningKey.parse(text.decode("ascii").strip())
        except (KeyInvalid, UnicodeDecodeError) as error:
            reason = error.message if isinstance(error, BoltsealError) else "it is not text"
            raise LedgerKeyUnreadable(f"{self.folder.name}/{self._key} holds no key of a ledger: {reason}") from error

    def mark(self) -> bytes | None:
        """The note of the checkpoint that was signed last, None where there is none. LedgerKeyUnreadable."""
        return self._read(self._mark)

    def put_key(self, key: SigningKey) -> None:
        """Let this key sign from now on. LedgerKeyUnreadable."""
        self._write(self._key, f"{key.private_text()}\n".encode("ascii"))

    def put_mark(self, note: bytes) -> None:
        """Raise the mark; durable when this returns. LedgerKeyUnreadable."""
        self._write(self._mark, note)

    def _read(self, name: str) -> bytes | None:
        path = self.folder / name
        try:
            # What is no file (a pipe) must not make whoever signs wait, nor a large one fill the memory.
            with open(path, "rb", opener=_open_without_waiting) as file:
                raw = file.read(MAX_NOTE_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LedgerKeyUnreadable(f"{self.folder.name}/{name} can't be read: {error.strerror}") from error
        if len(raw) > MAX_NOTE_BYTES:
            raise LedgerKeyUnreadable(
                f"{self.folder.name}/{name} has more than {MAX_NOTE_BYTES} bytes, so it is neither key nor mark"
            )
        return raw

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        try:
            write_file(self._disk, path, content, _PRIVATE)
        except OSError as error:
            raise LedgerKeyUnreadable(f"{self.folder.name}/{name} can't be written: {error.strerror}") from error


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
