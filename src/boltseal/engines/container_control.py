"""Create, start, stop and remove containers, and create the networks that they need, through an engine's API.

Callers decide what is safe to stop. Rules kept here:

- Removing a container never removes its volumes.
- Stopping uses the container's own stop signal and grace period.
- What is already as wanted (removed, stopped, started) is not an error, so that each step can be repeated.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from boltseal.engines.api import Engine, NoSuchContainer, query_each
from boltseal.engines.inventory import EngineMismatch, container_id
from boltseal.errors import NotFound

STOP_S: Final = 600.0
"""Time limit for stopping one container, above every usual grace period."""
_JSON: Final = {"Content-Type": "application/json"}

Document = Mapping[str, Any]
"""A JSON object of the engine's API."""


@dataclass(frozen=True, slots=True)
class ContainerControl:
    """Changes containers of one engine."""

    engine: Engine

    async def documents(self, ids: Iterable[str]) -> dict[str, Document]:
        """Return what the engine reports about each container, by ID; containers that vanished are left out."""
        found = await query_each(ids, self._document, NoSuchContainer)
        return {id_: each for id_, each in found.items() if each is not None}

    async def _document(self, id_: str) -> Document:
        return _object(await self.engine.ask("GET", f"containers/{container_id(id_)}/json"))

    async def create(self, name: str, body: Document, networks: Mapping[str, Document]) -> str:
        """Create a container, connect it to further `networks` (endpoint settings by network), and return its ID."""
        content = json.dumps(body).encode()
        raw = await self.engine.ask("POST", "containers/create", params={"name": name}, headers=_JSON, content=content)
        id_ = container_id(str(_object(raw).get("Id")))
        for network, endpoint in networks.items():
            connect = json.dumps({"Container": id_, "EndpointConfig": endpoint}).encode()
            await self.engine.ask("POST", f"networks/{network}/connect", headers=_JSON, content=connect)
        return id_

    async def start(self, id_: str) -> None:
        """Start a container. Raises: NoSuchContainer."""
        await self.engine.ask("POST", f"containers/{container_id(id_)}/start")

    async def stop(self, id_: str) -> None:
        """Stop a container within its grace period. Raises: NoSuchContainer."""
        await self.engine.ask("POST", f"containers/{container_id(id_)}/stop", limit_s=STOP_S)

    async def remove(self, id_: str) -> None:
        """Stop and remove a container, but not its volumes."""
        try:
            await self.stop(id_)
            await self.engine.ask("DELETE", f"containers/{container_id(id_)}", params={"force": "1", "v": "0"})
        except NoSuchContainer:
            return

    async def network(self, name: str) -> Document | None:
        """Return what the engine reports about a network; None if it has no such network."""
        try:
            return _object(await self.engine.ask("GET", f"networks/{name}"))
        except NotFound:
            return None

    async def create_network(self, body: Document) -> None:
        """Create a network."""
        await self.engine.ask("POST", "networks/create", headers=_JSON, content=json.dumps(body).encode())


def _object(raw: bytes) -> Document:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise EngineMismatch("the engine's answer about a container is not JSON") from error
    if not isinstance(found, dict):
        raise EngineMismatch("the engine's answer about a container is not an object")
    return found
