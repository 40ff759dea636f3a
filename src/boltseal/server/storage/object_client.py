"""The one client of object stores: requests by obstore, and obstore's errors turned into those of the caller.

The blobs, the tiles of the logs, and the mark use it, each with its own errors and time limits (`ObjectUse`).

- Large objects are written under keys that are unique, in overwrite mode, because obstore's `mode="create"` keeps the whole
  object in memory. A large file goes in parts, which the store joins at the end; a failed put is aborted by obstore.
- `put_if` writes a small object only if the object is what the caller read (If-Match), or absent (If-None-Match).
- All puts together have a fixed number of bytes in memory. Small ones never wait for large ones.
- Only the store's answer about this key is "absent". A missing bucket is a failure.
- An error says why (`object_failures`), and names no address and no key, because clients read it. Commands also print its
  `place`, the bucket and the endpoint, and the log has obstore's text.
- Credentials are those of `Bucket.login`, or obstore's own matter: it reads the AWS_* variables, or asks the machine's role. A
  signed address is a secret and is not logged.

Bytes go to the store with their SHA-256 (the signed payload of AWS Signature Version 4), which the store compares.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog

from boltseal.errors import Unavailable, without_logins
from boltseal.loading import deferred
from boltseal.server.storage.object_failures import NO_KEY, OF_BLOBS, Failure, FailureKind, ObjectSettings, failure_of

if TYPE_CHECKING:
    import obstore
    from obstore import exceptions as obstore_errors
    from obstore import store as obstore_stores
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Store
else:  # an optional dependency
    obstore = deferred("obstore")
    obstore_errors = deferred("obstore.exceptions")
    obstore_stores = deferred("obstore.store")

READ_BYTES: Final = 1024 * 1024
"""The largest piece that a read yields."""
PART_BYTES: Final = 5 * 1024 * 1024
"""The smallest part that S3 accepts."""
MOST_PARTS: Final = 9_000
PARTS_AT_ONCE: Final = 1
LARGE_PUTS: Final = 2
SMALL_PUTS: Final = 64
LISTED_AT_ONCE: Final = 1000
READS_AT_ONCE: Final = 8
"""How many objects a comparison or a rebuild reads at once."""
WINDOW_BYTES: Final = 16 * 1024 * 1024
"""How much one request reads, so that a slow client does not exceed the time of a request."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long requests may take, seconds. A request is repeated up to `retries` times within `retry_s`."""

    answer_s: float = 30
    connect_s: float = 5
    retry_s: float = 10
    retries: int = 3
    first_pause_s: float = 0.1
    longest_pause_s: float = 15


@dataclass(frozen=True, slots=True)
class ObjectUse:
    """What a client is used for. `name`: for the log. `failed`: makes the error of a failure. `settings`: what its advice names."""

    name: str
    failed: Callable[[Failure], Unavailable]
    limits: Limits = Limits()
    settings: ObjectSettings = OF_BLOBS


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where objects are: a bucket, a prefix in it, and the server. `endpoint` None: AWS.

    `login`: id and secret of the access key; None: those of the environment or of the machine.
    """

    name: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    login: tuple[str, str] | None = field(default=None, repr=False)

    def connect(self, use: ObjectUse) -> ObjectClient:
        """Return a client. Nothing is requested yet."""
        config: S3Config = {}
        if self.region is not None:
            config["region"] = self.region
        if self.endpoint is not None:
            config["endpoint"] = self.endpoint
        if self.login is not None:
            config["access_key_id"], config["secret_access_key"] = self.login
        limits = use.limits
        client_options: ClientConfig = {
            "allow_http": self.endpoint is not None and self.endpoint.startswith("http://"),
            "timeout": timedelta(seconds=limits.answer_s),
            "connect_timeout": timedelta(seconds=limits.connect_s),
        }
        retry_config: RetryConfig = {
            "max_retries": limits.retries,
            "retry_timeout": timedelta(seconds=limits.retry_s),
            "backoff": {
                "init_backoff": timedelta(seconds=limits.first_pause_s),
                "max_backoff": timedelta(seconds=limits.longest_pause_s),
                "base": 2,
            },
        }
        store = obstore_stores.S3Store(
            self.name,
            prefix=self.prefix or None,
            config=config,
            client_options=client_options,
            retry_config=retry_config,
        )
        return ObjectClient(store, use, self.place)

    @property
    def place(self) -> str:
        """The address of the bucket for the operator, without credentials."""
        where = "AWS" if self.endpoint is None else without_logins(self.endpoint)
        return f"s3://{self.name} at {where}"


class ObjectChanged(Unavailable):
    """The object is not what `put_if` expected. The request may have met its own effect, if an answer was lost."""


class SmallObject(NamedTuple):
    """The content of an object, and its ETag for `put_if`; None if the server gives none."""

    content: bytes
    version: str | None


class ListedObject(NamedTuple):
    """An object of a list, and when it was written, microseconds since the epoch."""

    key: str
    size: int
    written_us: int


class ObjectClient:
    """The objects below one prefix. The async methods are for the event loop, the `..._and_wait` ones for threads."""

    def __init__(self, store: S3Store, use: ObjectUse, place: str = "") -> None:
        self._store = store
        self._use = use
        self._place = place
        self.failures = 0
        """How many requests failed so far because of the server, its bucket or its access key. Counted in all threads."""
        self._large = asyncio.Semaphore(LARGE_PUTS)
        self._small = asyncio.Semaphore(SMALL_PUTS)

    async def put(self, key: str, content: bytes, content_type: str = "application/octet-stream") -> None:
        """Write a small object. When this returns, the store has it durably. Raises: the error of the use."""
        async with self._small:
            with self._failures("written"):
                await obstore.put_async(
                    self._store, key, content, attributes={"Content-Type": content_type}, use_multipart=False
                )

    async def put_file(self, key: str, path: Path, size: int) -> None:
        """Write an object from a file, in parts if it is large. Raises: the error of the use."""
        async with self._large:
            with self._failures("written"):
                await obstore.put_async(
                    self._store,
                    key,
                    path,
                    attributes={"Content-Type": "application/octet-stream"},
                    chunk_size=max(PART_BYTES, size // MOST_PARTS + 1),
                    max_concurrency=PARTS_AT_ONCE,
                )

    def put_if(self, key: str, content: bytes, version: str | None) -> str | None:
        """Write a small object that must still have the ETag `version`; None: there must be none. Returns the new ETag.

        Raises: ObjectChanged; the error of the use.
        """
        mode: Any = "create" if version is None else {"e_tag": version}
        with self._failures("written"):
            try:
                return obstore.put(self._store, key, content, mode=mode, use_multipart=False)["e_tag"]
            except (obstore_errors.AlreadyExistsError, obstore_errors.PreconditionError) as error:
                raise ObjectChanged("another process has written the object meanwhile") from error

    def get(self, key: str, most_bytes: int, *, empty_if_larger: bool = False) -> SmallObject | None:
        """Return a small object, None if there is none. `empty_if_larger`: return a larger one without its content, and do not raise.

        Raises: the error of the use.
        """
        with self._failures("read"):
            try:
                found = obstore.get(self._store, key)
            except FileNotFoundError as error:
                if NO_KEY in str(error):
                    return None
                raise
            if found.meta["size"] <= most_bytes:
                return SmallObject(bytes(found.bytes()), found.meta["e_tag"])
            if empty_if_larger:
                return SmallObject(b"", found.meta["e_tag"])
        raise self._use.failed(Failure(FailureKind.TOO_LARGE, "read"))

    def compares(self, key: str) -> bool:
        """Return whether `put_if` can be relied on: write an object, and try to replace it with conditions that do not hold.

        Raises: the error of the use.
        """
        self.put_and_wait(key, b"probe\n")
        for version in (None, '"00000000000000000000000000000000"'):
            try:
                self.put_if(key, b"replaced\n", version)
            except ObjectChanged:
                continue
            return False
        return True

    async def size(self, key: str) -> int | None:
        """Return the size of an object, None if there is none. Raises: the error of the use."""
        with self._failures("looked at"):
            try:
                return int((await obstore.head_async(self._store, key))["size"])
            except FileNotFoundError:  # the answer to HEAD has no body that could name a missing bucket
                return None

    def size_and_wait(self, key: str) -> int | None:
        """Return what `size` does."""
        with self._failures("looked at"):
            try:
                return int(obstore.head(self._store, key)["size"])
            except FileNotFoundError:
                return None

    async def read(self, key: str, start: int, length: int) -> AsyncGenerator[bytes]:
        """Yield the bytes [start, start + length) in pieces of at most READ_BYTES; a torn connection is continued once.

        Raises: the error of the use.
        """
        position, end = start, start + length
        failed_at = -1
        while position < end:
            began = position
            try:
                async for piece in self._window(key, position, min(end, position + WINDOW_BYTES)):
                    position += len(piece)
                    yield piece
            except Unavailable:
                if position == failed_at or (failed_at >= 0 and position == began):
                    raise
                failed_at = position
                continue
            if position == began:
                raise self._use.failed(Failure(FailureKind.SHORT, "read"))

    async def _window(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        with self._failures("read"):
            found = await obstore.get_async(self._store, key, options={"range": (start, end)})
            async for chunk in found.stream(min_chunk_size=READ_BYTES):
                for at in range(0, len(chunk), READ_BYTES):
                    yield bytes(chunk[at : at + READ_BYTES])

    def scan(self, key: str) -> Iterator[bytes]:
        """Yield all bytes of an object in pieces. Raises: the error of the use."""
        with self._failures("read"):
            for chunk in obstore.get(self._store, key).stream(min_chunk_size=READ_BYTES):
                yield bytes(chunk)

    def put_and_wait(self, key: str, content: bytes, content_type: str = "application/octet-stream") -> None:
        """Write a small object as `put` does."""
        with self._failures("written"):
            obstore.put(self._store, key, content, attributes={"Content-Type": content_type}, use_multipart=False)

    def put_file_and_wait(self, key: str, path: Path, size: int) -> None:
        """Write an object from a file as `put_file` does."""
        self._put_large_and_wait(key, path, size)

    def put_pieces_and_wait(self, key: str, pieces: Iterator[bytes], size: int) -> None:
        """Write an object from pieces, in parts if it is large. Raises: the error of the use, also for an OSError of the pieces."""
        self._put_large_and_wait(key, pieces, size)

    def _put_large_and_wait(self, key: str, source: Path | Iterator[bytes], size: int) -> None:
        with self._failures("written"):
            obstore.put(
                self._store,
                key,
                source,
                attributes={"Content-Type": "application/octet-stream"},
                chunk_size=max(PART_BYTES, size // MOST_PARTS + 1),
                max_concurrency=PARTS_AT_ONCE,
            )

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are absent already do not matter. Raises: the error of the use: some may be deleted."""
        with self._failures("deleted"):
            await obstore.delete_async(self._store, list(keys))

    def delete_and_wait(self, keys: Sequence[str]) -> None:
        """Delete objects as `delete` does."""
        with self._failures("deleted"):
            obstore.delete(self._store, list(keys))

    def listed(self, prefix: str, after: str = "") -> Iterator[list[ListedObject]]:
        """Yield the objects below a prefix in the order of keys, those after `after`, page by page. Raises: the error of the use."""
        with self._failures("listed"):
            for page in obstore.list(self._store, prefix, offset=after or None, chunk_size=LISTED_AT_ONCE):
                yield [
                    ListedObject(each["path"], each["size"], int(each["last_modified"].timestamp() * 1_000_000))
                    for each in page
                ]

    async def signed_url(self, key: str, expires_s: int) -> str:
        """Return an address whose GET returns the object for a while. It is a secret. Raises: the error of the use."""
        with self._failures("signed"):
            return await obstore.sign_async(self._store, "GET", key, timedelta(seconds=expires_s))

    @contextlib.contextmanager
    def _failures(self, done: str) -> Iterator[None]:
        """Turn obstore's errors into the error of the use, without addresses, keys and credentials. `done`: what failed."""
        try:
            yield
        except (obstore_errors.BaseError, OSError, ValueError) as error:
            denied = isinstance(error, obstore_errors.PermissionDeniedError | obstore_errors.UnauthenticatedError)
            failure = failure_of(error, done, self._use.settings, denied=denied)
            if failure.kind is not FailureKind.ABSENT:
                self.failures += 1
            _log.warning(
                "the object store failed",
                used_for=self._use.name,
                operation=done,
                cause=failure.cause,
                reason=_reason(error),
            )
            failed = self._use.failed(failure)
            failed.place = self._place
            raise failed from error


def _reason(error: Exception) -> str:
    """Return the first line of an error, for the operator's log, without queries and logins."""
    text = str(error).splitlines()[0] if str(error) else ""
    return without_logins(text.partition("?")[0])[:300]
