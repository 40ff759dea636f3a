"""What an upstream lets us do: its pull limit, its limit of requests, and whether it answers at all.

An upstream that says when to come back (`Retry-After`, on whatever failure) is asked nothing until then, whatever the
body says. Docker Hub has two limits, and both are answered with 429. One counts pulls (GET of a manifest) and says on every
answer about a manifest how many are left (`ratelimit-*`): when that is 0 no manifest is fetched for a while, or until an
answer says otherwise; a HEAD and blobs are free and go on. The other counts every request and says nothing but 429: then
nothing at all is asked for a while, as each question would prolong it.

Work that no client waits for stops when no more than `reserve` pulls are left. What is left, and that an upstream is down, is
known to all workers (`server.registry.upstream_state`), and whoever is told hears it once.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from boltseal.client.errors import RemoteBusy, RemoteNotFound, RemoteUnavailable
from boltseal.client.ssrf_guard import AddressBlocked
from boltseal.errors import BoltsealError, Unavailable
from boltseal.events import QuotaLow, UpstreamDown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

    from boltseal.client.pull_limit import PullLimit, PullsLeft
    from boltseal.events import Event
    from boltseal.policy.upstreams import UpstreamTerms
    from boltseal.server.mirror.upstreams import Upstream
    from boltseal.server.registry.upstream_state import UpstreamRow, UpstreamStates

    Tell = Callable[[Event], None]
    """Takes what happened. It neither waits nor raises: who is told, and how, is its own business."""

REST_US: Final = 60_000_000
"""How long an upstream is left alone that says 429 and not for how long, and is asked for no pull that has none left."""
MAX_REST_US: Final = 3_600_000_000
DOWN_AFTER: Final = 3
"""Failures in a row, with no answer between them, after which an upstream is down."""

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class UpstreamLimits:
    """Of all upstreams. One per process. `clock`: microseconds."""

    def __init__(self, states: UpstreamStates, *, clock: Callable[[], int], tell: Tell) -> None:
        self._states = states
        self._clock = clock
        self._tell = tell
        self._rests_until_us: dict[str, int] = {}
        self._spent_until_us: dict[str, int] = {}
        self._pulls: dict[str, PullsLeft] = {}
        self._failures: dict[str, int] = {}
        self._quotas: dict[str, PullLimit] = {}

    def resting(self, upstream: Upstream) -> str | None:
        """Why an upstream is not asked anything now, None where it may be."""
        left_us = self._rests_until_us.get(upstream.terms.name, 0) - self._clock()
        if left_us <= 0:
            return None
        return f"it limits how often it may be asked, and is left alone for {-(-left_us // 1_000_000)} s more"

    def pulls_spent(self, upstream: Upstream) -> str | None:
        """Why an upstream is asked for no manifest now, None where it may be."""
        left_us = self._spent_until_us.get(upstream.terms.name, 0) - self._clock()
        if left_us <= 0:
            return None
        return f"no pulls are left of its limit, and it is asked for none for {-(-left_us // 1_000_000)} s more"

    def may_spend(self, upstream: Upstream) -> bool:
        """Whether work that no client waits for may ask an upstream anything."""
        quota = self._quotas.get(upstream.terms.name)
        return self.resting(upstream) is None and (quota is None or quota.remaining > upstream.terms.reserve)

    @asynccontextmanager
    async def asking(self, upstream: Upstream, *, pull: bool = False) -> AsyncIterator[None]:
        """Around a question: refused while an upstream is left alone (Unavailable); what becomes of it is noted.

        `pull`: it is one that counts as a pull, which is also refused while none is left (RemoteBusy).
        """
        resting = self.resting(upstream)
        if resting is not None:
            raise Unavailable(f"{upstream.terms.name} was not asked: {resting}")
        spent = self.pulls_spent(upstream) if pull else None
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
        """Upstream has answered, whatever it said; what it says of a limit is noted."""
        name = upstream.terms.name
        failures = self._failures.get(name)
        self._failures[name] = 0
        await self._note_quota(upstream)
        if failures is None or failures >= DOWN_AFTER:  # also what another process, or the one before, left behind
            await self._kept(self._states.up(name))

    async def failed(self, upstream: Upstream, error: BoltsealError) -> None:
        """Upstream has not, or with a failure."""
        name = upstream.terms.name
        await self._note_quota(upstream)
        retry_after_s: float | None = getattr(error, "retry_after_s", None)
        if retry_after_s is not None:
            self._rests_until_us[name] = self._clock() + min(round(retry_after_s * 1_000_000), MAX_REST_US)
        if isinstance(error, RemoteBusy):
            if error.pulls:
                self._spent_until_us[name] = self._clock() + REST_US
            elif retry_after_s is None:
                self._rests_until_us[name] = self._clock() + REST_US
            return
        if not isinstance(error, RemoteUnavailable) or isinstance(error, AddressBlocked):
            return  # it has answered
        self._failures[name] = self._failures.get(name, 0) + 1
        if self._failures[name] == DOWN_AFTER and await self._kept(self._states.down(name, error.message)):
            self._tell(UpstreamDown(name, error.message))

    async def _note_quota(self, upstream: Upstream) -> None:
        name, reserve = upstream.terms.name, upstream.terms.reserve
        pulls = upstream.transport.pulls.get(upstream.terms.authority)
        if pulls is not None and pulls is not self._pulls.get(name):
            self._pulls[name] = pulls
            self._spent_until_us[name] = self._clock() + REST_US if pulls.remaining == 0 else 0
        quota = upstream.transport.quotas.get(upstream.terms.authority)
        if quota is None or quota == self._quotas.get(name):
            return
        self._quotas[name] = quota
        noted = await self._kept(self._states.quota(name, quota))
        if noted is not None and noted.remaining <= reserve and (noted.before is None or noted.before > reserve):
            self._tell(QuotaLow(name, quota.remaining, quota.limit, quota.window_s))

    async def _kept(self, writing: Awaitable[T]) -> T | None:
        """What a write gave; None where it can't be written now: no answer to a client depends on it."""
        try:
            return await writing
        except BoltsealError as error:
            _log.warning("how an upstream stands could not be kept", reason=error.message)
            return None


def upstream_gauges(
    upstreams: Iterable[UpstreamTerms], rows: Mapping[str, UpstreamRow]
) -> dict[str, tuple[str, float | dict[str, float]]]:
    """How the configured upstreams stand, as metrics: name -> what it means, and a value for each upstream."""
    known = {terms.name: rows.get(terms.name) for terms in upstreams}
    limits = {name: row for name, row in known.items() if row is not None and row.quota_limit is not None}
    up = {name: 0.0 if row is not None and row.down_us is not None else 1.0 for name, row in known.items()}
    return {
        "boltseal_upstream_up": ("Whether an upstream answers, as far as it was asked", up),
        "boltseal_upstream_pulls_limit": (
            "Pulls that an upstream allows in a window",
            {name: float(row.quota_limit or 0) for name, row in limits.items()},
        ),
        "boltseal_upstream_pulls_remaining": (
            "Pulls that are left of them, as it said last",
            {name: float(row.quota_remaining or 0) for name, row in limits.items()},
        ),
    }
