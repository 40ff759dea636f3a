"""Requests to an object store by obstore: put, get, look, list and delete, with the errors of `blobs.protocol`.

- Objects are written under keys that are unique, by plain puts in overwrite mode, because obstore's `mode="create"` keeps the
  whole object in memory. A large file goes in parts, which the store joins at the end; a failed put is aborted by obstore.
- All puts together have a fixed number of bytes in memory. Small ones never wait for large ones.
- An error names no address and no key: obstore's text has the endpoint in it. Credentials are obstore's own matter: it
  reads the AWS_* variables, or asks the machine's role. A signed address is a secret and is not logged.

Bytes go to the store with their SHA-256 (the signed payload of AWS Signature Version 4), which the store compares.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from boltseal.errors import without_logins
from boltseal.loading import deferred
from boltseal.server.storage.blobs.protocol import PIECE_BYTES, StoreBroken

if TYPE_CHECKING:
    import obstore
    from obstore import exceptions as obstore_errors
    from obstore import store as obstore_stores
    from obstore.store import S3Config, S3Store
else:  # an optional dependency
    obstore = deferred("obstore")
    obstore_errors = deferred("obstore.exceptions")
    obstore_stores = deferred("obstore.store")

PART_BYTES: Final = 5 * 1024 * 1024
"""The smallest part that S3 accepts."""
MOST_PARTS: Final = 9_000
PARTS_AT_ONCE: Final = 1
LARGE_PUTS: Final = 2
SMALL_PUT_BYTES: Final = 1024 * 1024
SMALL_PUTS: Final = 64
LISTED_AT_ONCE: Final = 1000
WINDOW_BYTES: Final = 16 * 1024 * 1024
"""How much one request reads, so that a slow client does not exceed the time of a request."""
REQUEST_TIMEOUT: Final = timedelta(seconds=30)
RETRY_FOR: Final = timedelta(seconds=10)
RETRIES: Final = 3

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where objects are: a bucket, a prefix in it, and the server. `endpoint` None: AWS."""

    name: str
    prefix: str
    endpoint: str | None
    region: str

    def connect(self) -> S3Store:
        """Return obstore's client. Nothing is requested yet."""
        config: S3Config = {"region": self.region}
        if self.endpoint is not None:
            config["endpoint"] = self.endpoint
        return obstore_stores.S3Store(
            self.name,
            prefix=self.prefix or None,
            config=config,
            client_options={
                "allow_http": self.endpoint is not None and self.endpoint.startswith("http://"),
                "timeout": REQUEST_TIMEOUT,
                "connect_timeout": timedelta(seconds=5),
            },
            retry_config={"max_retries": RETRIES, "retry_timeout": RETRY_FOR},
        )


class ObjectAbsent(StoreBroken):
    """The store has no object under a key that a row names."""


class ListedObject(NamedTuple):
    """An object of a list, and when it was written, microseconds since the epoch."""

    key: str
    size: int
    written_us: int


class ObjectClient:
    """The objects below one prefix. The async methods are for the event loop, the `..._and_wait` ones for threads."""

    def __init__(self, store: S3Store) -> None:
        self._store = store
        self._large = asyncio.Semaphore(LARGE_PUTS)
        self._small = asyncio.Semaphore(SMALL_PUTS)

    async def put(self, key: str, content: bytes, content_type: str = "application/octet-stream") -> None:
        """Write a small object. When this returns, the store has it durably. Raises: StoreBroken."""
        async with self._small:
            with _errors_named("written"):
                await obstore.put_async(
                    self._store, key, content, attributes={"Content-Type": content_type}, use_multipart=False
                )

    async def put_file(self, key: str, path: Path, size: int) -> None:
        """Write an object from a file, in parts if it is large. Raises: StoreBroken."""
        async with self._large:
            with _errors_named("written"):
                await obstore.put_async(
                    self._store,
                    key,
                    path,
                    attributes={"Content-Type": "application/octet-stream"},
                    chunk_size=max(PART_BYTES, size // MOST_PARTS + 1),
                    max_concurrency=PARTS_AT_ONCE,
                )

    async def size(self, key: str) -> int | None:
        """Return the size of an object, None if there is none. Raises: StoreBroken."""
        with _errors_named("looked at"):
            try:
                return int((await obstore.head_async(self._store, key))["size"])
            except FileNotFoundError:
                return None

    def size_and_wait(self, key: str) -> int | None:
        """Return what `size` does."""
        with _errors_named("looked at"):
            try:
                return int(obstore.head(self._store, key)["size"])
            except FileNotFoundError:
                return None

    async def read(self, key: str, start: int, length: int) -> AsyncGenerator[bytes]:
        """Yield the bytes [start, start + length) in pieces of at most PIECE_BYTES; a torn connection is continued once.

        Raises: ObjectAbsent, StoreBroken.
        """
        position, end = start, start + length
        failed_at = -1
        while position < end:
            began = position
            try:
                async for piece in self._window(key, position, min(end, position + WINDOW_BYTES)):
                    position += len(piece)
                    yield piece
            except ObjectAbsent:
                raise
            except StoreBroken:
                if position == failed_at or (failed_at >= 0 and position == began):
                    raise
                failed_at = position
                continue
            if position == began:
                raise StoreBroken("an object of the registry's store is shorter than its size; push the blob again")

    async def _window(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        with _errors_named("read"):
            try:
                found = await obstore.get_async(self._store, key, options={"range": (start, end)})
            except FileNotFoundError as error:
                raise ObjectAbsent("an object of the registry's store is missing; push the blob again") from error
            async for chunk in found.stream(min_chunk_size=PIECE_BYTES):
                for at in range(0, len(chunk), PIECE_BYTES):
                    yield bytes(chunk[at : at + PIECE_BYTES])

    def scan(self, key: str) -> Iterator[bytes]:
        """Yield all bytes of an object in pieces. Raises: ObjectAbsent, StoreBroken."""
        with _errors_named("read"):
            try:
                found = obstore.get(self._store, key)
            except FileNotFoundError as error:
                raise ObjectAbsent("an object of the registry's store is missing; push the blob again") from error
            for chunk in found.stream(min_chunk_size=PIECE_BYTES):
                yield bytes(chunk)

    def put_and_wait(self, key: str, content: bytes, content_type: str = "application/octet-stream") -> None:
        """Write a small object as `put` does."""
        with _errors_named("written"):
            obstore.put(self._store, key, content, attributes={"Content-Type": content_type}, use_multipart=False)

    def put_file_and_wait(self, key: str, path: Path, size: int) -> None:
        """Write an object from a file as `put_file` does."""
        with _errors_named("written"):
            obstore.put(
                self._store,
                key,
                path,
                attributes={"Content-Type": "application/octet-stream"},
                chunk_size=max(PART_BYTES, size // MOST_PARTS + 1),
                max_concurrency=PARTS_AT_ONCE,
            )

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are absent already do not matter. Raises: StoreBroken: some may be deleted."""
        with _errors_named("deleted"):
            await obstore.delete_async(self._store, list(keys))

    def delete_and_wait(self, keys: Sequence[str]) -> None:
        """Delete objects as `delete` does."""
        with _errors_named("deleted"):
            obstore.delete(self._store, list(keys))

    def listed(self, prefix: str, after: str = "") -> Iterator[list[ListedObject]]:
        """Yield the objects below a prefix in the order of keys, those after `after`, page by page. Raises: StoreBroken."""
        with _errors_named("listed"):
            for page in obstore.list(self._store, prefix, offset=after or None, chunk_size=LISTED_AT_ONCE):
                yield [
                    ListedObject(each["path"], each["size"], int(each["last_modified"].timestamp() * 1_000_000))
                    for each in page
                ]

    async def signed_url(self, key: str, expires_s: int) -> str:
        """Return an address whose GET returns the object for a while. It is a secret. Raises: StoreBroken."""
        with _errors_named("signed"):
            return await obstore.sign_async(self._store, "GET", key, timedelta(seconds=expires_s))


@contextlib.contextmanager
def _errors_named(done: str) -> Iterator[None]:
    """Turn obstore's errors into StoreBroken, without addresses, keys and credentials. `done`: what failed."""
    try:
        yield
    except (obstore_errors.BaseError, OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        kind = type(error).__name__
        _log.warning("the object store failed", operation=done, kind=kind, reason=_reason(error))
        raise StoreBroken(
            f"an object of the registry's store can't be {done} ({kind}): nothing of this request counts; try again later"
        ) from error


def _reason(error: Exception) -> str:
    """Return the first line of an error, for the operator's log, without queries and logins."""
    text = str(error).splitlines()[0] if str(error) else ""
    return without_logins(text.partition("?")[0])[:300]
