"""The point look-ups of requests on PostgreSQL: a thread answers all that wait, with one query for each kind.

A query over the network takes hundreds of microseconds, too long for the event loop's thread. While one runs, the look-ups of
other requests collect, and the next query answers all of them. A query begins after each of its look-ups was asked for, so a
pull that begins after an acknowledged push finds it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from boltseal.errors import Unavailable
from boltseal.server.storage.metadata.protocol import (
    NO_PAUSE,
    AccountRow,
    AccountVersion,
    FailedLoginRow,
    ForeignTagRow,
    LookupCounts,
    Lookups,
    ManifestFound,
    TagFound,
    UpstreamPause,
)
from boltseal.server.storage.worker_threads import deliver


class _Kind(NamedTuple):
    """One kind of look-up. `query`: returns the number of the key, from 1, before each row. `columns`: of a key."""

    query: str
    columns: int


_ONE: Final = "FROM unnest(%s::text[]) WITH ORDINALITY AS k(a, n)"
_TWO: Final = "FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS k(a, b, n)"
_REPOSITORY: Final = _Kind(f"SELECT k.n, 1 {_ONE} JOIN repository r ON r.name = k.a", 1)
_TAG: Final = _Kind(
    f"""
SELECT k.n, t.digest, t.sealed_digest IS NOT NULL, CASE WHEN t.sealed_digest IS NULL THEN t.keep_until_us END
{_TWO} JOIN repository r ON r.name = k.a JOIN tag t ON t.repository_id = r.id AND t.name = k.b
WHERE t.digest IS NOT NULL
""",
    2,
)
_BOUND: Final = _Kind(
    f"""
SELECT k.n, t.sealed_digest
{_TWO} JOIN repository r ON r.name = k.a JOIN tag t ON t.repository_id = r.id AND t.name = k.b
WHERE t.digest IS NULL
""",
    2,
)
_MANIFEST: Final = _Kind(
    f"""
SELECT k.n, m.media_type, c.raw
{_TWO} JOIN repository r ON r.name = k.a JOIN manifest m ON m.repository_id = r.id AND m.digest = k.b
JOIN content c ON c.canonical = m.canonical
""",
    2,
)
_BLOB: Final = _Kind(
    f"SELECT k.n, b.size {_TWO} JOIN repository r ON r.name = k.a JOIN blob b ON b.repository_id = r.id AND b.digest = k.b",
    2,
)
_RELEASED: Final = _Kind(f"SELECT k.n, x.released_us {_ONE} JOIN released x ON x.digest = k.a", 1)
_UPLOAD_OWNER: Final = _Kind(
    f"SELECT k.n, u.owner {_TWO} JOIN upload_session u ON u.id = k.b AND u.repository = k.a", 2
)
_FOREIGN_TAG: Final = _Kind(
    f"""
SELECT k.n, f.digest, f.media_type, f.size, f.held_digest, f.held_media_type, f.held_size, f.held_us, f.gone_us, f.asked_us,
       f.entry_index, f.changes, f.changes_since_us
{_TWO} JOIN foreign_tag f ON f.repository = k.a AND f.name = k.b
""",
    2,
)
_UPSTREAM_PAUSE: Final = _Kind(
    f"SELECT k.n, p.until_us, p.pulls_until_us, p.reason {_ONE} JOIN upstream_pause p ON p.name = k.a", 1
)
_ACCOUNT_VERSION: Final = _Kind(
    """
SELECT 1, (SELECT count(*) FROM account), changed_us, encrypted_hash FROM account ORDER BY changed_us DESC LIMIT 1
""",
    0,
)
_ACCOUNTS: Final = _Kind("SELECT 1, name, encrypted_hash FROM account", 0)
_FAILED_LOGIN: Final = _Kind(f"SELECT k.n, f.failures, f.last_us {_ONE} JOIN failed_login f ON f.address = k.a", 1)

_Key = tuple[str, ...]


class _Driver(Protocol):
    """The psycopg connection, as far as the look-ups use it."""

    def execute(self, query: bytes, values: Sequence[object], *, binary: bool) -> Any:
        """Run a query and return its cursor."""
        ...


class LookupSession(Protocol):
    """A session of `postgres.PostgresDriver`, outside any transaction."""

    @property
    def driver(self) -> _Driver:
        """The connection."""
        ...

    @property
    def usable(self) -> bool:
        """Whether the connection still works."""
        ...

    def errors_named(self) -> AbstractContextManager[None]:
        """Turn the driver's errors into the registry's."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


@dataclass(frozen=True, slots=True)
class _Asked:
    """A look-up that waits. `future` gets the rows."""

    kind: _Kind
    key: _Key
    future: asyncio.Future[list[Any]]


@dataclass(slots=True)
class _Waiting:
    """What the event loop hands over to the thread."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    asked: list[_Asked] = field(default_factory=list)
    closed: bool = False

    def put(self, asked: _Asked) -> None:
        """Add a look-up. Raises: Unavailable: closed."""
        with self.changed:
            if self.closed:
                raise Unavailable("the registry is shutting down; try again")
            self.asked.append(asked)
            self.changed.notify()

    def take(self) -> list[_Asked]:
        """Wait for look-ups and return all; none when closed and empty."""
        with self.changed:
            while not self.asked and not self.closed:
                self.changed.wait()
            taken, self.asked = self.asked, []
            return taken

    def close(self) -> None:
        """Take no more look-ups."""
        with self.changed:
            self.closed = True
            self.changed.notify()


class PostgresLookups:
    """The look-ups of one database, with a thread and a connection of their own. `connect` may raise Unavailable."""

    def __init__(self, connect: Callable[[], LookupSession]) -> None:
        self._connect = connect
        self._session: LookupSession | None = None
        self._waiting = _Waiting()
        self._thread: threading.Thread | None = None
        self.counts = LookupCounts()
        self.lookups = Lookups(
            content=_ContentLookups(self),
            uploads=_UploadLookups(self),
            upstreams=_UpstreamLookups(self),
            logins=_LoginLookups(self),
            counts=self.counts,
        )

    async def first_row(self, kind: _Kind, *key: str) -> Any:
        """Return the first row, or None. Called on the event loop. Raises: Unavailable."""
        rows = await self.rows(kind, *key)
        return rows[0] if rows else None

    async def rows(self, kind: _Kind, *key: str) -> list[Any]:
        """Return all rows. Called on the event loop. Raises: Unavailable."""
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.put(_Asked(kind, key, future))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="boltseal-lookups", daemon=True)
            self._thread.start()
        return await future

    def close(self) -> None:
        """Answer what waits, then close the connection. Idempotent."""
        self._waiting.close()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._session is not None:
            self._session.close()
            self._session = None

    def _run(self) -> None:
        while asked := self._waiting.take():
            kinds: dict[_Kind, list[_Asked]] = {}
            for each in asked:
                kinds.setdefault(each.kind, []).append(each)
            for kind, some in kinds.items():
                self._answer(kind, some)

    def _answer(self, kind: _Kind, asked: Sequence[_Asked]) -> None:
        """Answer look-ups of one kind with one query. A connection that broke while it was idle is opened again."""
        keys = list(dict.fromkeys(each.key for each in asked))
        try:
            was_open = self._session is not None and self._session.usable
            try:
                found = self._query(kind, keys)
            except Unavailable:
                if not was_open or (self._session is not None and self._session.usable):
                    raise
                found = self._query(kind, keys)
        except BaseException as error:  # noqa: BLE001 - the outermost frame of this thread: every caller must get the error
            for each in asked:
                deliver(each.future, None, error)
            return
        self.counts.asked += len(asked)
        for each in asked:
            deliver(each.future, found.get(each.key, []), None)

    def _query(self, kind: _Kind, keys: Sequence[_Key]) -> Mapping[_Key, list[Any]]:
        if self._session is not None and not self._session.usable:
            self._session.close()
            self._session = None
        if self._session is None:
            self._session = self._connect()
        values = [list(column) for column in zip(*keys, strict=True)]
        with self._session.errors_named():
            rows = self._session.driver.execute(kind.query.encode(), values, binary=True).fetchall()
        self.counts.queries += 1
        found: dict[_Key, list[Any]] = {}
        for number, *row in rows:
            found.setdefault(keys[number - 1], []).append(row)
        return found


class _ContentLookups:
    """`ContentLookups` by queries for many."""

    def __init__(self, ask: PostgresLookups) -> None:
        self._ask = ask

    async def repository(self, name: str) -> bool:
        """Return whether a repository of this name exists or ever existed."""
        return await self._ask.first_row(_REPOSITORY, name) is not None

    async def tag(self, repository: str, name: str) -> TagFound | None:
        """Return what a tag resolves to, or None if there is no such tag now."""
        row = await self._ask.first_row(_TAG, repository, name)
        return None if row is None else TagFound(*row)

    async def bound(self, repository: str, name: str) -> str | None:
        """Return the digest in the tombstone of a deleted tag, or None if the tag has no tombstone."""
        row = await self._ask.first_row(_BOUND, repository, name)
        return None if row is None else row[0]

    async def manifest(self, repository: str, digest: str) -> ManifestFound | None:
        """Return a manifest as it was pushed, or None if this repository does not have it."""
        row = await self._ask.first_row(_MANIFEST, repository, digest)
        return None if row is None else ManifestFound(*row)

    async def blob_size(self, repository: str, digest: str) -> int | None:
        """Return the size in bytes of a blob of this repository, or None."""
        row = await self._ask.first_row(_BLOB, repository, digest)
        return None if row is None else int(row[0])


class _UploadLookups:
    """`UploadLookups` by queries for many."""

    def __init__(self, ask: PostgresLookups) -> None:
        self._ask = ask

    async def released(self, digest: str) -> int | None:
        """Return when the last row of any repository that referred to a blob was removed; None if there was none."""
        row = await self._ask.first_row(_RELEASED, digest)
        return None if row is None else int(row[0])

    async def upload_owner(self, repository: str, upload: str) -> str | None:
        """Return who began an upload session of this repository, as its row has it; None if there is no row."""
        row = await self._ask.first_row(_UPLOAD_OWNER, repository, upload)
        return None if row is None else str(row[0])


class _UpstreamLookups:
    """`UpstreamLookups` by queries for many."""

    def __init__(self, ask: PostgresLookups) -> None:
        self._ask = ask

    async def foreign_tag(self, repository: str, name: str) -> ForeignTagRow | None:
        """Return the state of an upstream's tag, or None if the upstream was never seen to have it."""
        row = await self._ask.first_row(_FOREIGN_TAG, repository, name)
        return None if row is None else ForeignTagRow(*row)

    async def upstream_pause(self, name: str) -> UpstreamPause:
        """Return the pause of an upstream; one that is over if there is none."""
        row = await self._ask.first_row(_UPSTREAM_PAUSE, name)
        return NO_PAUSE if row is None else UpstreamPause(*row)


class _LoginLookups:
    """`LoginLookups` by queries for many."""

    def __init__(self, ask: PostgresLookups) -> None:
        self._ask = ask

    async def account_version(self) -> AccountVersion:
        """Return what differs after every change of the users."""
        row = await self._ask.first_row(_ACCOUNT_VERSION)
        return AccountVersion(0, 0, "") if row is None else AccountVersion(*row)

    async def accounts(self) -> list[AccountRow]:
        """Return every user."""
        return [AccountRow(*row) for row in await self._ask.rows(_ACCOUNTS)]

    async def failed_login(self, address: str) -> FailedLoginRow | None:
        """Return the failed logins of an address, or None if there is no row."""
        row = await self._ask.first_row(_FAILED_LOGIN, address)
        return None if row is None else FailedLoginRow(*row)
