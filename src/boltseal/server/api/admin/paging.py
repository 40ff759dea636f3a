"""Pages of a list: at most `limit` items, and a cursor after which the next page begins.

A cursor is the position of the last item of a page, in a form that no client needs to read. It gives no right: each page
checks rights anew, so a forged cursor only begins a page elsewhere. It is valid for one list, also after a restart and on
another replica.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from boltseal.errors import Invalid
from boltseal.oci.jsontext import decode
from boltseal.server.commands.collection import CollectionPosition, Stage
from boltseal.server.storage.collection_part import ReviewPosition
from boltseal.server.storage.metadata.blob_reviews import Review

MAX_LIMIT: Final = 1000
DEFAULT_LIMIT: Final = 100
MAX_CURSOR: Final = 2048
"""Characters: a repository and a tag have at most 383, and base64 takes a third more."""


class CursorInvalid(Invalid):
    """The cursor is not one that this list gave."""


class PageQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every list takes."""

    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT, description="The most items of a page.")] = DEFAULT_LIMIT
    cursor: Annotated[
        str, Meta(max_length=MAX_CURSOR, description="`next` of the page before; empty for the first page.")
    ] = ""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What every page has."""

    next: Annotated[
        str | None,
        Meta(
            description="The cursor of the next page; null on the last one. A page may be short, or empty, and not be the last."
        ),
    ] = None


def cursor_of(list_name: str, *position: str | int) -> str:
    """Return the cursor of a position in a list."""
    # msgspec encodes no subclass of str, such as Repository.
    raw = msgspec.json.encode([list_name, *(str.__str__(each) if isinstance(each, str) else each for each in position)])
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def text_position(list_name: str, cursor: str) -> str:
    """Return the text after which a page begins, "" for the first page. Raises: CursorInvalid."""
    return _decode(list_name, cursor, tuple[str, str])[1] if cursor else ""


def number_position(list_name: str, cursor: str, first: int) -> int:
    """Return the number after which a page begins, `first` for the first page. Raises: CursorInvalid."""
    return _decode(list_name, cursor, tuple[str, _Number])[1] if cursor else first


def tag_position(list_name: str, cursor: str) -> tuple[int, str]:
    """Return the repository's number and the tag after which a page begins. Raises: CursorInvalid."""
    if not cursor:
        return (0, "")
    _, number, name = _decode(list_name, cursor, tuple[str, _RepositoryNumber, str])
    return (number, name)


def pair_position(list_name: str, cursor: str) -> tuple[str, str]:
    """Return the two texts after which a page begins, ("", "") for the first page. Raises: CursorInvalid."""
    if not cursor:
        return ("", "")
    _, first, second = _decode(list_name, cursor, tuple[str, str, str])
    return (first, second)


def time_position(list_name: str, cursor: str) -> tuple[int, str] | None:
    """Return the time and the text after which a page begins, None for the first page. Raises: CursorInvalid."""
    return _decode(list_name, cursor, tuple[str, _Number, str])[1:] if cursor else None


def image_position(list_name: str, cursor: str) -> tuple[str, str, str, int]:
    """Return the host, kind, subject and item after which a page begins. Raises: CursorInvalid."""
    if not cursor:
        return ("", "", "", 0)
    _, host, kind, subject, item = _decode(list_name, cursor, tuple[str, str, str, str, _RepositoryNumber])
    return (host, kind, subject, item)


def collection_cursor(list_name: str, position: CollectionPosition) -> str:
    """Return the cursor of a position in garbage collection."""
    failed, after = position.reviewed
    review = ("", 0, 0) if after is None else (after.digest, after.repository_id, after.due_us)
    return cursor_of(list_name, position.stage, position.number, int(failed), *review)


def collection_position(list_name: str, cursor: str) -> CollectionPosition:
    """Return where a part of garbage collection begins. Raises: CursorInvalid."""
    if not cursor:
        return CollectionPosition()
    _, stage, number, failed, digest, repository_id, due_us = _decode(
        list_name, cursor, tuple[str, Stage, _Number, _Flag, str, _RepositoryNumber, _Number]
    )
    after = Review(digest, repository_id, due_us) if digest else None
    return CollectionPosition(stage, number, ReviewPosition(bool(failed), after))


_Position = TypeVar("_Position", bound=tuple[Any, ...])
_Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Flag = Annotated[int, Meta(ge=0, le=1)]
_RepositoryNumber = Annotated[int, Meta(ge=0, le=2**31 - 1)]
"""What the key of a repository can be; PostgreSQL refuses to compare it with more."""


def _decode(list_name: str, cursor: str, kind: type[_Position]) -> _Position:
    try:
        raw = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        found = decode(raw, kind)
    except (binascii.Error, UnicodeError, msgspec.DecodeError) as error:
        raise CursorInvalid(f"cannot read the cursor; expected `next` of a page of {list_name}") from error
    texts: Sequence[str | int] = found
    if texts[0] != list_name or any("\x00" in text for text in texts if isinstance(text, str)):
        raise CursorInvalid(f"the cursor is of another list; expected `next` of a page of {list_name}")
    return found
