"""Records of kept images: `kept.db` in the state folder (SQLite), since engines lose this information.

    kept    an image that a name resolved to: its keep tag, registry digest, promised time, and where a copy is
    came    the digest that an image was pulled by, and the proof of it
    ran     when an image was last seen in a running container
    held    reasons to keep an image, such as a release, and until when
    locks   lock files whose images never expire; paths are percent-encoded, since they may have any bytes

All rows have the engine's address. Docker's classic store loses the registry's digest with the last name of an image,
containerd's with the name that moves; Podman keeps two digests and does not distinguish them.

The file is the user's own, but it is not trusted: a malformed row raises StateUnusable and changes nothing. Without the
file only these records are lost; the images still have their keep tags and are found by them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote as quote_path
from urllib.parse import unquote_to_bytes

from boltseal.client.state import ClientState, StateUnusable
from boltseal.errors import BoltsealError, Unavailable
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag

T = TypeVar("T")

FORMAT: Final = 1
LOCK_TIMEOUT_S: Final = 60.0
MAX_ROWS: Final = 100_000
_POLL_S: Final = 0.05
_BUSY_S: Final = 10.0
_FORGET_RAN_US: Final = 400 * 86_400_000_000

_SCHEMA: Final = (
    """CREATE TABLE kept (
        engine TEXT NOT NULL, name TEXT NOT NULL, image TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL,
        tag TEXT NOT NULL, kept_us INTEGER NOT NULL, until_us INTEGER, keep INTEGER, copy TEXT NOT NULL,
        PRIMARY KEY (engine, name, image)
    ) STRICT""",
    """CREATE TABLE came (
        engine TEXT NOT NULL, image TEXT NOT NULL, digest TEXT NOT NULL, repository TEXT NOT NULL,
        media_type TEXT NOT NULL, proof TEXT NOT NULL, came_us INTEGER NOT NULL,
        PRIMARY KEY (engine, image, digest, repository)
    ) STRICT""",
    """CREATE TABLE ran (
        engine TEXT NOT NULL, image TEXT NOT NULL, seen_us INTEGER NOT NULL, PRIMARY KEY (engine, image)
    ) STRICT""",
    """CREATE TABLE held (
        engine TEXT NOT NULL, image TEXT NOT NULL, reason TEXT NOT NULL, until_us INTEGER,
        PRIMARY KEY (engine, image, reason)
    ) STRICT""",
    "CREATE TABLE locks (path TEXT NOT NULL PRIMARY KEY) STRICT",
    f"PRAGMA user_version = {FORMAT}",
)
_MOVE_IT: Final = "if it is damaged, move it away: kept images keep their keep tags and are found by them"

_HINTS: Final = {
    sqlite3.SQLITE_FULL: "free some space, or set another folder by BOLTSEAL_STATE",
    sqlite3.SQLITE_BUSY: "another program has locked it; try again",
}


class KeptBusy(Unavailable):
    """Another boltseal process has held the lock for tagging images for too long."""


class Proof(StrEnum):
    """What proves that an image is the one of a digest."""

    IDENTICAL = "identical"  # its ID is that digest
    MANIFEST = "manifest"  # manifests, hashed by boltseal, refer from the digest to its ID
    LOCK = "lock"  # a project's lock has this ID for the digest
    COPY = "copy"  # boltseal made it of the image with that digest, with an empty layer below (`oci.fresh_layers`)
    ENGINE = "engine"  # the engine's own record; it hashed what it pulled


@dataclass(frozen=True, slots=True)
class KeptImage:
    """An image that `name` (with a tag) resolved to.

    `digest`: the registry's, None if unknown (a local build). `tag`: its keep tag, in the repository of `name`.
    `until_us`, `keep`: the promised time and count, None for unlimited. `copy`: the reference of a copy elsewhere.
    """

    name: Reference
    image: Digest
    digest: Digest | None
    media_type: str
    tag: Tag
    kept_us: int
    until_us: int | None = None
    keep: int | None = None
    copy: Reference | None = None

    @property
    def keep_name(self) -> Reference:
        """The reference with its keep tag."""
        return Reference(self.name.registry, self.name.repository, self.tag)


@dataclass(frozen=True, slots=True)
class PullRecord:
    """A pull of an image: by which digest, from which repository (`registry/repository`)."""

    image: Digest
    digest: Digest
    repository: str
    media_type: str
    proof: Proof
    came_us: int


@dataclass(frozen=True, slots=True)
class KeepReason:
    """A reason to keep an image. `until_us`: None until the reason is dropped."""

    image: Digest
    reason: str
    until_us: int | None


class KeptImages:
    """The database. The first write creates it; each write is one synced transaction."""

    def __init__(self, state: ClientState, *, timeout_s: float = LOCK_TIMEOUT_S, max_rows: int = MAX_ROWS) -> None:
        self._state = state
        self._timeout_s = timeout_s
        self._max_rows = max_rows
        self.path = state.folder / "kept.db"

    def kept(self, engine: str, name: Reference | None = None) -> tuple[KeptImage, ...]:
        """Return the kept images of an engine, of one name or of all, newest first.

        Raises: StateUnusable, as all methods.
        """
        where, values = ("", (engine,)) if name is None else (" AND name = ?", (engine, str(name)))
        rows = self._rows(
            "SELECT name, image, digest, media_type, tag, kept_us, until_us, keep, copy FROM kept "  # noqa: S608 - `where` is a constant of this module
            f"WHERE engine = ?{where} ORDER BY kept_us DESC, rowid DESC",
            values,
        )
        return tuple(self._parsed(_kept, row) for row in rows)

    def pulls(self, engine: str, image: Digest) -> tuple[PullRecord, ...]:
        """Return the recorded pulls of an image, newest first."""
        rows = self._rows(
            "SELECT image, digest, repository, media_type, proof, came_us FROM came WHERE engine = ? AND image = ? "
            "ORDER BY came_us DESC",
            (engine, str(image)),
        )
        return tuple(self._parsed(_pull_record, row) for row in rows)

    def proven(self, engine: str) -> dict[Digest, tuple[PullRecord, ...]]:
        """Return the recorded pulls of all images that something proves besides the engine's own record, by image ID."""
        rows = self._rows(
            "SELECT image, digest, repository, media_type, proof, came_us FROM came WHERE engine = ? AND proof != ? "
            "ORDER BY came_us",
            (engine, str(Proof.ENGINE)),
        )
        found: dict[Digest, tuple[PullRecord, ...]] = {}
        for each in (self._parsed(_pull_record, row) for row in rows):
            found[each.image] = (*found.get(each.image, ()), each)
        return found

    def ran(self, engine: str) -> dict[Digest, int]:
        """Return when each image was last seen in a running container, in microseconds since 1970."""
        rows = self._rows("SELECT image, seen_us FROM ran WHERE engine = ?", (engine,))
        return dict(self._parsed(_ran, row) for row in rows)

    def held(self, engine: str) -> tuple[KeepReason, ...]:
        """Return all reasons to keep images."""
        rows = self._rows("SELECT image, reason, until_us FROM held WHERE engine = ?", (engine,))
        return tuple(self._parsed(_held, row) for row in rows)

    def locks(self) -> tuple[Path, ...]:
        """Return the known lock files."""
        rows = self._rows("SELECT path FROM locks ORDER BY path", ())
        return tuple(self._parsed(_path, row) for row in rows)

    def keep(self, engine: str, kept: KeptImage) -> None:
        """Record a kept image. A new promise replaces an earlier one, but never shortens its time."""
        with self._writing() as database:
            database.execute(
                "INSERT INTO kept VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "digest = iif(excluded.digest = '', digest, excluded.digest), media_type = excluded.media_type, "
                "tag = excluded.tag, kept_us = excluded.kept_us, "
                "until_us = iif(until_us IS NULL OR excluded.until_us IS NULL, until_us, max(until_us, excluded.until_us)), "
                "keep = excluded.keep, copy = iif(excluded.copy = '', copy, excluded.copy)",
                (engine, *_row(kept)),
            )

    def forget(self, engine: str, kept: KeptImage) -> None:
        """Delete the record of a kept image."""
        with self._writing() as database:
            database.execute(
                "DELETE FROM kept WHERE engine = ? AND name = ? AND image = ?",
                (engine, str(kept.name), str(kept.image)),
            )

    def record_pull(self, engine: str, pull: PullRecord) -> None:
        """Record a pull of an image."""
        with self._writing() as database:
            database.execute(
                "INSERT OR REPLACE INTO came VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    engine,
                    str(pull.image),
                    str(pull.digest),
                    pull.repository,
                    pull.media_type,
                    pull.proof,
                    pull.came_us,
                ),
            )

    def saw_running(self, engine: str, images: Iterable[Digest], now_us: int) -> None:
        """Record that these images run now."""
        with self._writing() as database:
            database.executemany(
                "INSERT OR REPLACE INTO ran VALUES (?, ?, ?)", [(engine, str(image), now_us) for image in images]
            )
            database.execute("DELETE FROM ran WHERE engine = ? AND seen_us < ?", (engine, now_us - _FORGET_RAN_US))

    def hold(self, engine: str, held: KeepReason) -> None:
        """Record a reason to keep an image."""
        with self._writing() as database:
            database.execute(
                "INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?)",
                (engine, str(held.image), held.reason, held.until_us),
            )

    def let_go(self, engine: str, reason: str, images: Sequence[Digest] | None = None) -> None:
        """Drop a reason to keep these images (None: all)."""
        with self._writing() as database:
            if images is None:
                database.execute("DELETE FROM held WHERE engine = ? AND reason = ?", (engine, reason))
            for image in images or ():
                database.execute(
                    "DELETE FROM held WHERE engine = ? AND reason = ? AND image = ?", (engine, reason, str(image))
                )

    def know_lock(self, path: Path) -> None:
        """Record a lock file by its absolute path. Its images do not expire while the file exists."""
        with self._writing() as database:
            database.execute("INSERT OR IGNORE INTO locks VALUES (?)", (quote_path(os.fsencode(path)),))

    @contextlib.asynccontextmanager
    async def tagging_lock(self) -> AsyncIterator[None]:
        """Hold the lock under which images are tagged and untagged, between processes and between tasks of one process.

        Raises: KeptBusy, StateUnusable.
        """
        with self._state.writing():
            path = self._state.folder / "kept.lock"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            await _wait_for_lock(fd, path, self._timeout_s)
            yield
        finally:
            os.close(fd)

    def _rows(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        self._state.check_format()
        try:
            self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StateUnusable(f"could not read {self.path}: {error.strerror}") from error
        with self._opened() as database:
            made = self._has_tables(database)  # the process that created the file may have been interrupted before
            found = database.execute(query, values).fetchmany(self._max_rows + 1) if made else []
        if len(found) > self._max_rows:
            raise StateUnusable(
                f"{self.path} has too many rows (expected at most {self._max_rows} per table); {_MOVE_IT}"
            )
        return found

    def _parsed(self, parse: Callable[[tuple[Any, ...]], T], row: tuple[Any, ...]) -> T:
        try:
            return parse(row)
        except (BoltsealError, ValueError) as error:
            reason = error.message if isinstance(error, BoltsealError) else error
            raise StateUnusable(f"{self.path} has an invalid row: {reason}; {_MOVE_IT}") from error

    def _has_tables(self, database: sqlite3.Connection) -> bool:
        """Return whether the database has its tables.

        Raises: StateUnusable: if the format is unknown.
        """
        (found,) = database.execute("PRAGMA user_version").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if found not in (0, FORMAT) or (found == 0 and tables):
            raise StateUnusable(
                f"{self.path} has an unknown format (got {found}, expected {FORMAT}); use a newer boltseal"
            )
        return bool(found)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Open a write transaction; create the file and its tables if they are missing."""
        with self._state.writing():
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            os.close(fd)
            with self._opened() as database:
                database.execute("BEGIN IMMEDIATE")
                for statement in () if self._has_tables(database) else _SCHEMA:
                    database.execute(statement)
                yield database
                database.execute("COMMIT")  # closing without it rolls back

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        uri = f"file:{quote_path(str(self.path.absolute()))}?mode=rw"  # a reader may have to roll back after a crash
        try:
            with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None)) as database:
                database.execute("PRAGMA trusted_schema = OFF")
                database.execute("PRAGMA synchronous = FULL")
                yield database
        except sqlite3.Error as error:
            hint = _HINTS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, _MOVE_IT)
            raise StateUnusable(f"could not use {self.path}: {error}; {hint}") from error


async def _wait_for_lock(fd: int, path: Path, timeout_s: float) -> None:
    """Wait for the lock without blocking the event loop, since another task of this process may hold it.

    Raises: KeptBusy.
    """
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise KeptBusy(
            f"timed out waiting for another boltseal that tags images ({path}, waited {timeout_s:.0f} s); retry when it has ended"
        ) from None


def _kept(row: tuple[Any, ...]) -> KeptImage:
    name, image, digest, media_type, tag, kept_us, until_us, keep, copy = row
    found = KeptImage(
        name=Reference.parse(name),
        image=Digest.parse(image),
        digest=Digest.parse(digest) if digest else None,
        media_type=media_type,
        tag=Tag(tag),
        kept_us=kept_us,
        until_us=until_us,
        keep=keep,
        copy=Reference.parse(copy) if copy else None,
    )
    if found.name.tag is None or found.name.digest is not None:
        raise ValueError(f"{name} is not a name with a tag")
    return found


def _row(kept: KeptImage) -> tuple[Any, ...]:
    digest, copy = ("" if each is None else str(each) for each in (kept.digest, kept.copy))
    named = (str(kept.name), str(kept.image), digest, kept.media_type, str(kept.tag))
    return (*named, kept.kept_us, kept.until_us, kept.keep, copy)


def _pull_record(row: tuple[Any, ...]) -> PullRecord:
    image, digest, repository, media_type, proof, came_us = row
    return PullRecord(Digest.parse(image), Digest.parse(digest), repository, media_type, Proof(proof), came_us)


def _ran(row: tuple[Any, ...]) -> tuple[Digest, int]:
    return Digest.parse(row[0]), row[1]


def _held(row: tuple[Any, ...]) -> KeepReason:
    return KeepReason(Digest.parse(row[0]), row[1], row[2])


def _path(row: tuple[Any, ...]) -> Path:
    path = Path(os.fsdecode(unquote_to_bytes(row[0])))
    if not path.is_absolute() or "\0" in str(path):
        raise ValueError(f"{row[0]} is not an absolute path")
    return path
