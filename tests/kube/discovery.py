"""What the scripted API server says about itself: its groups, its kinds, and as much of OpenAPI as kubectl reads."""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]
Kinds = dict[str, list[tuple[str, str, bool]]]

KINDS: Kinds = {
    "v1": [
        ("namespaces", "Namespace", False),
        ("nodes", "Node", False),
        ("secrets", "Secret", True),
        ("configmaps", "ConfigMap", True),
        ("services", "Service", True),
        ("pods", "Pod", True),
        ("persistentvolumeclaims", "PersistentVolumeClaim", True),
    ],
    "apps/v1": [
        ("deployments", "Deployment", True),
        ("statefulsets", "StatefulSet", True),
        ("daemonsets", "DaemonSet", True),
    ],
    "batch/v1": [("jobs", "Job", True), ("cronjobs", "CronJob", True)],
    "apiextensions.k8s.io/v1": [("customresourcedefinitions", "CustomResourceDefinition", False)],
}
_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


def described(path: str, kinds: Kinds) -> Document | None:
    """Return what the API server says about itself at a path, None where it says nothing."""
    if path == "/version":
        return {"major": "1", "minor": "32", "gitVersion": "v1.32.3"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(each) for each in kinds if "/" in each]}
    if path == "/openapi/v3":
        paths = {
            f"api{'' if each == 'v1' else 's'}/{each}": {"serverRelativeURL": f"/openapi/v3/{each}"} for each in kinds
        }
        return {"paths": paths}
    if path.startswith("/openapi/v3/"):
        return _openapi(path.removeprefix("/openapi/v3/"), kinds)
    version = path.removeprefix("/apis/").removeprefix("/api/")
    return _resources(version, kinds) if version in kinds else None


def _group(version: str) -> Document:
    one = {"groupVersion": version, "version": version.split("/")[1]}
    return {"name": version.split("/")[0], "versions": [one], "preferredVersion": one}


def _resources(version: str, kinds: Kinds) -> Document:
    resources = [
        {"name": plural, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind, "verbs": _VERBS}
        for plural, kind, namespaced in kinds[version]
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


def _openapi(version: str, kinds: Kinds) -> Document:
    """Return as much of an OpenAPI document as kubectl reads: that PATCH knows `fieldValidation`."""
    group, _, number = version.rpartition("/")
    paths = {}
    for plural, kind, _ in kinds.get(version, ()):
        names = ("dryRun", "fieldManager", "fieldValidation")
        operation = {
            "parameters": [{"name": name, "in": "query", "schema": {"type": "string"}} for name in names],
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-group-version-kind": {"group": group, "version": number, "kind": kind},
        }
        paths[f"/{'api' if not group else 'apis'}/{version}/{plural}/{{name}}"] = {"patch": operation}
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.32.3"}, "paths": paths}
