"""Respects the limits of upstreams: their pull limit, their request limit, and whether they answer at all.

All workers share the state of an upstream (`server.registry.upstream_state`), for every kind of request:

- After a failure with `Retry-After`, whatever its body, an upstream gets no request until that time.
- Docker Hub has two limits and answers both with 429. The pull limit counts GETs of manifests, and each answer about a
  manifest states how many are left (`ratelimit-*`). At 0, no manifest is fetched for a while, or until an answer states
  more; HEADs and blobs are free and go on, unless they get a 429 too.
- The request limit counts every request and states nothing. Then no request is sent for a while, because each one would
  prolong the limit.
- An upstream that failed several times in a row gets no request for a moment, so that clients don't wait for it in turn.

The first request of a process, and the first after a pause, goes alone: what its answer states applies to those that wait.
Background work stops when no more than `reserve` pulls are left. Each change of the state is reported once.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final, TypeVar

import structlog

from boltseal.client.errors import RemoteBusy, RemoteDigestMissing, RemoteNotFound, RemoteUnavailable
from boltseal.client.pull_limit import PullLimit, PullsLeft
from boltseal.client.ssrf_guard import AddressBlocked
from boltseal.errors import BoltsealError, Unavailable
from boltseal.events import Event, QuotaLow, UpstreamDown
from boltseal.policy.upstreams import UpstreamTerms
from boltseal.server.mirror.upstreams import Upstream
from boltseal.server.registry.upstream_state import (
    LONGEST_PAUSE_US,
    UpstreamPause,
    UpstreamRow,
    UpstreamStates,
    in_force,
)
from boltseal.server.storage.metadata.protocol import NO_PAUSE
from boltseal.server.storage.metrics import Gauge

EventHandler = Callable[[Event], None]
"""Receives an event. It must neither wait nor raise."""

BACKOFF_US: Final = 60_000_000
"""How long to wait after a 429 without `Retry-After`, and before the next pull when none are left."""
SHORTEST_PAUSE_US: Final = 1_000_000
"""The pause after a 429 whose `Retry-After` is over already: it may be 0, or a date by another clock."""
DOWN_AFTER: Final = 3
"""The number of consecutive failures after which an upstream counts as down."""
REFUSED: Final = 2
"""The number of consecutive refusals by the pull limit, of requests that are no pulls, after which it counts for every request."""
DOWN_US: Final = 5_000_000
"""How long an upstream that is down gets no request."""
ALONE_S: Final = 3.0
"""How long requests wait for the first one at most, which may hang."""

_SPENT: Final = "no pulls are left of its limit"
_LIMITED: Final = "its request limit is reached"

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class UpstreamLimits:
    """The limits of all upstreams. One per process. `clock`: microseconds since the epoch. `on_event`: receives events."""

    def __init__(self, states: UpstreamStates, *, clock: Callable[[], int], on_event: EventHandler) -> None:
        self._states = states
        self._clock = clock
        self._on_event = on_event
        self._pauses: dict[str, UpstreamPause] = {}
        self._pulls: dict[str, PullsLeft] = {}
        self._failures: dict[str, int] = {}
        self._refused: dict[str, int] = {}
        self._quotas: dict[str, PullLimit] = {}
        self._asked: set[str] = set()
        self._first: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def backoff_reason(self, upstream: Upstream) -> str | None:
        """Return why an upstream gets no request now, None where it may get one."""
        return self._backoff_of(upstream, await self._pause(upstream))

    def _backoff_of(self, upstream: Upstream, pause: UpstreamPause) -> str | None:
        left_us = pause.until_us - self._clock()
        if left_us <= 0:
            return None
        self._asked.discard(upstream.terms.name)
        return f"{pause.reason}; the next request is possible in {-(-left_us // 1_000_000)} s"

    async def check(self, upstream: Upstream) -> None:
        """Refuse a request of any kind while an upstream gets none. Raises: RemoteBusy, Unavailable."""
        self._check_pause(upstream, await self._pause(upstream))

    def _check_pause(self, upstream: Upstream, pause: UpstreamPause) -> None:
        backoff = self._backoff_of(upstream, pause)
        if backoff is not None:
            refused = f"{upstream.terms.name} was not asked: {backoff}"
            raise RemoteBusy(refused, pulls=True) if pause.reason == _SPENT else Unavailable(refused)

    async def no_pulls_reason(self, upstream: Upstream) -> str | None:
        """Return why no manifest is fetched from an upstream now, None where it may be."""
        return self._no_pulls_reason(await self._pause(upstream))

    def _no_pulls_reason(self, pause: UpstreamPause) -> str | None:
        left_us = pause.pulls_until_us - self._clock()
        if left_us <= 0:
            return None
        return f"{_SPENT}; the next pull is possible in {-(-left_us // 1_000_000)} s"

    async def may_spend(self, upstream: Upstream) -> bool:
        """Return whether background work may send requests to an upstream."""
        quota = self._quotas.get(upstream.terms.name)
        return (quota is None or quota.remaining > upstream.terms.reserve) and not await self.backoff_reason(upstream)

    async def _pause(self, upstream: Upstream) -> UpstreamPause:
        """Return the pause that all workers share. Where it can't be read or written, this process keeps its own."""
        now_us = self._clock()
        own = in_force(self._pauses.get(upstream.terms.name, NO_PAUSE), now_us)
        shared = in_force(await self._written(self._states.pause_of(upstream.terms.name)) or NO_PAUSE, now_us)
        return max(own, shared, key=lambda each: each.until_us)._replace(
            pulls_until_us=max(own.pulls_until_us, shared.pulls_until_us)
        )

    @asynccontextmanager
    async def asking(self, upstream: Upstream, *, pull: bool = False, stream: bool = False) -> AsyncIterator[None]:
        """Wrap a request: refuse it while the upstream's limit is reached, and record its outcome.

        `pull`: the request counts as a pull. `stream`: it may take long, so that no other request waits for its end.

        Raises:
            Unavailable: the request limit is reached.
            RemoteBusy: no pulls are left.
        """
        async with self._alone_at_first(upstream, stream=stream):
            pause = await self._pause(upstream)
            self._check_pause(upstream, pause)
            spent = self._no_pulls_reason(pause) if pull else None
            if spent is not None:
                raise RemoteBusy(f"{upstream.terms.name} was not asked: {spent}", pulls=True)
            try:
                yield
            except (RemoteNotFound, RemoteDigestMissing) as error:
                _name_as_configured(upstream, error)
                await self.answered(upstream)
                raise
            except BoltsealError as error:
                _name_as_configured(upstream, error)
                await self.failed(upstream, error, pull=pull)
                raise
            await self.answered(upstream)

    @asynccontextmanager
    async def _alone_at_first(self, upstream: Upstream, *, stream: bool) -> AsyncIterator[None]:
        """Let one request go first where nothing is known of an upstream, and the others wait for it, but not for long."""
        name = upstream.terms.name
        if stream or name in self._asked:
            yield
            return
        async with AsyncExitStack() as stack:
            with suppress(TimeoutError):
                async with asyncio.timeout(ALONE_S):
                    await stack.enter_async_context(self._first[name])
            if name in self._asked:
                await stack.aclose()
            yield

    async def answered(self, upstream: Upstream) -> None:
        """Record that upstream has answered, and the limits that it stated."""
        name, answered_us = upstream.terms.name, self._clock()
        failures = self._failures.get(name)
        self._failures[name] = self._refused[name] = 0
        await self._record_quota(upstream, answered_us)
        self._asked.add(name)
        # At the first answer this also resets what another process has recorded.
        if failures is None or failures >= DOWN_AFTER:
            await self._written(self._states.up(name, answered_us))

    async def failed(self, upstream: Upstream, error: BoltsealError, *, pull: bool = False) -> None:
        """Record that upstream has failed, or has not answered. `pull`: the request counts as a pull."""
        name, answered_us = upstream.terms.name, self._clock()
        retry_after_s: float | None = getattr(error, "retry_after_s", None)
        if retry_after_s is not None:
            shortest_us = SHORTEST_PAUSE_US if isinstance(error, RemoteBusy) else 0
            for_us = max(shortest_us, min(round(retry_after_s * 1_000_000), LONGEST_PAUSE_US))
            await self._back_off(name, for_us, _LIMITED)
        if isinstance(error, RemoteBusy):
            if error.pulls:
                await self._pause_pulls(name, answered_us + BACKOFF_US)
                # A second request in a row that is no pull and is refused: the limit is not one of pulls only.
                self._refused[name] = 0 if pull else self._refused.get(name, 0) + 1
                if self._refused[name] >= REFUSED:
                    await self._back_off(name, BACKOFF_US, _SPENT)
            elif retry_after_s is None:
                await self._back_off(name, BACKOFF_US, _LIMITED)
        await self._record_quota(upstream, answered_us)
        if isinstance(error, RemoteBusy):
            return
        if not isinstance(error, RemoteUnavailable) or isinstance(error, AddressBlocked):
            self._asked.add(name)  # it has answered, or was never asked
            return
        self._failures[name] = self._failures.get(name, 0) + 1
        if self._failures[name] >= DOWN_AFTER:
            await self._back_off(name, DOWN_US, f"it failed {DOWN_AFTER} times in a row")
        if self._failures[name] == DOWN_AFTER and await self._written(self._states.down(name, error.message)):
            self._on_event(UpstreamDown(name, error.message))

    async def _back_off(self, name: str, for_us: int, reason: str) -> None:
        """Send no request for a while. The failure of a request that was under way does not end it earlier."""
        now_us = self._clock()
        until_us, own = now_us + for_us, in_force(self._pauses.get(name, NO_PAUSE), now_us)
        if until_us > own.until_us:
            self._pauses[name] = own._replace(until_us=until_us, reason=reason)
            await self._written(self._states.pause(name, until_us, reason))

    async def _pause_pulls(self, name: str, until_us: int) -> None:
        own = self._pauses.get(name, NO_PAUSE)
        self._pauses[name] = own._replace(pulls_until_us=until_us)
        await self._written(self._states.pause_pulls(name, until_us))

    async def _allow_pulls(self, name: str, answered_us: int) -> None:
        own = self._pauses.get(name, NO_PAUSE)
        self._pauses[name] = own._replace(pulls_until_us=NO_PAUSE.pulls_until_us)
        await self._written(self._states.allow_pulls(name, answered_us + BACKOFF_US))

    async def _record_quota(self, upstream: Upstream, answered_us: int) -> None:
        name, reserve = upstream.terms.name, upstream.terms.reserve
        pulls = upstream.transport.pulls.get(upstream.terms.authority)
        if pulls is not None and pulls is not self._pulls.get(name):
            self._pulls[name] = pulls
            if pulls.remaining == 0:
                await self._pause_pulls(name, answered_us + BACKOFF_US)
            elif await self.no_pulls_reason(upstream) is not None:
                await self._allow_pulls(name, answered_us)
        quota = upstream.transport.quotas.get(upstream.terms.authority)
        if quota is None or quota == self._quotas.get(name):
            return
        self._quotas[name] = quota
        change = await self._written(self._states.quota(name, quota, answered_us))
        if change is not None and change.remaining <= reserve and (change.before is None or change.before > reserve):
            self._on_event(QuotaLow(name, quota.remaining, quota.limit, quota.window_s))

    async def _written(self, writing: Awaitable[T]) -> T | None:
        """Return the result of a write, None where it fails: no answer to a client depends on it."""
        try:
            return await writing
        except BoltsealError as error:
            _log.warning("state of an upstream not written", reason=error.message)
            return None


def _name_as_configured(upstream: Upstream, error: BoltsealError) -> None:
    """Name the upstream in an error's message as clients and operators know it, not by its address."""
    if upstream.terms.name not in error.message:
        error.message = error.message.replace(upstream.terms.authority, upstream.terms.name)


def upstream_gauges(
    upstreams: Iterable[UpstreamTerms],
    rows: Mapping[str, UpstreamRow],
    pauses: Mapping[str, UpstreamPause],
    now_us: int,
) -> list[Gauge]:
    """Return the state of the configured upstreams as metrics."""
    known = {terms.name: rows.get(terms.name) for terms in upstreams}
    limits = {name: row for name, row in known.items() if row is not None and row.quota_limit is not None}
    up = {name: 0.0 if row is not None and row.down_us is not None else 1.0 for name, row in known.items()}
    limit = {name: float(row.quota_limit or 0) for name, row in limits.items()}
    left = {name: float(row.quota_remaining or 0) for name, row in limits.items()}
    paused = {name: in_force(pauses.get(name, NO_PAUSE), now_us) for name in known}
    wait = {name: max(0, each.until_us - now_us) / 1e6 for name, each in paused.items()}
    pulls_wait = {name: max(0, each.pulls_until_us - now_us) / 1e6 for name, each in paused.items()}
    by = "upstream"
    return [
        Gauge("boltseal_upstream_up", "Whether the upstream answered the last requests", up, by),
        Gauge("boltseal_upstream_pulls_limit", "Pulls that the upstream allows in a window", limit, by),
        Gauge("boltseal_upstream_pulls_remaining", "Pulls left in the window, as the upstream stated last", left, by),
        Gauge("boltseal_upstream_wait_seconds", "Seconds until the upstream gets any request again", wait, by),
        Gauge(
            "boltseal_upstream_pulls_wait_seconds",
            "Seconds until a manifest is fetched from the upstream again, whose limit of pulls is reached",
            pulls_wait,
            by,
        ),
    ]
