"""Search over repositories, tags and digests by their first characters, within what the caller may read.

Each search reads a range of an index, at most `LOOKED_AT` rows. What the caller may not read counts for that limit, and is neither
returned nor counted in the result. Tags have no index over all repositories, so a search for a tag looks into `LOOKED_AT`
repositories, and returns the one after which the next search continues.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from boltseal.errors import Invalid, quote
from boltseal.server.storage.metadata import page_queries
from boltseal.server.storage.metadata.page_queries import TagAt
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot

MAX_TEXT: Final = 255
MIN_HEX: Final = 4
"""Digits of a digest that are searched for; fewer are not taken for a digest."""
SHOWN: Final = 50
"""Results of each kind."""
LOOKED_AT: Final = 1000
"""Repositories whose names or tags one search looks at; the same number of manifests."""

_is_text = re.compile(rf"[A-Za-z0-9._/:@-]{{1,{MAX_TEXT}}}", re.ASCII).fullmatch
_hex_of = re.compile(rf"(?:sha256:)?([0-9a-f]{{{MIN_HEX},64}})", re.ASCII).fullmatch


class SearchInvalid(Invalid):
    """No repository, tag or digest begins with the text."""


@dataclass(frozen=True, slots=True)
class FoundImage:
    """A manifest, and the tags that resolve to it now."""

    repository: str
    digest: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What begins with the text. `following`: the repository after which the search for tags continues; None: it is complete.

    `more`: more repositories or digests begin with the text than are shown.
    """

    repositories: tuple[str, ...] = ()
    tags: tuple[TagAt, ...] = ()
    images: tuple[FoundImage, ...] = ()
    following: str | None = None
    more: bool = False


class Search:
    """Searches one store."""

    def __init__(self, database: Metadata) -> None:
        self._database = database

    async def find(self, text: str, may_read: Callable[[str], bool], after: str = "") -> Found:
        """Return what begins with a text. `after`: the repository after which tags are sought.

        `REPOSITORY:TAG` finds tags of that repository. The text must not begin with the registry's host. Raises: SearchInvalid.
        """
        if _is_text(text) is None:
            raise SearchInvalid(
                f"cannot search for {quote(text, 60)}; expected the beginning of a repository, a tag or a digest"
            )
        return await self._database.read(lambda snapshot: _find(snapshot, text, may_read, after))


def _find(snapshot: Snapshot, text: str, may_read: Callable[[str], bool], after: str) -> Found:
    images, more_images = _images(snapshot, text, may_read)
    name, colon, tag = text.rpartition(":")
    if colon and not text.startswith("sha256:"):
        tags = page_queries.tags_from(snapshot, [name], tag, SHOWN) if may_read(name) else []
        return Found(tags=tuple(tags), images=images, more=more_images)
    begun = page_queries.repositories_from(snapshot, text, "", LOOKED_AT)
    repositories = [each for each in begun if may_read(each)]
    tags, following = _tags(snapshot, text, may_read, after)
    return Found(
        tuple(repositories[:SHOWN]),
        tuple(tags),
        images,
        following,
        more_images or len(repositories) > SHOWN or len(begun) == LOOKED_AT,
    )


def _tags(snapshot: Snapshot, text: str, may_read: Callable[[str], bool], after: str) -> tuple[list[TagAt], str | None]:
    """Return tags of the next repositories, and the repository after which the search continues, None at the end."""
    if "/" in text or "@" in text or ":" in text:
        return [], None
    names = page_queries.repositories_from(snapshot, "", after, LOOKED_AT)
    readable = [name for name in names if may_read(name)]
    found = page_queries.tags_from(snapshot, readable, text, SHOWN + 1)
    if len(found) > SHOWN:
        last = found[SHOWN].repository
        whole = [each for each in found[:SHOWN] if each.repository != last]
        if whole:  # the next page begins with the repository that did not fit
            return whole, whole[-1].repository
        return found[:SHOWN], last
    return found, names[-1] if len(names) == LOOKED_AT else None


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
