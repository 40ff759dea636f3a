"""What the registry may ask of the metadata database: `Metadata`, `UnitOfWork`, `Snapshot` and `Lookups`.

Promises, which `tests/contracts/test_metadata.py` checks on every implementation:

1. **Atomic.** A unit of work takes effect as a whole or not at all. A job that raises has changed nothing, and the other
   jobs of its group are not affected.
2. **Durable.** `write` returns only after a COMMIT that survives power loss; with `durable=False` one that survives
   `kill -9`, but is as good as any other for every reader. It raises Full or Unavailable when nothing was
   changed. If the answer to a COMMIT is lost (a broken connection), it raises Unavailable and the change may or may not have
   been made. Callers repeat the request: a repeated push or delete finds the change and makes no second one.
3. **Isolated.** Between its first read and its COMMIT a unit of work sees no change of another one in the rows that it
   locked (`lock_repository`, `lock_tag`, `lock_head` in the modules of this package). SQLite has one writer at a time,
   over all processes, so a lock of a row costs nothing there; PostgreSQL locks by `SELECT ... FOR UPDATE`.
4. **In order.** Units of work of one process and repository are committed in the order in which they were handed in, the
   durable ones and the others each. **Fair.** Repositories are served round robin: many units of work of one delay that of
   another by one group. **Limited.** A unit of work that takes too long is undone and raises Unavailable (`database.WRITE_BUDGET_S`).
5. **Snapshots.** A read sees the last commit before it began, or a later one, and no part of a commit after that.
6. **Caches.** A unit of work with `invalidates_caches` set changes the generation around its COMMIT.

Nothing here names SQLAlchemy or a driver. Queries are functions of the modules beside this one; they reach the
connection by `Snapshot.sql`, which is for modules of `server.storage` only (`tests/server/storage/test_layering.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, TypeVar

from boltseal.server.storage.coordination.protocol import Generation, Lease
from boltseal.server.storage.coordination.taken_away import TakenAway
from boltseal.server.storage.metadata.sql import SqlStatements

T = TypeVar("T")
Clock = Callable[[], int]
"""Returns the time: microseconds since the epoch."""
ClockGuard = Callable[[int], str | None]
"""Returns why a time of the clock may be far in the future, None if it is not."""


@dataclass(frozen=True, slots=True)
class Log:
    """One of the two transparency logs of a store. `name`: names its files beside the data, and its findings."""

    name: str


LEDGER: Final = Log("ledger")
"""The ledger: what happened to the tags of this store."""
OBSERVATIONS: Final = Log("observations")
"""What upstreams' tags were seen to resolve to."""
TAGS: Final = "tags"
"""The key in `doubts` of a difference between the rows of tags and the ledger; then the ledger takes no entry."""
MARK: Final = ".mark"
"""Behind the name of a log, the key in `doubts` while the log's mark can't be reached: it takes no entry, which soon may pass."""


class Snapshot(Protocol):
    """The database as of one moment. An argument of the query functions of this package; valid until they return."""

    @property
    def sql(self) -> SqlStatements:
        """The statements, for modules of `server.storage` only."""
        ...

    @property
    def began_us(self) -> int | None:
        """The database's time when the snapshot began, microseconds since the epoch; None: this process's clock is used."""
        ...


class UnitOfWork(Snapshot, Protocol):
    """One job's transaction: a snapshot that may also be written to.

    `now_us`: the time of the transaction, microseconds since the epoch.
    `clock_doubt`: why `now_us` may be far in the future, None if it is not.
    `doubts`: by a log's name, or TAGS, the reason why no entry may be added.
    `invalidates_caches`: set by the job when cached answers may be wrong after the COMMIT.
    `appended`: names of the logs to which the job added an entry.
    `sizes`: by a log's name, how many entries this process has seen in it, with those of the job.
    `complete_manifests`: manifests, as (repository id, digest), whose closure the job found complete.
    """

    now_us: int
    clock_doubt: str | None
    doubts: dict[str, str]
    invalidates_caches: bool
    appended: set[str]
    sizes: dict[str, int]
    complete_manifests: set[tuple[int, str]]

    def rolled_back(self) -> AbstractContextManager[None]:
        """Undo at its end what the block did. Errors of the block are raised."""
        ...


class WriteQueue(NamedTuple):
    """Jobs of this process that are not committed yet. `oldest_wait_s`: how long the oldest has waited for its
    turn; 0 without any."""

    jobs: int = 0
    oldest_wait_s: float = 0.0


Job = Callable[[UnitOfWork], T]
Query = Callable[[Snapshot], T]


class TagFound(NamedTuple):
    """The digest that a tag resolves to now. `settles_us`: when a settling tag is sealed; None for every other tag."""

    digest: str
    sealed: bool
    settles_us: int | None = None


class ManifestFound(NamedTuple):
    """One manifest of one repository."""

    media_type: str
    raw: bytes


class BlobFound(NamedTuple):
    """One blob of one repository. `hidden`: clients do not see it, but a manifest may refer to it (`hidden_blobs`)."""

    size: int
    hidden: bool


class ForeignTagRow(NamedTuple):
    """State of an upstream's tag. Times in microseconds since the epoch.

    `digest` None: nothing is served. `held_*` None: no change is held back. `asked_us`: time of the upstream's last answer.
    `entry_index`: the tag's last entry in the log of observations.
    """

    digest: str | None
    media_type: str | None
    size: int | None
    held_digest: str | None
    held_media_type: str | None
    held_size: int | None
    held_us: int | None
    gone_us: int | None
    asked_us: int
    entry_index: int
    changes: int
    changes_since_us: int


class UpstreamPause(NamedTuple):
    """Until when an upstream gets no request, and no request that counts as a pull. `reason`: of the first of the two.

    Times in microseconds since the epoch.
    """

    until_us: int
    pulls_until_us: int
    reason: str


NO_PAUSE: Final = UpstreamPause(0, 0, "")


class FailedLoginRow(NamedTuple):
    """Failed logins of one address, and when the last one was, microseconds since the epoch."""

    failures: int
    last_us: int


class AccountRow(NamedTuple):
    """A user. `encrypted_hash`: of the password, by bcrypt; see `server.storage.user_key`."""

    name: str
    encrypted_hash: str


class AccountVersion(NamedTuple):
    """Differs between any two states of the users: their number, and the last change of a user who is left.

    The time alone is not enough: a clock that was set back can give it again after a user was removed. No two
    encryptions give the same text.
    """

    number: int
    changed_us: int
    encrypted_hash: str


class ApiTokenRow(NamedTuple):
    """An API token. `mac` authenticates its text and all columns that give it rights; see `server.auth.api_tokens`.

    `kind`: of its owner, `person` or `service`. `scope`: as `server.auth.api_tokens` writes it. `created_by`: the actor.
    Times in microseconds since the epoch; `used_us`: of its last use, to the hour; None: never used.
    """

    id: str
    mac: str
    owner: str
    kind: str
    scope: str
    description: str
    created_us: int
    created_by: str
    expires_us: int
    used_us: int | None = None


class PersonRow(NamedTuple):
    """A person who logged in by an identity provider. `mac` authenticates name, issuer, subject and groups; see `server.auth.people`.

    `name`: the user name. `member_of`: JSON, the groups at the last login. `changed_us`: microseconds since the epoch.
    """

    name: str
    issuer: str
    subject: str
    display_name: str
    member_of: str
    changed_us: int
    mac: str


class TokenVersion(NamedTuple):
    """Differs between any two states of API tokens, service accounts and people: their numbers, the last record of the audit log, and the newest person.

    Times of tokens are not enough: a clock that was set back can give the time of a revoked one again. No number of a record is used twice.
    No two people changed at the same time.
    """

    tokens: int
    services: int
    people: int
    newest_person_us: int
    last_change: int


class ContentLookups(Protocol):
    """What a repository contains."""

    async def repository(self, name: str) -> bool:
        """Return whether a repository of this name exists or ever existed."""
        ...

    async def tag(self, repository: str, name: str) -> TagFound | None:
        """Return what a tag resolves to, or None if there is no such tag now."""
        ...

    async def bound(self, repository: str, name: str) -> str | None:
        """Return the digest in the tombstone of a deleted tag, or None if the tag has no tombstone."""
        ...

    async def manifest(self, repository: str, digest: str) -> ManifestFound | None:
        """Return a manifest as it was pushed, or None if this repository does not have it."""
        ...

    async def blob(self, repository: str, digest: str) -> BlobFound | None:
        """Return a blob of this repository, hidden or not, or None."""
        ...


class UploadLookups(Protocol):
    """What an upload or a mount depends on."""

    async def released(self, digest: str) -> int | None:
        """Return when the last row of any repository that referred to a blob was removed; None if there was none."""
        ...

    async def upload_owner(self, repository: str, upload: str) -> str | None:
        """Return who began an upload session of this repository, as its row has it; None if there is no row."""
        ...


class UpstreamLookups(Protocol):
    """What was learned of upstreams."""

    async def foreign_tag(self, repository: str, name: str) -> ForeignTagRow | None:
        """Return the state of an upstream's tag, or None if the upstream was never seen to have it."""
        ...

    async def upstream_pause(self, name: str) -> UpstreamPause:
        """Return the pause of an upstream; one that is over if there is none."""
        ...


class LoginLookups(Protocol):
    """Users, and failed logins."""

    async def account_version(self) -> AccountVersion:
        """Return what differs after every change of the users."""
        ...

    async def accounts(self) -> list[AccountRow]:
        """Return every user."""
        ...

    async def users_existed(self) -> bool:
        """Return whether there was a user once."""
        ...

    async def failed_login(self, address: str) -> FailedLoginRow | None:
        """Return the failed logins of an address, or None if there is no row."""
        ...


class TokenLookups(Protocol):
    """API tokens, service accounts, people of an identity provider, and the logins that keep tokens working."""

    async def token_version(self) -> TokenVersion:
        """Return what differs after every change of API tokens, service accounts and people."""
        ...

    async def api_tokens(self) -> list[ApiTokenRow]:
        """Return every API token."""
        ...

    async def service_accounts(self) -> list[str]:
        """Return the name of every service account."""
        ...

    async def people(self) -> list[PersonRow]:
        """Return every person who logged in by an identity provider."""
        ...

    async def last_login(self, name: str) -> int | None:
        """Return when a user logged in last, to the hour, microseconds since the epoch; None: never."""
        ...


@dataclass(slots=True)
class LookupCounts:
    """How many look-ups were answered, and by how many queries. Only of a database that answers several by one query."""

    asked: int = 0
    queries: int = 0


@dataclass(frozen=True, slots=True)
class Lookups:
    """Point look-ups for requests, each of the last commit or a later one. Called on the event loop. Raises: Unavailable."""

    content: ContentLookups
    uploads: UploadLookups
    upstreams: UpstreamLookups
    logins: LoginLookups
    tokens: TokenLookups
    counts: LookupCounts = field(default_factory=LookupCounts)


class Metadata(Protocol):
    """A metadata database. Closed once; `write` and `read` from the event loop, the `..._and_wait` ones from threads."""

    generation: Generation
    lookups: Lookups
    doubts: dict[str, str]
    """By a log's name, or TAGS, the reason why no entry may be added. Set by whatever doubts the store."""
    clock_guard: ClockGuard
    """Doubts the clock. Called in any thread."""
    now_us: Clock
    """The time of entries, leases and expiry, microseconds since the epoch: that of the database if it has a clock, as of its last
    transaction here and the time since; else this process's. Called in any thread."""
    after_append: dict[str, Callable[[], None]]
    """By a log's name, a callback after a COMMIT with new entries. Called on the writer thread; must not wait or raise."""
    after_connect: Callable[[Snapshot], None] | None
    """Looks at what a new connection reads, which may be to another server of the database. Called in any thread; must not raise."""
    no_space_at_s: float | None
    """When the database last had no space for a write, by the monotonic clock; None: never in this process."""

    taken_away: TakenAway | None
    """What servers of the registry may still answer although it was deleted; None: no other process caches answers after a COMMIT."""

    confirmed: ContextVar[Lease | None]
    """The lease that each write confirms in its own transaction, by the thread or task that asks for the write; see `fenced_writes`."""

    @property
    def frozen(self) -> str | None:
        """The reason why the ledger takes no entry, so that nothing may be pushed; None if it does."""
        ...

    @property
    def closed(self) -> str | None:
        """The reason why nothing at all may be written, because the data is moved to another storage; None if it may."""
        ...

    @property
    def write_queue(self) -> WriteQueue:
        """The jobs that wait or run now. Callable in any thread."""
        ...

    async def write(self, job: Job[T], *, durable: bool = True, repository: str = "") -> T:
        """Run a job as a unit of work and return its result after the COMMIT. Full, Unavailable, or what the job raised.

        A job may be run twice, the first time undone. `durable`: False only for what no answer promised, such as the row of
        a session that just began. `repository`: the one whose turn it takes; "": work for the server itself.
        """
        ...

    def write_and_wait(self, job: Job[T], *, repository: str = "", limited: bool = True) -> T:
        """Run a job as `write` does, for callers without an event loop.

        `limited`: False only for a recovery, which is one unit of work however long it takes, and happens while no client writes.
        """
        ...

    async def read(self, query: Query[T]) -> T:
        """Run a query on another thread, in one snapshot. Unavailable, or what the query raised."""
        ...

    def read_and_wait(self, query: Query[T]) -> T:
        """Run a query as `read` does, for callers without an event loop."""
        ...

    def close(self) -> None:
        """Finish the jobs that were handed in, then close every connection. Idempotent."""
        ...
