"""`GET /metrics` in the text format of Prometheus: the sums of all workers, and what the store looks like now.

Who may read it: this machine, unless a proxy stands before us and makes everybody come from it; an admin of every
repository; everybody where `[server] public_metrics` says so. Names of repositories never stand in it.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from boltseal import __version__
from boltseal.errors import BoltsealError, Denied, Unauthenticated
from boltseal.policy.grants import Action
from boltseal.server.api import responses
from boltseal.server.api.http_application import HttpApplication
from boltseal.server.api.responses import Headers, Response
from boltseal.server.auth.logins import PASSWORD_CHECKS
from boltseal.server.mirror.blobs import BLOBS_FETCHED
from boltseal.server.mirror.cache import MANIFESTS_FETCHED, SERVED_WITH_WARNING
from boltseal.server.mirror.push_proxy import MOUNTED, PASSED_ON
from boltseal.server.mirror.upstream_tags import HEADS
from boltseal.server.storage.metrics import LATENCY_BOUNDS_S, RequestMetrics

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from boltseal.server.api.access_log import RequestLog
    from boltseal.server.api.auth import RequestAuth
    from boltseal.server.api.request import Request

Gauges = Callable[[], dict[str, tuple[str, float | dict[str, float]]]]
"""Name -> what it means, and its value now, or one for each upstream."""

COUNTED: Final = {
    PASSWORD_CHECKS: "Passwords that were compared with a user's hash, which is slow on purpose",
    PASSED_ON: "Blobs that were passed on to an upstream",
    MOUNTED: "Blobs that an upstream took from another of its repositories instead",
    HEADS: "Times that an upstream was asked what a tag means",
    MANIFESTS_FETCHED: "Manifests that were fetched from an upstream",
    BLOBS_FETCHED: "Blobs that were fetched from an upstream",
    SERVED_WITH_WARNING: "Answers from what was here because an upstream gave none",
}
"""What is counted apart from requests, and what it means."""

_EVERYWHERE: Final = "any/repository"


class MetricsDenied(Denied):
    """Somebody from elsewhere, who is no admin."""


class Metrics(HttpApplication):
    """The endpoint. `gauges`: asked in a thread. `open_to`: "local", "everybody", or "admins" alone."""

    def __init__(self, observer: RequestLog, gate: RequestAuth, gauges: Gauges, open_to: str) -> None:
        super().__init__(observer)
        self._gate = gate
        self._gauges = gauges
        self._open_to = open_to

    async def _answer(self, call: Request) -> Response:
        call.route = "Metrics"
        await self._admit(call)
        return responses.whole(await asyncio.to_thread(self._exposition), CONTENT_TYPE_LATEST)

    def _extra(self, _: Request, error: BoltsealError) -> Headers:
        return self._gate.challenge(error) if isinstance(error, Unauthenticated) else ()

    async def _admit(self, call: Request) -> None:
        if self._open_to == "everybody":
            return
        authorization = call.header(b"authorization")
        if authorization is not None and self._gate.access.required():
            caller = await self._gate.recognise(call, authorization)
            call.actor = caller.actor
            if Action.ADMIN in self._gate.access.allowed(caller, _EVERYWHERE):
                return
        if self._open_to == "local" and _is_loopback(call):
            self._gate.refuse_other_hosts(call)
            return
        raise MetricsDenied("metrics are for this machine, for admins of every repository, or see public_metrics")

    def _exposition(self) -> bytes:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Exposed(self._observer.all_totals(), self._gauges()))
        return generate_latest(registry)


class _Exposed(Collector):
    """The numbers as families of the library."""

    def __init__(self, totals: RequestMetrics, gauges: dict[str, tuple[str, float | dict[str, float]]]) -> None:
        self._totals = totals
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        yield from _requests(self._totals)
        refusals = CounterMetricFamily("boltseal_refusals", "Requests refused, by reason", labels=["reason"])
        for name, count in sorted(self._totals.refusals.items()):
            refusals.add_metric([name], count)
        yield refusals
        for counted, means in COUNTED.items():
            yield CounterMetricFamily(f"boltseal_{counted}", means, value=self._totals.counts.get(counted, 0))
        for name, (means, value) in self._gauges.items():
            yield _gauge(name, means, value)
        build = GaugeMetricFamily("boltseal_build_info", "Which boltseal this is", labels=["version"])
        build.add_metric([__version__], 1)
        yield build


def _gauge(name: str, means: str, value: float | dict[str, float]) -> Metric:
    if not isinstance(value, dict):
        return GaugeMetricFamily(name, means, value=value)
    family = GaugeMetricFamily(name, means, labels=["upstream"])
    for upstream, number in value.items():
        family.add_metric([upstream], number)
    return family


def _requests(totals: RequestMetrics) -> Iterator[Metric]:
    labels = ["method", "route"]
    count = CounterMetricFamily("boltseal_requests", "Requests answered", labels=[*labels, "status"])
    received = CounterMetricFamily("boltseal_received_bytes", "Bytes of bodies taken in", labels=labels)
    sent = CounterMetricFamily("boltseal_sent_bytes", "Bytes of bodies answered", labels=labels)
    latency = HistogramMetricFamily("boltseal_request_seconds", "From request to answer", labels=labels)
    together: dict[tuple[str, str], RequestMetrics] = {}
    for (method, route, status), sums in sorted(totals.requests.items(), key=lambda row: row[0]):
        count.add_metric([method, route, str(status)], sums.count)
        one = RequestMetrics()
        one.requests[method, route, 0] = sums
        together.setdefault((method, route), RequestMetrics()).add(one)
    for (method, route), of_route in together.items():
        (sums,) = of_route.requests.values()
        received.add_metric([method, route], sums.bytes_in)
        sent.add_metric([method, route], sums.bytes_out)
        below, buckets = 0, []
        for bound, inside in zip([*map(str, LATENCY_BOUNDS_S), "+Inf"], sums.buckets, strict=True):
            below += inside
            buckets.append((bound, below))
        latency.add_metric([method, route], buckets, sums.seconds)
    yield from (count, received, sent, latency)


def _is_loopback(call: Request) -> bool:
    host, _ = call.scope.get("client") or ("", 0)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
