"""Requests of the operator to each route of the admin API, and the status of their answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.admin_requests import ONE
from tests.host_documents import release, report, running

SHOP = {"repository": "shop/app"}
TAG = {**SHOP, "tag": "1.4.2"}
WHY = {"reason": "a test"}

REQUESTS: Mapping[tuple[str, str], list[tuple[int, dict[str, Any]]]] = {
    ("GET", "repositories"): [(200, {}), (200, {"limit": 1}), (400, {"limit": 0})],
    ("GET", "tags"): [(200, SHOP), (200, {**SHOP, "deleted": "true"}), (404, {"repository": "no/thing"}), (400, {})],
    ("GET", "tag"): [(200, TAG), (200, {**SHOP, "tag": "latest"}), (404, {**SHOP, "tag": "9.9.9"})],
    ("GET", "history"): [(200, SHOP), (200, {**TAG, "kinds": "tag.created"}), (400, {**SHOP, "kinds": "tag.lost"})],
    ("GET", "observations"): [(404, SHOP)],
    ("GET", "rules/test"): [(200, TAG), (200, {**SHOP, "tag": "latest"})],
    ("GET", "refused"): [(200, SHOP), (200, {**TAG, "limit": 1}), (400, {**SHOP, "since": "yesterday"})],
    ("GET", "refused/all"): [(200, {}), (200, {"limit": 1, "since": "2026-12-01T00:00:00Z"})],
    ("POST", "rules/plan"): [
        (200, {"rules": [{"tag": "latest", "mode": "sealed"}]}),
        (200, {"rules": [], "all": True, "limit": 1}),
        (400, {"rules": [{"mode": "frozen"}]}),
    ],
    ("POST", "seal"): [(200, {**SHOP, **WHY, "tag": "latest", "dry_run": True}), (400, {**TAG, "reason": " "})],
    ("POST", "unseal"): [(200, {**TAG, **WHY}), (400, {**SHOP, **WHY, "tag": "latest"})],
    ("POST", "restore"): [
        (200, {**SHOP, **WHY, "tag": "latest", "to": ONE.digest}),
        (404, {**TAG, **WHY, "to": "2026-01-01"}),
    ],
    ("POST", "accept"): [(404, TAG)],
    ("POST", "purge"): [
        (200, {**SHOP, **WHY, "reference": "1.4.2", "dry_run": True}),
        (400, {**SHOP, **WHY, "reference": "1.4.2"}),
        (412, {**SHOP, **WHY, "reference": "1.4.2", "plan": "another"}),
    ],
    ("GET", "me"): [(200, {})],
    ("GET", "ledger"): [(200, {})],
    ("GET", "rules"): [(200, {})],
    ("GET", "users"): [(200, {"limit": 2}), (200, {})],
    ("POST", "users"): [
        (200, {"name": "new", "password": "correct horse", "dry_run": True}),
        (200, {"name": "robot", "service": True}),
        (400, {"name": "robot", "password": "correct horse"}),
        (400, {"name": "new"}),
        (400, {"name": "new", "password": ""}),
    ],
    ("DELETE", "users"): [(200, {"name": "robot", "dry_run": "true"}), (404, {"name": "robot-2"}), (400, {})],
    ("GET", "grants"): [(200, {})],
    ("GET", "upstreams"): [(200, {})],
    ("GET", "held"): [(200, {})],
    ("GET", "expire"): [(200, {})],
    ("POST", "expire"): [(200, {}), (200, {"dry_run": True, "limit": 1}), (400, {"limit": 0})],
    ("GET", "rebuilds"): [(200, {}), (200, {"limit": 1}), (400, {"limit": 0})],
    ("GET", "gc"): [(200, {})],
    ("POST", "gc"): [(200, {}), (200, {"dry_run": True, "limit": 1}), (400, {"limit": 0}), (400, {"cursor": "no"})],
    ("POST", "tokens"): [
        (200, {"repositories": ["shop/**"], "actions": ["pull"], "description": "deploys"}),
        (200, {"repositories": ["shop/**"], "actions": ["pull"], "once": "x", "dry_run": True}),
        (400, {"repositories": ["shop/**"], "actions": ["fly"]}),
        (400, {"repositories": ["shop/**"], "actions": ["pull"], "life": "999d"}),
        (404, {"owner": "nobody-at-all", "repositories": ["**"], "actions": ["pull"]}),
    ],
    ("GET", "tokens"): [(200, {}), (200, {"all": "true", "limit": 1}), (400, {"all": "true", "user": "ci"})],
    ("DELETE", "tokens"): [(200, {"user": "boss", "dry_run": "true"}), (404, {"id": "a" * 10}), (400, {})],
    ("POST", "reports"): [
        (200, report("web-1", running("registry.example/shop/app:1.4.2", ONE.digest))),
        (200, report("web-1") | release("shop", 1, running("registry.example/shop/app:1.4.2", ONE.digest))),
        (400, {**report("web-1"), "v": 2}),
    ],
    ("GET", "hosts"): [(200, {}), (200, {"limit": 1})],
    ("GET", "host"): [(200, {"host": "web-1"}), (404, {"host": "web-9"}), (400, {})],
    ("GET", "hosts/images"): [(200, SHOP), (200, {"digest": ONE.digest, "limit": 1}), (400, {"tag": "1.4.2"})],
    ("GET", "releases"): [(200, {}), (200, {"host": "web-1"})],
    ("DELETE", "host"): [(200, {"host": "web-1", "dry_run": "true"}), (404, {"host": "web-9"})],
    ("GET", "sessions"): [(200, {}), (200, {"limit": 1})],
    ("DELETE", "sessions"): [(404, {"id": "a" * 64}), (404, {"id": "a", "dry_run": "true"}), (400, {})],
    ("GET", "audit"): [(200, {"limit": 1}), (200, {})],
}
"""For each route, requests of the operator and the status of their answers."""
