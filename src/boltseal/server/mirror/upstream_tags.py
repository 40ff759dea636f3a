"""Resolves tags of upstreams: one HEAD, the decision by the tag's rule, and the record of it.

Rules of this module:

- One HEAD per tag and window (`fresh`), for all clients and workers. Concurrent requests share it (`single_flight` in this
  process, `server.storage.coordination.interprocess_lock` between processes); later ones read the recorded row.
- No GET, which some registries count as a pull, except where the answer to a HEAD states no digest: then one GET, whose bytes
  are hashed. `cache` takes the manifest that it brought, so that it is not fetched again.
- Only "not found" is a miss. After any other failure the recorded digest is served with a warning, and the failed upstream
  is not asked again for every client.
- A digest that is not served yet needs the evidence that its rule requires (`upstream_evidence`); otherwise it is held.
- An answer is recorded before it is served (`server.registry.observations`). What cannot be recorded is not served.
- Notifications follow the record. The entry says what is to be notified, so if this process dies in between, the next one
  does it (`server.notifications.ledger_feed`).

Upstream does not decide about a tag that is sealed here: `cache` checks that first.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from typing import Final

from boltseal.client.errors import RemoteDigestMissing, RemoteNotFound, RemoteUnavailable
from boltseal.client.registry_client import Resolved
from boltseal.errors import BoltsealError, Denied, Unavailable
from boltseal.events import TagHeld, TagMoved
from boltseal.keyless.verifier import KeylessVerifier
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest
from boltseal.oci.reference import Reference, Repository, Tag
from boltseal.policy.refusals import RefusalDetail, RefusalReason, Refused
from boltseal.policy.upstream_moves import MoveEvent, ServedAnswer, UpstreamAnswer, answer_of, warning_of
from boltseal.policy.upstreams import MoveTerms
from boltseal.server.mirror.single_flight import SingleFlight
from boltseal.server.mirror.upstream_evidence import missing_evidence
from boltseal.server.mirror.upstream_limits import EventHandler, UpstreamLimits
from boltseal.server.mirror.upstreams import Upstream
from boltseal.server.registry.observations import ObservationResult, Observations, ObservedTag
from boltseal.server.storage.coordination.interprocess_lock import LockNotAcquired
from boltseal.server.storage.coordination.protocol import InterprocessLock
from boltseal.signatures.signed_image import SignedImage

REMEMBERED: Final = 10_000
FETCHED: Final = 16
"""Manifests that were fetched to resolve tags and not stored yet: at most some 4 MiB each."""
MISSED_US: Final = 10_000_000
"""How long a missing tag is not asked for again: shorter than a window, because it may be pushed soon."""
FAILED_US: Final = 30_000_000
MAX_LACKS: Final = 2000
"""Characters of what is missing: an entry of the log has a bounded size, and a rule may have 256 alternatives."""
TIMEOUT_S: Final = 8.0
LOCK_WAIT_S: Final = 30.0
HEADS: Final = "mirror_heads"

Key = tuple["Repository", "Tag"]


class TagWithdrawn(RemoteNotFound):
    """Upstream deleted the tag, and `on_gone = "stop"` stops serving it here too."""


class TagHeldBack(Refused, Denied):
    """The tag is new here, and `first_seen = "hold"` requires an operator to accept it."""


@dataclass(frozen=True, slots=True)
class UpstreamTag:
    """What a tag resolves to. `size` -1: unknown. `warning`: why upstream may have another digest now, None where it cannot."""

    digest: Digest
    media_type: str
    size: int
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class _MirroredTag:
    """A tag of an upstream. `repository`: its local name; `remote`: its name upstream."""

    upstream: Upstream
    repository: Repository
    remote: Repository
    tag: Tag

    @property
    def key(self) -> Key:
        """What identifies the tag in this registry."""
        return (self.repository, self.tag)


@dataclass(frozen=True, slots=True)
class _Failure:
    """A failed request that left no record. `since_us`: when; `for_us`: how long it is not repeated.

    Only copies of `error` are raised: a raised exception keeps the frames that it passed, more of them each time.
    """

    error: BoltsealError
    since_us: int
    for_us: int


class UpstreamTags:
    """Resolves the tags of every upstream. One per process; ended with `aclose`.

    `clock`: microseconds since the epoch. `on_event`: receives events. `read_only`: returns why nothing may be written, or None.
    `count`: counts an event by name. `timeout_s`: how long upstream may take where a recorded digest can be served.
    """

    def __init__(
        self,
        observations: Observations,
        limits: UpstreamLimits,
        locks: InterprocessLock,
        *,
        clock: Callable[[], int],
        on_event: EventHandler,
        read_only: Callable[[], str | None],
        count: Callable[[str], None],
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._observations = observations
        self._limits = limits
        self._locks = locks
        self._clock = clock
        self._on_event = on_event
        self._read_only = read_only
        self._count = count
        self._timeout_s = timeout_s
        self._keyless = KeylessVerifier()
        self._failures: OrderedDict[Key, _Failure] = OrderedDict()
        self._fetched: OrderedDict[tuple[Repository, Digest], Manifest] = OrderedDict()
        self._requests: SingleFlight[Key, UpstreamTag] = SingleFlight()

    async def aclose(self) -> None:
        """Cancel running requests."""
        await self._requests.aclose()

    async def resolve(self, upstream: Upstream, repository: Repository, tag: Tag) -> UpstreamTag:
        """Resolve a tag. `repository`: the local name, such as `docker.io/library/node`.

        Raises:
            RemoteNotFound: upstream has no such tag.
            TagWithdrawn: upstream deleted it, and the terms stop serving it.
            TagHeldBack: it is new and held back.
            BoltsealError: upstream failed, and nothing is recorded.
        """
        observed = await self._observations.find(repository, tag)
        wanted = _MirroredTag(upstream, repository, upstream.remote(repository), tag)
        if observed is not None and self._fresh(upstream, observed):
            return _served(wanted, observed, observed.known.serves)
        failure = self._failures.get(wanted.key)
        if failure is not None and 0 <= self._clock() - failure.since_us < failure.for_us:
            return _without_answer(wanted, observed, copy(failure.error))
        return await self._requests.once(wanted.key, lambda: self._ask(wanted, observed))

    async def _ask(self, wanted: _MirroredTag, observed: ObservedTag | None) -> UpstreamTag:
        upstream, repository, tag = wanted.upstream, wanted.repository, wanted.tag
        try:
            reason = self._read_only()
            if reason is not None:
                raise Unavailable(f"{upstream.terms.name} was not asked: {reason}")
            await self._limits.check(upstream)
            async with self._locks.taken(f"tag {repository}:{tag}", 0.0 if observed is not None else LOCK_WAIT_S):
                observed = await self._observations.find(repository, tag)
                if observed is not None and self._fresh(upstream, observed):  # another worker has asked meanwhile
                    return _served(wanted, observed, observed.known.serves)
                answer = await self._head(wanted, None if observed is None else self._timeout_s)
                terms = await self._terms(wanted, observed, answer)
                return await self._record(wanted, answer, terms, -1 if observed is None else observed.asked_us)
        except LockNotAcquired as error:
            return _without_answer(wanted, observed, error)
        except (TagWithdrawn, TagHeldBack):
            raise
        except BoltsealError as error:
            self._remember(wanted.key, error, upstream)
            if isinstance(error, RemoteNotFound):
                raise
            return _without_answer(wanted, observed, error)

    async def _terms(
        self, wanted: _MirroredTag, observed: ObservedTag | None, answer: UpstreamAnswer | None
    ) -> MoveTerms:
        """Return the terms for a tag, with the required evidence that upstream's answer lacks unless it is served already."""
        terms = wanted.upstream.terms.decide(wanted.remote, wanted.tag)
        serves = None if observed is None else observed.known.serves
        if not terms.require or answer is None or (serves is not None and serves.digest == answer.digest):
            return terms
        image = SignedImage(wanted.remote, answer.digest, answer.media_type)
        missing = await missing_evidence(self._limits, wanted.upstream, image, terms.require, self._keyless)
        return replace(terms, lacks=" and ".join(map(str, missing))[:MAX_LACKS])

    async def _record(
        self, wanted: _MirroredTag, answer: UpstreamAnswer | None, move_terms: MoveTerms, last_asked_us: int
    ) -> UpstreamTag:
        """Record upstream's answer, report its event if it is one, and return what is served now.

        `last_asked_us`: as of the request. The lock may have been lost since, and another process may have asked.
        """
        terms = wanted.upstream.terms
        result = await self._observations.note(
            wanted.repository,
            wanted.tag,
            answer,
            move_terms,
            wanted.upstream.actor,
            on_gone=terms.on_gone,
            last_asked_us=last_asked_us,
        )
        self._failures.pop(wanted.key, None)
        event = _event(wanted, result)
        if event is not None:
            self._on_event(event)
        if result.now is None:
            raise RemoteNotFound(f"{terms.name} has no {wanted.remote}:{wanted.tag}")
        return _served(wanted, result.now, answer)

    async def _head(self, wanted: _MirroredTag, timeout_s: float | None) -> UpstreamAnswer | None:
        """Return upstream's answer, None where it has no such tag."""
        self._count(HEADS)
        upstream = wanted.upstream
        try:
            async with self._limits.asking(upstream):
                try:
                    async with asyncio.timeout(timeout_s):
                        return _answer(await upstream.client.resolve(wanted.remote, wanted.tag))
                except TimeoutError as error:
                    raise RemoteUnavailable(
                        f"{upstream.terms.name} did not answer within {timeout_s:g} seconds"
                    ) from error
        except RemoteNotFound:
            return None
        except RemoteDigestMissing:
            return await self._get(wanted)

    async def _get(self, wanted: _MirroredTag) -> UpstreamAnswer | None:
        """Return upstream's answer from the bytes of the manifest, None where it has no such tag."""
        try:
            async with self._limits.asking(wanted.upstream, pull=True):
                manifest = await wanted.upstream.client.manifest(wanted.remote, wanted.tag)
        except RemoteNotFound:
            return None
        digest = Digest.of(manifest.raw)
        self._fetched[wanted.repository, digest] = manifest
        while len(self._fetched) > FETCHED:
            self._fetched.popitem(last=False)
        return UpstreamAnswer(digest, manifest.media_type, len(manifest.raw))

    def take_fetched(self, repository: Repository, digest: Digest) -> Manifest | None:
        """Return a manifest that was fetched to resolve its tag, once; None if there is none."""
        return self._fetched.pop((repository, digest), None)

    def _fresh(self, upstream: Upstream, observed: ObservedTag) -> bool:
        # After the clock was set back, an answer must not stay fresh for ever.
        return 0 <= self._clock() - observed.asked_us < upstream.terms.fresh_us

    def _remember(self, key: Key, error: BoltsealError, upstream: Upstream) -> None:
        """Remember a failure, so that upstream is not asked again for each client."""
        span_us = MISSED_US if isinstance(error, RemoteNotFound) else FAILED_US
        retry_after_s: float | None = getattr(error, "retry_after_s", None)
        if retry_after_s is not None:
            span_us = round(retry_after_s * 1_000_000)
        self._failures[key] = _Failure(copy(error), self._clock(), min(span_us, upstream.terms.fresh_us))
        self._failures.move_to_end(key)
        while len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)


def _served(wanted: _MirroredTag, observed: ObservedTag, answer: UpstreamAnswer | None) -> UpstreamTag:
    """Return the recorded state of a tag for a client. Raises as `UpstreamTags.resolve`."""
    known, terms = observed.known, wanted.upstream.terms
    name, remote = f"{wanted.repository}:{wanted.tag}", f"{wanted.remote}:{wanted.tag}"
    match answer_of(known, terms.on_gone):
        case ServedAnswer.UNKNOWN:
            raise RemoteNotFound(f"{terms.name} has no {remote}")
        case ServedAnswer.WITHDRAWN:
            raise TagWithdrawn(
                f'{terms.name} has no {remote} any more, and deleted tags are not served here (on_gone = "stop")'
            )
        case ServedAnswer.HELD_BACK:
            held = "" if known.held is None else f" at {known.held.digest}"
            require = terms.decide(wanted.remote, wanted.tag).require
            needs = f" until upstream has {' and '.join(map(str, require))} for it" if require else ""
            raise TagHeldBack(
                f"{name} is new here and is held back{held}{needs}: an operator can accept it with `boltseal tag accept {name}`",
                RefusalDetail(RefusalReason.HELD, wanted.tag, None if known.held is None else known.held.digest),
            )
        case ServedAnswer.SERVED:
            serves = known.serves
    if serves is None:
        raise AssertionError("a served tag has a digest")
    return UpstreamTag(serves.digest, serves.media_type, serves.size, warning_of(known, answer))


def _without_answer(wanted: _MirroredTag, observed: ObservedTag | None, error: BoltsealError) -> UpstreamTag:
    """Return the recorded state of a tag with a warning, where upstream failed. Raise `error` where nothing is recorded."""
    if observed is None:
        raise error
    served = _served(wanted, observed, observed.known.serves)
    return served if served.warning is not None else replace(served, warning=error.message)


def _answer(resolved: Resolved) -> UpstreamAnswer:
    return UpstreamAnswer(resolved.digest, resolved.media_type, resolved.size)


def _alarm(wanted: _MirroredTag, *, gone: bool) -> bool:
    return wanted.upstream.terms.alarm(wanted.remote, wanted.tag, gone=gone)


def _event(wanted: _MirroredTag, result: ObservationResult) -> TagMoved | TagHeld | None:
    if result.now is None:
        return None
    reference = Reference(wanted.upstream.terms.name, wanted.remote, wanted.tag)
    served_before = None if result.before is None or result.before.serves is None else result.before.serves.digest
    serves, held = result.now.known.serves, result.now.known.held
    match result.event:
        case MoveEvent.MOVED:
            now = None if serves is None else serves.digest
            return TagMoved(reference, served_before, now, _alarm(wanted, gone=now is None), "mirror")
        case MoveEvent.GONE:
            return TagMoved(reference, served_before, None, _alarm(wanted, gone=True), "mirror")
        case MoveEvent.HELD:
            return TagHeld(reference, served_before, None if held is None else held.digest, result.reason)
        case MoveEvent.NOTHING:
            return None
