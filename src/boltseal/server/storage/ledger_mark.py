"""The high-water mark of a log: the note of the checkpoint that was signed last, kept apart from the data.

    FileMark     `<data>.keys/ledger.mark`, or the file of `[storage.mark] url`: for one host. `ledger.mark.lock` is its lock
    ObjectMark   an object of an S3 server that is replaced by compare-and-swap (If-Match): for several hosts

Promises, which `tests/contracts/test_ledger_mark.py` checks on both:

1. `replace` takes effect only while the mark is what the caller read. Of two writers one wins; the other gets MarkMoved and
   reads again. So a mark is never replaced by an older one.
2. When `replace` returns, the mark is durable, and every later `read` returns it or a later one.
3. A failure that says nothing about the effect raises LedgerKeyUnreadable. The mark may have been replaced or not, and may still
   be; the next `replace` finds out, because it compares.
4. "There is none" is an answer of the store, and no failure is taken for it.

Trusted: accounts that can write the mark. If it is compromised, an old copy of the data is taken for the newest one.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from boltseal.errors import Invalid, Unavailable
from boltseal.files.atomic_files import Disk, locked, write_file
from boltseal.ledger.note import MAX_NOTE_BYTES
from boltseal.server.storage.object_client import Limits, ObjectChanged, ObjectClient, ObjectUse, SmallObject
from boltseal.server.storage.object_failures import OF_MARK, Failure, FailureKind

if TYPE_CHECKING:
    from collections.abc import Iterator

PRIVATE: Final = 0o600


class LedgerKeyUnreadable(Unavailable):
    """The key or the mark can't be read or written, so nothing can be signed or compared.

    The message is sent to clients and shown by /readyz, so it contains no path of this machine.
    """


class MarkUnreachable(LedgerKeyUnreadable):
    """The store of the mark does not answer, so nothing can be signed, and nothing is written until it does."""


class MarkMoved(Unavailable):
    """Another process has replaced the mark since it was read."""


class MarkUnfit(Invalid):
    """The store of the mark does not do what the mark needs."""


class Mark(Protocol):
    """The mark of one log. Safe to use from several threads and processes."""

    def read(self) -> bytes | None:
        """Return the note, None if there is none. Raises: LedgerKeyUnreadable."""
        ...

    def replace(self, note: bytes, before: bytes | None) -> None:
        """Replace the mark, which must still be `before`; None: there must be none.

        Raises: MarkMoved, LedgerKeyUnreadable.
        """
        ...


class FileMark:
    """A file. Writers lock the empty file `NAME.lock` beside it: some NFS servers refuse to lock a folder, and the file itself is replaced."""

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self._path = path
        self._shown = f"{path.parent.name}/{path.name}"
        self._disk = disk or Disk()

    def read(self) -> bytes | None:
        """Return the note, None if there is none. Raises: LedgerKeyUnreadable."""
        return read_small(self._path)

    def replace(self, note: bytes, before: bytes | None) -> None:
        """Replace the file, which must still have the content `before`. Raises: MarkMoved, LedgerKeyUnreadable."""
        with self._locked():
            if self.read() != before:
                raise MarkMoved(f"another process has replaced {self._shown} meanwhile")
            write_file(self._disk, self._path, note, PRIVATE)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock inside the block, and raise LedgerKeyUnreadable for an OSError of it."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(f"{self._path}.lock", PRIVATE):
                yield
        except OSError as error:
            raise LedgerKeyUnreadable(f"{self._shown} can't be written: {error.strerror}") from error


class ObjectMark:
    """An object. Each `replace` is one PUT with If-Match, or If-None-Match where there is no object yet."""

    def __init__(self, client: ObjectClient, key: str) -> None:
        self._client = client
        self._key = key
        self._seen: SmallObject | None = None
        """What the object was when this process saw it last; None: there was none, or it is not known."""

    def read(self) -> bytes | None:
        """Return the note, None if there is none. Raises: LedgerKeyUnreadable."""
        found = self._look()
        return None if found is None else found.content

    def replace(self, note: bytes, before: bytes | None) -> None:
        """Replace the object, which must still have the content `before`. Raises: MarkMoved, LedgerKeyUnreadable."""
        seen, self._seen = self._seen, None  # whatever happens now, the ETag that was seen may be old
        if seen is None or seen.content != before:
            seen = self._look()
        if before != (None if seen is None else seen.content):
            raise MarkMoved("another process has replaced the mark of the ledger meanwhile")
        try:
            version = self._client.put_if(self._key, note, None if seen is None else seen.version)
        except ObjectChanged as error:
            # A request is repeated when its answer was lost, and then meets its own effect.
            if self.read() != note:
                raise MarkMoved("another process has replaced the mark of the ledger meanwhile") from error
        else:
            self._seen = SmallObject(note, version)

    def check(self) -> None:
        """Find out whether the server compares before it replaces, with an object of its own beside the mark.

        Raises:
            MarkUnfit: it does not, so two hosts could sign two histories.
            MarkUnreachable: it does not answer.
        """
        if not self._client.compares(f"{self._key}.probe"):
            raise MarkUnfit(
                "the S3 server of [storage.mark] replaces objects without comparing (If-Match and If-None-Match of a PUT); "
                "choose one that supports conditional writes"
            )

    def _look(self) -> SmallObject | None:
        self._seen = seen = self._client.get(self._key, MAX_NOTE_BYTES)
        if seen is not None and seen.version is None:
            raise LedgerKeyUnreadable("the S3 server of [storage.mark] gives no ETag, so the mark can't be compared")
        return seen


def _failed(failure: Failure) -> LedgerKeyUnreadable:
    match failure.kind:
        case FailureKind.TOO_LARGE:
            return LedgerKeyUnreadable(
                f"the mark of the ledger has more than {MAX_NOTE_BYTES} bytes, so it is no checkpoint"
            )
        case _:
            return MarkUnreachable(
                f"the mark of the ledger can't be {failure.done}: {failure.cause}: nothing is signed or written until it can; "
                f"{failure.advice}"
            )


MARK: Final = ObjectUse(
    "mark",
    _failed,
    Limits(answer_s=5, connect_s=2, retry_s=5, retries=3, first_pause_s=0.1, longest_pause_s=1),
    OF_MARK,
)
"""What the client of a mark is opened for. A push waits for it, so it has short time limits."""


def read_small(path: Path) -> bytes | None:
    """Return the content of a key or a mark, None if there is no file. Raises: LedgerKeyUnreadable."""
    shown = f"{path.parent.name}/{path.name}"
    try:
        # A pipe in place of the file must not block the signer, nor a large file fill the memory.
        with open(path, "rb", opener=_open_without_waiting) as file:
            raw = file.read(MAX_NOTE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LedgerKeyUnreadable(f"{shown} can't be read: {error.strerror}") from error
    if len(raw) > MAX_NOTE_BYTES:
        raise LedgerKeyUnreadable(f"{shown} has more than {MAX_NOTE_BYTES} bytes, so it is neither key nor mark")
    return raw


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
