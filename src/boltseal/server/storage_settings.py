"""The settings in `[storage]`, and the base class of all tables: database, object store and mark. Default: all on this host.

Only the operator writes these settings, so they are trusted. The address of the database may hold a password, which no error,
log or command shows.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import AfterValidator, BaseModel, ByteSize, ConfigDict, Field, PlainValidator

_EXPECTED: Final = "an address such as postgresql://boltseal@db.example.com/boltseal"
_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:@\[\]]*)(:(6[0-5]\d{3}|[1-5]?\d{1,4}))?", re.ASCII)
_BROKEN_ESCAPE: Final = re.compile(r"%(?:00|(?![0-9a-fA-F]{2}))").search
_MIB: Final = 1024**2
_GIB: Final = 1024**3
_BUCKET: Final = re.compile(
    r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*))?/?"
).fullmatch
SECRET_SETTINGS: Final = frozenset({("storage", "database"), ("storage", "database_direct")})
"""Settings whose value may hold a secret: an error about one does not show it."""


class SettingsTable(BaseModel):
    """A table of settings: frozen, without unknown keys, and without input values in pydantic's errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)


class DatabaseUrl:
    """The address of a PostgreSQL database, as libpq accepts it. `str` and `repr` leave out the password."""

    __slots__ = ("_text", "shown")

    def __init__(self, text: str) -> None:
        self._text = text
        netloc = urlsplit(text).netloc
        self.shown = text.replace(netloc, _without_password(netloc), 1) if netloc else text

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Parse an address. Raises: ValueError: the message is what was expected."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
            raise ValueError(_EXPECTED)
        try:
            parts = urlsplit(value)
        except ValueError:
            raise ValueError(_EXPECTED) from None
        hosts = parts.netloc.rpartition("@")[2].split(",")  # libpq tries several
        valid = parts.scheme in ("postgresql", "postgres") and all(map(_HOST.fullmatch, hosts))
        if not valid or not unquote(parts.path).strip("/") or parts.fragment:
            raise ValueError(_EXPECTED)
        # libpq ends the password at the first @ or /, and its errors show the rest, or a password with a broken escape.
        if parts.netloc.count("@") > 1 or "@" in parts.path or _BROKEN_ESCAPE(value):
            raise ValueError("an address whose user and password have %40 for @, %2F for / and %25 for %")
        for name in dict(parse_qsl(parts.query, keep_blank_values=True)):
            if "password" in name.lower() or "secret" in name.lower():
                raise ValueError(
                    "an address without a password or secret behind the ?; use PGPASSFILE or USER:PASSWORD@HOST"
                )
        return cls(value)

    @property
    def with_password(self) -> str:
        """The address as it was given, for the driver only."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DatabaseUrl) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __str__(self) -> str:
        return self.shown

    def __repr__(self) -> str:
        return f"DatabaseUrl({self.shown!r})"


def _without_password(netloc: str) -> str:
    login, at, host = netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{user}:***@{host}" if colon else f"{login}{at}{host}"


class BucketUrl:
    """The address of a bucket and of a prefix in it, `s3://bucket/prefix`."""

    __slots__ = ("bucket", "prefix")

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket = bucket
        self.prefix = prefix

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Parse an address. Raises: ValueError: the message is what was expected."""
        if isinstance(value, cls):
            return value
        found = _BUCKET(value) if isinstance(value, str) else None
        if found is None:
            raise ValueError("an address such as s3://bucket or s3://bucket/prefix")
        return cls(found[1], found[2] or "")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketUrl) and str(other) == str(self)

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"

    def __repr__(self) -> str:
        return f"BucketUrl({str(self)!r})"


def _endpoint(text: str) -> str:
    parts = urlsplit(text)
    valid = parts.scheme in ("http", "https") and parts.hostname and parts.username is None
    if not valid or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("scheme and host, such as https://s3.example.com, without a login")
    return text.rstrip("/")


class S3Settings(SettingsTable):
    """`[storage.s3]`: the server of `[storage] blobs`. Credentials: AWS_* variables, or the role of the machine."""

    endpoint: Annotated[str, AfterValidator(_endpoint)] | None = None
    """Address of the S3 server. Default: AWS."""
    region: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] = "us-east-1"
    """Region of the bucket."""
    redirect: bool = False
    """Send clients that pull a blob of more than 256 KiB to the S3 server, by an address that is valid for a minute."""
    spool_bytes: Annotated[ByteSize, Field(ge=64 * _MIB)] = ByteSize(8 * _GIB)
    """Disk space in `DATA/spool` for uploads that are not in the bucket yet, for each worker; more are refused (503)."""


def _mark_url(text: str) -> str:
    parts = urlsplit(text)
    valid = parts.scheme in ("s3", "file") and parts.path.strip("/") and not (parts.query or parts.fragment)
    if not valid or bool(parts.netloc) is not (parts.scheme == "s3"):
        raise ValueError(
            "an object such as s3://bucket/boltseal.mark, or a file such as file:///srv/marks/boltseal.mark"
        )
    return text.rstrip("/")


class MarkSettings(SettingsTable):
    """`[storage.mark]`: where the ledger's high-water mark is. Default: a file beside the keys.

    It knows what was signed when the database is set back, so it must not be lost or restored together with the database.
    """

    url: Annotated[str, AfterValidator(_mark_url)] | None = None
    """Object with the ledger's high-water mark, `s3://bucket/key`, or `file:///path`. Default: `DATA.keys/ledger.mark`."""
    endpoint: Annotated[str, AfterValidator(_endpoint)] | None = None
    """Address of the S3 server with the mark. Default: AWS."""
    region: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] = "us-east-1"
    """Region of the bucket with the mark."""
    access_key_file: Path | None = None
    """File with two lines, the access key's id and secret, that can write only the mark. Default: `AWS_*` variables, the machine's role."""
    single_replica: bool = False
    """There is one server: with PostgreSQL the mark may be a file on its disk."""

    @property
    def shared(self) -> bool:
        """Whether servers on several hosts have the same mark."""
        return self.url is not None and self.url.startswith("s3:")


class StorageSettings(SettingsTable):
    """`[storage]`: where rows and bytes are kept. Without it: SQLite and files in the data folder."""

    database: Annotated[DatabaseUrl, PlainValidator(DatabaseUrl.parse)] | None = None
    """Address of the PostgreSQL database with the metadata; its password from PGPASSFILE or in the variable. Default: SQLite."""
    database_direct: Annotated[DatabaseUrl, PlainValidator(DatabaseUrl.parse)] | None = None
    """Address of the database server itself, for locks, if `database` is a connection pooler. Default: `database`."""
    blobs: Annotated[BucketUrl, PlainValidator(BucketUrl.parse)] | None = None
    """Bucket and prefix for the bytes of blobs, `s3://bucket/prefix`. Default: files in the data folder."""
    s3: S3Settings = S3Settings()
    mark: MarkSettings = MarkSettings()

    @property
    def lock_address(self) -> DatabaseUrl | None:
        """The address of the database for locks; None with SQLite."""
        return None if self.database is None else self.database_direct or self.database

    @property
    def in_objects(self) -> bool:
        """Whether a server uses an object store."""
        return self.blobs is not None or self.mark.shared

    @property
    def mark_refusal(self) -> str | None:
        """Why a server must not start: the mark would be on its own disk, where another server would not see it."""
        if self.database is None or self.mark.shared or self.mark.single_replica:
            return None
        return (
            "with [storage] database the ledger's mark belongs in an object store: set [storage.mark] url to s3://BUCKET/KEY of a "
            "store that is not backed up together with the database, or [storage.mark] single_replica to true if there will only "
            "be this server"
        )
