"""A cluster's API behind a real socket, as far as `kubectl get pods` and `get nodes` use it; documents as recorded."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from tests.fakes.listening import answering, listening

RECORDED = Path(__file__).parent.parent / "data/clusters"
_RESOURCES = [
    {"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]}
    for name, namespaced, kind in (("pods", True, "Pod"), ("nodes", False, "Node"))
]


def recorded(name: str) -> bytes:
    """Return an answer of `kubectl get -o json`, recorded on one kind of runtime."""
    return (RECORDED / f"{name}.json").read_bytes()


@dataclass
class FakeCluster:
    """`pods`: items of the list. `nodes_forbidden`: the client may not list nodes. `asked`: path of each list request."""

    pods: list[dict[str, Any]] = field(default_factory=list)
    nodes_forbidden: bool = False
    asked: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, *names: str) -> FakeCluster:
        """Return a cluster with the pods of these recordings."""
        return cls([item for name in names for item in json.loads(recorded(name))["items"]])

    @asynccontextmanager
    async def listening(self, folder: Path, context: str) -> AsyncIterator[Path]:
        """Answer requests; yield a kubeconfig whose context has this address."""
        with socket.create_server(("127.0.0.1", 0)) as bound:
            config = folder / "kubeconfig"
            config.write_text(_kubeconfig(f"http://127.0.0.1:{bound.getsockname()[1]}", context))
            async with listening(answering(self._answer), bound):
                yield config

    async def _answer(self, request: Request) -> JSONResponse:
        match request.url.path.strip("/").split("/"):
            case ["api"]:
                return JSONResponse({"kind": "APIVersions", "versions": ["v1"]})
            case ["apis"]:
                return JSONResponse({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})
            case ["api", "v1"]:
                listed = {"kind": "APIResourceList", "groupVersion": "v1", "resources": _RESOURCES}
                return JSONResponse(listed)
            case ["api", "v1", "nodes"]:
                self.asked.append(request.url.path)
                return (
                    _forbidden() if self.nodes_forbidden else _list("NodeList", json.loads(recorded("nodes"))["items"])
                )
            case ["api", "v1", *_, "pods"]:
                self.asked.append(request.url.path)
                return _list("PodList", self.pods)
            case _:
                return JSONResponse({"kind": "Status", "status": "Failure", "code": 404}, status_code=404)


def _list(kind: str, items: list[dict[str, Any]]) -> JSONResponse:
    return JSONResponse({"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})


def _forbidden() -> JSONResponse:
    fields = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403}
    message = 'nodes is forbidden: User "viewer" cannot list resource "nodes" in API group "" at the cluster scope'
    return JSONResponse(fields | {"message": message}, status_code=403)


def _kubeconfig(server: str, context: str) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "it", "cluster": {"server": server}}],
            "users": [{"name": "viewer", "user": {}}],
            "contexts": [{"name": context, "context": {"cluster": "it", "user": "viewer"}}],
        }
    )
