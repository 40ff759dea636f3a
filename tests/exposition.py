"""The metrics of a registry with every feature that has metrics: an upstream with a limit, a receiver, a refusal."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from boltseal.client.pull_limit import PullLimit
from boltseal.server.app import Application, create_app
from boltseal.server.settings import Settings
from tests import images
from tests.asgi import running

UPSTREAM = "docker.io"


@dataclass(slots=True)
class ServedMetric:
    """A metric as a query names it. `kind`: counter, gauge or histogram. `values`: each label's values, as served."""

    kind: str
    help_text: str
    labels: dict[str, set[str]] = field(default_factory=dict)


async def exposition(data: Path) -> str:
    """Return the text of /metrics."""
    settings = Settings.model_validate(
        {
            "server": {"data": data},
            "upstream": [{"name": UPSTREAM}],
            "notify": [{"name": "chat", "url": "http://127.0.0.1:9/", "networks": ["127.0.0.0/8"]}],
        }
    )
    app = create_app(settings)
    transport = httpx2.ASGITransport(app=app)
    async with running(app), httpx2.AsyncClient(transport=transport, base_url="http://localhost:5000") as client:
        assert isinstance(app, Application)
        assert app._store is not None
        store = app._store
        await store.registry.upstreams.quota(UPSTREAM, PullLimit(100, 40, 21_600, "192.0.2.1"), store.database.now_us())
        await images.push(client, "shop/app", "1.4.2", images.image("one"))
        await client.get("/v2/shop/app/manifests/1.4.2")
        await client.head("/v2/shop/app/manifests/1.4.2")
        await client.put("/v2/shop/app/manifests/1.4.2", content=b"{}")
        return (await client.get("/metrics")).text


def served_metrics(text: str) -> dict[str, ServedMetric]:
    """Return every sample name of an exposition; of a histogram also those of its three series."""
    found: dict[str, ServedMetric] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            metric = found.setdefault(sample.name, ServedMetric(family.type, family.documentation))
            for label, value in sample.labels.items():
                metric.labels.setdefault(label, set()).add(value)
    return found
