"""`GET /metrics` in the Prometheus text format: the totals of all workers, and the current state of the store.

Access: this machine, unless a proxy in front makes all requests come from it; administrators of all repositories;
everyone with `[server] public_metrics`. Metrics never contain repository names.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from boltseal import __version__
from boltseal.errors import BoltsealError, Denied, Unauthenticated
from boltseal.policy.grants import Action
from boltseal.server.api import responses
from boltseal.server.api.access_log import RequestLog
from boltseal.server.api.auth import RequestAuth
from boltseal.server.api.http_application import HttpApplication
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Headers, Response
from boltseal.server.auth.logins import PASSWORD_CHECKS
from boltseal.server.mirror.blobs import BLOBS_FETCHED
from boltseal.server.mirror.cache import MANIFESTS_FETCHED, SERVED_WITH_WARNING
from boltseal.server.mirror.push_proxy import MOUNTED, PASSED_ON
from boltseal.server.mirror.upstream_tags import HEADS
from boltseal.server.storage.metrics import LATENCY_BOUNDS_S, RequestMetrics

Gauges = Callable[[], dict[str, tuple[str, float | dict[str, float]]]]
"""Name -> help text, and the current value or one for each upstream."""

COUNTED: Final = {
    PASSWORD_CHECKS: "Passwords compared with a user's hash (deliberately slow)",
    PASSED_ON: "Blobs pushed on to an upstream",
    MOUNTED: "Blobs that an upstream mounted from another of its repositories instead",
    HEADS: "Requests to an upstream for the digest of a tag",
    MANIFESTS_FETCHED: "Manifests fetched from an upstream",
    BLOBS_FETCHED: "Blobs fetched from an upstream",
    SERVED_WITH_WARNING: "Responses served from the store because the upstream failed",
}
"""Counters other than requests, with their help texts."""

_EVERYWHERE: Final = "any/repository"


class MetricsDenied(Denied):
    """The metrics were requested from another machine without administrator rights."""


class Metrics(HttpApplication):
    """Serves /metrics. `gauges`: called in a thread. `open_to`: `local`, `everybody`, or `admins` only."""

    def __init__(self, observer: RequestLog, auth: RequestAuth, gauges: Gauges, open_to: str) -> None:
        super().__init__(observer)
        self._auth = auth
        self._gauges = gauges
        self._open_to = open_to

    async def _respond(self, request: Request) -> Response:
        request.route = "Metrics"
        await self._admit(request)
        return responses.with_body(await asyncio.to_thread(self._exposition), CONTENT_TYPE_LATEST)

    def _error_headers(self, _: Request, error: BoltsealError) -> Headers:
        return self._auth.challenge(error) if isinstance(error, Unauthenticated) else ()

    async def _admit(self, request: Request) -> None:
        if self._open_to == "everybody":
            return
        authorization = request.header(b"authorization")
        await self._auth.access.refresh()
        if authorization is not None and self._auth.access.required():
            caller = await self._auth.recognise(request, authorization)
            request.actor = caller.actor
            if Action.ADMIN in self._auth.access.allowed(caller, _EVERYWHERE):
                return
        if self._open_to == "local" and _is_loopback(request):
            self._auth.refuse_other_hosts(request)
            return
        raise MetricsDenied(
            "metrics are only served to this machine and to administrators of all repositories; see public_metrics"
        )

    def _exposition(self) -> bytes:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_MetricsCollector(self._observer.all_totals(), self._gauges()))
        return generate_latest(registry)


class _MetricsCollector(Collector):
    """Converts the totals and gauges to Prometheus metric families."""

    def __init__(self, totals: RequestMetrics, gauges: dict[str, tuple[str, float | dict[str, float]]]) -> None:
        self._totals = totals
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family."""
        yield from _requests(self._totals)
        refusals = CounterMetricFamily("boltseal_refusals", "Requests refused, by reason", labels=["reason"])
        for name, count in sorted(self._totals.refusals.items()):
            refusals.add_metric([name], count)
        yield refusals
        for counted, help_text in COUNTED.items():
            yield CounterMetricFamily(f"boltseal_{counted}", help_text, value=self._totals.counts.get(counted, 0))
        for name, (help_text, value) in self._gauges.items():
            yield _gauge(name, help_text, value)
        build = GaugeMetricFamily("boltseal_build_info", "Version of boltseal", labels=["version"])
        build.add_metric([__version__], 1)
        yield build


def _gauge(name: str, help_text: str, value: float | dict[str, float]) -> Metric:
    if not isinstance(value, dict):
        return GaugeMetricFamily(name, help_text, value=value)
    family = GaugeMetricFamily(name, help_text, labels=["upstream"])
    for upstream, number in value.items():
        family.add_metric([upstream], number)
    return family


def _requests(totals: RequestMetrics) -> Iterator[Metric]:
    labels = ["method", "route"]
    count = CounterMetricFamily("boltseal_requests", "Requests answered", labels=[*labels, "status"])
    received = CounterMetricFamily("boltseal_received_bytes", "Bytes received in request bodies", labels=labels)
    sent = CounterMetricFamily("boltseal_sent_bytes", "Bytes sent in response bodies", labels=labels)
    latency = HistogramMetricFamily("boltseal_request_seconds", "Seconds from request to response", labels=labels)
    by_route: dict[tuple[str, str], RequestMetrics] = {}
    for (method, route, status), sums in sorted(totals.requests.items(), key=lambda row: row[0]):
        count.add_metric([method, route, str(status)], sums.count)
        row = RequestMetrics()
        row.requests[method, route, 0] = sums
        by_route.setdefault((method, route), RequestMetrics()).add(row)
    for (method, route), route_totals in by_route.items():
        (sums,) = route_totals.requests.values()
        received.add_metric([method, route], sums.bytes_in)
        sent.add_metric([method, route], sums.bytes_out)
        cumulative, buckets = 0, []
        for bound, inside in zip([*map(str, LATENCY_BOUNDS_S), "+Inf"], sums.buckets, strict=True):
            cumulative += inside
            buckets.append((bound, cumulative))
        latency.add_metric([method, route], buckets, sums.seconds)
    yield from (count, received, sent, latency)


def _is_loopback(request: Request) -> bool:
    host, _ = request.scope.get("client") or ("", 0)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
