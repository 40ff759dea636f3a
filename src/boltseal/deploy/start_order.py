"""In which order the services of a release are started, and which of them start beside their former containers. Pure.

A service starts first (new containers beside the old ones; the old ones are stopped when the new ones are healthy) unless
something forbids it: see `stop_first_reason`. Services are replaced in batches:

1. Jobs that others wait for, before anything is replaced (`waited_jobs`).
2. Services that start first and whose changed dependencies are replaced already.
3. Services that stop first and whose remaining dependencies stop first as well; then 2 again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boltseal.deploy.jobs import SHARED, jobs_by_dependency, used_services
from boltseal.deploy.running_snapshot import anonymous_volumes

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """Services that are replaced together. `beside`: they start first."""

    names: tuple[str, ...]
    beside: bool


def dependencies(document: Document, name: str) -> frozenset[str]:
    """Return the services that a service depends on, directly or not."""
    found: set[str] = set()
    todo = [name]
    while todo:
        service = document["services"].get(todo.pop()) or {}
        new = set(service.get("depends_on") or ()) & document["services"].keys() - found
        found |= new
        todo += new
    return frozenset(found - {name})


def waited_jobs(document: Document, names: Collection[str]) -> tuple[str, ...]:
    """Return those of `names` that others wait for by `service_completed_successfully`, dependencies first."""
    return tuple(_ordered(document, jobs_by_dependency(document) & set(names)))


def batches(document: Document, names: Collection[str], beside: Collection[str]) -> tuple[Batch, ...]:
    """Return the order in which services are replaced. `beside`: those of `names` that start first."""
    left, found = set(names), []
    first = set(beside) & left
    while left:
        ready = [name for name in first & left if not dependencies(document, name) & left]
        if not ready:
            ready = [name for name in left - first if not dependencies(document, name) & left & first]
        if not ready:  # a cycle, which Compose refuses itself
            ready = list(left)
        found.append(Batch(tuple(sorted(ready)), set(ready) <= first))
        left -= set(ready)
    return tuple(found)


def _ordered(document: Document, names: Collection[str]) -> Sequence[str]:
    return sorted(names, key=lambda name: (len(dependencies(document, name)), name))


def shares_namespace(document: Document, name: str) -> bool:
    """Return whether a service uses namespaces or volumes of another container: Compose's hash then has that one's ID."""
    service = document["services"][name]
    modes = [str(service.get(key) or "") for key in SHARED]
    return bool(service.get("volumes_from")) or any(each.startswith(("service:", "container:")) for each in modes)


def stop_first_reason(document: Document, name: str, old: Iterable[Document]) -> str:
    """Return why a service's new containers can't run beside the `old` ones (as the engine reports them); "" if they can.

    `deploy.update_config.order` decides where only a shared volume forbids it: two versions of a program that write to
    one volume can corrupt it, so without `start-first` in the file that is a reason.
    """
    service = document["services"][name]
    order = ((service.get("deploy") or {}).get("update_config") or {}).get("order")
    if order == "stop-first":
        return "deploy.update_config.order is stop-first"
    return (
        _exclusive(service)
        or _used_by_others(document, name)
        or ("it has an anonymous volume" if any(map(anonymous_volumes, old)) else "")  # Compose would hand it on
        or ("" if order == "start-first" else _writable_mount(document, service))
    )


def _exclusive(service: Document) -> str:
    if service.get("ports"):
        return "it publishes ports"
    if service.get("container_name"):
        return "it has a container_name"
    mode = str(service.get("network_mode") or "")
    if mode == "host":
        return "it uses the host's network"
    if service.get("mac_address"):
        return "it has a fixed address"
    for network in (service.get("networks") or {}).values():
        if network and any(network.get(key) for key in ("ipv4_address", "ipv6_address", "mac_address")):
            return "it has a fixed address"
    if any(each.get("type") == "volume" and not each.get("source") for each in service.get("volumes") or ()):
        return "it has an anonymous volume"
    return ""


def _used_by_others(document: Document, name: str) -> str:
    if shares_namespace(document, name):
        return "it uses another container's namespaces or volumes"
    for other, service in document["services"].items():
        if name in used_services(service):
            return f"{other} uses its namespaces or volumes"
        if ((service.get("depends_on") or {}).get(name) or {}).get("restart"):
            return f"{other} is restarted with it"
    return ""


def _writable_mount(document: Document, service: Document) -> str:
    for each in service.get("volumes") or ():
        if each.get("type") in ("volume", "bind") and not each.get("read_only"):
            return f"it can write to {each.get('source') or each.get('target')}"
    return ""
