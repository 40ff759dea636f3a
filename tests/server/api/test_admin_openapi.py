"""The OpenAPI document of the admin API is valid and complete, and the answers of a registry are as it says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it has no stubs
from openapi_spec_validator import OpenAPIV31SpecValidator

from boltseal.server.api.admin.application import AdminApi
from boltseal.server.api.admin.routes import PREFIX
from boltseal.server.app import Application
from tests.admin_requests import ONE, as_user, filled
from tests.host_documents import release, report, running
from tests.serving import Serving

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
    ("POST", "tokens"): [
        (200, {"repositories": ["shop/**"], "actions": ["pull"], "description": "deploys"}),
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


async def send(registry: Serving, method: str, name: str, asked: dict[str, Any]) -> httpx2.Response:
    path, auth = f"{PREFIX}{name}", as_user("boss")
    if method in ("GET", "DELETE"):
        return await registry.client.request(method, path, params=asked, auth=auth)
    return await registry.client.post(path, json=asked, auth=auth)


async def document_of(registry: Serving) -> dict[str, Any]:
    answer = await registry.client.get(f"{PREFIX}openapi.json")
    found: dict[str, Any] = answer.json()
    return found


def problems(document: dict[str, Any], method: str, name: str, answer: httpx2.Response) -> list[str]:
    """Return what is wrong with an answer, by the document."""
    described = document["paths"][f"{PREFIX}{name}"][method.lower()]["responses"].get(str(answer.status_code))
    if described is None:
        return [f"{method} {name}: {answer.status_code} is not described"]
    schema = described["content"]["application/json"]["schema"]
    validator = Draft202012Validator({**schema, "components": document["components"]})
    return [f"{method} {name} {answer.status_code}: {each.message}" for each in validator.iter_errors(answer.json())]


async def test_the_document_is_valid_openapi(registry: Serving) -> None:
    """A validator of OpenAPI 3.1 finds nothing wrong with the document, and it needs no login."""
    answer = await registry.client.get(f"{PREFIX}openapi.json")
    found = list(OpenAPIV31SpecValidator(answer.json()).iter_errors())

    assert answer.status_code == 200
    assert [each.message for each in found] == []


async def test_the_document_has_every_route_and_no_other(registry: Serving) -> None:
    """Each method of each path that the server has is described, and nothing else is."""
    api = cast("Application", registry.app)._endpoints[PREFIX]
    assert isinstance(api, AdminApi)
    document = await document_of(registry)
    described = {
        (method.upper(), path.removeprefix(PREFIX)) for path, item in document["paths"].items() for method in item
    }

    assert described == {(route.method, route.name) for route in api.routes} | {("GET", "openapi.json")}
    assert described - {("GET", "openapi.json")} == REQUESTS.keys()


async def test_every_answer_is_as_the_document_says(data: Path) -> None:
    """Each route answers with a described status and a document of its schema, also where it refuses."""
    wrong: list[str] = []
    async with filled(data) as registry:
        document = await document_of(registry)
        for (method, name), requests in REQUESTS.items():
            for status, asked in requests:
                answer = await send(registry, method, name, asked)
                if answer.status_code != status:
                    wrong.append(f"{method} {name} {asked}: {answer.status_code} {answer.text}")
                wrong += problems(document, method, name, answer)

    assert wrong == []


async def test_every_parameter_is_one_that_the_document_has(data: Path) -> None:
    """A parameter or field that is not described is refused, with the nearest name."""
    async with filled(data) as registry:
        read = await send(registry, "GET", "tags", {**SHOP, "limits": "5"})
        change = await send(registry, "POST", "seal", {**TAG, **WHY, "dryrun": True})

    assert (read.status_code, "did you mean limit?" in read.text) == (400, True)
    assert (change.status_code, "dryrun" in change.text) == (400, True)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_other_methods_are_refused_with_those_that_are_allowed(registry: Serving, method: str) -> None:
    """A method that a path does not have is a 405 with `Allow`."""
    read = await registry.client.request(method, f"{PREFIX}tags")
    change = await registry.client.request(method, f"{PREFIX}seal")

    assert (read.status_code, read.headers["allow"]) == (405, "GET, HEAD")
    assert (change.status_code, change.headers["allow"]) == (405, "POST")


async def test_an_answer_is_not_sent_again_to_a_client_that_has_it(data: Path) -> None:
    """`If-None-Match` with the entity tag is a 304 without a body, until the answer is another one."""
    async with filled(data) as registry:
        first = await send(registry, "GET", "tag", {**SHOP, "tag": "latest"})
        path, auth = first.request.url.raw_path.decode(), as_user("boss")
        again = await registry.client.get(path, headers={"if-none-match": first.headers["etag"]}, auth=auth)
        head = await registry.client.head(path, auth=auth)
        await send(registry, "POST", "seal", {**SHOP, **WHY, "tag": "latest"})
        changed = await registry.client.get(path, headers={"if-none-match": first.headers["etag"]}, auth=auth)

    assert (again.status_code, again.content) == (304, b"")
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", first.headers["etag"])
    assert (changed.status_code, changed.json()["tag"]["mode"]) == (200, "sealed")
    assert first.headers["cache-control"] == "private, no-cache"
    assert first.headers["vary"] == "authorization"
