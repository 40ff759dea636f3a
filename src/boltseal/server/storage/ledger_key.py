"""The ledger's signing key and its high-water mark, in `<data>.keys/` (mode 0700), beside the data folder.

    ledger.key    one line, PRIVATE+KEY+<origin>+<id>+<key>; a reader of the file can sign for this ledger
    ledger.key.next   during a rotation, the key that follows; in force once the mark has its signature as the last one
    ledger.mark   the checkpoint that was signed last, as a note; with `[storage.mark]` it is elsewhere (`ledger_mark`)
    ledger.lock   locked by the process of a store that signs
    ledger.mark.lock   locked while the mark is replaced
    ledger.tags.doubt, ledger.witnesses.doubt   why the ledger takes no entries, until that is resolved; most stores have none
    ledger.witnesses   what each witness stated last (`witness_statements`); only where there are witnesses
    observations.key, .key.next, .mark, .lock, .mark.lock   the same for the log of observations
    witness.lock  locked by the process of a store that talks to witnesses
    witness_service.key, .mark, witnessed-*.mark, and their locks   of this registry as a witness (`registry.witness_service`)

The mark is durable before a checkpoint is published, so it knows at least as much as any copy of the data: a data folder
that was restored from an old backup is behind it. The first mark is written before the first key, so a key without a mark
means that the mark was removed.

Trusted: accounts that can write the folder. If it is compromised, the attacker can sign a ledger with any history.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from boltseal.errors import BoltsealError, Unavailable
from boltseal.files.atomic_files import Disk, lock_within, locked, write_file
from boltseal.ledger.note import ED25519, KeyInvalid, SigningKey
from boltseal.server.storage.ledger_mark import PRIVATE, FileMark, LedgerKeyUnreadable, Mark, read_small

LEDGER_NAME: Final = "ledger"
SIGNING_WAIT_S: Final = 5.0
"""How long a signer waits for another one of its store, which may be stopped."""
SEED_BYTES: Final = 32
Marks = Callable[[str], Mark]


class KeyChanging(Unavailable):
    """Another process replaces the key of the ledger, so nothing is signed until it has."""


class LedgerKeys:
    """The key and mark of one log. `disk`: makes the system calls of every write. `name`: of the log.

    `marks`: returns the mark of a log of this name. Default: a file in the folder.
    """

    def __init__(
        self, folder: Path, disk: Disk | None = None, *, name: str = LEDGER_NAME, marks: Marks | None = None
    ) -> None:
        self.folder = folder
        self._name = name
        self._key, self._lock, self._change = f"{name}.key", f"{name}.lock", f"{name}.change.lock"
        self._next = f"{self._key}.next"
        self._disk = disk or Disk()
        self._marks = marks or (lambda log: FileMark(folder / f"{log}.mark", self._disk))
        self._mark = self._marks(name)

    def of(self, name: str) -> LedgerKeys:
        """Return key and mark of another log in the same places."""
        return LedgerKeys(self.folder, self._disk, name=name, marks=self._marks)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude every other signer inside the block, which may replace the key. Creates lock files and folder where missing.

        Raises: LedgerKeyUnreadable.
        """
        with ExitStack() as held:
            with self._folder_usable():
                for name in (self._change, self._lock):
                    held.enter_context(locked(str(self.folder / name), PRIVATE))
            yield

    @contextmanager
    def signing(self, wait_s: float = SIGNING_WAIT_S) -> Iterator[None]:
        """Exclude other signers inside the block, as far as they do not hold the lock for longer than `wait_s`.

        A signer that is stopped keeps the lock, and others sign beside it then: of two, the one whose mark is replaced first wins.
        Nothing else in the block may need the lock. A process that replaces the key is never passed.

        Raises: LedgerKeyUnreadable; KeyChanging.
        """
        with ExitStack() as held:
            with self._folder_usable():
                alone = held.enter_context(lock_within(str(self.folder / self._lock), PRIVATE, wait_s))
                unchanged = alone or held.enter_context(
                    lock_within(str(self.folder / self._change), PRIVATE, 0.0, shared=True)
                )
            if not unchanged:
                raise KeyChanging("the key of the ledger is being replaced, which takes long: try again")
            yield

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
        return self._read_key(self._key)

    def next_key(self) -> SigningKey | None:
        """Return the key that `put_next_key` has written last, None if `put_key` was called since. Raises: LedgerKeyUnreadable."""
        return self._read_key(self._next)

    def _read_key(self, name: str) -> SigningKey | None:
        text = self._read(name)
        if text is None:
            return None
        try:
            return SigningKey.parse(text.decode("ascii").strip())
        except (KeyInvalid, UnicodeDecodeError) as error:
            reason = error.message if isinstance(error, BoltsealError) else "it is not text"
            raise LedgerKeyUnreadable(f"{self.folder.name}/{name} is no ledger key: {reason}") from error

    def mark(self) -> bytes | None:
        """Return the note of the checkpoint that was signed last, None if there is none.

        Raises: LedgerKeyUnreadable.
        """
        return self._mark.read()

    def put_key(self, key: SigningKey) -> None:
        """Replace the signing key. Raises: LedgerKeyUnreadable."""
        self._write(self._key, f"{key.private_text()}\n".encode("ascii"))
        with suppress(OSError):
            (self.folder / self._next).unlink()

    def put_next_key(self, key: SigningKey) -> None:
        """Write the key that a rotation puts into force. Raises: LedgerKeyUnreadable."""
        self._write(self._next, f"{key.private_text()}\n".encode("ascii"))

    def remove_key(self) -> None:
        """Remove a signing key that signed nothing. Raises: LedgerKeyUnreadable."""
        with self._folder_usable():
            (self.folder / self._key).unlink(missing_ok=True)

    def put_mark(self, note: bytes, *, before: bytes | None) -> None:
        """Replace the mark, if it is still what `mark` returned; durable when this returns.

        Raises: MarkMoved, LedgerKeyUnreadable.
        """
        self._mark.replace(note, before)

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


def new_signing_key(name: str, key_type: int = ED25519) -> SigningKey:
    """Return a new key of this name, with a random seed."""
    return SigningKey(name, secrets.token_bytes(SEED_BYTES), key_type)
