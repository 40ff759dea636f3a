"""The ledger's signing key and its high-water mark, in `<data>.keys/` (mode 0700), beside the data folder.

    ledger.key    one line, PRIVATE+KEY+<origin>+<id>+<key>; a reader of the file can sign for this ledger
    ledger.mark   the checkpoint that was signed last, as a note; with `[storage.mark]` it is elsewhere (`ledger_mark`)
    ledger.lock   locked by the process of a store that signs
    ledger.mark.lock   locked while the mark is replaced
    ledger.tags.doubt, ledger.witnesses.doubt   why the ledger takes no entries, until that is resolved; most stores have none
    ledger.witnesses   what each witness stated last (`witness_statements`); only where there are witnesses
    observations.key, .mark, .lock, .mark.lock   the same for the log of observations
    witness.lock  locked by the process of a store that talks to witnesses

The mark is durable before a checkpoint is published, so it knows at least as much as any copy of the data: a data folder
that was restored from an old backup is behind it. The first mark is written before the first key, so a key without a mark
means that the mark was removed.

Trusted: accounts that can write the folder. If it is compromised, the attacker can sign a ledger with any history.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from boltseal.errors import BoltsealError
from boltseal.files.atomic_files import Disk, locked, write_file
from boltseal.ledger.note import KeyInvalid, SigningKey
from boltseal.server.storage.ledger_mark import PRIVATE, FileMark, LedgerKeyUnreadable, Mark, read_small
from boltseal.server.storage.metadata.protocol import TAGS

LEDGER_NAME: Final = "ledger"
WITNESSES: Final = "witnesses"
DOUBTS: Final = (TAGS, WITNESSES)
"""What may doubt a ledger: the comparison of its entries with the rows of tags, and its witnesses."""
MAX_DOUBT: Final = 1000
Marks = Callable[[str], Mark]


class LedgerKeys:
    """The key and mark of one log. `disk`: makes the system calls of every write. `name`: of the log.

    `marks`: returns the mark of a log of this name. Default: a file in the folder.
    """

    def __init__(
        self, folder: Path, disk: Disk | None = None, *, name: str = LEDGER_NAME, marks: Marks | None = None
    ) -> None:
        self.folder = folder
        self._name = name
        self._key, self._lock = f"{name}.key", f"{name}.lock"
        self._statements = f"{name}.{WITNESSES}"
        self._disk = disk or Disk()
        self._marks = marks or (lambda log: FileMark(folder / f"{log}.mark", self._disk))
        self._mark = self._marks(name)

    def of(self, name: str) -> LedgerKeys:
        """Return key and mark of another log in the same places."""
        return LedgerKeys(self.folder, self._disk, name=name, marks=self._marks)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the signing lock inside the block. Creates lock file and folder where missing.

        Raises: LedgerKeyUnreadable.
        """
        with self._folder_usable():
            lock = locked(str(self.folder / self._lock), PRIVATE)
            lock.__enter__()
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    @contextmanager
    def witnessing(self) -> Iterator[bool]:
        """Yield whether this process may talk to witnesses: one process of a store at a time.

        Raises: LedgerKeyUnreadable.
        """
        with self._folder_usable():
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(self.folder / "witness.lock", flags, PRIVATE)
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
        """Return the signing key, None if there is none. Raises: LedgerKeyUnreadable."""
        text = self._read(self._key)
        if text is None:
            return None
        try:
            return SigningKey.parse(text.decode("ascii").strip())
        except (KeyInvalid, UnicodeDecodeError) as error:
            reason = error.message if isinstance(error, BoltsealError) else "it is not text"
            raise LedgerKeyUnreadable(f"{self.folder.name}/{self._key} is no ledger key: {reason}") from error

    def mark(self) -> bytes | None:
        """Return the note of the checkpoint that was signed last, None if there is none.

        Raises: LedgerKeyUnreadable.
        """
        return self._mark.read()

    def doubt(self) -> str | None:
        """Return why the ledger takes no entries, None if it does. Raises: LedgerKeyUnreadable."""
        for about in DOUBTS:
            raw = self._read(self._doubt(about))
            if raw is not None:
                return raw.decode("utf-8", errors="replace").strip()
        return None

    def doubted(self, about: str) -> bool:
        """Return whether there is a doubt of this kind. Raises: LedgerKeyUnreadable."""
        return self._read(self._doubt(about)) is not None

    def put_doubt(self, about: str, reason: str) -> None:
        """Let the ledger take no entries, in every process and after a restart. Raises: LedgerKeyUnreadable."""
        self._write(self._doubt(about), f"{reason[:MAX_DOUBT]}\n".encode("utf-8", errors="replace"))

    def clear_doubt(self, about: str) -> None:
        """Withdraw a doubt. Raises: LedgerKeyUnreadable."""
        name = self._doubt(about)
        try:
            (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise LedgerKeyUnreadable(f"{self.folder.name}/{name} can't be removed: {error.strerror}") from error

    def statements(self) -> bytes | None:
        """Return what the witnesses stated, None if nothing. Raises: LedgerKeyUnreadable."""
        return self._read(self._statements)

    def put_statements(self, raw: bytes) -> None:
        """Replace what the witnesses stated. Raises: LedgerKeyUnreadable."""
        self._write(self._statements, raw)

    def put_key(self, key: SigningKey) -> None:
        """Replace the signing key. Raises: LedgerKeyUnreadable."""
        self._write(self._key, f"{key.private_text()}\n".encode("ascii"))

    def put_mark(self, note: bytes, *, before: bytes | None) -> None:
        """Replace the mark, if it is still what `mark` returned; durable when this returns.

        Raises: MarkMoved, LedgerKeyUnreadable.
        """
        self._mark.replace(note, before)

    def _doubt(self, about: str) -> str:
        """Return the name of the file that keeps a doubt."""
        return f"{self._name}.{about}.doubt"

    @contextmanager
    def _folder_usable(self) -> Iterator[None]:
        """Create the folder where it is missing, and raise LedgerKeyUnreadable for an OSError of the block."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise LedgerKeyUnreadable(
                f"the folder of keys, {self.folder.name}, can't be used: {error.strerror}"
            ) from error

    def _read(self, name: str) -> bytes | None:
        return read_small(self.folder / name)

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        try:
            write_file(self._disk, path, content, PRIVATE)
        except OSError as error:
            raise LedgerKeyUnreadable(f"{self.folder.name}/{name} can't be written: {error.strerror}") from error
