"""Find out why a workload was not rolled out: its state, what its pods wait for, and the last log lines of one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from boltseal.deploy.kube.manifest_objects import common_name
from boltseal.deploy.kube.rollout import Rollout
from boltseal.deploy.release_flow import LOG_LINES, Failure
from boltseal.engines.cluster import Cluster, Json, ObjectId
from boltseal.errors import BoltsealError

_NORMAL: Final = ("ContainerCreating", "PodInitializing")


def failure_of(cluster: Cluster, object_id: ObjectId, name: str, live: Json | None, state: Rollout) -> Failure:
    """Return why a workload failed. `name`: in the release; `live`: the object, None if it is gone."""
    reason, log = state.reason, list[str]()
    labels: Any = live or {}
    for key in ("spec", "selector", "matchLabels"):
        labels = labels.get(key) if isinstance(labels, Mapping) else None
    if not isinstance(labels, Mapping) or not labels:
        return Failure(name, reason)
    try:
        found = [each for pod in cluster.pods(object_id.namespace, labels) for each in _unwell(pod)]
    except BoltsealError as error:
        return Failure(name, f"{reason}; its pods could not be read: {error.message}")
    if found:
        pod, container, why, has_log = max(found, key=lambda each: each[3])
        reason += f"; pod {pod}, container {container}: {why}"
        if has_log:
            try:
                log += cluster.logs(object_id.namespace, pod, container, LOG_LINES)
            except BoltsealError as error:
                log.append(f"(could not read its log: {error.message})")
    return Failure(name, reason, tuple(log))


def workload_name(object_id: ObjectId, home: str) -> str:
    """Return the name of a workload in a release: kind/name, with its namespace before it if that is not `home`.

    The Jobs of all releases have one name here.
    """
    name = common_name(object_id.kind, object_id.name)
    inside = "" if object_id.namespace in ("", home) else f"{object_id.namespace}/"
    return f"{inside}{object_id.kind.lower()}/{name}"


def _unwell(pod: Json) -> Iterator[tuple[str, str, str, bool]]:
    """Yield pod, container, what is wrong with it, and whether it has a log."""
    status, name = pod.get("status") or {}, str((pod.get("metadata") or {}).get("name"))
    for each in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        state = each.get("state") or {}
        waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
        last = (each.get("lastState") or {}).get("terminated") or {}
        if waiting and waiting.get("reason") not in _NORMAL:
            why = ": ".join(str(waiting[key]) for key in ("reason", "message") if waiting.get(key))
            yield name, str(each.get("name")), why, bool(last)
        elif ended and ended.get("exitCode"):
            yield name, str(each.get("name")), f"ended with exit code {ended['exitCode']}", True
        elif not each.get("ready") and state.get("running"):
            yield name, str(each.get("name")), "runs and is not ready", True
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            yield name, "-", f"not scheduled: {condition.get('message') or condition.get('reason')}", False
