"""What a tag of an upstream means here: asked there by one HEAD, judged by its rule, written down, and remembered.

Rules kept here:

- One HEAD per tag and window (`fresh`), for all clients and all workers together: who asks at the same time waits for the
  one that is under way (`flights` in this process, `server.storage.coordination.interprocess_lock` among processes), and whoever comes later reads its row.
- Never a GET, which counts as a pull at some registries.
- Only "not found" is a miss. Whatever else upstream does, what stands here is served, with a warning; and an upstream that
  fails is not asked again for every client.
- What upstream says is written down before it is served (`server.registry.observations`); what can't be written down is not.
- Who is told of what happened hears it after that; the entry says what of it is news, so that a process which dies in
  between leaves it to the next (`server.notifications.ledger_feed`).

What a name may mean that was sealed here is not decided by upstream: `cache` looks at that first.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

from boltseal.client.errors import RemoteNotFound, RemoteUnavailable
from boltseal.errors import BoltsealError, Denied, ErrorCode, Unavailable
from boltseal.events import TagHeld, TagMoved
from boltseal.oci.reference import Reference
from boltseal.policy.release_tags import looks_like_release
from boltseal.policy.upstream_moves import MoveEvent, ServedAnswer, UpstreamAnswer, answer_of, warning_of
from boltseal.server.mirror.single_flight import SingleFlight
from boltseal.server.storage.coordination.interprocess_lock import LockNotAcquired

if TYPE_CHECKING:
    from collections.abc import Callable

    from boltseal.client.registry_client import Resolved
    from boltseal.oci.digest import Digest
    from boltseal.oci.reference import Repository, Tag
    from boltseal.server.mirror.upstream_limits import Tell, UpstreamLimits
    from boltseal.server.mirror.upstreams import Upstream
    from boltseal.server.registry.observations import ObservationResult, Observations, ObservedTag
    from boltseal.server.storage.coordination.protocol import InterprocessLock

REMEMBERED: Final = 10_000
MISSED_US: Final = 10_000_000
"""How long a tag that upstream has not got is not asked for again: shorter than a window, as somebody may be about to push."""
FAILED_US: Final = 30_000_000
PATIENCE_S: Final = 8.0
TURN_S: Final = 30.0
HEADS: Final = "mirror_heads"

Key = tuple["Repository", "Tag"]


class TagWithdrawn(RemoteNotFound):
    """Upstream took the tag away, and `on_gone = "stop"` takes it away here too."""


class TagHeldBack(Denied):
    """The tag was never seen here before, and `first_seen = "hold"` wants somebody to accept it."""

    code: ClassVar[ErrorCode | None] = ErrorCode.DENIED


@dataclass(frozen=True, slots=True)
class UpstreamTag:
    """What a tag means. `size` -1: not said. `warning`: why this may not be what upstream would say now, for a person."""

    digest: Digest
    media_type: str
    size: int
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class _Tried:
    """Upstream was asked and nothing could be written of it. `error`: why; since when, and how long that counts.

    It is never raised itself, only copies of it: what was raised holds on to the frames that it came through, and to more
    of them each time.
    """

    error: BoltsealError
    since_us: int
    for_us: int


class UpstreamTags:
    """Asks for the tags of every upstream. One per process; ended with `aclose`.

    `clock`: microseconds. `tell` is handed what happened. `read_only`: why nothing may be written now, or None. `count`: takes
    the name of what has happened once more. `patience_s`: how long upstream may take where there is something to serve without it.
    """

    def __init__(
        self,
        observations: Observations,
        limits: UpstreamLimits,
        turns: InterprocessLock,
        *,
        clock: Callable[[], int],
        tell: Tell,
        read_only: Callable[[], str | None],
        count: Callable[[str], None],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._observations = observations
        self._limits = limits
        self._turns = turns
        self._clock = clock
        self._tell = tell
        self._read_only = read_only
        self._count = count
        self._patience_s = patience_s
        self._tried: OrderedDict[Key, _Tried] = OrderedDict()
        self._flights: SingleFlight[Key, UpstreamTag] = SingleFlight()

    async def aclose(self) -> None:
        """End what is under way."""
        await self._flights.aclose()

    async def meaning(self, upstream: Upstream, repository: Repository, tag: Tag) -> UpstreamTag:
        """What a tag means (`repository`: ours, `docker.io/library/node`). RemoteNotFound, TagWithdrawn, TagHeldBack, and
        what `client` raises where nothing stands here."""
        stands = await self._observations.look(repository, tag)
        if stands is not None and self._fresh(upstream, stands):
            return _served(upstream, repository, tag, stands, stands.known.serves)
        tried = self._tried.get((repository, tag))
        if tried is not None and 0 <= self._clock() - tried.since_us < tried.for_us:
            return _without(upstream, repository, tag, stands, copy(tried.error))
        return await self._flights.once((repository, tag), lambda: self._ask(upstream, repository, tag))

    async def meant_before(self, repository: Repository, tag: Tag, now: Digest) -> list[Digest]:
        """What a tag was served as before it meant `now`, the newest first."""
        return await self._observations.meant_before(repository, tag, now)

    def told(self, upstream: Upstream, repository: Repository, tag: Tag, noted: ObservationResult) -> None:
        """Hand over what an answer of upstream's, or somebody's word, has changed."""
        event = _event(upstream, repository, tag, noted)
        if event is not None:
            self._tell(event)

    async def _ask(self, upstream: Upstream, repository: Repository, tag: Tag) -> UpstreamTag:
        stands = await self._observations.look(repository, tag)
        try:
            reason = self._read_only() or self._limits.resting(upstream)
            if reason is not None:
                raise Unavailable(f"{upstream.terms.name} was not asked: {reason}")
            async with self._turns.taken(f"tag {repository}:{tag}", 0.0 if stands is not None else TURN_S):
                stands = await self._observations.look(repository, tag)
                if stands is not None and self._fresh(upstream, stands):  # another worker was quicker
                    return _served(upstream, repository, tag, stands, stands.known.serves)
                return await self._ask_alone(upstream, repository, tag, stands)
        except LockNotAcquired as error:
            return _without(upstream, repository, tag, stands, error)
        except (TagWithdrawn, TagHeldBack):
            raise
        except BoltsealError as error:
            self._remember((repository, tag), error, upstream)
            if isinstance(error, RemoteNotFound):
                raise
            return _without(upstream, repository, tag, stands, error)

    async def _ask_alone(
        self, upstream: Upstream, repository: Repository, tag: Tag, stands: ObservedTag | None
    ) -> UpstreamTag:
        said = await self._head(upstream, repository, tag, patient=stands is None)
        terms = upstream.terms.decide(upstream.remote(repository), tag)
        noted = await self._observations.note(
            repository, tag, said, terms, upstream.actor, on_gone=upstream.terms.on_gone
        )
        self._tried.pop((repository, tag), None)
        self.told(upstream, repository, tag, noted)
        if noted.now is None:
            raise RemoteNotFound(f"{upstream.terms.name} has no {upstream.remote(repository)}:{tag}")
        return _served(upstream, repository, tag, noted.now, said)

    async def _head(
        self, upstream: Upstream, repository: Repository, tag: Tag, *, patient: bool
    ) -> UpstreamAnswer | None:
        """What upstream says; None: it has no such tag."""
        self._count(HEADS)
        try:
            async with self._limits.asking(upstream):
                resolved = await self._resolved(upstream, repository, tag, None if patient else self._patience_s)
        except RemoteNotFound:
            return None
        return UpstreamAnswer(resolved.digest, resolved.media_type, resolved.size)

    async def _resolved(self, upstream: Upstream, repository: Repository, tag: Tag, within_s: float | None) -> Resolved:
        try:
            async with asyncio.timeout(within_s):
                return await upstream.client.resolve(upstream.remote(repository), tag)
        except TimeoutError as error:
            raise RemoteUnavailable(f"{upstream.terms.name} did not answer within {within_s:g} seconds") from error

    def _fresh(self, upstream: Upstream, stands: ObservedTag) -> bool:
        # A clock that was set back must not keep an answer for ever.
        return 0 <= self._clock() - stands.asked_us < upstream.terms.fresh_us

    def _remember(self, key: Key, error: BoltsealError, upstream: Upstream) -> None:
        """Not asked again for a while, however many ask us."""
        span_us = MISSED_US if isinstance(error, RemoteNotFound) else FAILED_US
        again_s: float | None = getattr(error, "retry_after_s", None)
        if again_s is not None:
            span_us = round(again_s * 1_000_000)
        self._tried[key] = _Tried(copy(error), self._clock(), min(span_us, upstream.terms.fresh_us))
        self._tried.move_to_end(key)
        while len(self._tried) > REMEMBERED:
            self._tried.popitem(last=False)


def _served(
    upstream: Upstream, repository: Repository, tag: Tag, stands: ObservedTag, said: UpstreamAnswer | None
) -> UpstreamTag:
    """What stands here, for a client. RemoteNotFound, TagWithdrawn, TagHeldBack."""
    known, name = stands.known, f"{repository}:{tag}"
    match answer_of(known, upstream.terms.on_gone):
        case ServedAnswer.UNKNOWN:
            raise RemoteNotFound(f"{upstream.terms.name} has no {upstream.remote(repository)}:{tag}")
        case ServedAnswer.WITHDRAWN:
            raise TagWithdrawn(
                f"{upstream.terms.name} has no {upstream.remote(repository)}:{tag} any more, and what was withdrawn is not "
                'served here (on_gone = "stop")'
            )
        case ServedAnswer.HELD_BACK:
            held = "" if known.held is None else f" at {known.held.digest}"
            raise TagHeldBack(
                f"{name} was never served here before and is held{held}: whoever runs this registry may say "
                f"`boltseal accept {name}`"
            )
        case ServedAnswer.SERVED:
            serves = known.serves
    if serves is None:
        raise AssertionError("what is served is there")
    return UpstreamTag(serves.digest, serves.media_type, serves.size, warning_of(known, said))


def _without(
    upstream: Upstream, repository: Repository, tag: Tag, stands: ObservedTag | None, error: BoltsealError
) -> UpstreamTag:
    """What stands here, where upstream's word on it could not be had; `error` where that is nothing."""
    if stands is None:
        raise error
    meaning = _served(upstream, repository, tag, stands, stands.known.serves)
    return meaning if meaning.warning is not None else replace(meaning, warning=error.message)


def _event(upstream: Upstream, repository: Repository, tag: Tag, noted: ObservationResult) -> TagMoved | TagHeld | None:
    if noted.now is None:
        return None
    reference = Reference(upstream.terms.name, upstream.remote(repository), tag)
    served_before = None if noted.before is None or noted.before.serves is None else noted.before.serves.digest
    serves, held = noted.now.known.serves, noted.now.known.held
    match noted.told:
        case MoveEvent.MOVED:
            now = None if serves is None else serves.digest
            return TagMoved(reference, served_before, now, looks_like_release(tag), "mirror")
        case MoveEvent.GONE:
            return TagMoved(reference, served_before, None, looks_like_release(tag), "mirror")
        case MoveEvent.HELD:
            return TagHeld(reference, served_before, None if held is None else held.digest, noted.reason)
        case MoveEvent.NOTHING:
            return None
