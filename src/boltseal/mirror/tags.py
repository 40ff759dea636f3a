"""What a tag of an upstream means now: asked there by one HEAD, and the last answer where none comes.

Rules kept here: never a GET, which counts as a pull at some registries; only "not found" is a miss.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from boltseal.errors import BoltsealError, NotFound

if TYPE_CHECKING:
    from boltseal.mirror.upstreams import Upstream
    from boltseal.oci.digest import Digest
    from boltseal.oci.reference import Repository, Tag

REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a tag means. `size` -1: not said. `warning`: why this may not be what upstream would say now, for a person."""

    digest: Digest
    media_type: str
    size: int
    warning: str | None = None


class UpstreamTags:
    """Asks for the tags of every upstream. One per process."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[Repository, Tag], Meaning] = OrderedDict()

    async def meaning(self, upstream: Upstream, repository: Repository, tag: Tag) -> Meaning:
        """What a tag means (`repository`: ours, `docker.io/library/node`). RemoteNotFound, and what `client` raises."""
        key = repository, tag
        try:
            resolved = await upstream.client.resolve(upstream.remote(repository), tag)
        except NotFound:
            raise
        except BoltsealError as error:
            seen = self._seen.get(key)
            if seen is None:
                raise
            return replace(seen, warning=error.message)
        self._seen[key] = meaning = Meaning(resolved.digest, resolved.media_type, resolved.size)
        self._seen.move_to_end(key)
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return meaning
