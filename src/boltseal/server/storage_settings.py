"""The settings in `[storage]`, and the base class of all tables: which database has the metadata, which bucket the blobs.

Without them both are in the data folder: SQLite, and files.

Only the operator writes these settings, so they are trusted. The address of the database may hold a password, which no error,
log or command shows.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import AfterValidator, BaseModel, ByteSize, ConfigDict, Field, PlainValidator

_EXPECTED: Final = "an address such as postgresql://boltseal@db.example.com/boltseal"
_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:@\[\]]*)(:(6[0-5]\d{3}|[1-5]?\d{1,4}))?", re.ASCII)
_MIB: Final = 1024**2
_GIB: Final = 1024**3
_BUCKET: Final = re.compile(
    r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*))?/?"
).fullmatch
SECRET_SETTINGS: Final = frozenset({("storage", "database")})
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
        if any(name == "password" for name, _ in parse_qsl(parts.query)):
            raise ValueError("an address without password= behind the ?; use PGPASSFILE or USER:PASSWORD@HOST")
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


class StorageSettings(SettingsTable):
    """`[storage]`: where rows and bytes are kept. Without it: SQLite and files in the data folder."""

    database: Annotated[DatabaseUrl, PlainValidator(DatabaseUrl.parse)] | None = None
    """Address of the PostgreSQL database with the metadata; its password from PGPASSFILE or in the variable. Default: SQLite."""
    blobs: Annotated[BucketUrl, PlainValidator(BucketUrl.parse)] | None = None
    """Bucket and prefix for the bytes of blobs, `s3://bucket/prefix`. Default: files in the data folder."""
    s3: S3Settings = S3Settings()
