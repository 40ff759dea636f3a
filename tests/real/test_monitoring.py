"""Metrics, alert rules and dashboard: read by Prometheus's own tool, and compared with what the server serves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from boltseal.policy.refusals import MEANINGS, RefusalReason
from boltseal.server.api.paths import ROUTES
from boltseal.server.storage.metadata.protocol import LEDGER, OBSERVATIONS
from tests.docs.pages import ROOT, section, table, text
from tests.exposition import ServedMetric, exposition, served_metrics
from tests.real.tools import run

pytestmark = pytest.mark.real

MONITORING = ROOT / "packaging/monitoring"
SCRAPED = {"job", "instance"}
"""Labels that Prometheus adds."""
KNOWN = {
    "route": set(ROUTES.values()),
    "reason": {reason.value for reason in RefusalReason},
    "log": {LEDGER.name, OBSERVATIONS.name},
    "method": {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "other"},
    "status": {str(status) for status in range(200, 600)},
}
"""Values of labels that the server can serve, beside those that it did."""
METRIC = re.compile(r'\b((?:boltseal|process)_\w+)(?:\{((?:[^{}"]|"[^"]*")*)\})?')
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
GROUPED = re.compile(r"\b(?:by|on) \(([^)]*)\)")


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    document: dict[str, Any] = json.loads((MONITORING / "grafana.json").read_text(encoding="utf-8"))
    return document


def panel_queries() -> Iterator[str]:
    """Return every query of the dashboard, with its variables replaced."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$__rate_interval", "5m").replace("$__range", "1h")
            yield re.sub(r"\$(job|instance)\b", ".*", query)


def alert_queries() -> Iterator[str]:
    """Return every query of the alert rules."""
    for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]


def mistakes(query: str, served: Mapping[str, ServedMetric]) -> list[str]:
    """Return metrics, labels and values of a query that the server does not serve."""
    wrong = []
    labels = set(SCRAPED)
    for name, matchers in METRIC.findall(query):
        if name not in served:
            wrong.append(name)
            continue
        labels |= set(served[name].labels)
        for label, operator, value in MATCHER.findall(matchers):
            values = served[name].labels.get(label, set()) | KNOWN.get(label, set())
            if label in SCRAPED:
                continue
            if label not in served[name].labels:
                wrong.append(f"{name}{{{label}}}")
            wanted = value.split("|") if re.fullmatch(r"[\w|-]+", value) else [value]
            regex = "~" in operator
            wrong += [
                f'{label}="{each}"'
                for each in wanted
                if not any(re.fullmatch(each, one) if regex else each == one for one in values)
            ]
    for grouped in GROUPED.findall(query):
        wrong += sorted({label.strip() for label in grouped.split(",")} - labels)
    return wrong


async def test_promtool_accepts_the_metrics(tmp_path: Path) -> None:
    """`promtool check metrics` accepts names, units, types and help texts."""
    served = await exposition(tmp_path / "data")
    result = run("promtool", "check", "metrics", stdin=served.encode())
    wrong = run("promtool", "check", "metrics", stdin=b"# TYPE boltseal_pushes counter\nboltseal_pushes 1\n")

    assert (result.ok, result.text) == (True, "")
    assert not wrong.ok
    assert "_total" in wrong.text


def test_promtool_accepts_the_alert_rules() -> None:
    """The alert rules are valid, and fire or stay silent as their test file states."""
    checked = run("promtool", "check", "rules", MONITORING / "alerts.yaml").checked()
    tested = run("promtool", "test", "rules", ROOT / "tests/data/monitoring/alerts_test.yaml").checked()

    assert "SUCCESS: 15 rules found" in checked
    assert "SUCCESS" in tested


def test_promtool_accepts_every_query_of_the_dashboard(tmp_path: Path) -> None:
    """Each query of the dashboard is valid PromQL."""
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(panel_queries())]
    at = tmp_path / "rules.yaml"
    at.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))

    assert f"SUCCESS: {len(rules)} rules found" in run("promtool", "check", "rules", at).checked()


async def test_dashboard_and_alerts_use_only_what_the_server_serves(tmp_path: Path) -> None:
    """Each metric, label and value of a query is served, and a misspelt one is found."""
    served = served_metrics(await exposition(tmp_path / "data"))
    queries = [*panel_queries(), *alert_queries()]

    assert len(queries) > 50
    assert {query: mistakes(query, served) for query in queries if mistakes(query, served)} == {}
    assert mistakes("boltseal_refusal_total", served) == ["boltseal_refusal_total"]
    assert mistakes('boltseal_refusals_total{reason=~"sealed|seald"}', served) == ['reason="seald"']
    assert mistakes("sum by (repository) (boltseal_blobs)", served) == ["repository"]
    assert mistakes('boltseal_blobs{log="ledger"}', served) == ["boltseal_blobs{log}"]


async def test_the_dashboard_shows_every_metric(tmp_path: Path) -> None:
    """Each metric is shown by a panel of the dashboard."""
    served = served_metrics(await exposition(tmp_path / "data"))
    shown = {name for query in panel_queries() for name, _ in METRIC.findall(query)}
    series = re.compile(r"_(sum|count)$")
    wanted = {name for name in served if not series.search(name)}

    assert wanted - shown == {"process_virtual_memory_bytes", "process_start_time_seconds"}


async def test_the_page_lists_every_metric(tmp_path: Path) -> None:
    """The page has each metric's name, type and labels, and each reason of a refusal with its meaning."""
    served = served_metrics(await exposition(tmp_path / "data"))
    page = text("docs/reference/metrics.md")
    listed = {}
    for heading in ("Requests", "Storage and ledger", "Upstreams and notifications", "Processes"):
        for name, kind, labels, _ in table(section(page, heading)):
            listed[name.strip("`")] = (kind, set(re.findall(r"`(\w+)`", labels)))
    expected = {}
    for name, metric in served.items():
        if not name.endswith(("_bucket", "_sum")) and (metric.kind != "histogram" or name.endswith("_count")):
            shown = name.removesuffix("_count") if metric.kind == "histogram" else name
            expected[shown] = (metric.kind, set(metric.labels))

    assert listed == expected
    assert {row[0].strip("`"): row[1] for row in table(section(page, "Reasons of refusals"))} == {
        reason.value: meaning for reason, meaning in MEANINGS.items()
    }


async def test_the_page_explains_every_alert() -> None:
    """The page's table has each alert rule with its severity."""
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    rules = {rule["alert"]: rule["labels"]["severity"] for group in groups for rule in group["rules"]}

    assert {
        row[0].strip("`"): row[1] for row in table(section(text("docs/operations/monitoring.md"), "Alerts"))
    } == rules


def test_promtool_accepts_the_scrape_configuration_of_the_page(tmp_path: Path) -> None:
    """The scrape example is a valid Prometheus configuration with the alert rules at their path."""
    example = text("docs/operations/monitoring.md").partition("```yaml\n")[2].partition("```")[0]
    rules, password = "/etc/prometheus/boltseal/alerts.yaml", "/etc/prometheus/boltseal.password"
    assert rules in example
    assert password in example
    (tmp_path / "password").write_text("secret\n")
    at = tmp_path / "prometheus.yml"
    at.write_text(example.replace(rules, str(MONITORING / "alerts.yaml")).replace(password, str(tmp_path / "password")))

    assert "SUCCESS" in run("promtool", "check", "config", at).checked()


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    """Each cell of the 24-column grid has one panel; each panel has a unique id, a title and a unit."""
    panels = dashboard()["panels"]
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] for panel in panels)
    assert all(panel["fieldConfig"]["defaults"]["unit"] for panel in panels if panel["type"] != "row")
