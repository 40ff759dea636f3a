"""The running containers of a project, as a release records them: for each the request that creates it again. Pure.

Compose's files may have changed since the containers were created, so only the engine knows what runs. A container that is
created from its recorded request has the same image, settings, name and labels, so Compose accepts it as its own. Left out
is what the engine itself made up for the container: its ID as host name and alias, and addresses that it chose.

    recipes     the extension field RECIPES of a release's text: {"services": {SERVICE: [recipe, ...]}, "networks": {...}}
    a recipe    {"id": ..., "name": ..., "body": the request, "networks": further networks by name, "files": [file, ...]}
    a file      {"path": ..., "content": base64, "mode": ..., "uid": ..., "gid": ...}: Compose copied it into the container
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from boltseal.deploy.health import CONFIG_HASH, DEPENDS_ON, NUMBER, SERVICE

SECRETS_FOLDER: Final = "/run/secrets"
RECIPES: Final = "x-boltseal-containers"
_SHORT_ID: Final = 12
_ENDPOINT: Final = ("IPAMConfig", "Links", "DriverOpts")
_NETWORK: Final = (
    "Name",
    "Driver",
    "Internal",
    "Attachable",
    "EnableIPv6",
    "IPAM",
    "Options",
    "Labels",
)
_CONTAINER: Final = "container:"

Document = Mapping[str, Any]


def recipe(document: Document) -> dict[str, Any]:
    """Return the recipe of a container. `document`: what the engine reports about it (`GET /containers/ID/json`)."""
    id_ = str(document["Id"])
    config, host = dict(document.get("Config") or {}), dict(document.get("HostConfig") or {})
    if config.get("Hostname") == id_[:_SHORT_ID]:
        del config["Hostname"]
    binds = [f"{each['Name']}:{each['Destination']}" for each in anonymous_volumes(document) if each.get("Name")]
    host["Binds"] = [*(host.get("Binds") or ()), *binds]
    networks = {} if _shares_network(host) else _endpoints(document, id_)
    first = next((name for name in networks if name == host.get("NetworkMode")), next(iter(networks), None))
    body = {**config, "HostConfig": host}
    if first is not None:
        body["NetworkingConfig"] = {"EndpointsConfig": {first: networks.pop(first)}}
    return {"id": id_, "name": str(document.get("Name") or "").removeprefix("/"), "body": body, "networks": networks}


def value_paths(document: Document, service: str) -> set[str]:
    """Return the paths at which Compose copies secrets and configs into containers of a service. `document`: a Compose text."""
    found, definition = set(), (document.get("services") or {}).get(service) or {}
    for kind, folder in (("secrets", SECRETS_FOLDER), ("configs", "/")):
        for use in definition.get(kind) or ():
            source = (document.get(kind) or {}).get(use.get("source")) or {}
            if "environment" in source or "content" in source:
                found.add(posixpath.normpath(posixpath.join(folder, str(use.get("target") or use["source"]))))
    return found


def mounted_paths(document: Document) -> set[str]:
    """Return where a container has mounts: what is there is not in the container itself."""
    return {str(each.get("Destination") or "") for each in document.get("Mounts") or ()}


def anonymous_volumes(document: Document) -> list[Document]:
    """Return the mounts of a container's anonymous volumes: those that no field of its request names."""
    host = document.get("HostConfig") or {}
    targets = {each.get("Target") for each in host.get("Mounts") or () if each.get("Source")}
    targets |= {each.split(":")[1] for each in host.get("Binds") or () if each.count(":")}
    return [
        each
        for each in document.get("Mounts") or ()
        if each.get("Type") == "volume" and each.get("Destination") not in targets
    ]


def _shares_network(host: Document) -> bool:
    mode = str(host.get("NetworkMode") or "")
    return mode in ("host", "none") or mode.startswith(_CONTAINER)


def _endpoints(document: Document, id_: str) -> dict[str, dict[str, Any]]:
    found = (document.get("NetworkSettings") or {}).get("Networks") or {}
    return {
        name: {
            **{key: endpoint[key] for key in _ENDPOINT if endpoint.get(key)},
            "Aliases": [each for each in endpoint.get("Aliases") or () if each != id_[:_SHORT_ID]],
        }
        for name, endpoint in found.items()
    }


def network_request(document: Document) -> dict[str, Any]:
    """Return the request that creates a network again. `document`: what the engine reports about it."""
    return {key: document[key] for key in _NETWORK if document.get(key) is not None}


def networks_of(recipes: Iterable[Document]) -> set[str]:
    """Return the names of all networks that these containers need."""
    first = [(each["body"].get("NetworkingConfig") or {}).get("EndpointsConfig") or {} for each in recipes]
    return {name for each in (*first, *(each["networks"] for each in recipes)) for name in each}


def recipes_of(document: Document) -> dict[str, list[Document]]:
    """Return the recipes in a release's text, by service; {} for a release that Compose starts."""
    found: dict[str, list[Document]] = dict((document.get(RECIPES) or {}).get("services") or {})
    return found


def recorded_networks(document: Document) -> Sequence[Document]:
    """Return the requests for networks in a release's text."""
    found: Mapping[str, Document] = (document.get(RECIPES) or {}).get("networks") or {}
    return list(found.values())


def merge_recipes(new: dict[str, Any], before: Document, chosen: Collection[str]) -> None:
    """Add to `new` the recipes of `before`, the text of the running release, for services that are not `chosen`."""
    kept = {name: each for name, each in recipes_of(before).items() if name not in chosen}
    if kept:
        new[RECIPES] = {"services": kept, "networks": before[RECIPES].get("networks") or {}}


def dependency_order(recipes: Mapping[str, Sequence[Document]]) -> list[str]:
    """Return the services in the order of their dependencies, by Compose's label."""
    needs: dict[str, set[str]] = {}
    for name, each in recipes.items():
        text = str(_labels(each[0]).get(DEPENDS_ON) or "") if each else ""
        needs[name] = {part.partition(":")[0] for part in text.split(",")} & recipes.keys() - {name}
    ordered: list[str] = []
    while needs:
        ready = sorted(name for name, each in needs.items() if not each & needs.keys()) or sorted(needs)
        ordered += ready
        for name in ready:
            del needs[name]
    return ordered


def matches(recipe_: Document, document: Document) -> bool:
    """Return whether a container is the recorded one, or was created again from it. `document`: of the engine."""
    if document.get("Id") == recipe_["id"]:
        return True
    ours, theirs = _labels(recipe_), (document.get("Config") or {}).get("Labels") or {}
    name = str(document.get("Name") or "").removeprefix("/")
    return name == recipe_["name"] and all(ours.get(key) == theirs.get(key) for key in (SERVICE, CONFIG_HASH, NUMBER))


def request_body(recipe_: Document, image: str, ids: Mapping[str, str]) -> dict[str, Any]:
    """Return the request that creates a recorded container now.

    `image`: the name or ID by which the engine has its image. `ids`: new IDs of recreated containers, by their former IDs.
    """
    body = {**recipe_["body"], "Image": image}
    host = dict(body["HostConfig"])
    for key in ("NetworkMode", "IpcMode", "PidMode"):
        mode = str(host.get(key) or "")
        if mode.startswith(_CONTAINER):
            host[key] = _CONTAINER + ids.get(mode.removeprefix(_CONTAINER), mode.removeprefix(_CONTAINER))
    if host.get("VolumesFrom"):
        host["VolumesFrom"] = [_renamed(each, ids) for each in host["VolumesFrom"]]
    body["HostConfig"] = host
    return body


def _renamed(volumes_from: str, ids: Mapping[str, str]) -> str:
    id_, colon, mode = volumes_from.partition(":")
    return ids.get(id_, id_) + colon + mode


def _labels(recipe_: Document) -> Mapping[str, str]:
    return recipe_["body"].get("Labels") or {}
