"""The settings in `[storage]`: which database holds the metadata. Without them it is SQLite in the data folder.

Only the operator writes these settings, so they are trusted. The address of the database may hold a password, which no error,
log or command shows.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import PlainValidator

from boltseal.server.settings_table import SettingsTable

_EXPECTED: Final = "an address such as postgresql://boltseal@db.example.com/boltseal"
SECRET_SETTINGS: Final = frozenset({("storage", "database")})
"""Settings whose value may hold a secret: an error about one does not show it."""


class DatabaseUrl:
    """The address of a PostgreSQL database, as libpq accepts it. `str` and `repr` leave out the password."""

    __slots__ = ("_text", "shown")

    def __init__(self, text: str) -> None:
        parts = urlsplit(text)
        self._text = text
        self.shown = parts._replace(netloc=_without_password(parts.netloc)).geturl()

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Parse an address. Raises: ValueError: the message is what was expected."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
            raise ValueError(_EXPECTED)
        try:
            parts = urlsplit(value)
            valid = parts.scheme in ("postgresql", "postgres") and (parts.port or 1) > 0
        except ValueError:
            raise ValueError(_EXPECTED) from None
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


class StorageSettings(SettingsTable):
    """`[storage]`: where rows and bytes are kept. Without it: SQLite and files in the data folder."""

    database: Annotated[DatabaseUrl, PlainValidator(DatabaseUrl.parse)] | None = None
    """Address of the PostgreSQL database with the metadata; its password from PGPASSFILE or in the variable. Default: SQLite."""
