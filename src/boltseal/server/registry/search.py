"""Search over repositories, tags and digests by the beginning of their names, within what the caller may read.

Each search is a range of an index and has limits: what the caller may not read is looked at as well, and is neither returned
nor counted. Tags have no index over all repositories, so the search looks into some of them at a time and says where it goes on:
after a repository that the caller may read, because the next page has its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from boltseal.errors import Invalid, quote
from boltseal.server.storage.metadata import page_queries
from boltseal.server.storage.metadata.page_queries import TagAt
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot

MAX_TEXT: Final = 255
MIN_HEX: Final = 4
SHOWN: Final = 50
"""Results of each kind."""
LOOKED_AT: Final = 1000
"""Repositories whose names or tags one search looks at, and manifests."""

_is_text = re.compile(r"[A-Za-z0-9._/:@-]{1,255}", re.ASCII).fullmatch
_hex_of = re.compile(r"(?:sha256:)?([0-9a-f]{4,64})", re.ASCII).fullmatch


class SearchInvalid(Invalid):
    """The text cannot begin a repository, tag or digest."""


@dataclass(frozen=True, slots=True)
class FoundImage:
    """A manifest, and the tags that resolve to it now."""

    repository: str
    digest: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What begins with the text. `following`: the repository after which the search for tags goes on; None: it is complete.

    `more`: more repositories or digests begin with the text than are shown.
    """

    repositories: tuple[str, ...] = ()
    tags: tuple[TagAt, ...] = ()
    images: tuple[FoundImage, ...] = ()
    following: str | None = None
    more: bool = False
    looked_into: int = field(default=0)


class Search:
    """Searches one store. `looked_into`: into how many repositories it looks for tags at a time."""

    def __init__(self, database: Metadata, looked_into: int = LOOKED_AT) -> None:
        self._database = database
        self._looked_into = looked_into

    async def find(self, text: str, may_read: Callable[[str], bool], after: str = "") -> Found:
        """Return what begins with a text. `after`: the repository after which tags are sought.

        `REPOSITORY:TAG` finds tags of that repository; the registry's name may stand before neither. Raises: SearchInvalid.
        """
        if _is_text(text) is None:
            raise SearchInvalid(
                f"cannot search for {quote(text, 60)}; expected the beginning of a repository, a tag or a digest"
            )
        most = self._looked_into
        found = await self._database.read(lambda snapshot: _find(snapshot, text, may_read, after, most))
        while found.following is not None and not found.looked_into:  # a repository that the caller may not read
            query = partial(_tags, text=text, may_read=may_read, after=found.following, most=most)
            tags, following, looked_into = await self._database.read(query)
            found = replace(found, tags=tuple(tags), following=following, looked_into=looked_into)
        return found


def _find(snapshot: Snapshot, text: str, may_read: Callable[[str], bool], after: str, most: int) -> Found:
    images, more_images = _images(snapshot, text, may_read)
    name, colon, tag = text.rpartition(":")
    if colon and not text.startswith("sha256:"):
        tags = page_queries.tags_from(snapshot, [name], tag, SHOWN + 1) if may_read(name) else []
        return Found(tags=tuple(tags[:SHOWN]), images=images, more=more_images or len(tags) > SHOWN)
    begun = page_queries.repositories_from(snapshot, text, "", LOOKED_AT)
    repositories = [each for each in begun if may_read(each)]
    tags, following, looked_into = _tags(snapshot, text, may_read, after, most)
    return Found(
        tuple(repositories[:SHOWN]),
        tuple(tags),
        images,
        following,
        more_images or len(repositories) > SHOWN or len(begun) == LOOKED_AT,
        looked_into,
    )


def _tags(
    snapshot: Snapshot, text: str, may_read: Callable[[str], bool], after: str, most: int
) -> tuple[list[TagAt], str | None, int]:
    """Return tags of the next `most` repositories, the one after which the search goes on, and how many it looked into.

    If it looked into none, the caller may not read the one after which it goes on.
    """
    if "/" in text or "@" in text or ":" in text:
        return [], None, 0
    names = page_queries.repositories_from(snapshot, "", after, most)
    readable = [name for name in names if may_read(name)]
    found = page_queries.tags_from(snapshot, readable, text, SHOWN + 1)
    if len(found) > SHOWN:
        last = found[SHOWN].repository
        whole = [each for each in found[:SHOWN] if each.repository != last]
        if whole:  # the next page begins with the repository that did not fit
            return whole, whole[-1].repository, len(readable)
        return found[:SHOWN], last, len(readable)
    if len(names) < most:
        return found, None, len(readable)
    return found, (readable or names)[-1], len(readable)


def _images(snapshot: Snapshot, text: str, may_read: Callable[[str], bool]) -> tuple[tuple[FoundImage, ...], bool]:
    """Return the manifests whose sha256 begins with a text, and whether there are more."""
    digits = _hex_of(text.rpartition("@")[2])
    if digits is None:
        return (), False
    found = page_queries.manifests_from(snapshot, f"sha256:{digits[1]}", ("", 0), LOOKED_AT)
    readable = [each for each in found if may_read(each.repository)]
    shown = readable[:SHOWN]
    tags: dict[tuple[str, str], list[str]] = {}
    for each in page_queries.tags_resolving(snapshot, shown, LOOKED_AT):
        tags.setdefault((each.repository, each.digest), []).append(each.name)
    images = (
        FoundImage(each.repository, each.digest, tuple(tags.get((each.repository, each.digest), ()))) for each in shown
    )
    return tuple(images), len(readable) > SHOWN or len(found) == LOOKED_AT
