"""A cluster's API behind a real socket, as far as `kubectl get pods` and `get nodes` ask for it; documents as recorded."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

RECORDED = Path(__file__).parent.parent / "data/clusters"
_RESOURCES = [
    {"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]}
    for name, namespaced, kind in (("pods", True, "Pod"), ("nodes", False, "Node"))
]


def recorded(name: str) -> bytes:
    """An answer of `kubectl get -o json` on one kind of runtime."""
    return (RECORDED / f"{name}.json").read_bytes()


@dataclass
class FakeCluster:
    """`pods`: the items of that list. `nodes_forbidden`: who asks may not see the nodes. `asked`: path of each list."""

    pods: list[dict[str, Any]] = field(default_factory=list)
    nodes_forbidden: bool = False
    asked: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, *names: str) -> FakeCluster:
        """A cluster with the pods of these recordings."""
        return cls([item for name in names for item in json.loads(recorded(name))["items"]])

    @asynccontextmanager
    async def listening(self, folder: Path, context: str) -> AsyncIterator[Path]:
        """Answers, and gives the kubeconfig that leads there under this context."""
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = runner.addresses[0][1]
            config = folder / "kubeconfig"
            config.write_text(_kubeconfig(f"http://127.0.0.1:{port}", context))
            yield config
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        match request.path.strip("/").split("/"):
            case ["api"]:
                return web.json_response({"kind": "APIVersions", "versions": ["v1"]})
            case ["apis"]:
                return web.json_response({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})
            case ["api", "v1"]:
                listed = {"kind": "APIResourceList", "groupVersion": "v1", "resources": _RESOURCES}
                return web.json_response(listed)
            case ["api", "v1", "nodes"]:
                self.asked.append(request.path)
                return (
                    _forbidden() if self.nodes_forbidden else _list("NodeList", json.loads(recorded("nodes"))["items"])
                )
            case ["api", "v1", *_, "pods"]:
                self.asked.append(request.path)
                return _list("PodList", self.pods)
            case _:
                return web.json_response({"kind": "Status", "status": "Failure", "code": 404}, status=404)


def _list(kind: str, items: list[dict[str, Any]]) -> web.Response:
    return web.json_response({"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})


def _forbidden() -> web.Response:
    said = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403}
    message = 'nodes is forbidden: User "viewer" cannot list resource "nodes" in API group "" at the cluster scope'
    return web.json_response(said | {"message": message}, status=403)


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
