"""The OpenAPI 3.1 document of the admin API, made from the table of routes and the types that they take and return."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from boltseal import __version__
from boltseal.server.api.admin.routes import PREFIX, RIGHTS, Right, Route
from boltseal.server.api.errors import ErrorBody

DOCUMENT: Final = f"{PREFIX}openapi.json"

_REF: Final = "#/components/schemas/{name}"
_REFUSALS: Final = {
    "400": "The request is invalid.",
    "401": "A login is needed, or the one that was sent is wrong.",
    "403": "The caller lacks the right. The answer does not say whether the repository exists.",
    "429": "Too many failed logins, or reports of hosts.",
    "503": "A condition that may pass; nothing was changed.",
}
_REFUSALS_OF_NAMES: Final = {"404": "There is no such repository, tag, image, user, API token, session or host."}
_REFUSALS_OF_CHANGES: Final = {
    "405": "The registry is read-only, or a seal protects what was to be deleted.",
    "409": "A sealed tag would have to move.",
    "412": "The tag does not resolve to what the request expects.",
    "413": "The body is too large.",
    "507": "No space is left.",
}


def document_of(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the document of these routes, and of its own path."""
    bodies = [route.takes for route in routes if not route.takes_query]
    types: list[type[msgspec.Struct]] = list(dict.fromkeys([*(route.returns for route in routes), *bodies, ErrorBody]))
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    named = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {DOCUMENT: {"get": _own_operation()}}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, named)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "boltseal admin API",
            "version": __version__,
            "description": "What the commands `boltseal tag` and `boltseal admin` do, for programs.",
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"password": []}, {"token": []}, {}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "password": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "User, and password or API token.",
                },
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API token; or a token of `/token`, for reads of the repositories that it names.",
                },
            },
        },
    }


def _own_operation() -> dict[str, Any]:
    answer = {
        "description": "An OpenAPI 3.1 document.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
    return {
        "operationId": "get_openapi",
        "summary": "This document.",
        "security": [{}],
        "responses": {"200": answer},
    }


def _operation(route: Route, named: dict[type[msgspec.Struct], dict[str, Any]]) -> dict[str, Any]:
    reads = route.method == "GET"
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()}_{route.name.replace('/', '_').replace('-', '_')}",
        "summary": route.summary,
        "description": f"For {RIGHTS[route.right]}.",
        "responses": dict(_responses(route, named)),
    }
    if route.takes_query:
        conditions = [_header("If-None-Match", "The `ETag` of an earlier answer.")] if reads else []
        operation["parameters"] = [*_parameters(route.takes), *conditions]
    else:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": named[route.takes]}},
        }
    return operation


def _parameters(takes: type[msgspec.Struct]) -> Iterator[dict[str, Any]]:
    """Yield the parameters of a query, from the schema of its type."""
    _, components = msgspec.json.schema_components([takes], ref_template=_REF)
    schema = components[takes.__name__]
    for name, found in schema["properties"].items():
        described = dict(found)
        parameter = {"name": name, "in": "query", "required": name in schema.get("required", ())}
        description = described.pop("description", "")
        yield parameter | ({"description": description} if description else {}) | {"schema": described}


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": {"type": "string"}}


def _responses(route: Route, named: dict[type[msgspec.Struct], dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    reads = route.method == "GET"
    headers = {"ETag": {"description": "Of these bytes.", "schema": {"type": "string"}}} if reads else {}
    if reads and "next" in {field.name for field in msgspec.structs.fields(route.returns)}:
        headers["Link"] = {"description": "The next page, if there is one.", "schema": {"type": "string"}}
    answer: dict[str, Any] = {"description": "Done.", "content": {"application/json": {"schema": named[route.returns]}}}
    yield "200", answer | ({"headers": headers} if headers else {})
    if reads:
        yield "304", {"description": "The client has these bytes."}
    refusals = dict(_REFUSALS)
    if route.of_one or route.right in (Right.PULL, Right.ADMIN, Right.USER):
        refusals |= _REFUSALS_OF_NAMES
    if not reads:
        refusals |= _REFUSALS_OF_CHANGES
    for status, description in sorted(refusals.items()):
        yield status, {"description": description, "content": {"application/json": {"schema": named[ErrorBody]}}}
