"""Respects the limits of upstreams: their pull limit, their request limit, and whether they answer at all.

After a failure with `Retry-After`, whatever its body, an upstream gets no request until that time. Docker Hub has two
limits and answers both with 429. The pull limit counts GETs of manifests, and each answer about a manifest states how many
are left (`ratelimit-*`). At 0, no manifest is fetched for a while, or until an answer states more; HEADs and blobs are free
and go on. The request limit counts every request and states nothing. Then no request is sent for a while, because each
one would prolong the limit.

Background work stops when no more than `reserve` pulls are left. All workers share the pull limit and the state "down"
(`server.registry.upstream_state`), and each change is reported once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import structlog

from boltseal.client.errors import RemoteBusy, RemoteNotFound, RemoteUnavailable
from boltseal.client.pull_limit import PullLimit, PullsLeft
from boltseal.client.ssrf_guard import AddressBlocked
from boltseal.errors import BoltsealError, Unavailable
from boltseal.events import Event, QuotaLow, UpstreamDown
from boltseal.policy.upstreams import UpstreamTerms
from boltseal.server.mirror.upstreams import Upstream
from boltseal.server.registry.upstream_state import UpstreamRow, UpstreamStates
from boltseal.server.storage.metrics import Gauge

EventHandler = Callable[[Event], None]
"""Receives an event. It must neither wait nor raise."""

BACKOFF_US: Final = 60_000_000
"""How long to wait after a 429 without `Retry-After`, and before the next pull when none are left."""
MAX_BACKOFF_US: Final = 3_600_000_000
DOWN_AFTER: Final = 3
"""The number of consecutive failures after which an upstream counts as down."""

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class UpstreamLimits:
    """The limits of all upstreams. One per process. `clock`: microseconds since the epoch. `on_event`: receives events."""

    def __init__(self, states: UpstreamStates, *, clock: Callable[[], int], on_event: EventHandler) -> None:
        self._states = states
        self._clock = clock
        self._on_event = on_event
        self._backoff_until_us: dict[str, int] = {}
        self._no_pulls_until_us: dict[str, int] = {}
        self._pulls: dict[str, PullsLeft] = {}
        self._failures: dict[str, int] = {}
        self._quotas: dict[str, PullLimit] = {}

    def backoff_reason(self, upstream: Upstream) -> str | None:
        """Return why an upstream gets no request now, None where it may get one."""
        left_us = self._backoff_until_us.get(upstream.terms.name, 0) - self._clock()
        if left_us <= 0:
            return None
        return f"its request limit is reached; the next request is possible in {-(-left_us // 1_000_000)} s"

    def no_pulls_reason(self, upstream: Upstream) -> str | None:
        """Return why no manifest is fetched from an upstream now, None where it may be."""
        left_us = self._no_pulls_until_us.get(upstream.terms.name, 0) - self._clock()
        if left_us <= 0:
            return None
        return f"no pulls are left of its limit; the next pull is possible in {-(-left_us // 1_000_000)} s"

    def may_spend(self, upstream: Upstream) -> bool:
        """Return whether background work may send requests to an upstream."""
        quota = self._quotas.get(upstream.terms.name)
        return self.backoff_reason(upstream) is None and (quota is None or quota.remaining > upstream.terms.reserve)

    @asynccontextmanager
    async def asking(self, upstream: Upstream, *, pull: bool = False) -> AsyncIterator[None]:
        """Wrap a request: refuse it while the upstream's limit is reached, and record its outcome.

        `pull`: the request counts as a pull.

        Raises:
            Unavailable: the request limit is reached.
            RemoteBusy: no pulls are left.
        """
        backoff = self.backoff_reason(upstream)
        if backoff is not None:
            raise Unavailable(f"{upstream.terms.name} was not asked: {backoff}")
        spent = self.no_pulls_reason(upstream) if pull else None
        if spent is not None:
            raise RemoteBusy(f"{upstream.terms.name} was not asked: {spent}", pulls=True)
        try:
            yield
        except RemoteNotFound:
            await self.answered(upstream)
            raise
        except BoltsealError as error:
            await self.failed(upstream, error)
            raise
        await self.answered(upstream)

    async def answered(self, upstream: Upstream) -> None:
        """Record that upstream has answered, and the limits that it stated."""
        name = upstream.terms.name
        failures = self._failures.get(name)
        self._failures[name] = 0
        await self._record_quota(upstream)
        # At the first answer this also resets what another process has recorded.
        if failures is None or failures >= DOWN_AFTER:
            await self._written(self._states.up(name))

    async def failed(self, upstream: Upstream, error: BoltsealError) -> None:
        """Record that upstream has failed, or has not answered."""
        name = upstream.terms.name
        await self._record_quota(upstream)
        retry_after_s: float | None = getattr(error, "retry_after_s", None)
        if retry_after_s is not None:
            self._back_off(name, min(round(retry_after_s * 1_000_000), MAX_BACKOFF_US))
        if isinstance(error, RemoteBusy):
            if error.pulls:
                self._no_pulls_until_us[name] = self._clock() + BACKOFF_US
            elif retry_after_s is None:
                self._back_off(name, BACKOFF_US)
            return
        if not isinstance(error, RemoteUnavailable) or isinstance(error, AddressBlocked):
            return  # it has answered, or was never asked
        self._failures[name] = self._failures.get(name, 0) + 1
        if self._failures[name] == DOWN_AFTER and await self._written(self._states.down(name, error.message)):
            self._on_event(UpstreamDown(name, error.message))

    def _back_off(self, name: str, for_us: int) -> None:
        """Send no request for a while. The failure of a request that was under way does not end it earlier."""
        self._backoff_until_us[name] = max(self._backoff_until_us.get(name, 0), self._clock() + for_us)

    async def _record_quota(self, upstream: Upstream) -> None:
        name, reserve = upstream.terms.name, upstream.terms.reserve
        pulls = upstream.transport.pulls.get(upstream.terms.authority)
        if pulls is not None and pulls is not self._pulls.get(name):
            self._pulls[name] = pulls
            self._no_pulls_until_us[name] = self._clock() + BACKOFF_US if pulls.remaining == 0 else 0
        quota = upstream.transport.quotas.get(upstream.terms.authority)
        if quota is None or quota == self._quotas.get(name):
            return
        self._quotas[name] = quota
        change = await self._written(self._states.quota(name, quota))
        if change is not None and change.remaining <= reserve and (change.before is None or change.before > reserve):
            self._on_event(QuotaLow(name, quota.remaining, quota.limit, quota.window_s))

    async def _written(self, writing: Awaitable[T]) -> T | None:
        """Return the result of a write, None where it fails: no answer to a client depends on it."""
        try:
            return await writing
        except BoltsealError as error:
            _log.warning("state of an upstream not written", reason=error.message)
            return None


def upstream_gauges(upstreams: Iterable[UpstreamTerms], rows: Mapping[str, UpstreamRow]) -> list[Gauge]:
    """Return the state of the configured upstreams as metrics."""
    known = {terms.name: rows.get(terms.name) for terms in upstreams}
    limits = {name: row for name, row in known.items() if row is not None and row.quota_limit is not None}
    up = {name: 0.0 if row is not None and row.down_us is not None else 1.0 for name, row in known.items()}
    limit = {name: float(row.quota_limit or 0) for name, row in limits.items()}
    left = {name: float(row.quota_remaining or 0) for name, row in limits.items()}
    by = "upstream"
    return [
        Gauge("boltseal_upstream_up", "Whether the upstream answered the last requests", up, by),
        Gauge("boltseal_upstream_pulls_limit", "Pulls that the upstream allows in a window", limit, by),
        Gauge("boltseal_upstream_pulls_remaining", "Pulls left in the window, as the upstream stated last", left, by),
    ]
