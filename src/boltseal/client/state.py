"""The client's state folder, with the trusted keys and checkpoints of registries' ledgers.

    STATE/format                      a number; a newer one is refused
    STATE/trust/HOST.json             the trusted ledger of the registry: origin, key ID, key, and how it became trusted
    STATE/checkpoints/HOST.note       the newest checkpoint that was read from the registry, byte for byte
    STATE/checkpoints/HOST.none       when the registry was last found to have no ledger, in seconds since 1970
    STATE/evidence/HOST-HASH/         an earlier and a later answer of a registry that contradict each other
    STATE/monitor/HOST                the progress of `boltseal ledger monitor` (`client.ledger_monitor.progress_file`)
    STATE/watch.db                    what other registries' tags resolved to over time (`client.tag_observations`)
    STATE/learned.db                  cache of manifests, configs, and what tags of base images resolved to (`client.document_cache`)
    STATE/rebuilds.jsonl              requested rebuilds and their outcomes (`project.bases.rebuild_journal`); older ones in rebuilds.old.jsonl
    STATE/rebuilding                  lock of the process that requests rebuilds
    STATE/kept.db                     the images that are kept on engines (`host.kept_images`)
    STATE/kept.lock                   lock of the process that tags images on an engine
    STATE/edits/                      edits that `boltseal update` has not deployed yet (`project.edit_journal`)
    STATE/engines/ENGINE/releases/    releases of an engine's projects, for users other than root (`commands.engine_releases`)
    STATE/releases/PROJECT/           releases of earlier versions, to read only (`deploy.earlier_releases`)
    STATE/outbox.db                   notifications that are not delivered yet (`notify.outbox`)
    STATE/outbox.db.lock              lock of the process that delivers them
    STATE/lock                        lock of the process that writes

HOST is the registry's name as in a reference, in lower case, without `:443`, percent-encoded. A file is written under a temporary name, synced, and
renamed. Folders have mode 0700, files 0600.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote as quote_name
from urllib.parse import unquote as unquote_name

import msgspec

from boltseal.errors import BoltsealError, Invalid, Unavailable
from boltseal.files.atomic_files import Disk, write_file
from boltseal.ledger.checkpoint import checkpoint_of_note_unverified
from boltseal.ledger.follow import Trusted, TrustedCheckpoint
from boltseal.ledger.note import VerifierKey
from boltseal.loading import deferred
from boltseal.oci.reference import Reference

if TYPE_CHECKING:
    import sqlite3
else:  # not every command has a database
    sqlite3 = deferred("sqlite3")

FORMAT: Final = 1
DEFAULT_PORT: Final = ":443"
MAX_FILE_BYTES: Final = 2_000_000
WAIT_S: Final = 20.0
"""How long a database waits for another process that writes it."""
GIVEN: Final = "given"
FIRST_USE: Final = "first use"


class StateUnusable(Unavailable):
    """The state folder can't be read or written, or its content is invalid or of a newer version."""


class StateChanged(Unavailable):
    """Another process wrote meanwhile; the caller has to decide again."""


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    """A file of trust/. `how`: GIVEN or FIRST_USE; `since_s`: seconds since 1970."""

    origin: str
    key_id: str
    key: str
    how: str
    since_s: int


class KnownLedger(msgspec.Struct, frozen=True):
    """What is known of one registry's ledger. `head`: the newest checkpoint that was seen, None if none was."""

    registry: str
    trusted: Trusted
    how: str
    since_s: int
    head: TrustedCheckpoint | None


def open_database(path: Path, *, create: bool, max_bytes: int | None = None) -> sqlite3.Connection | None:
    """Open a SQLite file of the state folder; None if there is none and it is not created. Raises: StateUnusable."""
    try:
        flags = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY
        fd = os.open(path, flags | os.O_CLOEXEC, 0o600)  # SQLite would create it readable for others
        size_bytes = os.fstat(fd).st_size
        os.close(fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateUnusable(f"{path} can't be opened: {error.strerror}") from error
    if max_bytes is not None and size_bytes > max_bytes:
        raise StateUnusable(f"{path} is too large: {size_bytes} bytes (expected at most {max_bytes}); not read")
    uri = f"file:{quote_name(str(path.absolute()))}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=WAIT_S, isolation_level=None, check_same_thread=False)


def tag_key(reference: Reference) -> str:
    """Return the key of a tag in these databases: its reference without a digest."""
    if reference.tag is None:
        raise AssertionError(f"{reference} names no tag")
    return f"{reference.name}:{reference.tag}"


@contextlib.contextmanager
def closed_on_error(database: sqlite3.Connection) -> Iterator[None]:
    """Close a database if it can't be prepared, whatever ends the block; it belongs to the caller only after it."""
    with contextlib.ExitStack() as stack:
        stack.callback(database.close)
        yield
        stack.pop_all()


@contextlib.contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Open a write transaction of a database that other processes may write too."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:  # also Ctrl-C: a transaction left open would block other processes until this one ends
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


class ClientState:
    """The state folder; the first write creates it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def known(self, registry: str) -> KnownLedger | None:
        """Return what is known of a registry's ledger, or None. Raises: StateUnusable."""
        self.check_format()
        raw = self._read(self._trust(registry))
        if raw is None:
            return None
        try:
            record = msgspec.json.decode(raw, type=_Record)
            key = VerifierKey.parse(record.key) if record.key else None
            trusted = Trusted(record.origin, bytes.fromhex(record.key_id), key)
            note = self._read(self._note(registry))
            head = None
            if note is not None:
                head = TrustedCheckpoint(trusted, checkpoint_of_note_unverified(note), note)
        except (msgspec.MsgspecError, ValueError, Invalid) as error:
            reason = error.message if isinstance(error, BoltsealError) else error
            raise StateUnusable(f"{self._trust(registry)} or its checkpoint can't be parsed: {reason}") from error
        return KnownLedger(registry, trusted, record.how, record.since_s, head)

    def all(self) -> list[KnownLedger]:
        """Return all known ledgers, sorted by registry. Raises: StateUnusable."""
        self.check_format()
        try:
            names = sorted(path.stem for path in (self.folder / "trust").glob("*.json"))
        except OSError as error:
            raise StateUnusable(f"{self.folder} can't be read: {error.strerror}") from error
        return [found for name in names if (found := self.known(unquote_name(name))) is not None]

    def keep(self, known: KnownLedger, instead_of: KnownLedger | None) -> None:
        """Save what is known now, if the saved value is still `instead_of`. Raises: StateChanged, StateUnusable."""
        with self.writing():
            if self.known(known.registry) != instead_of:
                raise StateChanged(
                    f"another process updated the ledger of {known.registry} in the state folder; run the command again"
                )
            trusted = known.trusted
            key = "" if trusted.key is None else str(trusted.key)
            record = _Record(trusted.origin, trusted.key_id.hex(), key, known.how, known.since_s)
            if instead_of is None or (known.trusted, known.how) != (instead_of.trusted, instead_of.how):
                self._write(self._trust(known.registry), msgspec.json.format(msgspec.json.encode(record)) + b"\n")
            if known.head is None:
                self._note(known.registry).unlink(missing_ok=True)
            elif instead_of is None or known.head != instead_of.head:
                self._write(self._note(known.registry), known.head.raw)
            self._none(known.registry).unlink(missing_ok=True)

    def forget(self, registry: str) -> bool:
        """Delete what is known of a registry; return whether something was known. Raises: StateUnusable."""
        with self.writing():
            existed = self._trust(registry).exists()
            for path in (
                *self._spelled("trust", registry, ".json"),
                *self._spelled("checkpoints", registry, ".note"),
                *self._spelled("checkpoints", registry, ".none"),
            ):
                path.unlink(missing_ok=True)
        return existed

    def no_ledger_since_s(self, registry: str) -> int | None:
        """Return when the registry was found to have no ledger, in seconds since 1970, or None. Raises: StateUnusable."""
        raw = self._read(self._none(registry)) or b""
        return int(raw) if raw.strip().isdigit() else None

    def save_no_ledger(self, registry: str, now_s: int) -> None:
        """Save that the registry has no ledger. Raises: StateUnusable."""
        with self.writing():
            self._write(self._none(registry), f"{now_s}\n".encode())

    def save_evidence(self, registry: str, files: Mapping[str, bytes]) -> Path:
        """Save contradicting statements of a registry; return the folder. Equal evidence is saved once. Raises:
        StateUnusable.
        """
        running = sha256()
        for name, content in sorted(files.items()):
            running.update(f"{name} {len(content)}\n".encode() + content)
        folder = self.folder / "evidence" / f"{_escaped(registry)}-{running.hexdigest()[:16]}"
        with self.writing():
            self._folder(folder)
            for name, content in files.items():
                self._write(folder / name, content)
        return folder

    def check_format(self) -> None:
        """Refuse a folder that a newer version wrote. Raises: StateUnusable."""
        raw = self._read(self.folder / "format")
        if raw is not None and raw.strip() != str(FORMAT).encode():
            raise StateUnusable(f"{self.folder} was written by a newer boltseal; this one reads format {FORMAT}")

    def _trust(self, registry: str) -> Path:
        return _first(self._spelled("trust", registry, ".json"))

    def _note(self, registry: str) -> Path:
        return _first(self._spelled("checkpoints", registry, ".note"))

    def _none(self, registry: str) -> Path:
        return _first(self._spelled("checkpoints", registry, ".none"))

    def _spelled(self, folder: str, registry: str, suffix: str) -> list[Path]:
        """Return the names that a registry's file may have; earlier versions kept upper case and the usual port."""
        name = registry.lower().removesuffix(DEFAULT_PORT)
        spellings = dict.fromkeys((name, f"{name}{DEFAULT_PORT}", registry))
        return [self.folder / folder / f"{_escaped(each)}{suffix}" for each in spellings]

    @staticmethod
    def _read(path: Path) -> bytes | None:
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StateUnusable(f"{path} can't be read: {error.strerror}") from error
        if len(raw) > MAX_FILE_BYTES:
            raise StateUnusable(f"{path} is too long (expected at most {MAX_FILE_BYTES} bytes)")
        return raw

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder's write lock. The folder exists and has a supported format. Raises: StateUnusable."""
        try:
            self._folder(self.folder)
            with (self.folder / "lock").open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                self.check_format()
                if not (self.folder / "format").exists():
                    self._write(self.folder / "format", f"{FORMAT}\n".encode())
                yield
        except OSError as error:
            raise StateUnusable(
                f"the state folder {self.folder} can't be written: {error.strerror}; set BOLTSEAL_STATE to use another folder"
            ) from error

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[bool]:
        """Try to take a named interprocess lock; yield whether it was free. It is held until the block ends. Raises:
        StateUnusable.
        """
        with self.writing():
            file = (self.folder / name).open("a")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def _write(self, path: Path, content: bytes) -> None:
        """Write a file durably. Raises: OSError."""
        self._folder(path.parent)
        write_file(Disk(), path, content, 0o600)

    def _folder(self, path: Path) -> None:
        if not path.is_dir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            Disk().sync_folder(os.fspath(path.parent))


def _first(files: Sequence[Path]) -> Path:
    """Return the first file that exists, else the first name."""
    return next((each for each in files if each.exists()), files[0])


def _escaped(registry: str) -> str:
    return quote_name(registry, safe="")
