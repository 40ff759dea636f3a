"""`GET /metrics` in the Prometheus text format: the totals of all workers, and the current state of the store.

Access: this machine, unless a proxy in front makes all requests come from it; administrators of all repositories;
everyone with `[server] public_metrics`. Metrics never contain repository names.
"""

from __future__ import annotations

import asyncio
import ipaddress
import platform
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from boltseal import __version__
from boltseal.errors import BoltsealError, Denied, Unauthenticated
from boltseal.policy.grants import Action
from boltseal.policy.refusals import RefusalReason
from boltseal.server.api import responses
from boltseal.server.api.access_log import RequestLog
from boltseal.server.api.auth import RequestAuth
from boltseal.server.api.http_application import HttpApplication
from boltseal.server.api.process_metrics import process_metrics
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Headers, Response
from boltseal.server.auth.logins import PASSWORD_CHECKS
from boltseal.server.mirror.blobs import BLOBS_FETCHED
from boltseal.server.mirror.cache import MANIFESTS_FETCHED, SERVED_WITH_WARNING
from boltseal.server.mirror.push_parts import MOUNTED, PASSED_ON
from boltseal.server.mirror.upstream_tags import HEADS
from boltseal.server.storage.metrics import LATENCY_BOUNDS_S, Gauge, RequestMetrics

METRICS_PATH: Final = "/metrics"

Gauges = Callable[[], Iterable[Gauge]]
"""Reads the current state of the store. Leaves out what cannot be read."""

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


class Metrics(HttpApplication):
    """Serves /metrics. `gauges`: called in a thread. `open_to`: `local`, `everybody`, or `admins` only."""

    def __init__(self, observer: RequestLog, auth: RequestAuth, gauges: Gauges, open_to: str) -> None:
        super().__init__(observer)
        self._auth = auth
        self._gauges = gauges
        self._open_to = open_to

    async def _respond(self, request: Request) -> Response:
        request.route = METRICS_PATH
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
        raise Denied(
            "metrics are only served to this machine and to administrators of all repositories; see public_metrics"
        )

    def _exposition(self) -> bytes:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_MetricsCollector(self._observer, self._gauges()))
        return generate_latest(registry)


class _MetricsCollector(Collector):
    """Converts the totals and gauges to Prometheus metric families."""

    def __init__(self, observer: RequestLog, gauges: Iterable[Gauge]) -> None:
        self._observer = observer
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family."""
        totals = self._observer.all_totals()
        yield from _requests(totals)
        refusals = CounterMetricFamily("boltseal_refusals", "Requests refused, by reason", labels=["reason"])
        for reason in RefusalReason:  # also those that did not occur yet, so that the first one is an increase
            refusals.add_metric([reason.value], totals.refusals.get(reason.value, 0))
        yield refusals
        for counted, help_text in COUNTED.items():
            yield CounterMetricFamily(f"boltseal_{counted}", help_text, value=totals.counts.get(counted, 0))
        for gauge in self._gauges:
            yield _gauge(gauge)
        queues = self._observer.all_write_queues()
        yield GaugeMetricFamily(
            "boltseal_write_queue_jobs",
            "Database writes that are not committed yet",
            value=sum(queue.jobs for queue in queues.values()),
        )
        yield GaugeMetricFamily(
            "boltseal_write_queue_oldest_wait_seconds",
            "How long the oldest of these writes has waited for its turn; 0 without any",
            value=max(queue.oldest_wait_s for queue in queues.values()),
        )
        build = GaugeMetricFamily(
            "boltseal_build_info", "Versions of boltseal and Python", labels=["version", "python_version"]
        )
        build.add_metric([__version__, platform.python_version()], 1)
        yield build
        yield GaugeMetricFamily("boltseal_workers", "Running worker processes", value=len(queues))
        yield CounterMetricFamily(
            "boltseal_worker_restarts",
            "Worker processes started again after they ended unexpectedly",
            value=self._observer.restarts.total,
        )
        yield from process_metrics(self._observer.server_pid, queues.keys(), totals.cpu_seconds)


def _gauge(gauge: Gauge) -> Metric:
    family = GaugeMetricFamily(gauge.name, gauge.help_text, labels=[gauge.label] if gauge.label else [])
    for value, number in gauge.values.items():
        family.add_metric([value] if gauge.label else [], number)
    return family


def _requests(totals: RequestMetrics) -> Iterator[Metric]:
    labels = ["method", "route"]
    count = CounterMetricFamily("boltseal_http_requests", "HTTP requests answered", labels=[*labels, "status"])
    received = CounterMetricFamily(
        "boltseal_http_request_body_bytes", "Bytes received in request bodies", labels=labels
    )
    sent = CounterMetricFamily("boltseal_http_response_body_bytes", "Bytes sent in response bodies", labels=labels)
    latency = HistogramMetricFamily(
        "boltseal_http_request_duration_seconds", "Time from a request to the end of its response", labels=labels
    )
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
